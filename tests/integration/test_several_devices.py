"""Training on more than one device, by the real commands."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoseg.artifacts.base import read
from autoseg.artifacts.model import TrainedModel
from autoseg.layout import Workspace

SHORT = [
    f"--set={setting}"
    for setting in (
        "training.epochs=2",
        "training.iterations_per_epoch=3",
        "training.validation_iterations=1",
        "training.checkpoint_minutes=0",
        "prediction.mirroring=false",
        "prediction.step=1",
    )
]


@pytest.fixture
def planned(tmp_path, phantoms, autoseg):
    workspace = tmp_path / "workspace"
    autoseg("plan", phantoms, "-w", workspace, "--gpu-memory", 0.1, "--jobs", 1)
    return workspace


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return []


def process_of(fold):
    """The process that trains a fold."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and command(folder.name)[3:5] == ["train", str(fold)]:
            return int(folder.name)
    return None


@pytest.mark.long
def test_five_folds_on_four_devices_survive_one_being_killed(planned):
    space = Workspace(planned)
    arguments = [sys.executable, "-m", "autoseg", "train", "all", "-w", planned, "--devices", "cpu,cpu,cpu,cpu", *SHORT]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not space.fold("3d_fullres", 2).checkpoint.exists():
            time.sleep(0.05)
        os.kill(process_of(2), signal.SIGKILL)
        printed, said = process.communicate()
    assert process.returncode == 1
    assert "fold 2: ended by signal SIGKILL" in said
    assert [line.split(":")[0] for line in printed.splitlines()[:-1]] == ["fold 0", "fold 1", "fold 3", "fold 4"]
    before = {fold: space.fold("3d_fullres", fold).weights.stat().st_mtime_ns for fold in (0, 1, 3, 4)}
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 6
    assert "fold 2 | fold 2 goes on after iteration" in done.stderr
    assert "fold 1 | epoch" not in done.stderr
    assert before == {fold: space.fold("3d_fullres", fold).weights.stat().st_mtime_ns for fold in before}
    assert read(space.fold("3d_fullres", 2).manifest, TrainedModel).finished


@pytest.mark.long
def test_torchrun_trains_a_fold_in_two_processes_and_a_single_one_finds_it_done(planned, autoseg):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "autoseg"]
    train = ["train", "0", "-w", str(planned), "--device", "cpu", *SHORT]
    done = subprocess.run([*torchrun, *train], capture_output=True, text=True, check=True)
    assert done.stdout.count("fold 0: mean Dice") == 1
    assert done.stderr.count("epoch 2") == 1
    folder = Workspace(planned).fold("3d_fullres", 0)
    before = folder.weights.stat().st_mtime_ns
    assert autoseg(*train).stdout == done.stdout
    assert folder.weights.stat().st_mtime_ns == before
    shutil.rmtree(folder.root)
    side_by_side = ["train", "0", "-w", str(planned), "--devices", "cpu,cpu", *SHORT]
    refused = subprocess.run([*torchrun, *side_by_side], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "folds side by side are started by a single process" in refused.stderr


def test_devices_and_device_are_not_given_together(autoseg, tmp_path):
    done = autoseg("train", 0, "-w", tmp_path, "--devices", "0,1", "--device", "cpu", check=False)
    assert done.returncode == 2
    assert "--devices takes the place of --device" in done.stderr
