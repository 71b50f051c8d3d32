"""How far training is, and the learning rate there."""

from collections.abc import Callable
from math import cos, pi

from autoseg.artifacts.plan import ScheduleName, Training

# Where warm-up begins, as a share of the initial rate: at 0 the first step would change nothing.
WARMUP_START = 0.01
# Of SGD, and of AdamW.
USUAL_RATE, ADAMW_RATE = 0.01, 0.0003
# SGD's rate times the steps of a training is no less than this, unless the rate came to more than the second.
SHORT_RATE_STEPS, MOST_RATE = 80.0, 0.05


def initial_rate(recipe: Training, steps: float) -> float:
    """The rate that the schedule begins with, and ends at zero from.

    Parameters
    ----------
    recipe : Training
    steps : float
        Of the whole training, as far as is known.

    Notes
    -----
    nnU-Net has 0.01 for 250,000 steps, which is too low where there are but a few thousand: they end long before such
    a rate has got anywhere. docs/how-to/learning-rate.md has what was measured.
    """
    if recipe.initial_learning_rate is not None:
        return recipe.initial_learning_rate
    if recipe.optimizer == "adamw":
        return ADAMW_RATE
    return min(MOST_RATE, max(USUAL_RATE, SHORT_RATE_STEPS / steps))


def learning_rate(recipe: Training, progress: float, steps: float) -> float:
    """Learning rate at `progress` of the training, 0 at the start and 1 at the end.

    Parameters
    ----------
    recipe : Training
    progress : float
    steps : float
        As in `initial_rate`.

    Notes
    -----
    Warm-up is linear. What follows is the whole of the schedule, in the time that is left, so that it always ends
    at 0.
    """
    progress, highest = min(max(progress, 0.0), 1.0), initial_rate(recipe, steps)
    warm = recipe.warmup_share
    if progress < warm:
        return highest * (WARMUP_START + (1 - WARMUP_START) * progress / warm)
    annealed = SCHEDULES[recipe.schedule](recipe, (progress - warm) / (1 - warm))
    return highest * annealed


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
