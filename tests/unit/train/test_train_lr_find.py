"""The learning-rate range test: what it proposes for known curves, and that nothing else changes."""

import hashlib
import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from autoseg import console
from autoseg.artifacts.base import read
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import Training
from autoseg.artifacts.preprocessed import Placement, PreprocessedCase
from autoseg.artifacts.rate_test import RateTest
from autoseg.artifacts.splits import Fold
from autoseg.errors import AutosegError
from autoseg.layout import Workspace
from autoseg.preprocess.case import foreground_locations
from autoseg.preprocess.store import LoadedCase
from autoseg.train import lr_find, setup, stage
from autoseg.train.lr_find import exploded, propose, running_median, smooth, sweep_rates
from autoseg.train.pretrained import find_pretrained
from autoseg.train.sampling import TrainingCase
from autoseg.train.task import FoldTask

CPU = torch.device("cpu")
RATES = sweep_rates(100)


pytestmark = pytest.mark.usefixtures("one_thread")


# Curves.


def curve(half=1e-3, width=0.3, begin=1.1, end=-0.5, rise=3e-2):
    """A fall that is half done at `half`, and a rise beyond `rise`."""
    x = np.log10(RATES)
    fall = (end - begin) / (1 + np.exp(-(x - math.log10(half)) / (width / 2)))
    return begin + fall + 2 * np.maximum(0, x - math.log10(rise)) ** 2


def noisy(losses, sigma, seed):
    return losses + sigma * np.random.default_rng(seed).standard_normal(len(losses))


def test_rates_rise_by_one_factor():
    assert (RATES[0], RATES[-1], len(RATES)) == (pytest.approx(1e-5), pytest.approx(1.0), 100)
    np.testing.assert_allclose(np.diff(np.log(RATES)), np.log(1e5) / 99)


@pytest.mark.parametrize("end", [3e-4, 3e-3, 3e-2])
def test_a_clean_curve_gives_the_middle_of_its_valley(end):
    # The fall is done at a tenth of where the rise sets in.
    losses = curve(half=end / 30, rise=end)
    proposed = propose(RATES, losses)
    assert end / 10 < proposed < end
    valley = [rate for rate, loss in zip(RATES, losses, strict=True) if loss < losses.min() + 0.16]
    assert proposed == pytest.approx((valley[0] * valley[-1]) ** 0.5, rel=0.2)


@pytest.mark.parametrize(("sigma", "factor"), [(0.05, 1.5), (0.15, 1.6), (0.3, 2.0)])
def test_noise_moves_the_proposal_by_little(sigma, factor):
    found = [propose(RATES, noisy(curve(), sigma, seed)) for seed in range(100)]
    assert None not in found
    away = np.abs(np.log(found) - math.log(propose(RATES, curve())))
    assert np.exp(np.quantile(away, 0.95)) < factor
    assert np.exp(away.max()) < 2 * factor


@pytest.mark.parametrize("place", [10, 38, 50, 66])
def test_odd_batches_are_forgiven(place):
    losses = curve()
    losses[place] += 5
    losses[place + 1] -= 5
    assert propose(RATES, losses) == pytest.approx(propose(RATES, curve()), rel=0.3)


def test_no_fall_gives_no_proposal():
    flat = np.full(100, 0.8)
    assert propose(RATES, flat) is None
    accidents = [propose(RATES, noisy(flat, 0.1, seed)) for seed in range(100)]
    assert sum(rate is not None for rate in accidents) <= 8
    assert propose(RATES, np.linspace(0, 1, 100)) is None
    assert propose(RATES[:3], curve()[:3]) is None


def test_a_loss_that_falls_to_the_end_gives_one_all_the_same():
    assert 1e-1 < propose(RATES, curve(half=3e-2, rise=10)) < 1


def test_a_sweep_cut_short_after_the_rise_gives_the_same():
    whole = curve(rise=1e-2)
    assert propose(RATES[:78], whole[:78]) == pytest.approx(propose(RATES, whole), rel=0.1)


def test_proposals_have_two_digits():
    proposed = propose(RATES, curve(half=1.2345e-3))
    assert float(f"{proposed:.1e}") == proposed


