"""Several processes train as one: the same losses, the same weights, the same end."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from autoseg.artifacts.base import read, write
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.metrics import read_metrics
from autoseg.artifacts.model import StepStyle, TrainedModel
from autoseg.artifacts.plan import Plan, Training
from autoseg.artifacts.preprocessed import Placement, PreprocessedCase
from autoseg.artifacts.splits import Fold
from autoseg.errors import AutosegError, SettingError
from autoseg.layout import Workspace
from autoseg.preprocess.case import foreground_locations
from autoseg.preprocess.store import LoadedCase
from autoseg.train import setup, stage
from autoseg.train.distributed import (
    ALONE,
    Ranks,
    check_shares,
    check_statistics,
    joined,
    launched,
    with_shared_statistics,
)
from autoseg.train.sampling import TrainingCase

CPU = torch.device("cpu")
RECIPE = Training(
    epochs=4, iterations_per_epoch=1, validation_iterations=2, initial_learning_rate=0.05, validation_every=2
)
CLASSES = {"background": 0, "outer": 1, "inner": 2}
NESTED = {"background": 0, "whole": (1, 2), "core": (2,), "ignore": 3}


@dataclass(frozen=True)
class Variant:
    """A training whose batches of three samples two processes share unevenly."""

    labels: dict = field(default_factory=lambda: CLASSES)
    batch_dice: bool = False
    apart: bool = False
    spoilt: bool = False
    recipe: dict = field(default_factory=dict)


VARIANTS = {
    "classes": Variant(),
    "batch dice": Variant(batch_dice=True),
    "sample by sample": Variant(apart=True),
    "batch dice, sample by sample": Variant(batch_dice=True, apart=True),
    "ignore": Variant(CLASSES | {"ignore": 3}, batch_dice=True),
    "regions": Variant(NESTED),
    "regions, batch dice": Variant(NESTED, batch_dice=True),
    "largest": Variant(NESTED, recipe={"loss": "dice_topk"}),
    "tversky": Variant(batch_dice=True, recipe={"loss": "tversky", "tversky_alpha": 0.3, "tversky_beta": 0.7}),
    "weighted, focal": Variant(recipe={"loss": "dice_focal", "class_weights": (0.5, 1.0, 2.0)}),
    "spoilt": Variant(spoilt=True),
}


class Interrupting(np.ndarray):
    """An image whose reading brings a signal, as the system sends one before it takes a machine away."""

    def __getitem__(self, key):
        signal.raise_signal(signal.SIGTERM)
        return np.asarray(self)[key]


def make_cases(variant):
    """Boxes in boxes. Most of one case is not annotated, so that the shares of a batch differ in what counts."""
    cases, records = {}, {}
    for seed, shape in enumerate([(12, 12, 12), (10, 14, 9), (16, 8, 12)]):
        name = f"case_{seed}"
        label = np.zeros(shape, np.int16)
        label[2:9, 2:7, 2:8] = 1
        label[4:7, 3:5, 3:6] = 2
        image = np.random.default_rng(seed).standard_normal((1, *shape), dtype=np.float32) * 0.3 + label
        if "ignore" in variant.labels:
            label[: 6 if seed == 0 else 2] = 3
        if variant.spoilt and seed == 0:
            image[0, 0, 0, 0] = np.nan
        locations = foreground_locations(label, name, variant.labels)
        cases[name] = TrainingCase(name, LoadedCase(image.astype(np.float32), label, locations))
        grid = Geometry(shape=shape, spacing_mm=(1.0, 1.0, 1.0))
        placement = Placement(geometry=grid, crop_start=(0, 0, 0), crop_stop=shape, shape=shape)
        records[name] = PreprocessedCase(
            name=name, inputs_sha256=name, arrays_sha256=name, placement=placement, num_channels=1, foreground_voxels={}
        )
    return cases, records


@contextmanager
def exact(variant):
    """Arithmetic that is not measured, and no pictures, which take longer than these trainings."""
    kept = setup.choose_step, stage.draw_progress, torch.get_num_threads()
    style = StepStyle(precision="float32", sample_by_sample=variant.apart)
    setup.choose_step, stage.draw_progress = lambda *_, **__: (style, {}), lambda *_: None
    torch.set_num_threads(1)
    try:
        yield
    finally:
        setup.choose_step, stage.draw_progress = kept[:2]
        torch.set_num_threads(kept[2])


def fold_folder(root, name):
    return Workspace(root / name).fold("3d_fullres", 0)


def train(root, name, variant, ranks, *, interrupted=False):
    """Train from the plan in the folder."""
    cases, records = make_cases(variant)
    if interrupted:
        case = cases["case_0"]
        arrays = LoadedCase(case.image_czyx.view(Interrupting), case.label_zyx, case.locations)
        cases["case_0"] = TrainingCase(case.name, arrays)
    task = stage.FoldTask(
        plan=read(root / f"{name}.json", Plan),
        settings=(),
        configuration_name="3d_fullres",
        fold=0,
        cases=Fold(training=("case_0", "case_1"), validation=("case_2",)),
        naming=Naming(image_suffixes=("_0000.nii.gz",), label_suffix=".nii.gz"),
    )
    with exact(variant):
        stage.run(
            task,
            records,
            lambda names: [cases[name] for name in names],
            fold_folder(root, name),
            device=CPU,
            jobs=1,
            case_dice=lambda *_: 0.5 if ranks.is_first else pytest.fail("this is the first process's work"),
            ranks=ranks,
        )


def program(root, ranks):
    """What each of the two processes does, until one is killed."""
    killed_at = None
    try:
        with joined(ranks, CPU):
            for name, variant in VARIANTS.items():
                train(root, name, variant, ranks)
            train(root, "by the clock", Variant(), ranks)
            try:
                train(root, "stopped", Variant(), ranks, interrupted=not ranks.is_first)
            except KeyboardInterrupt:
                (root / f"{ranks.rank} was stopped").touch()
            with ranks.first_ahead():
                if ranks.is_first:
                    shutil.copytree(fold_folder(root, "stopped").root, fold_folder(root, "gone on").root)
            train(root, "gone on", Variant(), ranks)
            try:
                with ranks.first_ahead():
                    if ranks.is_first:
                        raise SettingError("wrong")
            except AutosegError as error:
                (root / f"{ranks.rank} failed").write_text(error.what)
            killed_at = time.monotonic()
            if not ranks.is_first:
                os.kill(os.getpid(), signal.SIGKILL)
            ranks.wait()
    except AutosegError as error:
        (root / "lost").write_text(f"{error.what} {time.monotonic() - killed_at:.1f}")


def start(root):
    """The program in two processes, as a launcher starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    everyone = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, __file__, str(root)],
            env=os.environ | everyone | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.fixture(scope="module")
