"""The training loop, top to bottom."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import inf, isfinite

import numpy as np
import torch
from torch import Tensor, nn

from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import Configuration, Training
from autoseg.errors import AutosegError
from autoseg.networks.device import autocast, channels_last
from autoseg.networks.unet import UNet
from autoseg.train.augment import Augmented, augment, pack
from autoseg.train.cores import add_gradients
from autoseg.train.distributed import ALONE, Ranks, SharedNetwork
from autoseg.train.loading import Batch, Batches
from autoseg.train.losses import Objective, deep_loss, level_weights, overlap_counts
from autoseg.train.patience import annealing, follow
from autoseg.train.schedule import learning_rate, progress_by_count, progress_by_time
from autoseg.train.state import TrainState
from autoseg.train.teacher import Teacher
from autoseg.train.validate import FORWARD_SHARE, MOST_SHARE, WholeCases, is_due, predict_whole

log = logging.getLogger(__name__)
# Under a time budget an epoch, after which progress is shown, is at most this share of it.
BUDGET_EPOCHS = 50
LEAST_EPOCH_SECONDS = 5.0  # a picture and a validation batch each epoch would eat up a short budget
# The scale of float16's losses begins at 2 to the 16th and is halved by each failure: it is not to blame for more.
MOST_FAILED_STEPS = 20
MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One line of metrics.jsonl.

    Attributes
    ----------
    epoch : int
        From 0.
    iterations : int
        Of the training so far.
    train_loss, validation_loss : float or None
        Means over the steps with a finite loss; None where there were none.
    patch_dice : float or None
        Mean foreground Dice over validation patches pooled: quick and noisy, not the Dice of whole cases.
    patch_dice_per_label : list of float or None
        In the order of the foreground labels or regions; None where neither truth nor prediction has any.
    smoothed_patch_dice : float or None
        Averaged over the epochs; what patience waits for.
    whole_case_dice : float or None
        Mean over a few validation cases of each one's mean foreground Dice, on the cases' own grids, predicted without
        mirroring; None in epochs after which none was predicted.
    whole_case_dice_per_case : dict of str to float or None
        By case.
    skipped_steps : int
        Iterations of this epoch that left the weights alone, because gradients were not finite.
    learning_rate : float
        At the end of the epoch.
    seconds : float
        Of the training so far.
    waiting_share : float
        Share of the epoch's steps spent waiting for data.
    samples_per_second : float
        Of the epoch's steps, loading and augmentation included.
    """

    epoch: int
    iterations: int
    train_loss: float | None
    validation_loss: float | None
    patch_dice: float | None
    patch_dice_per_label: list[float | None]
    smoothed_patch_dice: float | None
    whole_case_dice: float | None
    whole_case_dice_per_case: dict[str, float | None]
    skipped_steps: int
    learning_rate: float
    seconds: float
    waiting_share: float
    samples_per_second: float


@dataclass(frozen=True, slots=True)
class Course:
    """What the loop follows.

    Attributes
    ----------
    configuration : Configuration
        What is trained.
    objective : Objective
    recipe : Training
    device : torch.device
    step : StepStyle
        How steps are computed.
    on_step : callable
        Called after each iteration with the share of training done and the loss.
    on_epoch : callable
        Called with each epoch's report.
    save : callable
        Writes a checkpoint.
    whole_cases : WholeCases or None
        Validation cases that are predicted whole now and then.
    ranks : Ranks
        The processes that train together. Batches are then this one's shares, and the objective that of all, except
        where gradients are taken of one sample after the other.
    shared : SharedNetwork or None
        The network as these processes share it.
    ahead : bool
        Whether each batch is made during the step before, so that a device with a queue of its own has work meanwhile.
    teacher : Teacher or None
        Whom the network imitates beside the labels.
    """

    configuration: Configuration
    objective: Objective
    recipe: Training
    device: torch.device
    step: StepStyle
    on_step: Callable[[float, float], None]
    on_epoch: Callable[[EpochReport], None]
    save: Callable[[], None]
    whole_cases: WholeCases | None = None
    ranks: Ranks = ALONE
    shared: SharedNetwork | None = None
    ahead: bool = False
    teacher: Teacher | None = None

    @property
    def apart(self) -> bool:
        """Whether gradients are taken of one sample after the other."""
        return self.step.sample_by_sample and self.objective.is_mean_over_samples

    def num_side_by_side(self, num_samples: int) -> int:
        """How many of a batch's samples go through the network side by side; as many go to each core."""
        cores = torch.get_num_threads()
        if not (self.step.side_by_side and self.apart and self.shared is None and self.device.type == "cpu"):
            return 0
        return num_samples - num_samples % cores if cores > 1 else 0