def test_smoothing_keeps_lines_and_shifts_nothing():
    line = 3 - 0.5 * np.log10(RATES)
    np.testing.assert_allclose(smooth(RATES, line), line, atol=1e-9)
    valley = (np.log10(RATES) + 2.5) ** 2
    assert abs(int(smooth(RATES, valley).argmin()) - int(valley.argmin())) <= 1
    assert smooth([1e-5], [2.0]).tolist() == [2.0]


def test_a_median_forgives_one_in_five():
    assert running_median([1, 1, 9, 1, 1, 2]).tolist() == [1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0] * 40, False),
        ([1.0] * 10 + [9.0] * 4, False),
        ([1.0] * 10 + [9.0] * 5, True),
        # One batch is no explosion.
        ([1.0] * 20 + [9.0], False),
        # After a deep fall, back to the beginning is not far enough.
        ([1.0] * 10 + [-1.0] * 10 + [1.2] * 10, False),
        ([1.0] * 10 + [-1.0] * 10 + [1.6] * 10, False),
        ([1.0] * 10 + [-1.0] * 10 + [3.2] * 10, True),
        ([-0.5] * 10 + [-0.9] * 10 + [0.1] * 10, True),
    ],
)
def test_when_a_loss_has_exploded(losses, expected):
    assert exploded(losses) is expected


# The stage, on phantoms.


@pytest.fixture
def cases(phantom):
    made = {}
    for seed in range(3):
        image, label = phantom((12, 12, 12), seed)
        name = f"case_{seed}"
        made[name] = TrainingCase(name, LoadedCase(image, label, foreground_locations(label, name, {"blob": 1})))
    return made


@pytest.fixture
def task(build_plan, build_configuration):
    recipe = Training(epochs=1, iterations_per_epoch=1, validation_iterations=0, momentum=0.9)
    return FoldTask(
        plan=build_plan({"3d_fullres": build_configuration()}, training=recipe),
        settings=("training.epochs=1",),
        configuration_name="3d_fullres",
        fold=0,
        cases=Fold(training=("case_0", "case_1"), validation=("case_2",)),
        naming=Naming(image_suffixes=("_0000.nii.gz",), label_suffix=".nii.gz"),
    )


def records_of(cases):
    grid = Geometry(shape=(12, 12, 12), spacing_mm=(1.0, 1.0, 1.0))
    placement = Placement(geometry=grid, crop_start=(0, 0, 0), crop_stop=(12, 12, 12), shape=(12, 12, 12))
    return {
        name: PreprocessedCase(
            name=name,
            inputs_sha256=name,
            arrays_sha256=name,
            placement=placement,
            num_channels=1,
            foreground_voxels={},
        )
        for name in cases
    }


@pytest.fixture
def find(cases, tmp_path):
    """Callable: the test of a task in a workspace."""

    def go(task, name="w", iterations=40):
        space = Workspace(tmp_path / name)
        return lr_find.run(
            task,
            records_of(cases),
            lambda names: [cases[each] for each in names],
            space.fold("3d_fullres", 0),
            space.rate_test("3d_fullres", 0),
            device=CPU,
            jobs=1,
            iterations=iterations,
        )

    return go


def train(task, cases, folder):
    return stage.run(task, records_of(cases), lambda names: [cases[each] for each in names], folder, device=CPU, jobs=1)


