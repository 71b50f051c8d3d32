"""Why a plan is as it is: the planner's reasons as text."""

from collections.abc import Iterator

import numpy as np

from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.plan import network_reasons as network
from autoseg.plan import reasons
from autoseg.plan.budget_reasons import budget
from autoseg.plan.decide import Decisions
from autoseg.plan.reasons import Choice, axis_names, by, in_mm

SOURCES = (
    "nnU-Net: Isensee et al., Nature Methods 18, 203-211 (2021), online methods, as implemented in release 2.8.1. "
    "nnU-Net Revisited: Isensee et al., MICCAI 2024. Pages named below lie in docs/explanation."
)


def explain(fingerprint: Fingerprint, decisions: Decisions) -> str:
    """Every choice as text.

    Parameters
    ----------
    fingerprint : Fingerprint
    decisions : Decisions

    Returns
    -------
    str
        Markdown that is readable as it stands.
    """
    lines = ["# Why this plan", "", *_dataset(fingerprint), "", *_short(decisions), "", SOURCES]
    if decisions.fits:
        lines += [
            "",
            "Training steps were measured: see Measured at the end. The other sections tell the plan as it was before.",
        ]
    if decisions.plan.budget is not None:
        lines += [
            "",
            "It was made for a time: see Budget at the end. The other sections tell the plan as it was before.",
        ]
    for choice in choices(fingerprint, decisions):
        lines += ["", f"## {choice.title}", "", f"Rule: {choice.rule}"]
        for word, found in (("Saw", choice.saw), ("Chose", choice.chose), ("Rejected", choice.rejected)):
            lines += ["", f"{word}:", *(f"- {line}" for line in found)] if found else []
        lines += ["", f"Source: {choice.source}"]
    return "\n".join(lines) + "\n"


def choices(fingerprint: Fingerprint, decisions: Decisions) -> Iterator[Choice]:
    """The planner's decisions in the order in which they were made."""
    plan, geometry = decisions.plan, decisions.geometry
    yield reasons.spacing(fingerprint, geometry.grid, given=decisions.spacing_was_given)
    yield reasons.axis_order(geometry.grid)
    yield reasons.preset(decisions)
    yield reasons.normalization(fingerprint, plan)
    yield reasons.resampling(fingerprint, plan, geometry.grid)
    yield reasons.mirroring(plan, geometry.grid)
    yield from network.network("2d", geometry.flat, decisions)
    if geometry.full is None or geometry.coarsening is None:
        yield network.no_volumes(geometry.grid)
    else:
        yield from network.network("3d_fullres", geometry.full, decisions)
        yield network.low_resolution(geometry.grid, geometry.coarsening, geometry.full)
        if geometry.low is not None:
            yield from network.network("3d_lowres", geometry.low, decisions)
    yield network.batch_dice(decisions)
    yield network.memory(decisions)
    if decisions.fits:
        yield network.fits(decisions)
    if plan.budget is not None:
        yield budget(plan.budget)


def _dataset(fingerprint: Fingerprint) -> list[str]:
    shapes = [case.shape_after_crop for case in fingerprint.cases]
    measured, stated = len(shapes), fingerprint.num_training
    cases = f"{measured} cases" if measured == stated else f"{measured} cases measured; dataset.json counts {stated}"
    lines = [
        f"{cases}. Channels: {', '.join(fingerprint.channel_names)}. Labels: {', '.join(fingerprint.labels)}.",
        f"Cropped shapes from {by(np.min(shapes, axis=0))} to {by(np.max(shapes, axis=0))} voxels (Z x Y x X, "
        "slices first).",
    ]
    if not all(case.geometry.has_spacing for case in fingerprint.cases):
        lines.append("Pictures without spacing count as 1 mm a pixel.")
    return lines


def _short(decisions: Decisions) -> list[str]:
    """The outcome, before the reasons."""
    plan, grid = decisions.plan, decisions.geometry.grid
    return [
        f"- {name} ({' x '.join(axis_names(grid, len(each.patch_size)))}): {in_mm(each.spacing)}, patch "
        f"{by(each.patch_size)}, batch {each.batch_size}, {each.n_stages} stages"
        for name, each in plan.configurations.items()
    ]
