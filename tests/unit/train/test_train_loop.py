"""The loop on a tiny dataset: it learns, and stopping it changes nothing."""

import logging
import re
import shutil
import signal
import time
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from autoseg import machine
from autoseg.artifacts.augmentation import Augmentation
from autoseg.artifacts.base import read, write
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.metrics import read_metrics
from autoseg.artifacts.model import StepStyle, TrainedModel
from autoseg.artifacts.plan import Prediction, Training
from autoseg.artifacts.preprocessed import Placement, PreprocessedCase
from autoseg.artifacts.splits import Fold
from autoseg.errors import ArtifactError, AutosegError, SettingError, Terminated
from autoseg.layout import FoldFolder, Workspace
from autoseg.machine import alone
from autoseg.networks.cost import training_step_memory
from autoseg.networks.unet import build_network
from autoseg.predict.models import load_model
from autoseg.preprocess.case import foreground_locations
from autoseg.preprocess.store import LoadedCase
from autoseg.train import loop, setup, stage, state
from autoseg.train.augment import Augmented
from autoseg.train.distributed import Ranks
from autoseg.train.earlier import find_begun, inputs_of
from autoseg.train.journal import ProgressBar, rewind_metrics
from autoseg.train.loading import Batches, BatchRecipe, make_batch
from autoseg.train.loop import Course, step_loss, train, train_step
from autoseg.train.losses import Objective
from autoseg.train.optimizer import new_optimizer
from autoseg.train.sampling import TrainingCase
from autoseg.train.setup import batch_recipes
from autoseg.train.state import TrainState, load_checkpoint, save_checkpoint
from autoseg.train.validate import WholeCases

CPU = torch.device("cpu")
WHOLE = StepStyle(precision="float32")
APART = StepStyle(precision="float32", sample_by_sample=True, channels_last=True)
ABREAST = StepStyle(precision="float32", sample_by_sample=True, side_by_side=True, channels_last=True)
RECIPE = Training(epochs=3, iterations_per_epoch=3, validation_iterations=1, initial_learning_rate=0.05, momentum=0.9)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cases(phantom):
    made = []
    for seed, shape in enumerate([(12, 12, 12), (10, 14, 9), (16, 8, 12)]):
        image, label = phantom(shape, seed)
        name = f"case_{seed}"
        made.append(TrainingCase(name, LoadedCase(image, label, foreground_locations(label, name, {"blob": 1}))))
    return made


@pytest.fixture
def configuration(build_configuration):
    return build_configuration()


class Run:
    """A training with everything the loop needs, kept in memory."""

    def __init__(self, configuration, cases, recipe=RECIPE, style=WHOLE, save=None, on_step=None, seed=0, ahead=False):
        torch.manual_seed(seed)
        network = build_network(configuration, 1, 2)
        self.state = TrainState(network, new_optimizer(network, recipe), torch.amp.GradScaler("cpu", enabled=False))
        self.cases, self.steps, self.reports, self.saves = cases, [], [], 0
        self.save, self.on_step = save, on_step
        self.batches = BatchRecipe(
            patch=configuration.patch_size,
            batch_size=configuration.batch_size,
            num_channels=1,
            foreground_share=recipe.foreground_share,
            mirror_axes=configuration.mirror_axes,
            augmentation=recipe.augmentation,
            seeds=(recipe.seed, 0, 0),
        )
        self.course = Course(
            configuration,
            Objective(configuration.batch_dice),
            recipe,
            CPU,
            style,
            self._step,
            self.reports.append,
            self._save,
            ahead=ahead,
        )

    def _step(self, progress, loss):
        self.steps.append((progress, loss))
        if self.on_step is not None:
            self.on_step(self.state)

    def _save(self):
        self.saves += 1
        if self.save is not None:
            save_checkpoint(self.save, self.save.with_name("previous.pt"), self.state, "abc")

    def go(self, stopped=lambda: False):
        recipe = self.course.recipe
        training = Batches(self.cases[:2], self.batches, first=self.state.iteration, num_workers=0)
        validation = Batches(
            self.cases[2:],
            replace(self.batches, augmentation=None, seeds=(recipe.seed, 0, 1)),
            first=self.state.epoch * recipe.validation_iterations,
            num_workers=0,
        )
        train(self.state, self.course, training, validation, stopped)
        return self

    @property
    def weights(self):
        return torch.cat([parameter.detach().flatten() for parameter in self.state.network.parameters()])


@pytest.mark.parametrize("style", [WHOLE, APART])
def test_a_training_lowers_the_loss(configuration, cases, style):
    recipe = msgspec.structs.replace(RECIPE, epochs=2, iterations_per_epoch=6, validation_iterations=2)
    run = Run(configuration, cases, recipe, style).go()
    losses = [loss for _, loss in run.steps]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.2
    assert run.reports[1].validation_loss < run.reports[0].validation_loss


def test_what_the_loop_reports(configuration, cases):
    run = Run(configuration, cases).go()
    assert [progress for progress, _ in run.steps] == pytest.approx([(i + 1) / 9 for i in range(9)])
    assert [(report.epoch, report.iterations) for report in run.reports] == [(0, 3), (1, 6), (2, 9)]
    losses = [loss for _, loss in run.steps]
    assert [r.train_loss for r in run.reports] == pytest.approx([np.mean(losses[i : i + 3]) for i in (0, 3, 6)])
    assert [r.learning_rate for r in run.reports] == pytest.approx([0.05 * left**0.9 for left in (2 / 3, 1 / 3, 0)])
    for report in run.reports:
        assert 0 <= report.patch_dice <= 1
        assert report.patch_dice_per_label == [round(report.patch_dice, 4)]
        assert 0 <= report.waiting_share <= 1
    assert (run.state.iteration, run.state.epoch, run.state.losses) == (9, 3, [])
    assert 0 < run.reports[0].seconds < run.reports[-1].seconds
    # Checkpoints come by the clock; a training this short has only the one at its end.
    assert run.saves == 1


