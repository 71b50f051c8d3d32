"""Every kind of bad input ends in one clear error, exit code 1, and nothing half-written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner

from autoseg.cli import main

CASES = ("ada", "bob", "cyd", "dan", "eve")


def write(path: Path, array: np.ndarray, spacing=(1.0, 1.0, 1.0)) -> None:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path), True)


@pytest.fixture
def raw(tmp_path) -> Path:
    """Five tiny cases with two channels in nnU-Net's layout."""
    folder = tmp_path / "raw"
    rng = np.random.default_rng(0)
    label = np.zeros((16, 16, 16), np.uint8)
    label[4:10, 4:10, 4:10] = 1
    for name in CASES:
        for channel in range(2):
            image = rng.normal(100, 10, label.shape).astype(np.float32) + 20 * label
            write(folder / "imagesTr" / f"{name}_000{channel}.nii.gz", image)
        write(folder / "labelsTr" / f"{name}.nii.gz", label)
    about = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "blob": 1},
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def workspace(raw, tmp_path) -> Path:
    """A planned workspace of the good dataset."""
    folder = tmp_path / "workspace"
    run("plan", raw, "-w", folder, "--jobs", 1)
    return folder


def run(*arguments: object, fails: bool = False) -> str:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if fails:
        assert done.exit_code == 1, done.output
        assert done.output.count("Error: ") == 1
        assert "Traceback" not in done.output
    else:
        assert done.exit_code == 0, done.output
    return done.output


def image(raw: Path, case: str, channel: int = 0) -> Path:
    return raw / "imagesTr" / f"{case}_000{channel}.nii.gz"


def label(raw: Path, case: str) -> Path:
    return raw / "labelsTr" / f"{case}.nii.gz"


def empty_folder(raw):
    shutil.rmtree(raw)
    raw.mkdir()


def missing_channel(raw):
    image(raw, "bob", 1).unlink()


def label_without_image(raw):
    for channel in range(2):
        image(raw, "bob", channel).unlink()


def image_without_label(raw):
    label(raw, "bob").unlink()


def unnamed_label_value(raw):
    write(label(raw, "bob"), np.full((16, 16, 16), 7, np.uint8))


def broken_label_values(raw):
    write(label(raw, "bob"), np.full((16, 16, 16), 0.5, np.float32))


def not_a_number(raw):
    array = np.ones((16, 16, 16), np.float32)
    array[3, 4, 5] = np.nan
    write(image(raw, "bob"), array)


def infinite(raw):
    array = np.ones((16, 16, 16), np.float32)
    array[3, 4, 5] = np.inf
    write(image(raw, "bob", 1), array)


def other_shape(raw):
    write(label(raw, "bob"), np.ones((16, 16, 15), np.uint8))


def other_spacing(raw):
    write(label(raw, "bob"), np.ones((16, 16, 16), np.uint8), spacing=(1.0, 1.0, 2.0))


def truncated(raw):
    data = image(raw, "bob").read_bytes()
    image(raw, "bob").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (empty_folder, "raw"),
        (missing_channel, "bob"),
        (label_without_image, "bob"),
        (image_without_label, "bob"),
        (unnamed_label_value, "bob"),
        (broken_label_values, "bob"),
        (not_a_number, "bob"),
        (infinite, "bob"),
        (other_shape, "bob"),
        (other_spacing, "bob"),
        (truncated, "bob"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_spoilt_dataset(spoil, told, raw, tmp_path):
    spoil(raw)
    folder = tmp_path / "workspace"
    assert told in run("plan", raw, "-w", folder, "--jobs", 1, fails=True)
    assert not folder.exists() or not list(folder.iterdir())


def test_mistyped_key_in_the_plan(workspace):
    text = (workspace / "plan.json").read_text()
    (workspace / "plan.json").write_text(text.replace('"epochs"', '"epoch"'))
    assert "'epochs'" in run("preprocess", "-w", workspace, fails=True)
    assert not (workspace / "preprocessed").exists()


def test_mistyped_setting(workspace):
    told = run("train", 0, "-w", workspace, "--set", "training.epoch=3", fails=True)
    assert "training.epochs" in told
    assert not (workspace / "models").exists()


def test_setting_out_of_bounds(workspace):
    assert "epochs" in run("train", 0, "-w", workspace, "--set", "training.epochs=0", fails=True)


def test_no_such_fold(workspace):
    told = run("train", 9, "-w", workspace, fails=True)
    assert "0 to 4" in told
    assert not (workspace / "models").exists()


def test_newer_workspace(workspace):
    text = (workspace / "plan.json").read_text()
    (workspace / "plan.json").write_text(text.replace('"schema_version": 1', '"schema_version": 2'))
    assert "newer" in run("preprocess", "-w", workspace, fails=True)


def test_workspace_inside_the_dataset(raw):
    before = sorted(raw.rglob("*"))
    assert "-w" in run("plan", raw, "-w", raw, "--jobs", 1, fails=True)
    assert sorted(raw.rglob("*")) == before


def test_workspace_that_cant_be_written(raw, tmp_path):
    (tmp_path / "taken").write_text("a file where the folder should be")
    assert "taken" in run("plan", raw, "-w", tmp_path / "taken" / "workspace", "--jobs", 1, fails=True)


@pytest.fixture
def trained(workspace) -> Path:
    """One step of training."""
    settings = ("training.epochs=1", "training.iterations_per_epoch=1", "training.validation_iterations=0")
    run("train", 0, "-w", workspace, "--jobs", 1, "--device", "cpu", *(f"--set={setting}" for setting in settings))
    return workspace


def test_predicting_a_channel_too_few_or_where_nothing_can_be_written(trained, raw, tmp_path):
    told = run("predict", image(raw, "bob"), tmp_path / "out", "-w", trained, "--device", "cpu", fails=True)
    assert "bob" in told
    assert "_0001" in told
    assert not (tmp_path / "out").exists()
    (tmp_path / "taken").write_text("a file where the folder should be")
    inputs = [image(raw, "bob", channel) for channel in range(2)]
    told = run("predict", *inputs, tmp_path / "taken", "-w", trained, "--device", "cpu", fails=True)
    assert "taken" in told


def test_predicting_what_cant_be_read_leaves_nothing_behind(trained, raw, tmp_path):
    not_a_number(raw)
    truncated_copy = raw / "imagesTr" / "cyd_0001.nii.gz"
    truncated_copy.write_bytes(truncated_copy.read_bytes()[:200])
    for case in ("bob", "cyd"):
        inputs = [image(raw, case, channel) for channel in range(2)]
        told = run("predict", *inputs, tmp_path / "out", "-w", trained, "--device", "cpu", fails=True)
        assert case in told
        assert not (tmp_path / "out").exists()
    # The other cases of a folder are predicted all the same.
    told = run("predict", raw / "imagesTr", tmp_path / "out", "-w", trained, "--device", "cpu", fails=True)
    assert "2 of 5 cases" in told
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "ada.nii.gz", "dan.nii.gz", "eve.nii.gz", "prediction.json",
    ]  # fmt: skip


def test_predicting_with_a_fold_that_is_not_trained(trained, raw, tmp_path):
    inputs = [image(raw, "bob", channel) for channel in range(2)]
    told = run("predict", *inputs, tmp_path / "out", "-w", trained, "--folds", "1", "--device", "cpu", fails=True)
    assert "found:   fold 1" in told
    assert "allowed: 0" in told
