"""What a budget gave up, in words: for plan.md and for the command."""

from collections.abc import Iterator

from autoseg.artifacts.budget import Budget, BudgetChoice, TimedNetwork
from autoseg.plan.budget import USUAL_STEPS
from autoseg.plan.reasons import OURS, Choice, by, source

MOST_SHOWN_LOSS = 0.5


def budget_lines(made: Budget | None) -> list[str]:
    """What was given up, a line or two for each configuration."""
    if made is None:
        return []
    return [f"{name}: {line}" for name, choice in made.configurations.items() for line in _told(choice, made.hours)]


def budget(made: Budget) -> Choice:
    """What was measured for a budget, and chosen."""
    measured = (
        f"{name}, {_network(each)}: {each.seconds_per_step:.3g} s a step, {each.steps:,.0f} steps, expected to lose "
        f"{_dice(each.loss_by_time)} for the time and {_dice(each.loss_by_size)} for its size"
        for name, choice in made.configurations.items()
        for each in choice.tried
    )
    return Choice(
        "Budget",
        "of the network as planned and smaller ones, the one expected to lose least Dice by too short a training "
        f"and too small a network together; if {USUAL_STEPS:,} steps as planned fit the time, the plan stays as it is.",
        (f"{made.hours:g} h of training a fold on {made.device}", *measured),
        tuple(budget_lines(made)) or ("nothing: no step could be measured",),
        (),
        source(OURS, "budget"),
    )


def _told(choice: BudgetChoice, hours: float) -> Iterator[str]:
    chosen, planned = choice.chosen, choice.planned
    if choice.usual_schedule_fits:
        yield f"gave up nothing: the usual {USUAL_STEPS:,} steps fit {hours:g} h, {chosen.seconds_per_step:.3g} s each"
        return
    gave_up = [] if planned is None else list(_differences(planned, chosen))
    about = "" if chosen.measured else "about "
    yield (
        f"gave up {', '.join(gave_up) or 'none of the network'}: {about}{chosen.seconds_per_step:.3g} s a step, "
        f"{chosen.steps:,.0f} steps in {hours:g} h where {USUAL_STEPS:,} are usual"
    )
    instead = ""
    if planned is not None and planned != chosen:
        instead = f"; as planned {'' if planned.measured else 'at least '}{_dice(planned.loss)}"
    yield (
        f"expected to lose {_dice(chosen.loss)} Dice, {_dice(chosen.loss_by_time)} for the time and "
        f"{_dice(chosen.loss_by_size)} for its size{instead}"
    )


def _differences(planned: TimedNetwork, chosen: TimedNetwork) -> Iterator[str]:
    width, narrower = planned.features_per_stage[0], chosen.features_per_stage[0]
    if narrower != width:
        yield f"width {width} -> {narrower}"
    if chosen.patch_size != planned.patch_size:
        yield f"patch {by(planned.patch_size)} -> {by(chosen.patch_size)}"
    if chosen.batch_size != planned.batch_size:
        yield f"batch {planned.batch_size} -> {chosen.batch_size}"


def _network(network: TimedNetwork) -> str:
    return f"width {network.features_per_stage[0]}, batch {network.batch_size} of {by(network.patch_size)}"


def _dice(loss: float) -> str:
    """A loss of Dice; the model is no good where nearly everything is lost."""
    return f"{loss:.3f}" if loss < MOST_SHOWN_LOSS else "nearly all"
