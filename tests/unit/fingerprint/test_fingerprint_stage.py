"""The stage on files: what is written, what is refused, and when work is not repeated."""

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from autoseg.artifacts.base import read
from autoseg.artifacts.dataset import Case, Dataset, Naming
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.stamp import case_stamp, stamp
from autoseg.datasets.layouts import find_dataset
from autoseg.errors import AutosegError, DatasetError
from autoseg.fingerprint import stage
from autoseg.images.io import write_label

REAL = Path(__file__).parents[3].parent / "shared" / "data"


@pytest.fixture
def dataset(tmp_path):
    cases = []
    for index, name in enumerate("abc"):
        rng = np.random.default_rng(index)
        geometry = Geometry(shape=(5, 6, 7 + index), spacing_mm=(2.0, 1.0, 1.0 + index))
        image = np.zeros(geometry.shape, np.uint8)
        image[1:4, 1:6] = rng.integers(1, 200, (3, 5, geometry.shape[2]))
        label = np.zeros(geometry.shape, np.uint8)
        label[2, 2:5] = index % 2 + 1
        write_label(tmp_path / f"{name}_i.nii.gz", image, geometry)
        write_label(tmp_path / f"{name}_l.nii.gz", label, geometry)
        cases.append(Case(name=name, images=(f"{name}_i.nii.gz",), label=f"{name}_l.nii.gz"))
    return Dataset(
        root=str(tmp_path),
        channel_names=("MR",),
        labels={"background": 0, "one": 1, "two": 2},
        naming=Naming(image_suffixes=("_i.nii.gz",), label_suffix="_l.nii.gz"),
        cases=tuple(cases),
        num_training=3,
    )


@pytest.fixture
def counted(monkeypatch):
    """Names of the cases that were measured."""
    names = []
    original = stage.measure_case

    def count(task):
        names.append(task.case.name)
        return original(task)

    monkeypatch.setattr(stage, "measure_case", count)
    return names


def test_what_is_written(dataset, tmp_path):
    out = tmp_path / "w" / "fingerprint.json"
    found = stage.run(dataset, out, jobs=1)
    assert read(out, Fingerprint) == found
    assert [case.shape_after_crop for case in found.cases] == [(3, 5, 7), (3, 5, 8), (3, 5, 9)]
    assert found.cases[2].geometry.spacing_mm == (2, 1, 3)
    assert found.median_relative_size_after_cropping == 0.5
    assert len(found.intensities) == 1
    assert stage.run(dataset, tmp_path / "two.json", jobs=2) == found


def test_work_is_not_repeated(dataset, tmp_path, counted):
    out = tmp_path / "fingerprint.json"
    first = stage.run(dataset, out, jobs=1)
    assert stage.run(dataset, out, jobs=1) == first
    assert counted == ["a", "b", "c"]


def test_a_changed_file_is_noticed(dataset, tmp_path, counted):
    out = tmp_path / "fingerprint.json"
    first = stage.run(dataset, out, jobs=1)
    os.utime(tmp_path / "b_l.nii.gz", ns=(1, 1))
    second = stage.run(dataset, out, jobs=1)
    assert len(counted) == 6
    assert second.inputs_sha256 != first.inputs_sha256
    assert second.intensities == first.intensities


def test_a_damaged_fingerprint_is_made_again(dataset, tmp_path):
    out = tmp_path / "fingerprint.json"
    first = stage.run(dataset, out, jobs=1)
    out.write_text("{")
    assert stage.run(dataset, out, jobs=1) == first


def test_no_foreground_at_all(dataset, tmp_path):
    for name in "abc":
        shape = (5, 6, 7 + "abc".index(name))
        write_label(
            tmp_path / f"{name}_l.nii.gz",
            np.zeros(shape, np.uint8),
            Geometry(shape=shape, spacing_mm=(2.0, 1.0, 1.0 + "abc".index(name))),
        )
    with pytest.raises(DatasetError, match="no case has any labelled voxel"):
        stage.run(dataset, tmp_path / "fingerprint.json", jobs=1)
    assert not (tmp_path / "fingerprint.json").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bad_case_is_named(dataset, tmp_path, jobs):
    (tmp_path / "b_i.nii.gz").write_bytes(b"no image")
    with pytest.raises(AutosegError, match="case b"):
        stage.run(dataset, tmp_path / "fingerprint.json", jobs=jobs)


def test_stamps(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"1")
    case = Case(name="c", images=("a.tif",), label="missing.png")
    before = case_stamp(tmp_path, case)
    assert "missing.png missing" in before
    assert stamp(tmp_path, ["a.tif"]) in before
    (tmp_path / "c.json").write_text("{}")
    assert case_stamp(tmp_path, case) != before


def test_real_ct(tmp_path):
    if not (REAL / "openkbp_ct").is_dir():
        pytest.skip(f"{REAL / 'openkbp_ct'} is not on this machine")
    labels = ["brainstem", "cord", "right parotid", "left parotid", "mandible"]
    dataset = find_dataset(REAL / "openkbp_ct", channels=["CT"], label_names=labels)
    few = Dataset(
        root=dataset.root,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        naming=dataset.naming,
        cases=dataset.cases[:3],
        num_training=3,
    )
    found = stage.run(few, tmp_path / "fingerprint.json", jobs=2)
    (ct,) = found.intensities
    # Soft tissue and the jaw's bone.
    assert -50 < ct.median < 100
    assert ct.min <= ct.percentile_00_5 < ct.mean < ct.percentile_99_5 <= ct.max
    assert [case.shape_after_crop for case in found.cases] == [(128, 128, 128)] * 3


def test_each_cases_labels_are_counted(dataset, tmp_path):
    whole = msgspec.structs.replace(
        dataset, labels={"background": 0, "both": (1, 2), "two": 2}, regions_class_order=(1, 2)
    )
    found = stage.run(whole, tmp_path / "fingerprint.json", jobs=1)
    three = {case.name: case.label_voxels for case in found.cases}
    sizes = {case.name: 3 * case.geometry.shape[2] for case in found.cases}
    assert three["a"] == {"both": sizes["a"], "two": 0}
    assert three["b"] == {"both": sizes["b"], "two": sizes["b"]}


def test_cases_that_can_not_be_used_are_left_out_where_the_user_wishes_so(dataset, tmp_path):
    file = tmp_path / "b_i.nii.gz"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DatasetError, match="case b"):
        stage.run(dataset, tmp_path / "fingerprint.json", jobs=1)
    found = stage.run(dataset, tmp_path / "fingerprint.json", jobs=1, reject=True)
    assert [case.name for case in found.cases] == ["a", "c"]
    assert list(found.rejected) == ["b"]
    assert "can't be read" in found.rejected["b"]
    assert found.num_training == 2
    assert stage.run(dataset, tmp_path / "fingerprint.json", jobs=1, reject=True) == found
    for name in "ac":
        (tmp_path / f"{name}_l.nii.gz").unlink()
    with pytest.raises(DatasetError, match="no case can be used"):
        stage.run(dataset, tmp_path / "other.json", jobs=1, reject=True)


def test_groups_and_folds_are_nothing_that_is_measured(dataset, tmp_path, counted):
    first = stage.run(dataset, tmp_path / "fingerprint.json", jobs=1)
    cases = tuple(msgspec.structs.replace(case, group="all", fold=0) for case in dataset.cases)
    assert stage.run(msgspec.structs.replace(dataset, cases=cases), tmp_path / "fingerprint.json", jobs=1) == first
    assert len(counted) == 3
