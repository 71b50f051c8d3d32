"""How far training is, and the learning rate there."""

from collections.abc import Callable
from math import cos, pi

from autoseg.artifacts.plan import ScheduleName, Training

# Where warm-up begins, as a share of the initial rate: at 0 the first step would change nothing.
WARMUP_START = 0.01


def learning_rate(recipe: Training, progress: float) -> float:
    """Learning rate at `progress` of the training, 0 at the start and 1 at the end.

    Notes
    -----
    Warm-up is linear. What follows is the whole of the schedule, in the time that is left, so that it always ends
    at 0.
    """
    progress = min(max(progress, 0.0), 1.0)
    warm = recipe.warmup_share
    if progress < warm:
        return recipe.initial_learning_rate * (WARMUP_START + (1 - WARMUP_START) * progress / warm)
    annealed = SCHEDULES[recipe.schedule](recipe, (progress - warm) / (1 - warm))
    return recipe.initial_learning_rate * annealed


def _poly(recipe: Training, progress: float) -> float:
    return float((1.0 - progress) ** recipe.poly_exponent)


def _cosine(_: Training, progress: float) -> float:
    """Loshchilov and Hutter 2017, without restarts."""
    return (1 + cos(pi * progress)) / 2


SCHEDULES: dict[ScheduleName, Callable[[Training, float], float]] = {"poly": _poly, "cosine": _cosine}


def progress_by_count(iterations_done: float, iterations_in_all: float) -> float:
    """Share of the iterations done."""
    return iterations_done / iterations_in_all


def progress_by_time(seconds_spent: float, seconds_in_all: float, step_seconds: float) -> float:
    """Share of a time budget spent, such that the last step that fits is taken at the very end of the schedule.

    Parameters
    ----------
    seconds_spent : float
        Before the step to be taken.
    seconds_in_all : float
    step_seconds : float
        What a step takes at present.

    Notes
    -----
    The rate follows the clock rather than a number of iterations guessed at the start, so that it reaches zero in
    time however the machine's speed drifts.
    """
    return min(1.0, seconds_spent / max(seconds_in_all - step_seconds, 1e-9))
