"""From one dataset's weights to another one with more channels and other labels, by the commands."""

import hashlib
import json
import logging

import numpy as np
import pytest
from click.testing import CliRunner

from autoseg.artifacts.base import read, write
from autoseg.artifacts.dataset import Case, Dataset, Naming
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.model import TrainedModel
from autoseg.artifacts.plan import Training
from autoseg.artifacts.rate_test import RateTest
from autoseg.cli import main
from autoseg.images.io import write_label
from autoseg.layout import Workspace

OPTIONS = ("--device", "cpu", "--jobs", "1", "--set=prediction.mirroring=false", "--set=prediction.step=1")


@pytest.fixture(autouse=True)
def quiet_afterwards():
    """The command line configures logging for the whole process: put it back."""
    logger = logging.getLogger("autoseg")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def call():
    """Callable: run a command; checked unless `fails`."""

    def run(*arguments, fails=False):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert (done.exit_code != 0) == fails, done.output
        return done.output

    return run


@pytest.fixture
def workspace(tmp_path, phantom, build_plan, build_configuration):
    """Callable: a workspace with a small plan and five cases, whose blob has the last of the values."""

    def make(name, channels, labels):
        raw, cases = tmp_path / f"raw_{name}", []
        for number in range(5):
            image, label = phantom((12, 12, 12), seed=number)
            case = f"{name}_{number}"
            grid = Geometry(shape=label.shape, spacing_mm=(1.0, 1.0, 1.0))
            scaled = (image[0] * 100 + 300).astype(np.uint16)
            files = [f"{case}_{channel:04}.nii.gz" for channel in range(len(channels))]
            for file in files:
                write_label(raw / file, scaled, grid)
            write_label(raw / f"{case}.nii.gz", label * max(labels.values()), grid)
            cases.append(Case(name=case, images=tuple(files), label=f"{case}.nii.gz"))
        space = Workspace(tmp_path / name)
        suffixes = tuple(f"_{channel:04}.nii.gz" for channel in range(len(channels)))
        dataset = Dataset(
            root=str(raw),
            channel_names=channels,
            labels=labels,
            naming=Naming(image_suffixes=suffixes, label_suffix=".nii.gz"),
            cases=tuple(cases),
            num_training=5,
        )
        write(space.dataset, dataset)
        length = {"epochs": 1, "iterations_per_epoch": 25, "validation_iterations": 0}
        recipe = Training(**length, initial_learning_rate=0.02, momentum=0.9)
        configurations = {"3d_fullres": build_configuration(channels=len(channels))}
        write(space.plan, build_plan(configurations, channels=channels, labels=labels, training=recipe))
        return space

    return make


def hashes(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


def first_loss(space):
    return json.loads(space.fold("3d_fullres", 0).metrics.read_text().splitlines()[0])["train_loss"]


def test_weights_go_from_one_dataset_to_another(workspace, call):
    old = workspace("old", ("MR",), {"background": 0, "blob": 1})
    new = workspace("new", ("T2", "MR"), {"background": 0, "other": 1, "blob": 2})
    call("train", 0, "-w", old.root, *OPTIONS)
    short = (*OPTIONS, "--set=training.iterations_per_epoch=1")
    told = call("train", 0, "-w", new.root, *short, "--pretrained", old.root)
    assert f"begins with the weights of {old.fold('3d_fullres', 0).root}" in told
    assert "T2 from the mean, MR from MR" in told
    assert "background from background, other fresh, blob from blob" in told
    tuned = first_loss(new)
    folder = new.fold("3d_fullres", 0)
    weights = folder.weights.read_bytes()
    # The same command, and the one without the flag, find it done; fresh weights are another training.
    for again in ((), ("--pretrained", old.models("3d_fullres"))):
        call("train", 0, "-w", new.root, *short, *again)
    assert folder.weights.read_bytes() == weights
    # A rate for it, beside it.
    before = hashes(folder.root)
    found = call(
        "lr-find", "-w", new.root, "--iterations", 20, "--device", "cpu", "--jobs", 1, "--pretrained", old.root
    )
    test = read(new.rate_test("3d_fullres", 0), RateTest)
    assert hashes(folder.root) == before
    assert test.pretrained.path == str(old.fold("3d_fullres", 0).root)
    assert f"-> {new.rate_test('3d_fullres', 0).with_suffix('.png')}" in found
    call("train", 0, "-w", new.root, *short, "--restart")
    assert read(folder.manifest, TrainedModel).pretrained is None
    assert tuned < first_loss(new) - 0.1
    refused = call("train", 0, "-w", new.root, *short, "--pretrained", old.root, fails=True)
    assert "it began from scratch" in refused
    own = call("train", 0, "-w", old.root, *OPTIONS, "--pretrained", old.root, "--restart", fails=True)
    assert "a fold can't begin with its own weights" in own
    assert old.fold("3d_fullres", 0).weights.exists()
    assert "no trained fold 1" in call("train", 1, "-w", new.root, *short, "--pretrained", old.root, fails=True)
