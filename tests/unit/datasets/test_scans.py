"""Folders of DICOM slices as cases, for training and for prediction."""

import logging

import numpy as np
import pytest
import SimpleITK

from autoseg.artifacts.dataset import Naming
from autoseg.datasets.layouts import find_dataset, group_inputs
from autoseg.datasets.load import Promises, read_case
from autoseg.datasets.scans import refuse_slice
from autoseg.errors import DatasetError
from autoseg.images.io import read_geometry, read_image, write_label

VOLUME = np.random.default_rng(0).integers(-1000, 3000, (4, 5, 6)).astype(np.int16)
BARE = Naming(image_suffixes=("/",), label_suffix=".nii.gz")
NUMBERED = Naming(image_suffixes=("_0000.nii.gz",), label_suffix=".nii.gz")
SUFFIXED = Naming(image_suffixes=("_ct.nii.gz",), label_suffix="_oar.nii.gz")
TWO = Naming(image_suffixes=("_0000.nii.gz", "_0001.nii.gz"), label_suffix=".nii.gz")


def save_label(path):
    path.parent.mkdir(exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray((VOLUME > 0).astype(np.uint8)), str(path))


def test_a_folder_a_case_makes_a_training_set(tmp_path, write_dicom):
    for name in ("p1", "p2"):
        write_dicom(tmp_path / "images" / name, VOLUME)
        save_label(tmp_path / "labels" / f"{name}.nii.gz")
    (tmp_path / "images" / "notes").mkdir()
    dataset = find_dataset(tmp_path, channels=["CT"])
    assert [(case.name, case.images, case.label) for case in dataset.cases] == [
        ("p1", ("images/p1",), "labels/p1.nii.gz"),
        ("p2", ("images/p2",), "labels/p2.nii.gz"),
    ]
    assert dataset.naming == BARE
    assert [case.name for case in group_inputs([tmp_path / "images"], dataset.naming, 1)] == ["p1", "p2"]


def test_numbered_folders_are_channels(tmp_path, write_dicom):
    for name in ("p1", "p2"):
        write_dicom(tmp_path / "images" / f"{name}_0000", VOLUME)
        write_dicom(tmp_path / "images" / f"{name}_0001" / "series", VOLUME)
        save_label(tmp_path / "labels" / f"{name}.nii.gz")
    dataset = find_dataset(tmp_path, channels=["T1", "T2"])
    assert dataset.naming.image_suffixes == ("_0000/", "_0001/")
    cases = group_inputs([tmp_path / "images"], dataset.naming, 2)
    assert [case.images for case in cases] == [
        tuple((tmp_path / "images" / f"{name}_{number}").as_posix() for number in ("0000", "0001"))
        for name in ("p1", "p2")
    ]
    assert cases == group_inputs([tmp_path / "images"], TWO, 2)


def test_slices_without_a_folder_of_their_own_are_no_cases(tmp_path, write_dicom):
    for name in ("{}.dcm", "IM{}"):
        folder = write_dicom(tmp_path / name[:2].strip("{}") / "images", VOLUME, name=name)
        save_label(folder.parent / "labels" / "p1.nii.gz")
        with pytest.raises(DatasetError, match="lie directly in a folder of cases") as caught:
            find_dataset(folder.parent, channels=["CT"])
        assert "images/CASE/" in caught.value.allowed


@pytest.mark.parametrize("naming", [BARE, NUMBERED, SUFFIXED], ids=["bare", "numbered", "suffixed"])
def test_a_scan_to_predict_may_have_any_name(tmp_path, write_dicom, naming):
    folder = write_dicom(tmp_path / "scans" / "Mueller 1", VOLUME)
    write_dicom(tmp_path / "scans" / "p2" / "study" / "series", VOLUME)
    (folder / "preview.png").write_bytes(b"no case")
    (case,) = group_inputs([folder], naming, 1)
    assert (case.name, case.images) == ("Mueller 1", (folder.as_posix(),))
    assert [case.name for case in group_inputs([tmp_path / "scans"], naming, 1)] == ["Mueller 1", "p2"]


