"""BIDS datasets: sessions and runs as cases, suffixes as channels, labels from the derivatives."""

import numpy as np
import pytest

from autoseg.artifacts.dataset import Case, Naming
from autoseg.artifacts.geometry import Geometry
from autoseg.datasets.bids import find_bids, is_bids
from autoseg.datasets.layouts import find_dataset
from autoseg.errors import DatasetError
from autoseg.images.io import write_label

GRID = Geometry(shape=(1, 2, 3), spacing_mm=(1, 1, 1))


def scans(root, *names, values=(0, 1)):
    """Files named ``sub-1/ses-1/anat/...`` by what their names say."""
    for name in names:
        folder, _, base = name.rpartition("/")
        parts = [part for part in base.split("_") if part.startswith(("sub-", "ses-"))]
        file = root.joinpath(folder, *parts, "anat", f"{base}.nii.gz")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_label(file, np.resize(values, GRID.shape), GRID)
    return root


def test_sessions_are_cases_and_subjects_groups(tmp_path):
    names = ["sub-1_ses-1", "sub-1_ses-2", "sub-2_ses-1"]
    scans(tmp_path, *(f"{name}_{suffix}" for name in names for suffix in ("T1w", "ce-gad_T1w")))
    scans(tmp_path / "derivatives/manual", *(f"{name}_space-T1w_desc-x_dseg" for name in names))
    (tmp_path / "sub-1/ses-1/func").mkdir()
    (tmp_path / "sub-1/ses-1/func/sub-1_ses-1_bold.nii.gz").touch()
    found = find_bids(tmp_path, None, None)
    assert found.cases[1] == Case(
        name="sub-1_ses-2",
        images=(
            "sub-1/ses-2/anat/sub-1_ses-2_T1w.nii.gz",
            "sub-1/ses-2/anat/sub-1_ses-2_ce-gad_T1w.nii.gz",
        ),
        label="derivatives/manual/sub-1/ses-2/anat/sub-1_ses-2_space-T1w_desc-x_dseg.nii.gz",
        group="sub-1",
    )
    assert found.stated.channel_names == ("T1w", "ce-gad_T1w")
    assert found.naming.image_suffixes == ("_T1w.nii.gz", "_ce-gad_T1w.nii.gz")
    assert [case.images[0][-12:-7] for case in find_bids(tmp_path, None, ["CE-gad_t1w"]).cases] == ["d_T1w"] * 3


def test_one_scan_a_subject_needs_no_group(tmp_path):
    scans(tmp_path, "sub-1_T1w", "sub-2_T1w")
    scans(tmp_path / "derivatives", "sub-1_dseg", "sub-2_dseg")
    found = find_bids(tmp_path, None, None)
    assert [(case.name, case.group) for case in found.cases] == [("sub-1", None), ("sub-2", None)]
    assert found.naming == Naming(image_suffixes=("_T1w.nii.gz",), label_suffix="_dseg.nii.gz")


def test_runs_are_cases(tmp_path):
    scans(tmp_path, "sub-1_run-1_T2w", "sub-1_run-2_T2w")
    scans(tmp_path / "derivatives/x", "sub-1_run-1_dseg", "sub-1_run-2_dseg")
    assert [case.name for case in find_bids(tmp_path, None, None).cases] == ["sub-1_run-1", "sub-1_run-2"]


def test_subjects_without_label_are_left_out_and_told(tmp_path, caplog):
    scans(tmp_path, "sub-1_T1w", "sub-2_T1w", "sub-3_T1w")
    scans(tmp_path / "derivatives/x", "sub-2_dseg")
    assert [case.name for case in find_bids(tmp_path, None, None).cases] == ["sub-2"]
    assert "2 cases have no dseg" in caplog.text
    assert "sub-1, sub-3" in caplog.text


