"""The training loop, top to bottom."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import Configuration, Training
from autoseg.networks.device import autocast, channels_last
from autoseg.networks.unet import UNet
from autoseg.train.augment import augment
from autoseg.train.loading import Batch, Batches
from autoseg.train.losses import deep_loss, level_weights, overlap_counts
from autoseg.train.schedule import poly_rate, progress_by_count, progress_by_time
from autoseg.train.state import TrainState

# Under a time budget an epoch, after which progress is shown, is at most this share of it.
BUDGET_EPOCHS = 50
BUDGET_VALIDATION_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One line of metrics.jsonl.

    Attributes
    ----------
    patch_dice : float or None
        Mean foreground Dice over validation patches pooled: quick and noisy, not the Dice of whole cases.
    patch_dice_per_label : list of float or None
    learning_rate : float
        At the end of the epoch.
    waiting_share : float
        Share of the time spent waiting for data.
    """

    epoch: int
    iterations: int
    train_loss: float
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
    """

    configuration: Configuration
    recipe: Training
    device: torch.device
    step: StepStyle
    on_step: Callable[[float, float], None]
    on_epoch: Callable[[EpochReport], None]
    save: Callable[[], None]


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
        Whether the user asked to stop; looked at between iterations, so that what is saved is never half a step.

    Raises
    ------
    KeyboardInterrupt
        The user asked to stop; a checkpoint is written.

    Notes
    -----
    The learning rate falls with each iteration, not with each epoch as in nnU-Net: over 1000 epochs the two agree to
    0.1 %, and in a short training no epoch is spent at a rate that is too high.
    """
    recipe = course.recipe
    last_save = time.monotonic()
    epoch = _EpochClock()
    step_seconds = 0.0
    while (progress := progress_of(state, recipe, step_seconds)) < 1:
        start = time.perf_counter()
        for group in state.optimizer.param_groups:
            group["lr"] = poly_rate(recipe.initial_learning_rate, recipe.poly_exponent, progress)
        batch = next(training)
        waited = time.perf_counter() - start
        loss = train_step(state, batch, course)
        spent = time.perf_counter() - start
        state.iteration += 1
        state.seconds += spent
        state.losses.append(loss)
        step_seconds = spent if step_seconds == 0 else 0.9 * step_seconds + 0.1 * spent
        epoch.add(spent, waited)
        after = progress_of(state, recipe, step_seconds)
        course.on_step(after, loss)
        if _epoch_is_over(state, recipe, epoch.seconds) or after >= 1:
            report = _validate(state, course, validation, epoch, step_seconds)
            state.epoch += 1
            state.losses = []
            epoch = _EpochClock()
            course.on_epoch(report)
        # A checkpoint is due by the clock: epochs can be long.
        if time.monotonic() - last_save >= 60 * recipe.checkpoint_minutes or after >= 1:
            course.save()
            last_save = time.monotonic()
        if stopped():
            course.save()
            raise KeyboardInterrupt


def train_step(state: TrainState, batch: Batch, course: Course) -> float:
    """One optimizer step on a batch; returns the loss."""
    image, label = to_tensors(batch, course.configuration, course.device)
    state.network.train()
    state.optimizer.zero_grad(set_to_none=True)
    total = 0.0
    parts = len(image) if course.step.sample_by_sample else 1
    for part, truth in zip(image.chunk(parts), label.chunk(parts), strict=True):
        loss = step_loss(state.network, part, truth, course) / parts
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    state.scaler.unscale_(state.optimizer)
    nn.utils.clip_grad_norm_(state.network.parameters(), course.recipe.gradient_clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return total


def step_loss(network: UNet, image: Tensor, label: Tensor, course: Course) -> Tensor:
    """Deep-supervision loss of a batch."""
    weights = level_weights(len(network.heads))
    levels = forward_levels(network, image, len(weights), course)
    return deep_loss(levels, label, weights, batch_dice=course.configuration.batch_dice)


def forward_levels(network: UNet, image: Tensor, num_levels: int, course: Course) -> list[Tensor]:
    """Logits of the finest levels, in the step's precision and memory layout."""
    if course.step.sample_by_sample:
        image = channels_last(image)
    with autocast(course.device, course.step.precision):
        return network.deep_logits(image, num_levels)


def to_tensors(batch: Batch, configuration: Configuration, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch on the device, augmented there."""
    images = [torch.from_numpy(image).to(device, non_blocking=True) for image in batch.images]
    labels = [torch.from_numpy(label).to(device, non_blocking=True) for label in batch.labels]
    return augment(images, labels, batch.draws, configuration.patch_size, configuration.use_mask_for_norm)


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
    if recipe.max_hours is not None and seconds >= 3600 * recipe.max_hours / BUDGET_EPOCHS:
        return True
    return len(state.losses) >= recipe.iterations_per_epoch


@torch.no_grad()
def _validate(
    state: TrainState, course: Course, batches: Batches, epoch: _EpochClock, step_seconds: float
) -> EpochReport:
    """Loss and pooled Dice on validation patches, and the epoch's report."""
    recipe = course.recipe
    limit = recipe.validation_iterations
    if recipe.max_hours is not None and limit:
        # Validation counts against the budget; a forward pass is about a third of a step.
        limit = max(1, min(limit, int(epoch.seconds * BUDGET_VALIDATION_SHARE / max(step_seconds / 3, 1e-9))))
    start = time.perf_counter()
    losses = []
    counts = torch.zeros(2, 1, dtype=torch.float64)
    # The mode stays "train": instance norm has no running statistics, so nothing differs.
    for _ in range(limit):
        image, label = to_tensors(next(batches), course.configuration, course.device)
        weights = level_weights(len(state.network.heads))
        levels = forward_levels(state.network, image, len(weights), course)
        losses.append(float(deep_loss(levels, label, weights, batch_dice=course.configuration.batch_dice)))
        counts = counts + overlap_counts(levels[0], label)
    state.seconds += time.perf_counter() - start
    dice = [float(2 * hit / size) if size else None for hit, size in counts.T] if limit else []
    present = [value for value in dice if value is not None]
    return EpochReport(
        epoch=state.epoch,
        iterations=state.iteration,
        train_loss=float(np.mean(state.losses)),
        validation_loss=float(np.mean(losses)) if losses else None,
        patch_dice=float(np.mean(present)) if present else None,
        patch_dice_per_label=_rounded(dice),
        learning_rate=poly_rate(
            recipe.initial_learning_rate, recipe.poly_exponent, progress_of(state, recipe, step_seconds)
        ),
        seconds=round(state.seconds, 3),
        waiting_share=round(epoch.waiting / max(epoch.seconds, 1e-9), 4),
        samples_per_second=round(epoch.steps * course.configuration.batch_size / max(epoch.seconds, 1e-9), 3),
    )


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 4) for value in values]