def test_without_validation_there_is_no_dice(configuration, cases):
    recipe = msgspec.structs.replace(RECIPE, epochs=1, validation_iterations=0)
    (report,) = Run(configuration, cases, recipe).go().reports
    assert (report.validation_loss, report.patch_dice, report.patch_dice_per_label) == (None, None, [])


def test_the_same_seed_gives_the_same_weights_and_another_does_not(configuration, cases):
    one, same = Run(configuration, cases).go(), Run(configuration, cases).go()
    assert torch.equal(one.weights, same.weights)
    other = Run(configuration, cases, msgspec.structs.replace(RECIPE, seed=1)).go()
    assert not torch.equal(one.weights, other.weights)


class Counted:
    """Batches, and how many were taken."""

    def __init__(self, batches):
        self.batches, self.taken = batches, 0

    def __next__(self):
        self.taken += 1
        return next(self.batches)


@pytest.mark.parametrize(("ahead", "taken"), [(False, [1, 2, 3]), (True, [2, 3, 4])])
def test_batches_made_ahead_come_one_step_sooner(configuration, cases, ahead, taken):
    seen = []
    recipe = msgspec.structs.replace(RECIPE, epochs=1, validation_iterations=0)
    run = Run(configuration, cases, recipe, on_step=lambda _: seen.append(training.taken), ahead=ahead)
    training = Counted(Batches(cases, run.batches, first=0, num_workers=0))
    train(run.state, run.course, training, training, lambda: False)
    assert seen == taken


@pytest.mark.parametrize("style", [WHOLE, APART])
def test_batches_made_ahead_give_the_same_weights(configuration, cases, style):
    one, ahead = Run(configuration, cases, style=style).go(), Run(configuration, cases, style=style, ahead=True).go()
    assert torch.equal(one.weights, ahead.weights)
    assert one.steps == ahead.steps
    assert [r.validation_loss for r in one.reports] == [r.validation_loss for r in ahead.reports]


def test_waiting_for_batches_made_ahead_is_counted(configuration, cases):
    class Slow(Counted):
        def __next__(self):
            time.sleep(0.2)
            return super().__next__()

    recipe = msgspec.structs.replace(RECIPE, epochs=1, validation_iterations=0)
    run = Run(configuration, cases, recipe, ahead=True)
    training = Slow(Batches(cases, run.batches, first=0, num_workers=0))
    train(run.state, run.course, training, training, lambda: False)
    (report,) = run.reports
    # Four batches in three steps.
    assert 0.8 <= report.waiting_share * report.seconds <= report.seconds


