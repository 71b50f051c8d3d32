"""Every choice of a plan, and what led to it: pure functions of the fingerprint and the user's wishes."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import prod

from msgspec.structs import replace

from autoseg.artifacts.base import digest
from autoseg.artifacts.budget import Budget
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.plan import Configuration, Plan, WishedPreset
from autoseg.plan.automatic import Advice, advise
from autoseg.plan.budget import record
from autoseg.plan.configurations import Geometry, plan_configurations, plan_geometry, target_grid
from autoseg.plan.fit import Fit, fit
from autoseg.plan.mirroring import mirror_axes
from autoseg.plan.normalization import masked, normalization_schemes
from autoseg.plan.pace import pace, smaller
from autoseg.plan.presets import PRESETS, Preset

log = logging.getLogger(__name__)
USUALLY_TRAINED = "3d_fullres"
RULES = "3"  # to be raised when the same fingerprint would give another plan


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user decides.

    Attributes
    ----------
    preset : str
        ``auto`` leaves it to the dataset.
    gpu_memory_gb : float or None
        Memory target; None: what the preset is meant for.
    spacing : tuple of float, length 3 or 2, or None
        Target spacing in mm along (Z, Y, X), in place of the one found; along (Y, X) it leaves the slices as they are.
    measure_on : str or None
        Device on which training steps are measured, as `--device` has it; None: nothing is measured.
    budget_hours : float or None
        Time that the training of a fold may take; None: as long as is usual.
    budget_on : str
        Device on which it will train, as `--device` has it.
    """

    preset: WishedPreset = "plain"
    gpu_memory_gb: float | None = None
    spacing: tuple[float, ...] | None = None
    measure_on: str | None = None
    budget_hours: float | None = None
    budget_on: str = "auto"


USUAL = Wishes()


@dataclass(frozen=True, slots=True)
class Meter:
    """A device on which the memory of training steps is measured.

    Attributes
    ----------
    device_name : str
    limit_bytes : int
        What a step may take there.
    step_bytes : callable
        Bytes of a training step of a plan's configuration, and whether that was measured.
    """

    device_name: str
    limit_bytes: int
    step_bytes: Callable[[Plan, Configuration], tuple[int, bool]]


@dataclass(frozen=True, slots=True)
class Timer:
    """A device on which training steps are timed.

    Attributes
    ----------
    device_name : str
    step_seconds : callable
        Seconds of a training step of a plan's configuration; None where it does not fit the memory.
    seconds_left : callable
        How much longer timing may take.
    """

    device_name: str
    step_seconds: Callable[[Plan, Configuration], float | None]
    seconds_left: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Decisions:
    """A plan, and what led to it.

    Attributes
    ----------
    plan : Plan
    planned : dict of str to Configuration
        Before measuring changed anything.
    geometry : Geometry
    preset : Preset
        As used, with `advice` the cap of 5 % kept.
    spacing_was_given : bool
        By the user.
    advice : Advice or None
        Why this preset, where autoseg chose it.
    dataset_voxels : float
        Voxels of the median image times the number of cases.
    fits : dict of str to Fit
        What measuring changed, by configuration; empty where nothing was measured.
    device_name : str or None
        On which device.
    """

    plan: Plan
    planned: dict[str, Configuration]
    geometry: Geometry
    preset: Preset
    spacing_was_given: bool
    advice: Advice | None
    dataset_voxels: float
    fits: dict[str, Fit] = field(default_factory=dict)
    device_name: str | None = None


def decide(fingerprint: Fingerprint, wishes: Wishes = USUAL) -> Decisions:
    """Every choice, from what the dataset measures and the user wishes; pure."""
    grid = target_grid(
        [case.geometry.spacing_mm for case in fingerprint.cases],
        [case.shape_after_crop for case in fingerprint.cases],
        spacing=wishes.spacing,
    )
    num_cases, num_labels = fingerprint.num_training, len(fingerprint.labels)
    advice = None
    if wishes.preset == "auto":
        gpu_memory_gb = wishes.gpu_memory_gb or PRESETS["plain"].reference_gb
        advice = advise(grid, num_cases=num_cases, num_labels=num_labels, gpu_memory_gb=gpu_memory_gb)
        name, preset = advice.name, advice.preset
    else:
        name, preset = wishes.preset, PRESETS[wishes.preset]
        gpu_memory_gb = wishes.gpu_memory_gb or preset.reference_gb
    geometry = plan_geometry(
        grid, num_cases=num_cases, num_labels=num_labels, preset=preset, gpu_memory_gb=gpu_memory_gb
    )
    schemes = normalization_schemes(fingerprint.channel_names)
    configurations = plan_configurations(
        geometry,
        num_labels=num_labels,
        preset=preset,
        schemes=schemes,
        use_mask=masked(schemes, fingerprint.median_relative_size_after_cropping),
        mirror=mirror_axes(fingerprint.labels, [case.geometry for case in fingerprint.cases], grid.forward),
    )
    # A target that is named is a limit for what is measured, the usual one is not.
    measured = f"{wishes.measure_on} {wishes.gpu_memory_gb}" if wishes.measure_on else "not measured"
    wished = [wishes.preset, str(float(gpu_memory_gb)), str(wishes.spacing), measured]
    if wishes.budget_hours is not None:
        wished.append(f"{wishes.budget_hours} hours on {wishes.budget_on}")
    plan = Plan(
        inputs_sha256=digest(RULES, fingerprint, *wished),
        preset=name,
        preset_was_chosen=advice is not None,
        gpu_memory_gb=gpu_memory_gb,
        channel_names=fingerprint.channel_names,
        labels=fingerprint.labels,
        regions_class_order=fingerprint.regions_class_order,
        transpose_forward=grid.forward,
        transpose_backward=grid.backward,
        original_median_spacing=_triple(grid.original_spacing),
        original_median_shape=_triple(grid.original_shape),
        intensities=fingerprint.intensities,
        configurations=configurations,
    )
    return Decisions(
        plan=plan,
        planned=configurations,
        geometry=geometry,
        preset=preset,
        spacing_was_given=wishes.spacing is not None,
        advice=advice,
        dataset_voxels=prod(grid.median_size) * num_cases,
    )


