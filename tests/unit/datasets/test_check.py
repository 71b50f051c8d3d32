"""A look at every case: what can be used, what can't, and why."""

import msgspec
import numpy as np
import pytest

from autoseg.artifacts.base import read, write
from autoseg.artifacts.check import Check
from autoseg.artifacts.dataset import Case, without
from autoseg.artifacts.geometry import Geometry
from autoseg.datasets.check import look_at, table
from autoseg.images.io import write_label

GRID = Geometry(shape=(4, 5, 6), spacing_mm=(2, 1, 1))


@pytest.fixture
def dataset(tmp_path, build_dataset):
    """Four cases: good, empty, on another grid, cut short; the second's image is the first's."""
    rng = np.random.default_rng(0)
    cases = []
    for i in range(4):
        image = np.zeros(GRID.shape) if i == 1 else rng.integers(0, 50, GRID.shape)
        label = np.zeros(GRID.shape, int)
        label[1, 1:3, 2] = i != 1
        place = msgspec.structs.replace(GRID, origin_mm=(5, 0, 0)) if i == 2 else GRID
        write_label(tmp_path / f"{i}.nii.gz", image, GRID)
        write_label(tmp_path / f"{i}_l.nii.gz", label, place)
        cases.append(Case(name=f"c{i}", images=(f"{i}.nii.gz",), label=f"{i}_l.nii.gz"))
    (tmp_path / "0.nii.gz").write_bytes((tmp_path / "1.nii.gz").read_bytes())
    whole = (tmp_path / "3.nii.gz").read_bytes()
    (tmp_path / "3.nii.gz").write_bytes(whole[: len(whole) // 2])
    return msgspec.structs.replace(build_dataset(tmp_path), cases=tuple(cases), num_training=4)


def test_every_case_is_looked_at(dataset, tmp_path):
    report = look_at(dataset, jobs=1)
    assert [case.problem is None for case in report.cases] == [True, True, False, False]
    assert report.num_problems == 2
    assert report.cases[0].label_voxels == {"blob": 2}
    assert "different grids" in report.cases[2].problem
    assert "can't be read" in report.cases[3].problem
    assert any(line == "1 of 2 cases have no foreground: c1" for line in report.remarks)
    assert any(line == "the same image under several names: c0, c1" for line in report.remarks)
    write(tmp_path / "check.json", report)
    assert read(tmp_path / "check.json", Check) == report


def test_the_table_has_a_row_for_each_case(dataset):
    lines = table(look_at(dataset, jobs=1))
    assert lines[0].split() == ["case", "shape", "spacing", "in", "mm", "label's", "grid", "blob", "problem"]
    assert lines[1].split() == ["c0", "4x5x6", "2", "1", "1", "equal", "2"]
    assert lines[3].startswith("c2") and "different grids" in lines[3]


def test_a_label_without_a_voxel_anywhere_is_told(dataset):
    more = msgspec.structs.replace(dataset, labels={**dataset.labels, "never": 2})
    assert "no case has any voxel of never" in look_at(more, jobs=1).remarks


def test_rejected_cases_stay_on_record(dataset):
    left = without(dataset, {"c2": "another grid"})
    assert [case.name for case in left.cases] == ["c0", "c1", "c3"]
    assert left.num_training == 3
    assert left.rejected == {"c2": "another grid"}
    assert without(dataset, {}) is dataset