def test_each_series_is_a_case_and_scouts_are_left_out(tmp_path, write_dicom, caplog):
    folder = write_dicom(tmp_path / "p1", VOLUME, uid="1.2.5")
    write_dicom(folder, VOLUME + 1, uid="1.2.6", name="b{}")
    write_dicom(folder, VOLUME + 2, uid="1.2.7", number=12, description="T1 (ax) / post", name="c{}")
    turned = {"0020|0037": "1\\0\\0\\0\\0\\-1"}
    write_dicom(folder, VOLUME, uid="1.2.8", number=1, name="d{}", change=lambda k: turned if k else {})
    with caplog.at_level(logging.WARNING):
        cases = group_inputs([tmp_path], BARE, 1)
    assert {case.name: case.images for case in cases} == {
        "p1_12_T1-ax-post": (f"{folder}#1.2.7",),
        "p1_3_Thorax-1.0-B31f": (f"{folder}#1.2.5",),
        "p1_3_Thorax-1.0-B31f_1.2.6": (f"{folder}#1.2.6",),
    }
    assert "different orientation" in caplog.text
    for case, array in zip(cases, (VOLUME + 2, VOLUME, VOLUME + 1), strict=True):
        (file,) = (tmp_path / image for image in case.images)
        assert np.array_equal(read_image([file], case=case.name).array_czyx[0], array)


def test_single_files_of_different_series_are_cases(tmp_path, write_dicom):
    for number in (1, 2):
        write_dicom(tmp_path, VOLUME[:1], uid=f"1.2.{number}", name=f"chest{number}{'.dcm' * (number % 2)}")
    cases = group_inputs([tmp_path], BARE, 1)
    assert [case.name for case in cases] == ["chest1", "chest2"]
    for case in cases:
        assert np.array_equal(read_image([tmp_path / case.images[0]], case=case.name).array_czyx[0], VOLUME[:1])


def test_a_damaged_slice_and_a_folder_of_scouts_are_one_error(tmp_path, write_dicom):
    turned = {"0020|0037": "1\\0\\0\\0\\0\\-1"}
    for uid in ("1.2.8", "1.2.9"):
        folder = write_dicom(tmp_path, VOLUME, uid=uid, name=f"{uid}.{{}}", change=lambda k: turned if k else {})
    with pytest.raises(DatasetError, match="different orientation"):
        group_inputs([folder], BARE, 1)
    file = min(folder.iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=rf"DICOM file can't be read(.|\n)*{file.name}"):
        group_inputs([folder], BARE, 1)


def test_a_slice_by_itself_is_no_scan(tmp_path, write_dicom):
    folder = write_dicom(tmp_path / "p1", np.zeros((3, 4, 5), np.int16))
    with pytest.raises(DatasetError, match=r"one slice of a scan(.|\n)*3 slices(.|\n)*p1 instead"):
        refuse_slice(next(folder.glob("*.dcm")))
    alone = write_dicom(tmp_path / "p2", np.zeros((1, 4, 5), np.int16))
    refuse_slice(next(alone.glob("*.dcm")))


def test_a_list_may_name_a_series(tmp_path, write_dicom):
    for number, uid in enumerate(("1.2.8", "1.2.9")):
        write_dicom(tmp_path / "p1", VOLUME + number, uid=uid, name=f"{uid}.{{}}")
        grid = read_geometry([tmp_path / f"p1#{uid}"], case="p")
        write_label(tmp_path / f"l{number}.nii.gz", np.ones(VOLUME.shape, np.uint8), grid)
    rows = "case,image,label\na,p1#1.2.8,l0.nii.gz\nb,p1#1.2.9,l1.nii.gz\n"
    (tmp_path / "list.csv").write_text(rows)
    dataset = find_dataset(tmp_path / "list.csv", channels=["CT"], label_names=["x"])
    first, second = (read_case(case, Promises.of(dataset)).image.array_czyx for case in dataset.cases)
    assert np.array_equal(second, first + 1)


def test_a_series_number_is_no_path(tmp_path, write_dicom):
    for uid in ("1.2.8", "1.2.9"):
        write_dicom(tmp_path / "p1", VOLUME, uid=uid, number="../../x", name=f"{uid}.{{}}")
    assert all("/" not in case.name for case in group_inputs([tmp_path / "p1"], BARE, 1))
