"""Plan a dataset: fingerprint and dataset -> plan.json."""

import logging
from dataclasses import dataclass
from pathlib import Path

from autoseg.artifacts.base import digest, read, set_aside, write
from autoseg.artifacts.dataset import Dataset
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.plan import Plan, PresetName
from autoseg.plan.configurations import plan_configurations, plan_geometry, target_grid
from autoseg.plan.mirroring import mirror_axes
from autoseg.plan.normalization import masked, normalization_schemes
from autoseg.plan.presets import PRESETS

log = logging.getLogger(__name__)
RULES = "2"  # to be raised when the same fingerprint would give another plan


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user decides.

    Attributes
    ----------
    preset : str
    gpu_memory_gb : float or None
        Memory target; None: what the preset is meant for.
    spacing : tuple of float, length 3, or None
        Target spacing in mm along (Z, Y, X), in place of the one found.
    """

    preset: PresetName = "plain"
    gpu_memory_gb: float | None = None
    spacing: tuple[float, float, float] | None = None


def make_plan(dataset: Dataset, fingerprint: Fingerprint, wishes: Wishes = Wishes()) -> Plan:
    """Every choice, from what the dataset measures and the user wishes; pure."""
    preset = PRESETS[wishes.preset]
    gpu_memory_gb = wishes.gpu_memory_gb or preset.reference_gb
    grid = target_grid(
        [case.geometry.spacing_mm for case in fingerprint.cases],
        [case.shape_after_crop for case in fingerprint.cases],
        spacing=wishes.spacing,
    )
    geometry = plan_geometry(
        grid,
        num_cases=dataset.num_training,
        num_labels=len(dataset.labels),
        preset=preset,
        gpu_memory_gb=gpu_memory_gb,
    )
    schemes = normalization_schemes(dataset.channel_names)
    configurations = plan_configurations(
        geometry,
        preset=preset,
        schemes=schemes,
        use_mask=masked(schemes, fingerprint.median_relative_size_after_cropping),
        mirror=mirror_axes(dataset.labels, [case.geometry for case in fingerprint.cases], grid.forward),
    )
    return Plan(
        inputs_sha256=digest(RULES, dataset, fingerprint, wishes.preset, str(gpu_memory_gb), str(wishes.spacing)),
        preset=wishes.preset,
        gpu_memory_gb=gpu_memory_gb,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        transpose_forward=grid.forward,
        transpose_backward=grid.backward,
        original_median_spacing=_triple(grid.original_spacing),
        original_median_shape=_triple(grid.original_shape),
        intensities=fingerprint.intensities,
        configurations=configurations,
    )


def _triple(values: tuple[float, ...]) -> tuple[float, float, float]:
    z, y, x = values
    return z, y, x


def run(dataset: Dataset, fingerprint: Fingerprint, out: Path, wishes: Wishes = Wishes()) -> Plan:
    """Write plan.json, unless the one at `out` was made from the same inputs.

    Notes
    -----
    A plan edited by hand keeps its inputs' hash and is left alone. When the inputs change, the old plan is kept
    beside the new one, so that no edit is lost.
    """
    plan = make_plan(dataset, fingerprint, wishes)
    if out.exists():
        old = read(out, Plan)
        if old.inputs_sha256 == plan.inputs_sha256:
            return old
        kept = set_aside(out)
        log.warning("the dataset, the options or the rules changed: planning again, the old plan is now %s", kept)
    write(out, plan)
    return plan