class KilledError(Exception):
    """Ends a run where no one expects it."""


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("after", [1, 3, 5, 8])
def test_a_run_that_was_killed_goes_on_as_if_nothing_had_been(configuration, cases, tmp_path, after, ahead):
    undisturbed = Run(configuration, cases).go()

    def kill(state):
        if state.iteration == after + 1:
            raise KilledError

    often = msgspec.structs.replace(RECIPE, checkpoint_minutes=0.0)
    path = tmp_path / "checkpoint.pt"
    killed = Run(configuration, cases, often, save=path, on_step=kill, ahead=ahead)
    with pytest.raises(KilledError):
        killed.go()
    resumed = Run(configuration, cases, often, seed=99, ahead=ahead)
    load_checkpoint(path, resumed.state, ["abc"])
    assert resumed.state.iteration == after
    resumed.go()
    assert torch.equal(resumed.weights, undisturbed.weights)
    assert [r.train_loss for r in resumed.reports] == [r.train_loss for r in undisturbed.reports[after // 3 :]]
    assert [r.validation_loss for r in resumed.reports] == [
        r.validation_loss for r in undisturbed.reports[after // 3 :]
    ]


def test_a_run_asked_to_stop_ends_after_its_iteration_with_a_checkpoint(configuration, cases, tmp_path):
    run = Run(configuration, cases, save=tmp_path / "checkpoint.pt")
    with pytest.raises(KeyboardInterrupt):
        run.go(stopped=lambda: run.state.iteration >= 4)
    assert (run.state.iteration, run.saves) == (4, 1)
    resumed = Run(configuration, cases, seed=99)
    load_checkpoint(tmp_path / "checkpoint.pt", resumed.state, ["abc"])
    assert torch.equal(resumed.go().weights, Run(configuration, cases).go().weights)


def test_a_finished_run_has_nothing_left_to_do(configuration, cases):
    run = Run(configuration, cases).go()
    before = run.weights
    run.go()
    assert torch.equal(run.weights, before)
    assert len(run.steps) == 9


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_sample_by_sample_equals_whole_batches(build_configuration, cases, patch):
    d = len(patch)
    configuration = build_configuration(patch, ((1,) * d, (2,) * d, (2,) * d), batch_size=3)
    runs = [Run(configuration, cases, style=style) for style in (WHOLE, APART)]
    for number in range(2):
        batch = make_batch(cases, runs[0].batches, number)
        whole, apart = (train_step(run.state, batch, run.course) for run in runs)
        assert apart == pytest.approx(whole, abs=1e-4)
    torch.testing.assert_close(runs[0].weights, runs[1].weights, rtol=1e-4, atol=1e-4)


@pytest.fixture
def two_cores(one_thread):
    torch.set_num_threads(2)


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_samples_side_by_side_equal_samples_one_by_one(build_configuration, cases, batch_size):
    configuration = build_configuration(batch_size=batch_size)
    runs = [Run(configuration, cases, style=style) for style in (APART, ABREAST, ABREAST)]
    for number in range(2):
        batch = make_batch(cases, runs[0].batches, number)
        one_by_one, abreast, again = (train_step(run.state, batch, run.course) for run in runs)
        assert abreast == pytest.approx(one_by_one, abs=1e-5)
        assert abreast == again
    torch.testing.assert_close(runs[1].weights, runs[0].weights, rtol=1e-4, atol=1e-4)
    assert torch.equal(runs[1].weights, runs[2].weights)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(("batch_size", "ahead"), [(1, 0), (2, 2), (5, 4)])
def test_each_core_takes_as_many_samples(build_configuration, cases, batch_size, ahead):
    course = Run(build_configuration(batch_size=batch_size), cases, style=ABREAST).course
    assert course.num_side_by_side(batch_size) == ahead
    assert replace(course, step=APART).num_side_by_side(batch_size) == 0
    assert replace(course, objective=Objective(batch_dice=True)).num_side_by_side(batch_size) == 0


@pytest.mark.usefixtures("two_cores")
def test_a_training_with_samples_side_by_side_repeats_itself_to_the_bit(task, cases, tmp_path, monkeypatch):
    style = msgspec.structs.replace(ABREAST, precision="bfloat16")
    monkeypatch.setattr(setup, "choose_step", lambda *_, **__: (style, {}))
    folders = [Workspace(tmp_path / name).fold("3d_fullres", 0) for name in "ab"]
    models = [run_stage(task, cases, folder) for folder in folders]
    assert models[0].step == style
    assert folders[0].weights.read_bytes() == folders[1].weights.read_bytes()
    predicted = training_step_memory(models[0].configuration, 1, 2, style, cores=2)
    assert models[0].step_peak.predicted_bytes == predicted.peak_bytes
    one_by_one = msgspec.structs.replace(style, side_by_side=False)
    assert predicted.peak_bytes > training_step_memory(models[0].configuration, 1, 2, one_by_one).peak_bytes


EXTRAS = Augmentation(
    strong=True,
    elastic_probability=0.5,
    copy_paste_probability=0.5,
    cutmix_probability=0.5,
    mixup_probability=1.0,
)


@pytest.mark.parametrize("patch", [(8, 8), (8, 8, 8), (2, 8, 8)])
@pytest.mark.parametrize(
    "objective",
    [
        Objective(batch_dice=True),
        Objective(batch_dice=False, ignore=2),
        Objective(batch_dice=False, regions=((1,), (1, 2)), ignore=3),
    ],
)
def test_mixed_samples_count_for_both_labels_by_their_shares(build_configuration, cases, patch, objective):
    d = len(patch)
    strides = ((1,) * d, (1, 2, 2) if patch[0] == 2 else (2,) * d)
    configuration = build_configuration(patch, strides, batch_size=3)
    run = Run(configuration, cases, msgspec.structs.replace(RECIPE, augmentation=EXTRAS))
    run.course = replace(run.course, objective=objective)
    image, one, other = torch.randn(3, 1, *patch), *torch.randint(0, (objective.ignore or 1) + 1, (2, 3, *patch))

    def loss(*labels):
        return float(step_loss(run.state.network, Augmented(image, *labels), run.course)[0].detach())

    mine, its = loss(one), loss(other)
    assert abs(mine - its) > 1e-4
    assert loss(one, other, 0.7) == pytest.approx(0.7 * mine + 0.3 * its, abs=1e-5)
    before = run.weights.clone()
    for number in range(3):
        assert np.isfinite(train_step(run.state, make_batch(cases, run.batches, number), run.course))
    assert run.weights.isfinite().all()
    assert not torch.equal(run.weights, before)


def test_sample_by_sample_equals_whole_batches_with_extras_too(build_configuration, cases):
    configuration = build_configuration(batch_size=3)
    recipe = msgspec.structs.replace(RECIPE, augmentation=EXTRAS)
    runs = [Run(configuration, cases, recipe, style) for style in (WHOLE, APART)]
    batch = make_batch(cases, runs[0].batches, 0)
    assert batch.draws.own_share < 1
    whole, apart = (train_step(run.state, batch, run.course) for run in runs)
    assert apart == pytest.approx(whole, abs=1e-4)


def test_the_classic_transforms_train_too(configuration, cases):
    recipe = msgspec.structs.replace(RECIPE, epochs=1, augmentation=Augmentation(backend="batchgenerators"))
    one, same = Run(configuration, cases, recipe).go(), Run(configuration, cases, recipe).go()
    assert torch.equal(one.weights, same.weights)
    assert not torch.equal(
        one.weights, Run(configuration, cases, msgspec.structs.replace(RECIPE, epochs=1)).go().weights
    )


def test_gradients_are_clipped(configuration, cases):
    recipe = msgspec.structs.replace(RECIPE, gradient_clip=1e-3, momentum=0.0, weight_decay=0.0)
    run = Run(configuration, cases, recipe)
    before = run.weights.clone()
    train_step(run.state, make_batch(cases, run.batches, 0), run.course)
    # A step is the rate times a gradient of at most this length.
    assert float((run.weights - before).norm()) == pytest.approx(0.05 * 1e-3, rel=1e-2)


def test_a_training_by_the_clock_keeps_to_its_time(configuration, cases):
    recipe = msgspec.structs.replace(RECIPE, max_hours=1.0 / 3600)
    run = Run(configuration, cases, recipe)
    start = time.monotonic()
    run.go()
    assert time.monotonic() - start < 30
    assert 0.5 < run.state.seconds < 10
    assert run.reports[-1].learning_rate == 0.0
    assert run.reports[-1].iterations == run.state.iteration == len(run.steps)


def test_what_pictures_take_counts_and_the_last_epoch_is_reported_all_the_same(configuration, cases, monkeypatch):
    monkeypatch.setattr(loop, "LEAST_EPOCH_SECONDS", 0.0)
    recipe = msgspec.structs.replace(RECIPE, max_hours=1.0 / 3600, validation_iterations=0)
    run = Run(configuration, cases, recipe)

    def slow(report):
        run.reports.append(report)
        time.sleep(0.3)

    run.course = replace(run.course, on_epoch=slow)
    run.go()
    assert 2 <= len(run.reports) <= 6
    assert run.reports[-1].learning_rate == 0.0
    assert run.reports[-1].iterations == run.state.iteration
    assert run.saves >= 1


def test_a_diverged_training_stops_with_its_weights_unspoilt(configuration, cases, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, epochs=50, checkpoint_minutes=0.0)
    run = Run(configuration, cases, recipe, save=tmp_path / "checkpoint.pt")
    before = run.weights
    for case in cases:
        case.image_czyx[:] = np.nan
    with pytest.raises(AutosegError, match="diverged") as caught:
        run.go()
    assert run.state.iteration == 19
    assert torch.equal(run.weights, before)
    assert [report.skipped_steps for report in run.reports] == [3] * 6
    # Two samples a batch, of the two cases that are trained on.
    named = dict(re.findall(r"(case_\d) \((\d+)\)", caught.value.where))
    assert set(named) == {"case_0", "case_1"}
    assert sum(map(int, named.values())) == 40
    # The count goes on after a resume.
    resumed = Run(configuration, cases, recipe)
    load_checkpoint(tmp_path / "checkpoint.pt", resumed.state, ["abc"])
    with pytest.raises(AutosegError, match="diverged"):
        resumed.go()
    assert resumed.steps == []


def test_a_step_that_fails_now_and_then_is_skipped_and_counted(configuration, cases):
    broken = replace(cases[0], arrays=replace(cases[0].arrays, image=np.full_like(cases[0].image_czyx, np.inf)))
    run = Run(configuration, [broken, *cases[1:]]).go()
    skipped = sum(report.skipped_steps for report in run.reports)
    assert 0 < skipped < 9
    assert torch.isfinite(run.weights).all()
    assert all(r.train_loss is None or np.isfinite(r.train_loss) for r in run.reports)


IMPATIENT = msgspec.structs.replace(RECIPE, epochs=40, iterations_per_epoch=2, patience=2, checkpoint_minutes=0.0)


class Patient(Run):
    """A run whose rates are kept."""

    def _step(self, progress, loss):
        self.rates = [*getattr(self, "rates", []), self.state.optimizer.param_groups[0]["lr"]]
        super()._step(progress, loss)


@pytest.fixture
def no_gain(monkeypatch):
    """Validation that finds the same Dice each time."""
    monkeypatch.setattr(loop, "overlap_counts", lambda *_: torch.tensor([[1.0], [4.0]]))


def test_without_gain_the_rate_falls_to_zero_in_a_short_stretch(configuration, cases, no_gain):
    run = Patient(configuration, cases, IMPATIENT).go()
    # The first epoch is the best, two more are waited for, and a quarter of these six iterations is one epoch.
    assert run.state.iteration == len(run.rates) == 8
    assert run.reports[-1].learning_rate == 0.0
    begun = 0.05 * (1 - 6 / 80) ** 0.9
    assert run.rates[:7] == pytest.approx([0.05 * (1 - i / 80) ** 0.9 for i in range(7)])
    assert run.rates[7] == pytest.approx(begun * 0.5**0.9)
    assert [r.smoothed_patch_dice for r in run.reports] == [0.5] * 4


@pytest.mark.parametrize("after", [5, 7])
def test_patience_survives_a_kill(configuration, cases, no_gain, tmp_path, after):
    undisturbed = Run(configuration, cases, IMPATIENT).go()

    def kill(state):
        if state.iteration == after + 1:
            raise KilledError

    killed = Run(configuration, cases, IMPATIENT, save=tmp_path / "checkpoint.pt", on_step=kill)
    with pytest.raises(KilledError):
        killed.go()
    resumed = Run(configuration, cases, IMPATIENT, seed=99)
    load_checkpoint(tmp_path / "checkpoint.pt", resumed.state, ["abc"])
    assert torch.equal(resumed.go().weights, undisturbed.weights)


def test_patience_under_a_time_budget_ends_sooner_at_rate_zero(configuration, cases, no_gain, monkeypatch):
    monkeypatch.setattr(loop, "LEAST_EPOCH_SECONDS", 0.0)
    recipe = msgspec.structs.replace(RECIPE, max_hours=1.0, iterations_per_epoch=2, patience=1)
    run = Run(configuration, cases, recipe).go()
    assert run.state.seconds < 60
    assert run.reports[-1].learning_rate == 0.0


def whole(dice, names=("case_2",)):
    return WholeCases(names=names, num_windows=8, dice=dice)


def test_whole_cases_are_predicted_every_so_often_but_not_at_the_end(configuration, cases):
    recipe = msgspec.structs.replace(RECIPE, epochs=4, validation_every=2)
    run = Run(configuration, cases, recipe)
    run.course = replace(run.course, whole_cases=whole(lambda network, name: 0.25 if not network.training else None))
    run.go()
    assert [report.whole_case_dice for report in run.reports] == [None, 0.25, None, None]
    assert run.reports[1].whole_case_dice_per_case == {"case_2": 0.25}
    assert torch.equal(run.weights, Run(configuration, cases, recipe).go().weights)


def test_a_stop_while_whole_cases_are_predicted_does_not_wait_for_the_rest(configuration, cases, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, validation_every=1)
    run = Run(configuration, cases, recipe, save=tmp_path / "checkpoint.pt")
    predicted = []
    run.course = replace(run.course, whole_cases=whole(lambda _, name: predicted.append(name), ("a", "b", "c")))
    with pytest.raises(KeyboardInterrupt):
        run.go(stopped=lambda: bool(predicted))
    assert predicted == ["a"]
    assert run.reports == []
    resumed = Run(configuration, cases, recipe, seed=99)
    load_checkpoint(tmp_path / "checkpoint.pt", resumed.state, ["abc"])
    assert (resumed.state.iteration, resumed.state.epoch) == (3, 0)
    resumed.go()
    undisturbed = Run(configuration, cases, recipe).go()
    assert torch.equal(resumed.weights, undisturbed.weights)
    assert [r.validation_loss for r in resumed.reports] == [r.validation_loss for r in undisturbed.reports]


# The stage: the same on files.


def record_of(case):
    shape = case.label_zyx.shape
    grid = Geometry(shape=shape, spacing_mm=(1.0, 1.0, 1.0))
    return PreprocessedCase(
        name=case.name,
        inputs_sha256=case.name,
        arrays_sha256=case.name,
        placement=Placement(geometry=grid, crop_start=(0, 0, 0), crop_stop=shape, shape=shape),
        num_channels=1,
        foreground_voxels={"blob": int((case.label_zyx == 1).sum())},
    )


@pytest.fixture
def task(build_plan, configuration, cases):
    plan = build_plan({"3d_fullres": configuration}, training=msgspec.structs.replace(RECIPE, epochs=2))
    return stage.FoldTask(
        plan=plan,
        settings=("training.epochs=2",),
        configuration_name="3d_fullres",
        fold=0,
        cases=Fold(training=("case_0", "case_1"), validation=("case_2",)),
        naming=Naming(image_suffixes=("_0000.nii.gz",), label_suffix=".nii.gz"),
    )


@pytest.fixture
def folder(tmp_path):
    return Workspace(tmp_path).fold("3d_fullres", 0)


def run_stage(task, cases, folder, records=None, **options):
    by_name = {case.name: case for case in cases}
    records = records or {case.name: record_of(case) for case in cases}
    return stage.run(
        task, records, lambda names: [by_name[name] for name in names], folder, device=CPU, jobs=1, **options
    )


def changed_records(cases):
    return {case.name: msgspec.structs.replace(record_of(case), arrays_sha256="new") for case in cases}


class Interrupting(np.ndarray):
    """An image during whose reading a signal comes, as Ctrl-C would send it."""

    reads_left = 10**9
    signal = signal.SIGINT

    def __getitem__(self, key):
        Interrupting.reads_left -= 1
        if Interrupting.reads_left == 0:
            signal.raise_signal(Interrupting.signal)
        return np.asarray(self)[key]


def test_a_fold_leaves_its_files(task, cases, folder):
    model = run_stage(task, cases, folder)
    assert model.finished
    assert (model.iterations, model.epochs, model.final_learning_rate) == (6, 2, 0.0)
    assert read(folder.manifest, TrainedModel) == model
    assert model.plan == task.plan
    assert model.settings == ("training.epochs=2",)
    assert model.num_parameters == sum(p.numel() for p in build_network(model.configuration, 1, 2).parameters())
    assert len(model.step_seconds) == 4
    assert model.step_peak.predicted_bytes == training_step_memory(model.configuration, 1, 2, model.step).peak_bytes
    assert model.step_peak.measured_bytes > 0
    assert sorted(file.name for file in folder.root.iterdir()) == [
        "checkpoint.pt",
        "manifest.json",
        "metrics.jsonl",
        "progress.png",
        "tensorboard",
        "weights.safetensors",
    ]
    assert [record["epoch"] for record in read_metrics(folder.metrics)] == [0, 1]
    assert folder.progress.read_bytes().startswith(b"\x89PNG")
    before = folder.weights.stat().st_mtime_ns
    assert run_stage(task, cases, folder) == model
    assert folder.weights.stat().st_mtime_ns == before


def test_a_fold_with_batch_norm_steps_by_whole_batches_and_predicts_by_its_running_means(task, cases, folder):
    configuration = msgspec.structs.replace(task.plan.configurations["3d_fullres"], norm="batch")
    plan = msgspec.structs.replace(task.plan, configurations={"3d_fullres": configuration})
    model = run_stage(replace(task, plan=plan), cases, folder)
    assert not model.step.sample_by_sample
    assert len(model.step_seconds) == 2
    network = load_model(folder, CPU).network
    assert not network.training
    assert network.encoder[0].first.norm.running_mean.any()
    assert int(network.encoder[0].first.norm.num_batches_tracked) == model.iterations


def test_other_settings_are_refused_and_restart_throws_away(task, cases, folder):
    run_stage(task, cases, folder)
    before = folder.weights.read_bytes()
    plan = msgspec.structs.replace(task.plan, training=msgspec.structs.replace(task.plan.training, seed=5))
    # What doesn't determine the weights is not to blame.
    plan = msgspec.structs.replace(plan, gpu_memory_gb=99, prediction=Prediction(step=0.25))
    other = replace(task, plan=plan)
    with pytest.raises(SettingError, match="other settings") as caught:
        run_stage(other, cases, folder)
    assert "training.epochs=2" in str(caught.value)
    assert caught.value.found.endswith("; training.seed was 0, is 5")
    assert folder.weights.read_bytes() == before
    assert run_stage(other, cases, folder, restart=True).plan.training.seed == 5
    assert folder.weights.read_bytes() != before


def test_a_finished_fold_whose_data_changed_is_kept_with_a_warning(task, cases, folder, caplog, monkeypatch):
    # Once the command line has run in this process, messages would not reach the root.
    monkeypatch.setattr(logging.getLogger("autoseg"), "propagate", True)
    model = run_stage(task, cases, folder)
    caplog.clear()
    assert run_stage(task, cases, folder, changed_records(cases)) == model
    assert [r.message for r in caplog.records if "data changed" in r.message]


def test_an_unfinished_fold_does_not_go_on_with_other_data(task, cases, folder):
    model = run_stage(task, cases, folder)
    write(folder.manifest, msgspec.structs.replace(model, finished=False))
    with pytest.raises(SettingError, match="data changed"):
        run_stage(task, cases, folder, changed_records(cases))
    assert run_stage(task, cases, folder).finished
    # Without its weights a fold is not finished, whatever the manifest says.
    folder.weights.unlink()
    with pytest.raises(SettingError, match="data changed"):
        run_stage(task, cases, folder, changed_records(cases))


def test_two_processes_do_not_train_one_fold(task, cases, folder):
    with alone(folder.lock, "taken"), pytest.raises(SettingError, match="another process"):
        run_stage(task, cases, folder)
    assert run_stage(task, cases, folder).finished


def test_how_to_predict_may_change_after_training(task, cases, folder):
    model = run_stage(task, cases, folder)
    plan = msgspec.structs.replace(task.plan, prediction=Prediction(step=1.0))
    again = run_stage(replace(task, plan=plan, settings=("prediction.step=1",)), cases, folder)
    assert again.plan.prediction.step == 1.0
    assert again.settings == ("prediction.step=1",)
    assert msgspec.structs.replace(again, plan=model.plan, settings=model.settings) == model
    assert read(folder.manifest, TrainedModel) == again


def test_how_often_is_saved_is_no_other_setting(task, cases, folder):
    model = run_stage(task, cases, folder)
    plan = msgspec.structs.replace(
        task.plan, training=msgspec.structs.replace(task.plan.training, checkpoint_minutes=9.0, memory_share=0.1)
    )
    assert run_stage(replace(task, plan=plan), cases, folder) == model


def as_second_stage(task, cases):
    """The fold of a cascade whose first stage predicted the truth."""
    low = task.plan.configurations["3d_fullres"]
    changes = Augmentation(previous_morphology_probability=1.0, previous_morphology_radius=(1, 1))
    plan = msgspec.structs.replace(
        task.plan,
        configurations={"3d_lowres": low, "3d_fullres": msgspec.structs.replace(low, previous_stage="3d_lowres")},
        training=msgspec.structs.replace(task.plan.training, augmentation=changes),
    )
    hashes = {case.name: f"map of {case.name}" for case in cases}
    return (
        replace(task, plan=plan, previous_sha256=hashes),
        [replace(case, previous_zyx=np.asarray(case.label_zyx)) for case in cases],
    )


def test_a_second_stage_is_trained_from_the_maps_of_the_first(task, cases, folder):
    second, with_maps = as_second_stage(task, cases)
    model = run_stage(second, with_maps, folder)
    assert model.num_parameters == sum(p.numel() for p in build_network(model.configuration, 2, 2).parameters())
    assert model.data_sha256 != second.data_sha256(changed_records(cases), ("case_0", "case_1", "case_2"))
    assert run_stage(second, with_maps, folder) == model
    write(folder.manifest, msgspec.structs.replace(model, finished=False))
    other = replace(second, previous_sha256={**second.previous_sha256, "case_1": "another"})
    with pytest.raises(SettingError, match="the data changed since"):
        run_stage(other, with_maps, folder)


@pytest.mark.parametrize("is_second_stage", [False, True])
@pytest.mark.parametrize(("batches", "by"), [(1, signal.SIGINT), (4, signal.SIGTERM)])
def test_an_interrupt_and_the_same_command_give_the_same_weights(task, cases, tmp_path, batches, by, is_second_stage):
    if is_second_stage:
        task, cases = as_second_stage(task, cases)
    undisturbed, stopped = (Workspace(tmp_path / name).fold("3d_fullres", 0) for name in "ab")
    probe = run_stage(task, cases, undisturbed)
    # Both in the arithmetic that is the same every time, as a run that was measured before.
    begun = msgspec.structs.replace(probe, step=WHOLE, iterations=0, epochs=0, finished=False)
    undisturbed.weights.unlink()
    undisturbed.checkpoint.unlink()
    write(undisturbed.manifest, begun)
    write(stopped.manifest, begun)
    run_stage(task, cases, undisturbed)

    interrupting = [
        replace(case, arrays=replace(case.arrays, image=case.image_czyx.view(Interrupting))) for case in cases[:2]
    ]
    Interrupting.signal = by
    # Two samples a batch: the signal comes during the batch after these.
    Interrupting.reads_left = 2 * batches + 1
    with pytest.raises(KeyboardInterrupt) as caught:
        run_stage(task, interrupting + cases[2:], stopped)
    assert isinstance(caught.value, Terminated) == (by == signal.SIGTERM)
    assert not stopped.weights.exists()
    assert torch.load(stopped.checkpoint, weights_only=True)["iteration"] == batches + 1
    assert not read(stopped.manifest, TrainedModel).finished
    assert run_stage(task, cases, stopped).iterations == 6
    assert read(stopped.manifest, TrainedModel).step == WHOLE
    assert stopped.weights.read_bytes() == undisturbed.weights.read_bytes()
    assert [r["train_loss"] for r in read_metrics(stopped.metrics)] == [
        r["train_loss"] for r in read_metrics(undisturbed.metrics)
    ]


def test_metrics_are_rewound_and_lines_cut_short_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"epoch": 0}\n{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert [record["epoch"] for record in read_metrics(path)] == [0, 1, 2]
    rewind_metrics(path, 2)
    assert path.read_text() == '{"epoch": 0}\n{"epoch": 1}\n'


def test_a_skipped_step_leaves_the_shown_loss_alone():
    bar = ProgressBar("", 0.0)
    for loss in (float("nan"), 2.0, float("inf"), 2.0):
        bar.step(0.1, loss)
    assert bar._loss == 2.0
    bar.close()


def test_weights_that_cant_be_written_are_one_error(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(ArtifactError, match="a file can't be written"):
        state.save_weights(tmp_path / "weights.safetensors", torch.nn.Linear(1, 1))
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_for_a_label_may_change_after_training(task, cases, folder):
    model = run_stage(task, cases, folder)
    again = run_stage(replace(task, file_values=(0, 255)), cases, folder)
    assert again.file_values == (0, 255)
    assert msgspec.structs.replace(again, file_values=(), settings=model.settings) == model
    assert read(folder.manifest, TrainedModel) == again


def with_training(task, **changes):
    return replace(
        task, plan=msgspec.structs.replace(task.plan, training=msgspec.structs.replace(task.plan.training, **changes))
    )


def test_automatic_class_weights_stand_in_the_manifest_and_weigh_the_loss(task, cases, folder, tmp_path):
    task = with_training(task, epochs=1)
    plain = run_stage(task, cases, folder)
    assert plain.class_weights == ()
    automatic = with_training(task, class_weights="automatic")
    with pytest.raises(SettingError, match="class_weights was None, is automatic"):
        run_stage(automatic, cases, folder)
    weighted = run_stage(automatic, cases, Workspace(tmp_path / "weighted").fold("3d_fullres", 0))
    inside = [int((case.label_zyx == 1).sum()) for case in cases[:2]]
    outside = [case.label_zyx.size - voxels for case, voxels in zip(cases[:2], inside, strict=True)]
    assert weighted.class_weights == pytest.approx((1.0, (sum(outside) / sum(inside)) ** 0.5), abs=1e-4)
    listed = with_training(task, class_weights=weighted.class_weights)
    run_stage(listed, cases, Workspace(tmp_path / "listed").fold("3d_fullres", 0))
    folders = [folder, *(Workspace(tmp_path / name).fold("3d_fullres", 0) for name in ("weighted", "listed"))]
    plain_loss, weighted_loss, listed_loss = (read_metrics(each.metrics)[0]["train_loss"] for each in folders)
    assert weighted_loss > plain_loss + 0.1
    # The step may be computed in another precision each time.
    assert listed_loss == pytest.approx(weighted_loss, abs=0.05)


def test_rare_classes_are_weighed_among_each_streams_own_cases(task, cases):
    records = {case.name: record_of(case) for case in cases}
    assert all(recipe.rare is None for recipe in batch_recipes(task, records))
    records["case_1"] = msgspec.structs.replace(records["case_1"], foreground_voxels={"blob": 0})
    training, validation = batch_recipes(with_training(task, rare_class_sampling=1.0), records)
    assert training.rare.case_probabilities == pytest.approx([2 / 3, 1 / 3])
    assert validation.rare.case_probabilities == pytest.approx([1.0])


@pytest.mark.parametrize(("optimizer", "told"), [("sgd", False), ("adamw", True)])
def test_a_rate_made_for_sgd_is_told_with_adamw(task, cases, folder, caplog, optimizer, told):
    run_stage(with_training(task, epochs=1, iterations_per_epoch=1, optimizer=optimizer), cases, folder)
    assert any("high for adamw" in record.message for record in caplog.records) == told


def lengthened(task, **changes):
    recipe = msgspec.structs.replace(task.plan.training, **changes)
    return replace(task, plan=msgspec.structs.replace(task.plan, training=recipe), settings=("longer",))


@pytest.fixture
def fixed(task):
    """The task in an arithmetic that is not measured."""
    return lengthened(task, precision="float32", sample_by_sample=False)


def test_a_style_that_is_fixed_is_not_measured(fixed, cases, folder):
    model = run_stage(fixed, cases, folder)
    assert (model.step, model.step_seconds) == (WHOLE, {})


def test_a_finished_training_is_extended(fixed, cases, folder, tmp_path):
    first = run_stage(fixed, cases, folder)
    shutil.copytree(folder.root, tmp_path / "copy" / "fold_0")
    longer = lengthened(fixed, epochs=4)
    with pytest.raises(SettingError, match="other settings") as caught:
        run_stage(longer, cases, folder)
    assert "--extend" in caught.value.hint
    model = run_stage(longer, cases, folder, extend=True)
    assert (model.iterations, model.epochs, model.finished) == (12, 4, True)
    assert [(end.iterations, end.epochs, end.inputs_sha256) for end in model.extended] == [(6, 2, first.inputs_sha256)]
    metrics = read_metrics(folder.metrics)
    assert [record["epoch"] for record in metrics] == [0, 1, 2, 3]
    # As in a training of the new length: from half way on, down to zero.
    assert [r["learning_rate"] for r in metrics] == pytest.approx([0.05 * 0.5**0.9, 0, 0.05 * 0.25**0.9, 0])
    assert read(folder.manifest, TrainedModel) == model
    assert not folder.extension.exists()
    # The same command once more, with --extend and without.
    assert run_stage(longer, cases, folder, extend=True) == run_stage(longer, cases, folder) == model

    # The finished model stays until the longer one is there; and an extension resumes as exactly as a training.
    again = FoldFolder(tmp_path / "copy" / "fold_0")
    weights, manifest = again.weights.read_bytes(), again.manifest.read_bytes()
    interrupting = [
        replace(case, arrays=replace(case.arrays, image=case.image_czyx.view(Interrupting))) for case in cases[:2]
    ]
    Interrupting.signal, Interrupting.reads_left = signal.SIGINT, 5
    with pytest.raises(KeyboardInterrupt):
        run_stage(longer, interrupting + cases[2:], again, extend=True)
    assert (again.weights.read_bytes(), again.manifest.read_bytes()) == (weights, manifest)
    assert not read(again.extension, TrainedModel).finished
    assert run_stage(fixed, cases, again) == first
    with pytest.raises(SettingError, match="being extended to another length"):
        run_stage(lengthened(fixed, epochs=9), cases, again, extend=True)
    assert run_stage(longer, cases, again).extended == model.extended
    assert again.weights.read_bytes() == folder.weights.read_bytes()


def test_killed_when_an_extension_was_finished_and_its_file_not_yet_gone(fixed, cases, folder):
    run_stage(fixed, cases, folder)
    longer = lengthened(fixed, epochs=4)
    model = run_stage(longer, cases, folder, extend=True)
    write(folder.extension, msgspec.structs.replace(model, finished=False, step_peak=None))
    before = folder.weights.stat().st_mtime_ns
    assert run_stage(longer, cases, folder) == model
    assert folder.weights.stat().st_mtime_ns == before
    assert run_stage(lengthened(fixed, epochs=5), cases, folder, extend=True).epochs == 5
    assert not folder.extension.exists()


def test_another_process_goes_by_what_the_first_began(fixed, cases, folder, monkeypatch):
    monkeypatch.setattr(machine, "SEEN_WITHIN_SECONDS", 0.3)
    with pytest.raises(ArtifactError, match="not to be seen here"):
        find_begun(fixed, folder)
    model = run_stage(fixed, cases, folder)
    assert find_begun(fixed, folder) == model
    longer = lengthened(fixed, epochs=4)
    begun = msgspec.structs.replace(model, inputs_sha256=inputs_of(longer), finished=False)
    write(folder.extension, begun)
    assert find_begun(longer, folder) == begun
    with pytest.raises(ArtifactError, match="a training with other settings"):
        find_begun(lengthened(fixed, epochs=5), folder)


def test_what_is_refused_throws_no_earlier_training_away(fixed, cases, folder):
    model = run_stage(fixed, cases, folder)
    with pytest.raises(SettingError, match="more processes than samples"):
        run_stage(fixed, cases, folder, restart=True, ranks=Ranks(0, 3))
    tied = msgspec.structs.replace(fixed.plan.configurations["3d_fullres"], norm="batch")
    plan = msgspec.structs.replace(fixed.plan, configurations={"3d_fullres": tied})
    with pytest.raises(SettingError, match="batch norm over several processes"):
        run_stage(replace(fixed, plan=plan), cases, folder, restart=True, ranks=Ranks(0, 2))
    assert run_stage(fixed, cases, folder) == model


def test_what_can_not_be_extended(fixed, cases, folder):
    with pytest.raises(SettingError, match="no finished training"):
        run_stage(fixed, cases, folder, extend=True)
    run_stage(fixed, cases, folder)
    for changes, message in (({"epochs": 1}, "as long already"), ({"epochs": 4, "seed": 1}, "in its length alone")):
        with pytest.raises(SettingError, match=message):
            run_stage(lengthened(fixed, **changes), cases, folder, extend=True)
    folder.checkpoint.unlink()
    with pytest.raises(ArtifactError, match="without its checkpoint"):
        run_stage(lengthened(fixed, epochs=4), cases, folder, extend=True)


def test_a_damaged_checkpoint_costs_no_more_than_what_came_after_the_one_before(
    fixed, cases, folder, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("autoseg"), "propagate", True)
    caplog.set_level(logging.INFO, "autoseg")
    often = lengthened(fixed, checkpoint_minutes=0.0)
    model = run_stage(often, cases, folder)
    weights = folder.weights.read_bytes()
    write(folder.manifest, msgspec.structs.replace(model, finished=False))
    folder.weights.unlink()
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:999])
    assert run_stage(often, cases, folder).finished
    assert [r.message for r in caplog.records if "goes on from the one before" in r.message]
    assert [r.message for r in caplog.records if "after iteration 5" in r.message]
    assert folder.weights.read_bytes() == weights


def test_a_resumed_run_takes_as_many_threads_as_it_began_with(fixed, cases, folder, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("autoseg"), "propagate", True)
    model = run_stage(fixed, cases, folder)
    assert model.num_threads == 1
    for began, expected in ((2, 2), (10_000, 1)):
        monkeypatch.setattr(stage, "available_cpus", lambda: 2)
        torch.set_num_threads(1)
        write(folder.manifest, msgspec.structs.replace(model, finished=False, num_threads=began))
        assert run_stage(fixed, cases, folder).num_threads == expected
    assert [r.message for r in caplog.records if "10000 threads" in r.message]


def test_tensorboard_shows_each_epoch_once(fixed, cases, folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = run_stage(fixed, cases, folder)
    write(folder.manifest, msgspec.structs.replace(model, finished=False))
    (folder.tensorboard / "older").touch()
    run_stage(fixed, cases, folder)
    read_back = EventAccumulator(str(folder.tensorboard)).Reload()
    metrics = read_metrics(folder.metrics)
    assert not (folder.tensorboard / "older").exists()
    for title, key in (("loss/training", "train_loss"), ("Dice/validation patches", "patch_dice")):
        assert [event.step for event in read_back.Scalars(title)] == [1, 2]
        assert [event.value for event in read_back.Scalars(title)] == pytest.approx([r[key] for r in metrics])