def train(
    state: TrainState, course: Course, training: Batches, validation: Batches, stopped: Callable[[], bool]
) -> None:
    """Train until the schedule ends, from wherever `state` is.

    Parameters
    ----------
    state : TrainState
    course : Course
    training, validation : Batches
    stopped : callable
        Whether the user asked this process to stop; looked at between iterations, so that what is saved is never half
        a step.

    Raises
    ------
    KeyboardInterrupt
        The user asked to stop; a checkpoint is written.
    AutosegError
        The training diverged.

    Notes
    -----
    The learning rate falls with each iteration, not with each epoch as in nnU-Net: over 1000 epochs the two agree to
    0.1 % of the initial rate, and in a short training no epoch is spent at a rate that is too high.

    Of several processes the first one's clock counts for all, so that they agree on every iteration.
    """
    recipe, ranks = course.recipe, course.ranks
    last_save = time.monotonic()
    watch = _Watch(state)
    feed = _Feed(training, course)
    epoch = _EpochClock()
    step_seconds = 0.0
    over = progress_of(state, recipe, step_seconds) >= 1 and not state.losses
    while not over:
        progress = progress_of(state, recipe, step_seconds)
        # An earlier run may have been stopped between an epoch's last step and its end.
        if not _epoch_is_over(state, recipe, epoch.seconds, progress):
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(recipe, progress, steps_in_all(state, recipe))
            loss = _step(state, *feed.take(), course, feed.make_ahead)
            _check_steps(state)
            spent = watch.count()
            waited, spent, state.seconds = ranks.as_first(feed.waited(), spent, state.seconds)
            state.iteration += 1
            state.losses.append(loss)
            step_seconds = spent if step_seconds == 0 else 0.9 * step_seconds + 0.1 * spent
            epoch.add(spent, waited)
            progress = progress_of(state, recipe, step_seconds)
            course.on_step(progress, loss)
        if _epoch_is_over(state, recipe, epoch.seconds, progress):
            validated = _validate(state, course, validation, epoch, step_seconds, stopped)
            watch.count()
            (state.seconds,) = ranks.as_first(state.seconds)
            if validated is not None:
                progress = progress_of(state, recipe, step_seconds)
                _end_epoch(state, course, epoch, validated, progress)
                epoch = _EpochClock()
        over = progress >= 1 and not state.losses
        # A checkpoint is due by the clock: epochs can be long.
        if over or time.monotonic() - last_save >= 60 * recipe.checkpoint_minutes:
            course.save()
            last_save = time.monotonic()
        # Pictures and checkpoints count against a time budget like everything else. They don't end the loop, so that
        # every run ends with a report and a checkpoint: at worst after one more step, at rate 0.
        watch.count()
        (state.seconds,) = ranks.as_first(state.seconds)
        if ranks.any(stopped()):
            course.save()
            # A launcher ends all processes when one has ended: not before the checkpoint is written.
            ranks.wait()
            raise KeyboardInterrupt


def train_step(state: TrainState, batch: Batch, course: Course) -> float:
    """One optimizer step on a batch, or on a share of one by each process; returns the loss of the batch."""
    return _step(state, batch.cases, to_tensors(batch, course), course, nothing)


