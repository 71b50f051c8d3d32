"""Reports beside predictions: when they are made, what they say, and how their pictures are laid out."""

import imageio.v3 as iio
import numpy as np
import pytest
import SimpleITK
import torch

from autoseg.artifacts.base import read
from autoseg.artifacts.case_report import CaseReport, LabelReport
from autoseg.artifacts.geometry import IDENTITY, Geometry
from autoseg.errors import SettingError
from autoseg.evaluate.pairing import pair_files
from autoseg.images.io import read_label
from autoseg.predict.measure import measure_labels
from autoseg.predict.models import load_models
from autoseg.predict.report import report_files, write_report
from autoseg.predict.report_picture import ALL, choose_sections, draw_report, upright, words
from autoseg.predict.stage import Options
from autoseg.predictor import Predictor

SHAPE = (6, 10, 9)
SPACING_MM = (3.0, 1.0, 1.5)
LABELS = {"background": 0, "a": 1, "b": 2}
PNG = b"\x89PNG"


@pytest.fixture
def scans(tmp_path):
    """A folder with two scans."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate(("one", "two")):
        image = SimpleITK.GetImageFromArray(np.random.default_rng(number).standard_normal(SHAPE, dtype=np.float32))
        image.SetSpacing(SPACING_MM[::-1])
        image.SetOrigin((10.0, -20.0, 30.0))
        SimpleITK.WriteImage(image, str(folder / f"{name}_0000.nii.gz"))
    return folder


@pytest.fixture
def predict(train_fold, scans, tmp_path):
    """Callable: predict the scans into a folder; the cases predicted anew."""
    train_fold(0)
    out = tmp_path / "out"

    def run(**options):
        before = times(out)
        Predictor(tmp_path / "w", device_name="cpu", options=Options(**options)).predict_files([scans], out)
        after = times(out)
        return sorted(name for name in after if after[name] != before.get(name))

    return run


def times(folder):
    return {path.name.split(".")[0]: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")}


def reports(out):
    return sorted(path.name for path in (out / "report").iterdir())


def test_a_report_says_what_its_label_map_holds(predict, scans, tmp_path):
    assert predict(report=True) == ["one", "two"]
    out = tmp_path / "out"
    assert reports(out) == ["one.json", "one.png", "two.json", "two.png"]
    assert (out / "report" / "two.png").read_bytes().startswith(PNG)
    label = read_label(out / "two.nii.gz", case="two")
    report = read(out / "report" / "two.json", CaseReport)
    assert report == CaseReport(
        case="two",
        images=(str(scans / "two_0000.nii.gz"),),
        label_file="two.nii.gz",
        models=(str(tmp_path / "w" / "models" / "3d_fullres" / "fold_0"),),
        geometry=report.geometry,
        voxel_volume_mm3=4.5,
        labels=measure_labels(label.array_zyx, report.geometry, {"a": 1, "b": 2}),
    )
    assert report.geometry.shape == SHAPE
    assert report.geometry.origin_mm == (10.0, -20.0, 30.0)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_report_that_is_missing_is_made_and_one_that_is_there_stays(predict, tmp_path):
    out = tmp_path / "out"
    assert predict() == ["one", "two"]
    assert not (out / "report").exists()
    assert predict(report=True) == ["one", "two"]
    for name in ("one.png", "two.json"):
        (out / "report" / name).unlink()
        assert predict() == []
        assert predict(report=True) == [name[:3]]
        assert reports(out) == ["one.json", "one.png", "two.json", "two.png"]
    assert predict(report=True) == []


def test_a_report_of_another_prediction_does_not_stay(predict, tmp_path):
    predict(report=True)
    assert predict(step=1.0) == ["one", "two"]
    assert reports(tmp_path / "out") == []


def test_reports_of_somebody_else_are_never_replaced(predict, tmp_path):
    theirs = tmp_path / "out" / "report" / "two.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("someone's own picture")
    with pytest.raises(SettingError, match=r"did not predict(.|\n)*two\.png"):
        predict(report=True)
    assert predict() == ["one", "two"]
    assert theirs.read_text() == "someone's own picture"


def test_a_file_called_as_the_folder_of_reports_is_in_the_way_of_reports_alone(predict, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report").write_text("someone's own report")
    with pytest.raises(SettingError, match=r"did not predict(.|\n)*report"):
        predict(report=True)
    assert predict() == ["one", "two"]
    assert predict(step=1.0) == ["one", "two"]


def test_pictures_of_reports_do_not_pass_for_label_maps(train_fold, build_plan, build_configuration, tmp_path):
    plan = build_plan({"3d_fullres": build_configuration((4, 8, 8), spacing=(999.0, 1.0, 1.0))}, labels=LABELS)
    train_fold(0, plan=plan)
    (tmp_path / "in").mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (12, 17), dtype=np.uint8)
    for name in ("one", "two"):
        iio.imwrite(tmp_path / "in" / f"{name}_0000.png", picture)
    out = tmp_path / "out"
    predictor = Predictor(tmp_path / "w", device_name="cpu", options=Options(report=True))
    predictor.predict_files([tmp_path / "in"], out)
    assert reports(out) == ["one.json", "one.png", "two.json", "two.png"]
    assert set(pair_files(out, out).predicted) == {"one", "two"}
    report = read(out / "report" / "one.json", CaseReport)
    assert report.voxel_volume_mm3 is None
    assert sum(label.voxels for label in report.labels.values()) == np.count_nonzero(iio.imread(out / "one.png"))


def test_regions_and_the_files_values_count(train_fold, build_plan, build_configuration, tmp_path):
    plan = build_plan(
        {"3d_fullres": build_configuration((4, 8, 8))},
        labels={"background": 0, "whole": (1, 2), "core": (2,)},
        regions_class_order=(1, 2),
    )
    models = load_models([train_fold(0, plan=plan, file_values=(0, 128, 255))], torch.device("cpu"))
    image = tmp_path / "scan.nii.gz"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros(SHAPE, np.float32)), str(image))
    label = np.zeros(SHAPE, np.uint16)
    label[1, 2:4, 3] = 128
    label[2, 2, 3] = 255
    label_file = tmp_path / "scan.seg.nii.gz"
    geometry = Geometry(shape=SHAPE, spacing_mm=(1.0, 1.0, 1.0))
    write_report(label_file, label, geometry, case="scan", images=(str(image),), models=models)
    record_file, picture_file = report_files(label_file)
    labels = read(record_file, CaseReport).labels
    assert {name: found.voxels for name, found in labels.items()} == {"whole": 3, "core": 1}
    assert picture_file.read_bytes().startswith(PNG)


@pytest.mark.parametrize("label", ["a.b.nii.gz", "a.b.png", "a.b.TIF"])
def test_reports_lie_in_a_folder_of_their_own(tmp_path, label):
    folder = tmp_path / "report"
    assert report_files(tmp_path / label) == (folder / "a.b.json", folder / "a.b.png")


def found(largest_slice, voxels=1):
    return LabelReport(voxels=voxels, volume_ml=None, components=voxels, largest_slice=largest_slice)


def test_all_labels_together_come_first_then_each_by_itself():
    per_slice = np.array([1, 3, 3, 2, 0])
    labels = {"a": found(2), "b": found(1), "absent": found(None, 0), "c": found(2)}
    assert choose_sections(per_slice, labels) == {1: [ALL, "b"], 2: ["a", "c"]}
    assert choose_sections(per_slice, {"a": found(1)}) == {1: ["a"]}
    assert choose_sections(np.zeros(5), {"a": found(None, 0)}) == {2: []}


def test_six_sections_are_drawn_at_most():
    labels = {str(z): found(z) for z in range(9)}
    assert list(choose_sections(np.arange(9), labels)) == [8, 0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("direction", "steps", "sides"),
    [
        (IDENTITY, (1, 1), ("R", "L", "A", "P")),  # axial, as DICOM has it
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), (-1, -1), ("R", "L", "A", "P")),  # axial, as most NIfTI have it
        ((1, 0, 0, 0, 0, 1, 0, -1, 0), (1, 1), ("R", "L", "S", "I")),  # coronal
        ((0, 0, 1, 1, 0, 0, 0, 1, 0), (-1, 1), ("A", "P", "S", "I")),  # sagittal, feet first
        ((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1), (1, 1), ("R", "L", "A", "P")),  # oblique
    ],
)
def test_slices_are_shown_as_radiologists_show_them(direction, steps, sides):
    assert upright(Geometry(shape=SHAPE, spacing_mm=SPACING_MM, direction=direction)) == (steps, sides)


@pytest.mark.parametrize(
    ("voxels", "volume_ml", "text"),
    [
        (0, 0.0, "x: not found"),
        (1, 0.0123, "x: 0.0123 mL, 1 component"),
        (2, 1.7, "x: 1.70 mL, 2 components"),
        (2, 1480.4, "x: 1,480 mL, 2 components"),
        (2, None, "x: 2 pixels, 2 components"),
    ],
)
def test_a_legend_names_volumes_where_there_are_any(voxels, volume_ml, text):
    label = LabelReport(voxels=voxels, volume_ml=volume_ml, components=voxels)
    assert words("x", label, "pixels") == text


@pytest.mark.parametrize(("shape", "count"), [((1, 3, 40), 0), ((2, 1500, 2), 1), ((9, 20, 10), 12)])
def test_pictures_of_unusual_volumes_and_names(tmp_path, shape, count):
    label = np.zeros(shape, np.uint8)
    label.ravel()[:count] = np.arange(1, count + 1)
    names = {f"_{value} $": value for value in range(1, max(count, 1) + 1)}
    geometry = Geometry(shape=shape, spacing_mm=(2.0, 0.5, 3.0))
    report = CaseReport(
        case="$case$ _\\frac",
        images=("image",),
        label_file="label",
        models=("model",),
        geometry=geometry,
        voxel_volume_mm3=3.0,
        labels=measure_labels(label, geometry, names),
    )
    draw_report(tmp_path / "case.png", np.zeros(shape, np.float32), label, names, report, anatomical=True)
    assert iio.imread(tmp_path / "case.png").std() > 0