def both(tmp_path_factory, build_plan, build_configuration):
    """The folders of all variants, trained by one process and by two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    clock = msgspec.structs.replace(RECIPE, max_hours=0.5 / 3600)
    trainings = VARIANTS | {"stopped": Variant(), "gone on": Variant(), "by the clock": Variant()}
    for root in (one, two):
        for name, variant in trainings.items():
            plan = build_plan(
                {"3d_fullres": build_configuration(batch_size=3, batch_dice=variant.batch_dice)},
                labels=variant.labels,
                regions_class_order=(1, 2) if variant.labels is NESTED else (),
                training=msgspec.structs.replace(clock if name == "by the clock" else RECIPE, **variant.recipe),
            )
            write(root / f"{name}.json", plan)
    processes = start(two)
    for name, variant in VARIANTS.items():
        train(one, name, variant, ALONE)
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, -signal.SIGKILL], said
    return one, two


def assert_same(one, two):
    alone, shared = read_metrics(one.metrics), read_metrics(two.metrics)
    assert len(alone) == len(shared) == 4
    assert [record["whole_case_dice"] for record in shared] == [None, 0.5, None, None]
    for key in ("train_loss", "validation_loss", "learning_rate"):
        assert [record[key] for record in shared] == pytest.approx([record[key] for record in alone], abs=1e-5)
    # A count of voxels, of which one may be undecided.
    for record, same in zip(alone, shared, strict=True):
        assert same["patch_dice"] == pytest.approx(record["patch_dice"], abs=2e-3)
    weights, same = load_file(one.weights), load_file(two.weights)
    for key, value in weights.items():
        torch.testing.assert_close(same[key], value, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_have_the_losses_and_weights_of_one(both, name):
    assert_same(*(fold_folder(root, name) for root in both))


def test_a_step_that_one_share_spoils_is_left_out_by_all(both):
    losses = [record["train_loss"] for record in read_metrics(fold_folder(both[1], "spoilt").metrics)]
    assert None in losses
    assert any(losses)


def test_all_stop_where_one_is_asked_to_and_one_process_goes_on_or_both(both):
    one, two = both
    assert sorted(path.name for path in two.glob("* was stopped")) == ["0 was stopped", "1 was stopped"]
    folder = fold_folder(two, "stopped")
    assert 0 < torch.load(folder.checkpoint, weights_only=True)["iteration"] < 4
    assert not read(folder.manifest, TrainedModel).finished
    train(two, "stopped", Variant(), ALONE)
    assert_same(fold_folder(one, "classes"), folder)
    assert_same(fold_folder(one, "classes"), fold_folder(two, "gone on"))


def test_all_keep_to_the_clock_of_the_first(both):
    folder = fold_folder(both[1], "by the clock")
    records = read_metrics(folder.metrics)
    assert records[-1]["learning_rate"] == 0
    assert read(folder.manifest, TrainedModel).iterations == records[-1]["iterations"] > 1


def test_where_the_first_fails_the_others_don_t_wait(both):
    assert (both[1] / "0 failed").read_text() == "wrong"
    assert (both[1] / "1 failed").read_text() == "the first process failed"


def test_a_killed_process_ends_the_others(both):
    what, seconds = (both[1] / "lost").read_text().rsplit(maxsplit=1)
    assert what == "the connection to another process of this training was lost"
    assert float(seconds) < 20


@pytest.mark.parametrize(("size", "count"), [(1, 2), (2, 3), (3, 7), (4, 4)])
def test_shares_are_all_samples_once(size, count):
    shares = [Ranks(rank, size).share(count) for rank in range(size)]
    assert [sample for share in shares for sample in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_processes_than_samples_are_refused():
    check_shares(Ranks(0, 2), 2, "2d")
    with pytest.raises(SettingError, match="more processes than samples") as caught:
        check_shares(Ranks(0, 3), 2, "2d")
    assert "configurations.2d.batch_size" in caught.value.hint


def test_who_a_process_is_stands_in_the_launchers_variables(monkeypatch):
    assert launched() == ALONE
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert launched() == Ranks(3, 4, 1, 2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() == ALONE
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(SettingError, match="launcher"):
        launched()


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Ranks(3, 4, 1, 2).device_name("auto") == "cuda:1"
    assert Ranks(3, 4, 1, 2).device_name("cpu") == "cpu"
    assert ALONE.device_name("cuda:1") == "cuda:1"
    for ranks, name in ((Ranks(2, 3, 2, 3), "auto"), (Ranks(0, 2, 0, 2), "cuda:0")):
        with pytest.raises(SettingError, match="no device for each process"):
            ranks.device_name(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert Ranks(1, 2, 1, 2).device_name("auto") == "cpu"


def test_batch_norm_over_processes_is_refused_on_cpus(build_configuration):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
    assert with_shared_statistics(network, ALONE) is network
    assert isinstance(with_shared_statistics(network, Ranks(0, 2))[1], torch.nn.SyncBatchNorm)
    check_statistics(ALONE, build_configuration(norm="batch"), CPU)
    check_statistics(Ranks(0, 2), build_configuration(norm="batch"), torch.device("cuda"))
    check_statistics(Ranks(0, 2), build_configuration(norm="instance"), CPU)
    with pytest.raises(SettingError, match="batch norm"):
        check_statistics(Ranks(0, 2), build_configuration(norm="batch"), CPU)


if __name__ == "__main__":
    program(Path(sys.argv[1]), launched())
