"""Smaller networks in place of a planned one, and how long their training steps take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from msgspec.structs import replace

from autoseg.artifacts.plan import Configuration
from autoseg.plan.budget import Candidate, choose
from autoseg.plan.configurations import network_fields
from autoseg.plan.patch import REFERENCE_BATCH, shrink
from autoseg.plan.presets import Preset
from autoseg.plan.topology import topology

WIDTHS = (1.0, 0.75, 0.5, 0.25)
# Features are multiples of this, as processors and GPUs like them.
FEATURES_STEP = 8
# Smallest patch of a candidate, as a share of the voxels planned; each is about half the one before.
SMALLEST_PATCH = 1 / 8
# Measuring takes about so many steps.
STEPS_TO_MEASURE = 5

Seconds = Callable[[Configuration], float | None]


@dataclass(frozen=True, slots=True)
class Paced:
    """Candidates with what is known of their steps, and the choice among them."""

    candidates: tuple[Candidate, ...]
    chosen: Candidate


def smaller(planned: Configuration, *, num_labels: int, preset: Preset) -> list[Configuration]:
    """The network as planned and those made of it: every width with every patch and every batch.

    Parameters
    ----------
    planned : Configuration
    num_labels : int
    preset : Preset

    Returns
    -------
    list of Configuration
        The first is `planned`. Patches are some that the planner's own search would come to, with the strides that it
        would give them; batches are halved down to the 2 patches, or 12 of 2D, that the planner's search reckons with.
    """
    made: dict[Configuration, None] = {}
    for patched in _patches(planned, num_labels, preset):
        for width in WIDTHS:
            for batch_size in _batches(planned):
                made[replace(_narrowed(patched, width), batch_size=batch_size)] = None
    return list(made)


def pace(
    candidates: Sequence[Configuration], hours: float, seconds: Seconds, seconds_left: Callable[[], float]
) -> Paced | None:
    """Measure few candidates and derive the others, until the one that would be chosen was measured.

    Parameters
    ----------
    candidates : sequence of Configuration
        The first as planned.
    hours : float
        What is chosen for.
    seconds : callable
        Measures a training step; None where it does not fit the memory.
    seconds_left : callable
        For measuring. What is expected to take longer is not measured.

    Returns
    -------
    Paced or None
        None where there was no time to measure anything.

    Notes
    -----
    First comes the planned network on the smallest patch with the smallest batch, then the network as planned where
    there is time for it, then whichever would be chosen. What was not measured counts with the least that its step can
    take by those that were (`_at_least`), so it is measured before it can be chosen, and one that is passed over would
    not have been chosen. When the time is up, these bounds decide alone.
    """
    planned = candidates[0]
    known: dict[Configuration, float] = {}
    left = list(candidates)

    def measure(candidate: Configuration) -> None:
        taken = seconds(candidate)
        left.remove(candidate)
        if taken is not None:
            known[candidate] = taken

    if seconds_left() <= 0:
        return None
    full_width = [each for each in candidates if each.features_per_stage[0] == planned.features_per_stage[0]]
    measure(min(full_width, key=lambda each: prod(each.patch_size) * each.batch_size))
    if planned in left and STEPS_TO_MEASURE * _at_least(planned, known) < seconds_left():
        measure(planned)
    while True:
        unknown = [Candidate(each, _at_least(each, known), measured=False) for each in left]
        paced = (*(Candidate(each, taken, measured=True) for each, taken in known.items()), *unknown)
        if not paced:
            return None
        chosen = choose(paced, planned, hours)
        if chosen.measured or STEPS_TO_MEASURE * chosen.seconds_per_step > seconds_left():
            return Paced(paced, chosen) if known else None
        measure(chosen.configuration)


def _at_least(configuration: Configuration, known: Mapping[Configuration, float]) -> float:
    """The least seconds that a step can be expected to take by each that was measured; next to none where none was.

    Notes
    -----
    Time grows with the voxels of a batch, and with the width by a power between 1, where moving feature maps takes the
    time, and 2, where multiplying does.
    """
    bounds = [1e-9]
    for measured, taken in known.items():
        width = configuration.features_per_stage[0] / measured.features_per_stage[0]
        voxels = [prod(each.patch_size) * each.batch_size for each in (configuration, measured)]
        bounds.append(taken * voxels[0] / voxels[1] * min(width, width**2))
    return max(bounds)


def _patches(planned: Configuration, num_labels: int, preset: Preset) -> list[Configuration]:
    """The planned patch, and of those that the search would come to after it one at each halving of the voxels."""
    spacing, median_size = planned.spacing, planned.median_image_size_in_voxels
    made, wanted = [planned], 0.5
    shape, seen = topology(planned.patch_size, spacing), {planned.patch_size}
    whole = prod(planned.patch_size)
    while (after := shrink(shape, spacing, median_size, seen)) is not None:
        shape = after
        seen.add(shape.patch)
        share = prod(shape.patch) / whole
        if share < SMALLEST_PATCH:
            break
        if share <= wanted:
            made.append(replace(planned, **network_fields(shape, num_labels, preset)))
            wanted = share / 2
    return made


def _narrowed(configuration: Configuration, width: float) -> Configuration:
    """The same with a share of the features."""
    if width == 1:
        return configuration
    features = tuple(
        min(count, FEATURES_STEP * max(1, round(count * width / FEATURES_STEP)))
        for count in configuration.features_per_stage
    )
    proxy = configuration.memory_proxy * width
    return replace(configuration, features_per_stage=features, memory_proxy=proxy)


def _batches(planned: Configuration) -> list[int]:
    sizes, least = [planned.batch_size], REFERENCE_BATCH[len(planned.patch_size)]
    while sizes[-1] > least:
        sizes.append(max(least, sizes[-1] // 2))
    return sizes