def _step(
    state: TrainState,
    cases: tuple[str, ...],
    augmented: Augmented,
    course: Course,
    meanwhile: Callable[[], None],
) -> float:
    """`train_step` on tensors; `meanwhile` is called when gradients are queued, before anything waits for them."""
    ranks = course.ranks
    state.network.train()
    state.optimizer.zero_grad(set_to_none=True)
    # The running means of batch norm, which a step that is left out must not spoil.
    before = [buffer.clone() for buffer in state.network.buffers()]
    parts = augmented.chunk(len(augmented.images) if course.apart else 1)
    # Then the loss is the mean over the samples of all processes; else it is that of the whole batch already.
    samples = int(ranks.sum(torch.tensor(len(parts)))) if course.apart else 1

    def loss_of(part: Augmented) -> Tensor:
        return step_loss(state.network, part, course)[0] / samples

    ahead = course.num_side_by_side(len(parts))
    weights = list(state.network.parameters())
    losses = add_gradients(weights, parts[:ahead], loss_of, torch.get_num_threads()) if ahead else []
    for number, part in enumerate(parts[ahead:], ahead + 1):
        with course.shared.adding(number == len(parts)) if course.shared else nullcontext():
            loss = loss_of(part)
            # The gradients of the processes are averaged, where they are to be added.
            state.scaler.scale(loss * ranks.size).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), course.recipe.gradient_clip)
    meanwhile()
    if norm.isfinite() or state.scaler.is_enabled():
        # A scaler leaves out steps that overflowed by itself, and lowers its scale.
        state.scaler.step(state.optimizer)
    state.scaler.update()
    if norm.isfinite():
        state.failed_steps = []
    else:
        for buffer, earlier in zip(state.network.buffers(), before, strict=True):
            buffer.copy_(earlier)
        state.failed_steps = [*state.failed_steps, cases]
        state.skipped_steps += 1
    total = sum(float(loss) for loss in losses)
    return float(ranks.sum(torch.tensor(total, dtype=torch.float64))) if course.apart else total


def _check_steps(state: TrainState) -> None:
    """Stop before hours are spent on a training that learns nothing more.

    Raises
    ------
    AutosegError
        Many steps in a row had gradients that are no numbers. Their updates were left out, so the last checkpoint
        is sound.
    """
    if len(state.failed_steps) < MOST_FAILED_STEPS:
        return
    counts = Counter(case for cases in state.failed_steps for case in cases).most_common()
    named = ", ".join(f"{case} ({count})" for case, count in counts[:MOST_NAMED])
    more = f", and {len(counts) - MOST_NAMED} more" if len(counts) > MOST_NAMED else ""
    raise AutosegError(
        "training diverged: the gradients are no numbers any more",
        where=f"iteration {state.iteration}; cases of these batches, and how often: {named}{more}",
        found=f"{len(state.failed_steps)} steps in a row without an update",
        hint="look at these cases (autoseg check), or lower training.initial_learning_rate (--set) "
        "and train with --restart",
    )


def step_loss(network: UNet, batch: Augmented, course: Course) -> tuple[Tensor, list[Tensor]]:
    """Deep-supervision loss of a batch, in the step's precision and memory layout.

    Parameters
    ----------
    network : UNet
    batch : Augmented
        On the course's device.
    course : Course

    Returns
    -------
    loss : Tensor of float32, shape ()
    levels : list of Tensor, shape (B, K, *edges of the level)
        Logits, the finest first.
    """
    weights = level_weights(len(network.heads))
    image = channels_last(batch.images) if course.step.channels_last else batch.images
    with autocast(course.device, course.step.precision):
        deep_logits = (course.shared or network).deep_logits
        if course.step.sample_by_sample:
            each = [deep_logits(sample, len(weights)) for sample in image.chunk(len(image))]
            levels = [torch.cat(level) for level in zip(*each, strict=True)]
        else:
            levels = deep_logits(image, len(weights))
    loss = deep_loss(levels, batch.labels, weights, course.objective)
    if batch.other_labels is not None:
        other = deep_loss(levels, batch.other_labels, weights, course.objective)
        loss = batch.own_share * loss + (1 - batch.own_share) * other
    if course.teacher is not None and course.teacher.record.share > 0:
        share = course.teacher.record.share
        loss = (1 - share) * loss + share * course.teacher.loss(batch.images, levels[0])
    return loss, levels


def to_tensors(batch: Batch, course: Course) -> Augmented:
    """A batch on the device, augmented there."""
    configuration, device = course.configuration, course.device
    regions = pack(
        batch.images,
        batch.labels,
        batch.draws,
        configuration.patch_size,
        batch.moved_values,
        batch.previous,
        num_previous=batch.num_previous,
        pinned=device.type == "cuda",
    )
    augmented = augment(
        regions.to(device),
        batch.draws,
        configuration.patch_size,
        configuration.use_mask_for_norm,
        course.objective.ignore,
    )
    return augmented if batch.kept is None else augmented.of(batch.kept)