@pytest.mark.parametrize(
    ("table", "labels"),
    [
        ("derivatives/x/sub-1/anat/sub-1_dseg.tsv", {"background": 0, "left": 1, "label_9": 2}),
        ("derivatives/x/dseg.tsv", {"background": 0, "left": 1, "label_9": 2}),
        ("derivatives/x/desc-any_dseg.tsv", {"background": 0, "left": 1, "label_9": 2}),
        ("labels.tsv", {"background": 0, "left": 1, "label_9": 2}),
        ("other.tsv", {"background": 0, "label_3": 1, "label_9": 2}),
    ],
)
def test_names_of_values_come_from_a_table(tmp_path, table, labels):
    scans(tmp_path, "sub-1_T1w")
    scans(tmp_path / "derivatives/x", "sub-1_dseg", values=(0, 3, 9))
    (tmp_path / table).write_text("index\tname\n0\tBackground\n3\tleft\n4\tright\n")
    dataset = find_dataset(tmp_path)
    assert dataset.labels == labels
    assert dataset.file_values == (0, 3, 9)


def test_a_mask_is_called_by_its_label(tmp_path):
    scans(tmp_path, "sub-1_T1w")
    scans(tmp_path / "derivatives/x", "sub-1_label-lesion_mask")
    assert find_dataset(tmp_path).labels == {"background": 0, "lesion": 1}


def test_one_of_several_labels_is_chosen(tmp_path):
    scans(tmp_path, "sub-1_T1w")
    scans(tmp_path / "derivatives/x", "sub-1_dseg", "sub-1_desc-brain_mask")
    scans(tmp_path / "derivatives/y", "sub-1_dseg")
    scans(tmp_path / "elsewhere", "sub-1_dseg")

    def chosen(folder):
        return find_dataset(tmp_path, labels=tmp_path / folder).cases[0].label

    assert chosen("derivatives/y") == "derivatives/y/sub-1/anat/sub-1_dseg.nii.gz"
    assert chosen("derivatives/x/desc-brain_mask") == "derivatives/x/sub-1/anat/sub-1_desc-brain_mask.nii.gz"
    assert chosen("elsewhere") == "elsewhere/sub-1/anat/sub-1_dseg.nii.gz"
    for folder, expected in (("derivatives/x", "desc-brain_mask (1 files)"), ("derivatives/x/lesion", "no labels")):
        with pytest.raises(DatasetError, match="labels") as caught:
            chosen(folder)
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("derived", "expected"),
    [
        (["sub-1_dseg", "sub-9_dseg"], "case sub-9"),
        (["sub-1_dseg", "sub-1_space-T1w_dseg"], "two labels"),
    ],
)
def test_derivatives_that_cant_be_used(tmp_path, derived, expected):
    scans(tmp_path, "sub-1_T1w")
    scans(tmp_path / "derivatives/x", *derived)
    with pytest.raises(DatasetError) as caught:
        find_bids(tmp_path, None, None)
    assert expected in str(caught.value)


def test_a_table_that_is_none(tmp_path):
    scans(tmp_path, "sub-1_T1w")
    scans(tmp_path / "derivatives/x", "sub-1_dseg")
    (tmp_path / "derivatives/x/dseg.tsv").write_text("id,label\n1,x")
    with pytest.raises(DatasetError, match=r"dseg.tsv"):
        find_bids(tmp_path, None, None)


def test_folders_of_subjects_alone_are_not_bids(tmp_path):
    (tmp_path / "sub-1").mkdir()
    for name in ("image", "label"):
        write_label(tmp_path / f"sub-1/{name}.nii.gz", np.resize([0, 1], GRID.shape), GRID)
    assert not is_bids(tmp_path)
    assert find_dataset(tmp_path, channels=["CT"]).cases[0].images == ("sub-1/image.nii.gz",)


def test_two_files_of_one_scan_are_refused(tmp_path):
    for name in ("sub-01_T1w.nii.gz", "sub-01_T1w.nii"):
        file = tmp_path / "sub-01" / "anat" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    label = tmp_path / "derivatives" / "manual" / "sub-01" / "anat" / "sub-01_dseg.nii.gz"
    label.parent.mkdir(parents=True)
    label.write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"there twice\n.*sub-01.*\n.*T1w"):
        find_dataset(tmp_path, label_names=["x"])
