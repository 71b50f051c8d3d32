"""DICOM-SEG -> label map on the grid of its image; skipped where the optional highdicom is missing."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

from autoseg.artifacts.dataset import Case, Naming
from autoseg.datasets.found import Found
from autoseg.datasets.load import Promises, read_case
from autoseg.datasets.values import find_meaning
from autoseg.errors import DatasetError
from autoseg.evaluate.stage import run as evaluate
from autoseg.images.io import read_geometry, read_image, read_label, write_label
from autoseg.images.segmentations import segment_names

highdicom = pytest.importorskip("highdicom", reason="DICOM segmentations need highdicom: pip install 'autoseg[dicom]'")

C, S = np.cos(0.3), np.sin(0.3)
OBLIQUE = np.array([[C, -S, 0], [S, C, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, S, -C], [0, C, S]])
VOLUME = np.random.default_rng(0).integers(-1000, 3000, (6, 7, 8)).astype(np.int16)
LABELS = np.zeros(VOLUME.shape, np.uint8)
LABELS[2:5, 1:4, 3:7] = 1
LABELS[4, 5, 2] = 2


def save_segmentation(file, folder, masks, names=("liver", "tumour"), kind="BINARY"):
    """Write a DICOM-SEG of an image: a label map, or with a last axis a mask for each segment."""
    import pydicom
    from pydicom.sr.codedict import codes

    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
        )
        for number, name in enumerate(names, start=1)
    ]
    slices = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    for one in slices:
        one.FrameOfReferenceUID = "1.2.3.99"
        one.PatientSex = "O"
        one.SpacingBetweenSlices = 2.5  # ITK's writer of single slices states 1.
    slices.sort(key=lambda one: np.cross(one.ImageOrientationPatient[:3], one.ImageOrientationPatient[3:])
                @ np.array(one.ImagePositionPatient, float))  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        segmentation = highdicom.seg.Segmentation(
            slices,
            masks,
            kind,
            described,
            series_instance_uid="1.2.77",
            series_number=9,
            sop_instance_uid="1.2.77.1",
            instance_number=1,
            manufacturer="none",
            manufacturer_model_name="none",
            software_versions="1",
            device_serial_number="1",
        )
        file.parent.mkdir(exist_ok=True)
        segmentation.save_as(file)
    return file


@pytest.fixture
def scan(tmp_path, write_dicom):
    return write_dicom(tmp_path / "images" / "p7", VOLUME, direction=OBLIQUE)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_lie_on_the_grid_of_their_image(tmp_path, scan, kind):
    file = save_segmentation(tmp_path / "labels" / "p7.dcm", scan, LABELS, kind=kind)
    grid = read_geometry([scan], case="p7")
    label = read_label(file, case="p7", grid=grid)
    assert label.array_zyx.dtype == np.uint8
    assert np.array_equal(label.array_zyx, LABELS)
    assert label.geometry == grid
    assert segment_names(file, "p7") == {1: "liver", 2: "tumour"}
    # A folder that holds the file is as good.
    (tmp_path / "labels" / "series").mkdir()
    moved = file.rename(tmp_path / "labels" / "series" / "1.dcm")
    assert np.array_equal(read_label(moved.parent, case="p7", grid=grid).array_zyx, LABELS)
    case = Case(name="p7", images=("images/p7",), label="labels/series")
    found = read_case(case, Promises(root=tmp_path, num_channels=1, label_values=(0, 1, 2)))
    assert np.array_equal(found.image.array_czyx[0], VOLUME)
    assert np.array_equal(found.label.array_zyx, LABELS)
    write_label(tmp_path / "predicted.nii.gz", LABELS, grid)
    scores = evaluate({"p7": tmp_path / "predicted.nii.gz"}, {"p7": moved.parent}, None, tmp_path / "evaluation.json")
    assert scores.summary.mean.dice == 1.0


def test_without_a_grid_segments_cover_their_own_part(tmp_path, scan):
    file = save_segmentation(tmp_path / "labels" / "p7.dcm", scan, LABELS)
    label = read_label(file, case="p7")
    assert np.array_equal(label.array_zyx, LABELS[2:5])
    assert label.values() == [0, 1, 2]
    assert read_geometry([file], case="p7") == label.geometry
    grid = read_geometry([scan], case="p7")
    np.testing.assert_allclose(label.geometry.spacing_mm, grid.spacing_mm, rtol=1e-5)
    place = np.array(grid.origin_mm) + np.reshape(grid.direction, (3, 3))[:, 2] * 2 * 2.5
    np.testing.assert_allclose(label.geometry.origin_mm, place, atol=1e-5)
    np.testing.assert_allclose(label.geometry.direction, grid.direction, atol=1e-6)


def test_a_grid_that_runs_the_other_way_is_met_by_turning(tmp_path, scan):
    file = save_segmentation(tmp_path / "labels" / "p7.dcm", scan, LABELS)
    grid = read_geometry([scan], case="p7")
    axes = np.reshape(grid.direction, (3, 3))
    turn = np.diag([-1.0, 1.0, -1.0])
    last = np.array(grid.origin_mm) + axes @ (np.array([7, 0, 5]) * grid.spacing_mm[::-1])
    turned = replace_geometry(grid, origin_mm=tuple(last), direction=tuple((axes @ turn).ravel()))
    assert np.array_equal(read_label(file, case="p7", grid=turned).array_zyx, LABELS[::-1, :, ::-1])


def test_one_slice_of_segments(tmp_path, scan):
    labels = np.zeros_like(LABELS)
    labels[4, 2, 3] = 1
    file = save_segmentation(tmp_path / "labels" / "p7.dcm", scan, labels, names=("liver",))
    grid = read_geometry([scan], case="p7")
    assert np.array_equal(read_label(file, case="p7", grid=grid).array_zyx, labels)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"spacing_mm": (2.5, 0.8, 0.5)}, "another grid"),
        ({"origin_mm": (0.0, 0.0, 0.0)}, "another grid"),
        ({"shape": (4, 7, 8)}, "3 labelled voxels|12 labelled voxels"),
    ],
)
def test_another_grid_is_refused(tmp_path, scan, changed, message):
    file = save_segmentation(tmp_path / "labels" / "p7.dcm", scan, LABELS)
    grid = replace_geometry(read_geometry([scan], case="p7"), **changed)
    with pytest.raises(DatasetError, match=message) as caught:
        read_label(file, case="p7", grid=grid)
    assert "case p7" in caught.value.where


def test_segments_that_overlap_are_refused(tmp_path, scan):
    masks = np.stack([LABELS > 0, LABELS == 2], axis=-1).astype(np.uint8)
    file = save_segmentation(tmp_path / "labels" / "p7.dcm", scan, masks)
    with pytest.raises(DatasetError, match=r"makes no label map(.|\n)*overlap"):
        read_label(file, case="p7")


def test_a_segmentation_is_no_image_and_two_are_too_many(tmp_path, scan):
    file = save_segmentation(tmp_path / "labels" / "p7.dcm", scan, LABELS)
    with pytest.raises(DatasetError, match="DICOM-SEG"):
        read_image([file], case="p7")
    (file.parent / "copy.dcm").write_bytes(file.read_bytes())
    with pytest.raises(DatasetError, match="several DICOM segmentations"):
        read_label(file.parent, case="p7")
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(DatasetError, match=r"can't be read|makes no label map"):
        read_label(file, case="p7")


def test_names_of_segments_name_the_labels(tmp_path, scan):
    def found(*names):
        cases = []
        for i, of_case in enumerate(names):
            save_segmentation(tmp_path / "labels" / f"p{i}.dcm", scan, LABELS, names=of_case)
            cases.append(Case(name=f"p{i}", images=("images/p7",), label=f"labels/p{i}.dcm"))
        return Found(tuple(cases), Naming(image_suffixes=("/",), label_suffix=".dcm"))

    same = ("liver", "tumour")
    assert find_meaning(found(same, same), tmp_path, None).labels == {"background": 0, "liver": 1, "tumour": 2}
    assert find_meaning(found(("a", "a")), tmp_path, None).labels == {"background": 0, "label_1": 1, "label_2": 2}
    with pytest.raises(DatasetError, match="segment 1 is called liver and tumour"):
        find_meaning(found(same, same[::-1]), tmp_path, None)
    assert find_meaning(found(same, same[::-1]), tmp_path, ["x", "y"]).labels == {"background": 0, "x": 1, "y": 2}


def test_without_the_package_the_error_says_what_to_install(tmp_path, scan):
    file = save_segmentation(tmp_path / "labels" / "p7.dcm", scan, LABELS)
    program = (
        "import sys; sys.modules['highdicom'] = None\n"
        "from pathlib import Path; from autoseg.images.io import read_label\n"
        "from autoseg.errors import DatasetError\n"
        "try: read_label(Path(sys.argv[1]), case='p7')\n"
        "except DatasetError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    assert "pip install 'autoseg[dicom]'" in done.stdout
    assert "case p7" in done.stdout


def replace_geometry(geometry, **changed):
    from msgspec.structs import replace as changed_struct

    return changed_struct(geometry, **changed)