class _Feed:
    """Batches on the device. Their numbers are those of the iterations that take them, made ahead or not."""

    def __init__(self, batches: Batches, course: Course) -> None:
        self._batches = batches
        self._course = course
        self._ready: tuple[tuple[str, ...], Augmented] | None = None
        self._waited = 0.0

    def take(self) -> tuple[tuple[str, ...], Augmented]:
        """The next batch and the cases it is of; the one made ahead if there is one."""
        ready = self._ready or self._make()
        self._ready = None
        return ready

    def make_ahead(self) -> None:
        """Make the next batch, where that is to be done ahead."""
        if self._course.ahead:
            self._ready = self._make()

    def waited(self) -> float:
        """Seconds spent waiting for the loader since this was asked last."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _make(self) -> tuple[tuple[str, ...], Augmented]:
        start = time.perf_counter()
        batch = next(self._batches)
        self._waited += time.perf_counter() - start
        return batch.cases, to_tensors(batch, self._course)


def nothing(*_: object) -> None:
    """Whatever happens, do nothing about it."""


class _Watch:
    """Adds to the state's seconds what goes by."""

    def __init__(self, state: TrainState) -> None:
        self.state = state
        self.mark = time.perf_counter()

    def count(self) -> float:
        """Add the time since the last call, which is returned."""
        now = time.perf_counter()
        spent, self.mark = now - self.mark, now
        self.state.seconds += spent
        return spent


@dataclass(slots=True)
class _EpochClock:
    """Time spent in the current epoch by this run."""

    seconds: float = 0.0
    waiting: float = 0.0
    steps: int = 0

    def add(self, seconds: float, waiting: float) -> None:
        """Count one step."""
        self.seconds += seconds
        self.waiting += waiting
        self.steps += 1


def progress_of(state: TrainState, recipe: Training, step_seconds: float) -> float:
    """Share of the schedule done, by count or by time; once patience ran out, its rest is run through quickly."""
    begin, end, before = state.plateau.annealing or (0, _planned(recipe), 0.0)
    done = _done(state, recipe) - begin
    if recipe.max_hours is None:
        share = progress_by_count(done, end - begin)
    else:
        share = progress_by_time(done, end - begin, step_seconds)
    return 1.0 if share >= 1 else before + (1.0 - before) * share


def steps_in_all(state: TrainState, recipe: Training) -> float:
    """Steps of the whole schedule; by time as many as fit at the pace so far, and without end before the first one."""
    if recipe.max_hours is None:
        return _planned(recipe)
    return _planned(recipe) * state.iteration / state.seconds if state.iteration else inf


def _done(state: TrainState, recipe: Training) -> float:
    """Iterations, or seconds where the time is what was set."""
    return state.iteration if recipe.max_hours is None else state.seconds


def _planned(recipe: Training) -> float:
    """As many as the whole schedule has."""
    return recipe.epochs * recipe.iterations_per_epoch if recipe.max_hours is None else 3600 * recipe.max_hours


def _epoch_is_over(state: TrainState, recipe: Training, seconds: float, progress: float) -> bool:
    if not state.losses:
        return False
    if recipe.max_hours is not None and seconds >= max(LEAST_EPOCH_SECONDS, 3600 * recipe.max_hours / BUDGET_EPOCHS):
        return True
    return progress >= 1 or len(state.losses) >= recipe.iterations_per_epoch


@dataclass(frozen=True, slots=True)
class _Validated:
    """Loss of each validation batch, Dice of each foreground label over all of them pooled, and of whole cases."""

    losses: list[float]
    dice: list[float | None]
    whole_cases: dict[str, float | None]


