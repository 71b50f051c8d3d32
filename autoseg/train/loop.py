"""The training loop, top to bottom."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from torch import Tensor, nn

from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import Configuration, Training
from autoseg.errors import AutosegError
from autoseg.networks.device import autocast, channels_last
from autoseg.networks.unet import UNet
from autoseg.train.augment import augment
from autoseg.train.distributed import ALONE, Ranks, SharedNetwork
from autoseg.train.loading import Batch, Batches
from autoseg.train.losses import Objective, deep_loss, level_weights, overlap_counts
from autoseg.train.schedule import learning_rate, progress_by_count, progress_by_time
from autoseg.train.state import TrainState

# Under a time budget an epoch, after which progress is shown, is at most this share of it.
BUDGET_EPOCHS = 50
LEAST_EPOCH_SECONDS = 5.0  # a picture and a validation batch each epoch would eat up a short budget
BUDGET_VALIDATION_SHARE = 0.05
# A scale of float16's losses takes some failures to settle; more than these in a row are no accident.
MOST_FAILED_STEPS = 30


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One line of metrics.jsonl.

    Attributes
    ----------
    train_loss, validation_loss : float or None
        Means over the steps with a finite loss; None where there were none.
    patch_dice : float or None
        Mean foreground Dice over validation patches pooled: quick and noisy, not the Dice of whole cases.
    patch_dice_per_label : list of float or None
        In the order of the foreground labels or regions; None where neither truth nor prediction has any.
    learning_rate : float
        At the end of the epoch.
    waiting_share : float
        Share of the time spent waiting for data.
    """

    epoch: int
    iterations: int
    train_loss: float | None
    validation_loss: float | None
    patch_dice: float | None
    patch_dice_per_label: list[float | None]
    learning_rate: float
    seconds: float
    waiting_share: float
    samples_per_second: float


@dataclass(frozen=True, slots=True)
class Course:
    """What the loop follows.

    Attributes
    ----------
    on_step : callable
        Called after each iteration with the share of training done and the loss.
    on_epoch : callable
        Called with each epoch's report.
    save : callable
        Writes a checkpoint.
    ranks : Ranks
        The processes that train together. Batches are then this one's shares, and the objective that of all, except
        where samples pass one after the other.
    shared : SharedNetwork or None
        The network as these processes share it.
    """

    configuration: Configuration
    objective: Objective
    recipe: Training
    device: torch.device
    step: StepStyle
    on_step: Callable[[float, float], None]
    on_epoch: Callable[[EpochReport], None]
    save: Callable[[], None]
    ranks: Ranks = ALONE
    shared: SharedNetwork | None = None


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
    epoch = _EpochClock()
    step_seconds = 0.0
    over = progress_of(state, recipe, step_seconds) >= 1
    while not over:
        progress = progress_of(state, recipe, step_seconds)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, progress)
        batch = next(training)
        waited = watch.count()
        loss = train_step(state, batch, course)
        _check_steps(state)
        waited, spent, state.seconds = ranks.as_first(waited, waited + watch.count(), state.seconds)
        state.iteration += 1
        state.losses.append(loss)
        step_seconds = spent if step_seconds == 0 else 0.9 * step_seconds + 0.1 * spent
        epoch.add(spent, waited)
        after = progress_of(state, recipe, step_seconds)
        course.on_step(after, loss)
        if _epoch_is_over(state, recipe, epoch.seconds) or after >= 1:
            losses, dice = _validate(state, course, validation, epoch, step_seconds)
            watch.count()
            (state.seconds,) = ranks.as_first(state.seconds)
            after = progress_of(state, recipe, step_seconds)
            course.on_epoch(_report(state, course, epoch, losses, dice, after))
            state.epoch += 1
            state.losses = []
            epoch = _EpochClock()
        over = after >= 1
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
    ranks = course.ranks
    image, label = to_tensors(batch, course.configuration, course.device)
    state.network.train()
    state.optimizer.zero_grad(set_to_none=True)
    total = 0.0
    parts = len(image) if course.step.sample_by_sample else 1
    # Then the loss is the mean over the samples of all processes; else it is that of the whole batch already.
    samples = int(ranks.sum(torch.tensor(parts))) if course.step.sample_by_sample else 1
    for number, (part, truth) in enumerate(zip(image.chunk(parts), label.chunk(parts), strict=True), 1):
        with course.shared.adding(number == parts) if course.shared else nullcontext():
            loss = step_loss(state.network, part, truth, course)[0] / samples
            # The gradients of the processes are averaged, where they are to be added.
            state.scaler.scale(loss * ranks.size).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    if course.step.sample_by_sample:
        total = float(ranks.sum(torch.tensor(total, dtype=torch.float64)))
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), course.recipe.gradient_clip)
    if norm.isfinite() or state.scaler.is_enabled():
        # A scaler leaves out steps that overflowed by itself, and lowers its scale.
        state.scaler.step(state.optimizer)
    state.scaler.update()
    state.failed_steps = 0 if norm.isfinite() else state.failed_steps + 1
    return total