def hashes(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


def test_a_phantom_gets_a_rate_that_learns_and_its_training_is_left_alone(task, cases, find, tmp_path, monkeypatch):
    space = Workspace(tmp_path / "w")
    folder = space.fold("3d_fullres", 0)
    monkeypatch.setattr(setup, "choose_step", lambda *_, **__: (StepStyle(precision="float32"), {}))
    model = train(task, cases, folder)
    before = hashes(folder.root)
    # What the training measured holds for the test.
    monkeypatch.setattr(setup, "choose_step", None)
    test = find(task)
    assert hashes(folder.root) == before
    assert sorted(path.name for path in folder.root.parent.iterdir()) == ["fold_0", "lr_find_0.json", "lr_find_0.png"]
    out = space.rate_test("3d_fullres", 0)
    assert read(out, RateTest) == test
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert (test.step, test.device, test.seed, test.fold) == (model.step, "cpu", 0, 0)
    assert test.settings == ("training.epochs=1",)
    rates = [point.learning_rate for point in test.points]
    np.testing.assert_allclose(rates, sweep_rates(40)[: len(rates)])
    assert test.exploded or len(rates) == 40
    assert 1e-4 < test.proposed_rate < 1
    smoothed = {point.learning_rate: point.smoothed for point in test.points}
    nearest = min(rates, key=lambda rate: abs(math.log(rate / test.proposed_rate)))
    assert smoothed[nearest] < smoothed[rates[0]] - 0.2


def test_what_the_plan_fixes_goes_before_what_the_training_measured(task, cases, find, tmp_path):
    space = Workspace(tmp_path / "w")
    style = StepStyle(precision="bfloat16", sample_by_sample=True, channels_last=True)
    recipe = msgspec.structs.replace(task.plan.training, precision="bfloat16", sample_by_sample=True)
    trained = replace(task, plan=msgspec.structs.replace(task.plan, training=recipe))
    assert train(trained, cases, space.fold("3d_fullres", 0)).step == style
    recipe = msgspec.structs.replace(task.plan.training, precision="float32")
    tied = msgspec.structs.replace(task.plan.configurations["3d_fullres"], norm="batch")
    plan = msgspec.structs.replace(task.plan, training=recipe, configurations={"3d_fullres": tied})
    assert find(replace(task, plan=plan), iterations=2).step == StepStyle(precision="float32")


def test_a_seed_gives_the_same_curve_and_the_same_test_is_not_done_twice(task, find, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "choose_step", lambda *_, **__: (StepStyle(precision="float32"), {}))
    first = find(task, "a", iterations=4)
    assert find(task, "b", iterations=4) == first
    plan = msgspec.structs.replace(task.plan, training=msgspec.structs.replace(task.plan.training, seed=1))
    assert find(replace(task, plan=plan), "c", iterations=4).points != first.points
    out = Workspace(tmp_path / "a").rate_test("3d_fullres", 0)
    written = out.stat().st_mtime_ns
    assert find(task, "a", iterations=4) == first
    assert out.stat().st_mtime_ns == written
    assert len(find(task, "a", iterations=5).points) == 5


def test_a_loss_that_is_no_number_is_told(task, cases, find, monkeypatch):
    monkeypatch.setattr(setup, "choose_step", lambda *_, **__: (StepStyle(precision="float32"), {}))
    for case in cases.values():
        case.image_czyx[:] = np.nan
    with pytest.raises(AutosegError, match="no number before"):
        find(task)


def test_the_rate_of_fine_tuning_is_found_from_the_weights_it_begins_with(task, cases, find, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "choose_step", lambda *_, **__: (StepStyle(precision="float32"), {}))
    folder = Workspace(tmp_path / "old").fold("3d_fullres", 0)
    recipe = msgspec.structs.replace(task.plan.training, iterations_per_epoch=12)
    train(replace(task, plan=msgspec.structs.replace(task.plan, training=recipe)), cases, folder)
    source = find_pretrained(folder.root, 0, task.plan, "3d_fullres")
    tuned, fresh = find(replace(task, pretrained=source), "tuned", iterations=2), find(task, "fresh", iterations=2)
    assert tuned.pretrained.weights_sha256 == source.weights_sha256
    assert tuned.points[0].loss < fresh.points[0].loss - 0.2


# What is printed.


def test_the_next_command_is_whole(task, find, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "choose_step", lambda *_, **__: (StepStyle(precision="float32"), {}))
    test = msgspec.structs.replace(
        find(task, iterations=2),
        proposed_rate=0.0012,
        settings=("training.initial_learning_rate=0.5", "configurations.2d.patch_size=[8, 8]"),
    )
    lines = console.rate_lines(test, workspace=tmp_path / "a b", pretrained=None)
    assert lines[1].startswith("proposed learning rate: 0.0012")
    assert lines[2] == (
        f"autoseg train 0 -w '{tmp_path}/a b' --configuration 3d_fullres "
        "--set 'configurations.2d.patch_size=[8, 8]' --set training.initial_learning_rate=0.0012"
    )
    assert console.rate_lines(test, workspace=tmp_path, pretrained=tmp_path)[2].endswith(f"--pretrained {tmp_path}")
    nothing = msgspec.structs.replace(test, proposed_rate=None)
    (line,) = console.rate_lines(nothing, workspace=tmp_path, pretrained=None)
    assert "no rate is proposed" in line
