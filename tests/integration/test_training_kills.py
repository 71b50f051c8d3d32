"""Training killed at any moment: the next start ends with the weights of a run that nothing disturbed."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time

import pytest

from autoseg.artifacts.base import write
from autoseg.artifacts.plan import Training
from autoseg.layout import Workspace

SEED = 20_261_124
CONFIGURATION = "3d_fullres"
TIMES = ("seconds", "waiting_share", "samples_per_second")
RECIPE = {
    "epochs": 4,
    "iterations_per_epoch": 8,
    "validation_iterations": 1,
    "validation_every": 2,
    "initial_learning_rate": 0.05,
    "momentum": 0.9,
    "precision": "float32",
    "sample_by_sample": False,
    "checkpoint_minutes": 0.05 / 60,
}
# Trains on request in a process of its own, forked from here, which spares it the half minute of imports.
SERVER = """
import logging, os, signal, sys, time
from pathlib import Path
import matplotlib.backends.backend_agg, matplotlib.figure
import numpy as np
import torch
from torch.utils import tensorboard
from autoseg.artifacts.base import read
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.plan import Plan
from autoseg.artifacts.preprocessed import Placement, PreprocessedCase
from autoseg.artifacts.splits import Fold
from autoseg.layout import Workspace
from autoseg.preprocess.case import foreground_locations
from autoseg.preprocess.store import LoadedCase
from autoseg.train import stage
from autoseg.train.sampling import TrainingCase

ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT
plan = read(Path(sys.argv[1]), Plan)
cases, records = {}, {}
for seed, shape in enumerate([(12, 12, 12), (10, 14, 9), (16, 8, 12), (9, 13, 11)]):
    rng, name = np.random.default_rng(seed), f"case_{seed}"
    label = np.zeros(shape, np.int16)
    label[3:8, 2:7, 4:9] = 1
    image = (rng.standard_normal(shape, dtype=np.float32) * 0.3 + label)[None]
    cases[name] = TrainingCase(name, LoadedCase(image, label, foreground_locations(label, name, {"blob": 1})))
    grid = Placement(
        geometry=Geometry(shape=shape, spacing_mm=(1.0, 1.0, 1.0)), crop_start=(0, 0, 0), crop_stop=shape, shape=shape
    )
    records[name] = PreprocessedCase(
        name=name, inputs_sha256="", arrays_sha256="", placement=grid, num_channels=1, foreground_voxels={}
    )
task = stage.FoldTask(
    plan=plan, settings=(), configuration_name="3d_fullres", fold=0,
    cases=Fold(training=("case_0", "case_1", "case_2"), validation=("case_3",)),
    naming=Naming(image_suffixes=("_0000.nii.gz",), label_suffix=".nii.gz"),
)

def train(workspace):
    torch.set_num_threads(1)
    Path(workspace).mkdir(exist_ok=True)
    logging.basicConfig(filename=Path(workspace) / "log", level=logging.INFO, force=True)
    stage.run(
        task, records, lambda names: [cases[name] for name in names], Workspace(Path(workspace)).fold("3d_fullres", 0),
        device=torch.device("cpu"), jobs=1, case_dice=lambda network, manifest, name: 0.5,
    )

print("ready", flush=True)
for line in sys.stdin:
    seconds, workspace = line.rstrip().split(" ", 1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(workspace)
            status = 0
        finally:
            os._exit(status)
    if seconds == "checkpoint":
        while not list(Path(workspace).rglob("checkpoint.pt")) and os.waitid(os.P_PID, child, ENDED) is None:
            time.sleep(0.001)
    else:
        time.sleep(float(seconds))
    os.kill(child, signal.SIGKILL) if seconds != "0.0" else None
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def train(tmp_path_factory, build_plan, build_configuration):
    """Callable: train in a workspace, in a process of its own.

    It is killed after so many seconds (0: not at all), or as soon as there is a checkpoint.
    """
    plan = tmp_path_factory.mktemp("plan") / "plan.json"
    write(plan, build_plan({CONFIGURATION: build_configuration()}, training=Training(**RECIPE)))
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(plan)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(workspace, seconds=0.0):
        server.stdin.write(f"{seconds} {workspace}\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    with server:
        assert server.stdout.readline() == "ready\n"
        yield run
        server.stdin.close()


def times_gone_on(workspace):
    """How often a run went on from a checkpoint."""
    return (workspace / "log").read_text().count("goes on after iteration")


def outcome(workspace):
    """Hash of the weights, and the metrics but for what the clock says."""
    folder = Workspace(workspace).fold(CONFIGURATION, 0)
    metrics = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return (
        hashlib.sha256(folder.weights.read_bytes()).hexdigest(),
        [{key: value for key, value in record.items() if key not in TIMES} for record in metrics],
    )


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory):
    """What comes of a run that nothing disturbed, and how long it takes in seconds."""
    workspace = tmp_path_factory.mktemp("undisturbed")
    start = time.monotonic()
    assert train(workspace) == 0
    return outcome(workspace), time.monotonic() - start


def test_two_runs_give_the_same_weights(train, undisturbed, tmp_path):
    assert train(tmp_path) == 0
    assert outcome(tmp_path) == undisturbed[0]


def test_a_killed_training_goes_on_to_the_same_weights(train, undisturbed, tmp_path):
    expected, seconds = undisturbed
    assert train(tmp_path, "checkpoint") == -signal.SIGKILL
    train(tmp_path, seconds * 0.4)
    assert train(tmp_path) == 0
    assert outcome(tmp_path) == expected
    assert times_gone_on(tmp_path)
    assert not list(Workspace(tmp_path).fold(CONFIGURATION, 0).root.glob(".*"))


@pytest.mark.long
def test_twenty_kills_at_random_moments(train, undisturbed, tmp_path):
    rng = random.Random(SEED)
    expected, seconds = undisturbed
    print(f"seed {SEED}, an undisturbed run takes {seconds:.2f} s")
    landed = trial = gone_on = 0
    while landed < 20:
        workspace = tmp_path / str(trial)
        for _ in range(3):
            after = rng.uniform(0, seconds)
            status = train(workspace, after)
            assert status in (0, -signal.SIGKILL)  # 0: the run was quicker than the undisturbed one
            landed += status != 0
            print(f"  trial {trial}: {'ended before' if status == 0 else 'killed after'} {after:.2f} s")
        assert train(workspace) == 0
        assert outcome(workspace) == expected
        gone_on += times_gone_on(workspace)
        trial += 1
        assert trial < 40
    print(f"{landed} kills, {gone_on} times a run went on from a checkpoint")
    assert gone_on >= landed / 4