def _check_steps(state: TrainState) -> None:
    """Stop before hours are spent on a training that learns nothing more.

    Raises
    ------
    AutosegError
        Many steps in a row had gradients that are no numbers. Their updates were left out, so the last checkpoint
        is sound.
    """
    if state.failed_steps >= MOST_FAILED_STEPS:
        raise AutosegError(
            "training diverged: the gradients are no numbers any more",
            where=f"iteration {state.iteration}",
            found=f"{state.failed_steps} steps in a row without an update",
            hint="lower training.initial_learning_rate (--set) and train with --restart",
        )


def step_loss(network: UNet, image: Tensor, label: Tensor, course: Course) -> tuple[Tensor, list[Tensor]]:
    """Deep-supervision loss of a batch, and the logits of its levels, in the step's precision and memory layout."""
    weights = level_weights(len(network.heads))
    if course.step.sample_by_sample:
        image = channels_last(image)
    with autocast(course.device, course.step.precision):
        levels = (course.shared or network).deep_logits(image, len(weights))
    return deep_loss(levels, label, weights, course.objective), levels


def to_tensors(batch: Batch, configuration: Configuration, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch on the device, augmented there."""
    images = [torch.from_numpy(image).to(device, non_blocking=True) for image in batch.images]
    labels = [torch.from_numpy(label).to(device, non_blocking=True) for label in batch.labels]
    return augment(images, labels, batch.draws, configuration.patch_size, configuration.use_mask_for_norm)


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
    """Share of the schedule done, by count or by time."""
    if recipe.max_hours is None:
        return progress_by_count(state.iteration, recipe.epochs * recipe.iterations_per_epoch)
    return progress_by_time(state.seconds, 3600 * recipe.max_hours, step_seconds)


def _epoch_is_over(state: TrainState, recipe: Training, seconds: float) -> bool:
    if recipe.max_hours is not None and seconds >= max(LEAST_EPOCH_SECONDS, 3600 * recipe.max_hours / BUDGET_EPOCHS):
        return True
    return len(state.losses) >= recipe.iterations_per_epoch


@torch.no_grad()
def _validate(
    state: TrainState, course: Course, batches: Batches, epoch: _EpochClock, step_seconds: float
) -> tuple[list[float], list[float | None]]:
    """Loss of each validation batch, and Dice of each foreground label over all of them pooled."""
    recipe = course.recipe
    limit = recipe.validation_iterations
    if recipe.max_hours is not None and limit:
        # Validation counts against the budget; a forward pass is about a third of a step.
        limit = max(1, min(limit, int(epoch.seconds * BUDGET_VALIDATION_SHARE / max(step_seconds / 3, 1e-9))))
    losses = []
    counts = torch.zeros(2, 1, dtype=torch.float64)
    # The mode stays "train": instance norm has no running statistics, so nothing differs.
    for _ in range(limit):
        image, label = to_tensors(next(batches), course.configuration, course.device)
        loss, levels = step_loss(state.network, image, label, course)
        if course.step.sample_by_sample:
            loss = course.ranks.mean(loss.cpu(), len(image))
        losses.append(float(loss))
        counts = counts + overlap_counts(levels[0], label, course.objective)
    counts = course.ranks.sum(counts)
    return losses, [float(2 * hit / size) if size else None for hit, size in counts.T] if limit else []


def _report(
    state: TrainState,
    course: Course,
    epoch: _EpochClock,
    losses: Sequence[float],
    dice: Sequence[float | None],
    progress: float,
) -> EpochReport:
    """The epoch that ends here, as it goes into metrics.jsonl."""
    recipe = course.recipe
    trained, validated = ([loss for loss in each if isfinite(loss)] for each in (state.losses, losses))
    present = [value for value in dice if value is not None]
    return EpochReport(
        epoch=state.epoch,
        iterations=state.iteration,
        train_loss=float(np.mean(trained)) if trained else None,
        validation_loss=float(np.mean(validated)) if validated else None,
        patch_dice=float(np.mean(present)) if present else None,
        patch_dice_per_label=[None if value is None else round(value, 4) for value in dice],
        learning_rate=learning_rate(recipe, progress),
        seconds=round(state.seconds, 3),
        waiting_share=round(epoch.waiting / max(epoch.seconds, 1e-9), 4),
        samples_per_second=round(epoch.steps * course.configuration.batch_size / max(epoch.seconds, 1e-9), 3),
    )