def make_plan(fingerprint: Fingerprint, wishes: Wishes = USUAL) -> Plan:
    """The plan alone."""
    return decide(fingerprint, wishes).plan


def fit_to_device(decisions: Decisions, meter: Meter) -> Decisions:
    """Correct every configuration until a training step of it fits a device.

    Raises
    ------
    SettingError
        Not even the smallest patch of a configuration fits.
    """
    plan = decisions.plan
    fits = {
        name: fit(
            configuration,
            num_labels=len(plan.labels),
            preset=decisions.preset,
            measure=partial(_measure, meter, plan, name),
            limit_bytes=meter.limit_bytes,
        )
        for name, configuration in plan.configurations.items()
    }
    corrected = replace(plan, configurations={name: made.configuration for name, made in fits.items()})
    return dataclasses.replace(decisions, plan=corrected, fits=fits, device_name=meter.device_name)


def _measure(meter: Meter, plan: Plan, name: str, candidate: Configuration) -> tuple[int, bool]:
    """A step's bytes; each may take a minute, so it is said."""
    needed, measured = meter.step_bytes(plan, candidate)
    log.info(
        "%s, batch %d of %s: %.2f GiB %s, %.2f allowed",
        name,
        candidate.batch_size,
        "x".join(map(str, candidate.patch_size)),
        needed / 2**30,
        "measured" if measured else "foreseen",
        meter.limit_bytes / 2**30,
    )
    return needed, measured


def fit_to_budget(decisions: Decisions, timer: Timer, hours: float) -> Decisions:
    """Make networks smaller where they then are expected to be better after so many hours of training.

    Notes
    -----
    The configuration that is trained where none is named comes first; those for which no time is left to measure stay
    as they are, and so does the second stage of a cascade. Where the usual schedule of all others fits, the plan
    keeps its number of epochs.
    """
    plan = decisions.plan
    configurations, choices = dict(plan.configurations), {}
    whole = [name for name, each in configurations.items() if each.previous_stage is None]
    for name in sorted(whole, key=lambda name: name != USUALLY_TRAINED):
        planned = configurations[name]
        candidates = smaller(planned, num_labels=len(plan.labels), preset=decisions.preset)
        paced = pace(candidates, hours, partial(_time, timer, plan, name), timer.seconds_left)
        if paced is None:
            log.warning("%s stays as planned: there was no time left to measure its steps, or no memory", name)
            continue
        configurations[name] = paced.chosen.configuration
        choices[name] = record(paced.candidates, paced.chosen, planned, hours)
    by_count = len(choices) == len(whole) and all(each.usual_schedule_fits for each in choices.values())
    budgeted = replace(
        plan,
        configurations=configurations,
        training=replace(plan.training, max_hours=None if by_count else hours),
        budget=Budget(hours=hours, device=timer.device_name, configurations=choices),
    )
    return dataclasses.replace(decisions, plan=budgeted)


def _time(timer: Timer, plan: Plan, name: str, candidate: Configuration) -> float | None:
    """Seconds of a step, which are said."""
    taken = timer.step_seconds(plan, candidate)
    log.info(
        "%s, features from %d, batch %d of %s: %s",
        name,
        candidate.features_per_stage[0],
        candidate.batch_size,
        "x".join(map(str, candidate.patch_size)),
        "does not fit the memory" if taken is None else f"{taken:.3g} s a step",
    )
    return taken


def _triple(values: tuple[float, ...]) -> tuple[float, float, float]:
    z, y, x = values
    return z, y, x
