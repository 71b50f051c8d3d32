"""Several processes train as one: the same losses, the same weights."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from autoseg.artifacts.base import read, write
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import Plan, Training
from autoseg.artifacts.preprocessed import Placement, PreprocessedCase
from autoseg.artifacts.splits import Fold
from autoseg.layout import Workspace
from autoseg.preprocess.case import foreground_locations
from autoseg.preprocess.store import LoadedCase
from autoseg.train import stage
from autoseg.train.distributed import ALONE, Ranks, joined, launched
from autoseg.train.journal import read_metrics
from autoseg.train.sampling import TrainingCase

CPU = torch.device("cpu")
RECIPE = Training(epochs=4, iterations_per_epoch=1, validation_iterations=2, initial_learning_rate=0.05)
NESTED = {"background": 0, "whole": (1, 2), "core": (2,), "ignore": 3}
# name: labels, batch dice, sample by sample. Three samples: the shares are uneven.
VARIANTS = {
    "classes": ({"background": 0, "outer": 1, "inner": 2}, False, False),
    "sample by sample": ({"background": 0, "outer": 1, "inner": 2}, False, True),
    "batch dice": ({"background": 0, "outer": 1, "inner": 2}, True, False),
    "classes, ignore": ({"background": 0, "outer": 1, "inner": 2, "ignore": 3}, True, False),
    "regions, ignore": (NESTED, False, False),
    "regions, ignore, batch dice": (NESTED, True, False),
}


def make_cases():
    """Boxes in boxes; one case is mostly not annotated, so that shares know very different numbers of voxels."""
    cases = []
    for seed, shape in enumerate([(12, 12, 12), (10, 14, 9), (16, 8, 12)]):
        label = np.zeros(shape, np.int16)
        label[2:9, 2:7, 2:8] = 1
        label[4:7, 3:5, 3:6] = 2
        image = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * 0.3 + label
        cases.append((f"case_{seed}", image[None].astype(np.float32), label))
    return cases


@contextmanager
def exact(name):
    """Arithmetic that is not measured, and no pictures, which take longer than these trainings."""
    kept = stage.choose_step, stage.draw_progress
    style = StepStyle(precision="float32", sample_by_sample=VARIANTS[name][2])
    stage.choose_step, stage.draw_progress = lambda *_, **__: (style, {}), lambda *_: None
    torch.set_num_threads(1)
    try:
        yield
    finally:
        stage.choose_step, stage.draw_progress = kept


def train(root: Path, name: str, ranks: Ranks) -> None:
    """Train a variant whose plan stands in its folder."""
    plan = read(root / f"{name}.json", Plan)
    cases, records = {}, {}
    for case, image, label in make_cases():
        if "ignore" in plan.labels:
            label[: 9 if case == "case_0" else 2] = 3
        locations = foreground_locations(label, case, dict(plan.labels))
        cases[case] = TrainingCase(case, LoadedCase(image, label, locations))
        grid = Geometry(shape=label.shape, spacing_mm=(1.0, 1.0, 1.0))
        placement = Placement(geometry=grid, crop_start=(0, 0, 0), crop_stop=label.shape, shape=label.shape)
        records[case] = PreprocessedCase(
            name=case, inputs_sha256=case, arrays_sha256=case, placement=placement, num_channels=1, foreground_voxels={}
        )
    task = stage.FoldTask(
        plan=plan,
        settings=(),
        configuration_name="3d_fullres",
        fold=0,
        cases=Fold(training=("case_0", "case_1"), validation=("case_2",)),
        naming=Naming(image_suffixes=("_0000.nii.gz",), label_suffix=".nii.gz"),
    )
    folder = Workspace(root / name).fold("3d_fullres", 0)
    with exact(name):
        stage.run(task, records, lambda names: [cases[n] for n in names], folder, device=CPU, jobs=1, ranks=ranks)


def write_plans(root, build_plan, build_configuration, recipe=RECIPE):
    for name, (labels, batch_dice, _) in VARIANTS.items():
        configuration = build_configuration(batch_size=3, batch_dice=batch_dice)
        order = (1, 2) if labels is NESTED else ()
        plan = build_plan({"3d_fullres": configuration}, labels=labels, regions_class_order=order, training=recipe)
        write(root / f"{name}.json", plan)


def start(*arguments, size=2):
    """The program below in several processes, as a launcher starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, __file__, *map(str, arguments)],
            env=os.environ | {name: str(value) for name, value in (common | {"RANK": r, "LOCAL_RANK": r}).items()},
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(size)
    ]


def end(processes):
    said = [process.communicate(timeout=120)[1] for process in processes]
    return [process.returncode for process in processes], said


@pytest.fixture(scope="module")
def both(tmp_path_factory, build_plan, build_configuration):
    """The folders of all variants, trained by one process and by two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    for root in (one, two):
        write_plans(root, build_plan, build_configuration)
    processes = start(two)
    threads = torch.get_num_threads()
    try:
        for name in VARIANTS:
            train(one, name, ALONE)
    finally:
        torch.set_num_threads(threads)
    codes, said = end(processes)
    assert codes == [0, 0], said
    return one, two


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_have_the_losses_and_weights_of_one(both, name):
    one, two = (Workspace(root / name).fold("3d_fullres", 0) for root in both)
    alone, shared = read_metrics(one.metrics), read_metrics(two.metrics)
    assert len(alone) == len(shared) == 4
    for key in ("train_loss", "validation_loss", "patch_dice", "learning_rate"):
        assert [r[key] for r in shared] == pytest.approx(
            [r[key] for r in alone], abs=2e-4 if key == "patch_dice" else 1e-5
        )
    weights, same = load_file(one.weights), load_file(two.weights)
    for key, value in weights.items():
        torch.testing.assert_close(same[key], value, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    who = launched()
    with joined(who, CPU):
        for variant in VARIANTS:
            train(Path(sys.argv[1]), variant, who)
