"""Planning a dataset on disk: what becomes of the folds."""

import json
import shutil

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from autoseg import console
from autoseg.artifacts.base import read, write
from autoseg.artifacts.dataset import Dataset
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.plan import Plan, Training
from autoseg.artifacts.splits import Splits
from autoseg.cli import main
from autoseg.datasets.splits import SplitWishes
from autoseg.errors import ArtifactError, DatasetError, SettingError
from autoseg.images.io import write_label
from autoseg.layout import Workspace
from autoseg.machine import alone
from autoseg.pipeline import open_workspace
from autoseg.planning import plan


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Images and label maps of eight cases, alike."""
    root = tmp_path_factory.mktemp("raw")
    array = np.random.default_rng(0).integers(0, 2, (8, 8, 8))
    for i in range(8):
        for file in (f"case_{i}_0000.nii.gz", f"case_{i}.nii.gz"):
            write_label(root / file, array, Geometry(shape=array.shape, spacing_mm=(1.0, 1.0, 1.0)))
    return root


@pytest.fixture
def planned(raw, build_dataset, tmp_path):
    """Callable: plan the first cases, with wishes; gives (plan, splits or None)."""
    workspace = Workspace(tmp_path / "w")

    def make(num_cases=8, **wishes):
        plan(build_dataset(raw, num_cases=num_cases), workspace, raw=[raw], jobs=1, split=SplitWishes(**wishes))
        splits = read(workspace.splits, Splits) if workspace.splits.exists() else None
        return read(workspace.plan, Plan), splits

    make.workspace = workspace
    return make


def test_planning_writes_the_folds_once(planned):
    made, splits = planned()
    assert made.training == Training()
    assert [fold.cases for fold in splits.counts] == [2, 2, 2, 1, 1]
    line = console.splits_line(splits)
    assert line == "5 folds of 1 to 2 validation cases: KFold(5, shuffle, random_state=12345) over sorted case names"
    before = planned.workspace.splits.stat().st_mtime_ns
    assert planned() == (made, splits)
    assert planned.workspace.splits.stat().st_mtime_ns == before


def test_the_number_of_folds_stands_in_the_plan_from_then_on(planned):
    planned()
    made, splits = planned(num_folds=3)
    assert made.training == Training(num_folds=3)
    assert len(splits.folds) == 3
    assert planned() == (made, splits)
    kept = sorted(file.name for file in planned.workspace.root.glob("*previous*"))
    assert kept == ["splits.previous.json"]


def test_stratified_folds(planned):
    planned()
    space = planned.workspace
    fingerprint = read(space.fingerprint, Fingerprint)
    cases = (
        msgspec.structs.replace(case, label_voxels={"blob": 9 * (i < 4)}) for i, case in enumerate(fingerprint.cases)
    )
    write(space.fingerprint, msgspec.structs.replace(fingerprint, cases=tuple(cases)))
    made, splits = planned(stratify=True, num_folds=4)
    assert made.training == Training(num_folds=4, stratify=True)
    assert [fold.labels["blob"] for fold in splits.counts] == [1] * 4
    assert planned() == (made, splits)
    made, splits = planned(stratify=False)
    assert made.training == Training(num_folds=4)
    assert splits.method.startswith("KFold(4")


def test_too_few_cases_for_folds_are_told_and_no_other_folds_stay(planned, caplog):
    planned()
    made, splits = planned(num_cases=3)
    assert made.training.num_folds == 5
    assert splits is None
    assert "fewer cases than folds (3 cases, 5 folds)" in caplog.text
    assert (planned.workspace.root / "splits.previous.json").exists()
    with pytest.raises(DatasetError, match="fewer cases than folds"):
        planned(num_cases=3, num_folds=4)


def test_edited_folds_are_left_alone(planned):
    _, splits = planned()
    edited = msgspec.structs.replace(splits, folds=splits.folds[::-1])
    write(planned.workspace.splits, edited)
    assert planned()[1] == edited


def test_the_users_folds_stay_until_the_cases_change(planned, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("case,fold\n" + "".join(f"case_{i},{i % 3}\n" for i in range(8)))
    made, splits = planned(file=file)
    assert made.training == Training(num_folds=3)
    assert splits.folds[0].validation == ("case_0", "case_3", "case_6")
    assert splits.counts[0].cases == 3
    assert console.splits_line(splits) == "3 folds of 2 to 3 validation cases: read from mine.csv"
    assert planned() == planned(file=file) == (made, splits)
    fingerprint = planned.workspace.fingerprint.read_bytes()
    with pytest.raises(SettingError, match="the cases changed"):
        planned(num_cases=7)
    # Told before anything is measured or written.
    assert planned.workspace.fingerprint.read_bytes() == fingerprint
    assert read(planned.workspace.splits, Splits) == splits


def test_a_leak_in_the_users_file_is_told_before_anything_is_written(planned, tmp_path):
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps([{"train": ["case_0", "case_1"], "val": ["case_1"]}]))
    with pytest.raises(SettingError, match="validated on"):
        planned(file=file)
    assert not planned.workspace.root.exists()


def test_the_users_folds_and_cases_that_are_rejected(raw, build_dataset, tmp_path):
    workspace, damaged = Workspace(tmp_path / "w"), tmp_path / "raw"
    shutil.copytree(raw, damaged)
    (damaged / "case_3_0000.nii.gz").write_bytes(b"")
    file = tmp_path / "folds.json"
    names = [f"case_{i}" for i in range(8)]
    file.write_text(json.dumps([{"train": names[:4], "val": names[4:]}, {"train": names[4:], "val": names[:4]}]))
    dataset = build_dataset(damaged, num_cases=8)
    for _ in range(2):
        plan(dataset, workspace, raw=[damaged], jobs=1, split=SplitWishes(file=file), reject=True)
        splits = read(workspace.splits, Splits)
        assert splits.folds[0].training == ("case_0", "case_1", "case_2")
        assert splits.folds[1].validation == ("case_0", "case_1", "case_2")
    # Without naming the file again its folds hold.
    plan(dataset, workspace, raw=[damaged], jobs=1, reject=True)
    assert read(workspace.splits, Splits) == splits
    assert "case_3" in read(workspace.dataset, Dataset).rejected


def test_what_cases_were_grouped_by_is_remembered(tmp_path, raw):
    (tmp_path / "raw" / "images").mkdir(parents=True)
    (tmp_path / "raw" / "labels").mkdir()
    for i in range(6):
        shutil.copy(raw / f"case_{i}_0000.nii.gz", tmp_path / "raw" / "images" / f"p{i // 2}_{i}.nii.gz")
        shutil.copy(raw / f"case_{i}.nii.gz", tmp_path / "raw" / "labels" / f"p{i // 2}_{i}.nii.gz")
    command = [
        "plan",
        str(tmp_path / "raw"),
        "-w",
        str(tmp_path / "w"),
        "--channels",
        "MR",
        "--num-folds",
        "2",
        "--jobs",
        "1",
    ]
    run = CliRunner().invoke
    assert run(main, [*command, "--group-by", "p."]).exit_code == 0
    first = read(tmp_path / "w" / "splits.json", Splits)
    assert first.grouped
    told = run(main, command)
    assert "cases are grouped by p., as before" in told.output
    assert read(tmp_path / "w" / "splits.json", Splits) == first
    assert run(main, [*command, "--group-by", ""]).exit_code == 0
    assert not read(tmp_path / "w" / "splits.json", Splits).grouped


def test_one_process_plans_a_workspace_at_a_time(planned):
    space = planned.workspace
    with alone(space.lock, "taken"):
        with pytest.raises(SettingError, match="another process plans this workspace"):
            planned()
        assert [path.name for path in space.root.iterdir()] == [space.lock.name]
    planned()
    assert not space.lock.exists()


def test_a_workspace_whose_planning_failed_is_not_taken_for_one_without_cases(raw, build_dataset, tmp_path):
    space, foreign = Workspace(tmp_path / "w"), tmp_path / "plans.json"
    foreign.write_text("{}")
    with pytest.raises(ArtifactError):
        plan(build_dataset(raw), space, raw=[raw], jobs=1, imported=foreign)
    assert read(space.dataset, Dataset) == build_dataset(raw)
    with pytest.raises(ArtifactError, match="it has no plan"):
        open_workspace(space)


def test_a_dataset_that_can_not_be_measured_leaves_no_workspace(build_dataset, tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(DatasetError, match="case_0"):
        plan(build_dataset(tmp_path / "raw"), Workspace(tmp_path / "w"), raw=[tmp_path / "raw"], jobs=1)
    assert not (tmp_path / "w").exists()
