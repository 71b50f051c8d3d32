"""The network that is best in a given time: a model of the Dice that is lost, and the choice that follows from it.

docs/explanation/budget.md tells the model and what its numbers rest on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, prod

from autoseg.artifacts.budget import BudgetChoice, TimedNetwork
from autoseg.artifacts.plan import Configuration, Training

# Of the time, what is left for steps; the rest is for loading, patches of validation, pictures and checkpoints.
STEPS_SHARE = 0.9
USUAL_STEPS = Training().epochs * Training().iterations_per_epoch
# Too short a training: Dice lost after 1000 steps of the network as planned, and the power by which that falls.
LOSS_AT_1000_STEPS = 0.03
STEPS_EXPONENT = 0.55
# A step of a smaller network, or of fewer voxels, teaches less: what it is worth, as powers of width and voxels.
WIDTH_EXPONENT = 0.4
VOXELS_EXPONENT = 0.5
# Too small a network: Dice lost for good when it is halved; in width four times as much when it is halved twice.
LOSS_PER_HALF_WIDTH = 0.005
LOSS_PER_HALF_PATCH = 0.02
LOSS_PER_HALF_BATCH = 0.001


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network, and how long its training step takes.

    Attributes
    ----------
    configuration : Configuration
    seconds_per_step : float
    measured : bool
        False: derived from one that was.
    """

    configuration: Configuration
    seconds_per_step: float
    measured: bool


def choose(candidates: Sequence[Candidate], planned: Configuration, hours: float) -> Candidate:
    """The candidate that is expected to lose least; the network as planned if its usual schedule fits the time.

    Notes
    -----
    The loss of each candidate is a h^-p + c with hours h, and p the same for all. As h grows, what the best of them
    gives up for good, c, can therefore only fall: more time never makes the choice a worse network.
    """
    usual = next((each for each in candidates if each.configuration == planned), None)
    if usual is not None and usual_schedule_fits(usual, hours):
        return usual
    # Of equals the one that gives up less.
    return min(
        candidates,
        key=lambda each: (weigh(each, planned, hours).loss, weigh(each, planned, hours).loss_by_size),
    )


def usual_schedule_fits(candidate: Candidate, hours: float) -> bool:
    """Whether as many steps as are usual without a limit fit the time."""
    return _steps(candidate, hours) >= USUAL_STEPS


def weigh(candidate: Candidate, planned: Configuration, hours: float) -> TimedNetwork:
    """A candidate with the Dice that it is expected to lose.

    Parameters
    ----------
    candidate : Candidate
    planned : Configuration
        What it is smaller than.
    hours : float
    """
    made = candidate.configuration
    halved_width = _halvings(made.features_per_stage[0], planned.features_per_stage[0])
    halved_patch = _halvings(prod(made.patch_size), prod(planned.patch_size))
    halved_batch = _halvings(made.batch_size, planned.batch_size)
    steps = _steps(candidate, hours)
    worth = steps / 2 ** (WIDTH_EXPONENT * halved_width + VOXELS_EXPONENT * (halved_patch + halved_batch))
    return TimedNetwork(
        patch_size=made.patch_size,
        batch_size=made.batch_size,
        features_per_stage=made.features_per_stage,
        seconds_per_step=candidate.seconds_per_step,
        measured=candidate.measured,
        steps=steps,
        loss_by_time=LOSS_AT_1000_STEPS * (1000 / worth) ** STEPS_EXPONENT,
        loss_by_size=(
            LOSS_PER_HALF_WIDTH * halved_width**2
            + LOSS_PER_HALF_PATCH * halved_patch
            + LOSS_PER_HALF_BATCH * halved_batch
        ),
    )


def record(candidates: Sequence[Candidate], chosen: Candidate, planned: Configuration, hours: float) -> BudgetChoice:
    """What was looked at and chosen, as plan.json keeps it."""
    usual = next((each for each in candidates if each.configuration == planned), None)
    return BudgetChoice(
        planned=None if usual is None else weigh(usual, planned, hours),
        chosen=weigh(chosen, planned, hours),
        usual_schedule_fits=usual is not None and usual_schedule_fits(usual, hours),
        tried=tuple(weigh(each, planned, hours) for each in candidates if each.measured),
    )


def _steps(candidate: Candidate, hours: float) -> float:
    return STEPS_SHARE * 3600 * hours / candidate.seconds_per_step


def _halvings(now: float, before: float) -> float:
    return log2(before / now)