def _validate(
    state: TrainState,
    course: Course,
    batches: Batches,
    epoch: _EpochClock,
    step_seconds: float,
    stopped: Callable[[], bool],
) -> _Validated | None:
    """Validate on patches, and now and then on whole cases; None where the user asked to stop meanwhile."""
    count = _num_validation_batches(course.recipe, epoch.seconds, step_seconds)
    patches = _validate_patches(state, course, batches, count, stopped)
    if patches is None:
        return None
    losses, dice = patches
    whole: dict[str, float | None] | None = {}
    sample_seconds = step_seconds / course.configuration.batch_size
    if (
        course.whole_cases is not None
        and progress_of(state, course.recipe, step_seconds) < 1  # after the last epoch every case is predicted
        and is_due(state.epoch, course.recipe, course.whole_cases, sample_seconds, epoch.seconds)
    ):
        # A large case takes minutes, longer than a scheduler may wait after it asked to stop.
        course.save()
        # The first process alone, while the others wait for what came of it.
        whole = predict_whole(state.network, course.whole_cases, stopped) if course.ranks.is_first else {}
        (left_off,) = course.ranks.as_first(whole is None)
        whole = None if left_off else whole
    return None if whole is None else _Validated(losses, dice, whole)


def _num_validation_batches(recipe: Training, epoch_seconds: float, step_seconds: float) -> int:
    """As many as the recipe says; under a time budget, against which they count, what a share of the epoch allows."""
    count = recipe.validation_iterations
    if recipe.max_hours is None or not count:
        return count
    return max(1, min(count, int(epoch_seconds * MOST_SHARE / max(step_seconds * FORWARD_SHARE, 1e-9))))


@torch.no_grad()
def _validate_patches(
    state: TrainState, course: Course, batches: Batches, count: int, stopped: Callable[[], bool]
) -> tuple[list[float], list[float | None]] | None:
    """Loss of each validation batch, and Dice of each foreground label over all of them pooled; None if stopped."""
    losses = []
    counts = torch.zeros(2, 1, dtype=torch.float64)
    # As in prediction: batch norm goes by its running statistics, and learns nothing from these cases.
    state.network.eval()
    for _ in range(count):
        if course.ranks.any(stopped()):
            return None
        batch = to_tensors(next(batches), course)
        loss, levels = step_loss(state.network, batch, course)
        if course.apart:
            loss = course.ranks.mean(loss.cpu(), len(batch.images))
        losses.append(float(loss))
        counts = counts + overlap_counts(levels[0], batch.labels, course.objective)
    counts = course.ranks.sum(counts)
    return losses, [float(2 * hit / size) if size else None for hit, size in counts.T] if count else []


def _end_epoch(state: TrainState, course: Course, epoch: _EpochClock, validated: _Validated, progress: float) -> None:
    """Report the epoch that ends here, and begin the next one."""
    recipe = course.recipe
    plateau = follow(state.plateau, _mean(validated.dice))
    out_of_patience = recipe.patience is not None and plateau.waited >= recipe.patience
    if out_of_patience and plateau.annealing is None and progress < 1:
        # By count the stretch ends with an epoch; by time there is nothing to round to.
        unit = recipe.iterations_per_epoch if recipe.max_hours is None else 1
        stretch = annealing(_done(state, recipe), _planned(recipe), progress, unit)
        plateau = replace(plateau, annealing=stretch)
        left = stretch[1] - stretch[0]
        log.info(
            "no better patch Dice for %d epochs: the learning rate falls to zero within the next %s",
            plateau.waited,
            f"{left:.0f} iterations" if recipe.max_hours is None else f"{left / 60:.1f} min",
        )
    state.plateau = plateau
    course.on_epoch(
        EpochReport(
            epoch=state.epoch,
            iterations=state.iteration,
            train_loss=_mean(state.losses),
            validation_loss=_mean(validated.losses),
            patch_dice=_mean(validated.dice),
            patch_dice_per_label=[None if value is None else round(value, 4) for value in validated.dice],
            smoothed_patch_dice=plateau.smoothed,
            whole_case_dice=_mean(list(validated.whole_cases.values())),
            whole_case_dice_per_case=validated.whole_cases,
            skipped_steps=state.skipped_steps,
            learning_rate=learning_rate(recipe, progress, steps_in_all(state, recipe)),
            seconds=round(state.seconds, 3),
            waiting_share=round(epoch.waiting / max(epoch.seconds, 1e-9), 4),
            samples_per_second=round(epoch.steps * course.configuration.batch_size / max(epoch.seconds, 1e-9), 3),
        )
    )
    state.epoch += 1
    state.losses = []
    state.skipped_steps = 0


def _mean(values: Sequence[float | None]) -> float | None:
    """Of the values that are finite numbers; None where there is none."""
    finite = [value for value in values if value is not None and isfinite(value)]
    return float(np.mean(finite)) if finite else None
