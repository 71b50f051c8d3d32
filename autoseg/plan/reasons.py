"""Reasons for what is decided for the dataset as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.artifacts.fingerprint import Fingerprint, IntensityStatistics
from autoseg.artifacts.plan import NormalizationScheme, Plan
from autoseg.plan.configurations import Grid
from autoseg.plan.decide import Decisions
from autoseg.plan.mirroring import names_sides
from autoseg.plan.normalization import MASK_BELOW_RELATIVE_SIZE
from autoseg.plan.spacing import ANISOTROPY
from autoseg.transforms.resample import separate_axis

NNUNET, REVISITED, OURS = "nnU-Net", "nnU-Net Revisited", "autoseg's own rule"
AXES = ("Z", "Y", "X")


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision of the planner.

    Attributes
    ----------
    title : str
    rule : str
        In one sentence, or two.
    saw, chose, rejected : tuple of str
        The numbers it looked at; what came out; what did not, and why.
    source : str
        Where the rule comes from, and the page that has it in full.
    """

    title: str
    rule: str
    saw: tuple[str, ...]
    chose: tuple[str, ...]
    rejected: tuple[str, ...]
    source: str


def source(what: str, page: str) -> str:
    """Where a rule comes from."""
    return f"{what}; {page}.md"


def by(values: Sequence[float]) -> str:
    """Edges, as 64 x 64 x 64."""
    return " x ".join(f"{value:.6g}" for value in values)


def in_mm(values: Sequence[float]) -> str:
    """Edges of a voxel, as 3 x 0.5 x 0.5 mm."""
    return " x ".join(f"{value:.4g}" for value in values) + " mm"


def axis_names(grid: Grid, dimensions: int = 3) -> list[str]:
    """What the axes of the network's world are called in the files."""
    return [AXES[axis] for axis in grid.forward][-dimensions:]


def spacing(fingerprint: Fingerprint, grid: Grid, *, given: bool) -> Choice:
    """Why this target spacing."""
    spacings = np.asarray([case.geometry.spacing_mm for case in fingerprint.cases])
    shapes = np.asarray([case.shape_after_crop for case in fingerprint.cases])
    typical, size = np.percentile(spacings, 50, axis=0), np.percentile(shapes, 50, axis=0)
    target = in_mm(tuple(grid.spacing[axis] for axis in grid.backward))
    saw = [
        f"spacing of the cases (Z x Y x X): median {in_mm(typical)}, from {in_mm(spacings.min(axis=0))} to "
        f"{in_mm(spacings.max(axis=0))}",
        f"cropped shape of the cases: median {by(size)} voxels",
    ]
    if given:
        return Choice(
            "Target spacing",
            "what the user gives takes the place of the rule.",
            tuple(saw),
            (f"{target}, from --spacing",),
            (f"the median, {in_mm(typical)}",),
            source("the user", "target-spacing"),
        )
    worst = int(np.argmax(typical))
    others = [axis for axis in range(3) if axis != worst]
    next_coarsest, next_shortest = max(typical[a] for a in others), min(size[a] for a in others)
    coarse, short = typical[worst] > ANISOTROPY * next_coarsest, size[worst] * ANISOTROPY < next_shortest
    tie = " (of equals the first axis counts)" if typical[worst] == next_coarsest else ""
    saw += [
        f"the coarsest axis is {AXES[worst]} with {typical[worst]:.4g} mm{tie}: "
        f"{'more' if coarse else 'not more'} than 3 times the next, {next_coarsest:.4g} mm",
        f"along it there are {size[worst]:g} voxels: {'less' if short else 'not less'} than a third of the "
        f"shortest of the others, {next_shortest:g}",
    ]
    tenth = np.percentile(spacings[:, worst], 10)
    if coarse and short:
        taken = (
            f"the 10th percentile, {tenth:.4g} mm, so that thin slices are kept"
            if tenth >= next_coarsest
            else f"as good as the {next_coarsest:.4g} mm of the plane: the 10th percentile, {tenth:.4g} mm, is finer"
        )
        chose = f"{target}: along {AXES[worst]} {taken}"
        rejected = f"the median along {AXES[worst]}, {typical[worst]:.4g} mm: thick and few slices would set the grid"
    else:
        chose = f"{target}: the median along every axis"
        rejected = (
            f"the 10th percentile along {AXES[worst]}, {tenth:.4g} mm: it is for an axis both coarse and short, "
            f"and this one is {'only short' if short else 'only coarse' if coarse else 'neither'}"
        )
    if tenth == typical[worst]:
        rejected += "; here it would be the same"
    return Choice(
        "Target spacing",
        "the median spacing of the cases, but the 10th percentile along an axis that is more than three times coarser "
        "and three times shorter than the others.",
        tuple(saw),
        (chose,),
        (rejected,),
        source(NNUNET, "target-spacing"),
    )


def axis_order(grid: Grid) -> Choice:
    """Why the axes are in this order."""
    first, *plane = axis_names(grid)
    moved = grid.forward != (0, 1, 2)
    return Choice(
        "Axis order and median image",
        "the coarsest axis comes first, because 2D networks work on slices across it. The median image is the "
        "median of the cases' shapes, each of them resampled first.",
        (f"target spacing (Z x Y x X) {in_mm(tuple(grid.spacing[axis] for axis in grid.backward))}",),
        (
            f"{' x '.join((first, *plane))}: all that follows is in this order; 2D networks see slices of "
            f"{' x '.join(plane)}",
            f"median image {by(grid.median_size)} voxels at {in_mm(grid.spacing)}",
        ),
        ("the files' own order, Z x Y x X: its first axis is not the coarsest",) if moved else (),
        source(NNUNET, "axis-order"),
    )


def preset(decisions: Decisions) -> Choice:
    """Why this family of networks."""
    plan, advice = decisions.plan, decisions.advice
    limits = (
        f"{plan.preset}, planned for {plan.gpu_memory_gb:g} GB; a batch holds about "
        f"{100 * decisions.preset.dataset_share:g} % of the dataset's voxels at most",
    )
    if advice is None:
        return Choice(
            "Preset",
            "the user names the family of networks; plain is the default.",
            (f"--preset {plan.preset}, memory target {plan.gpu_memory_gb:g} GB",),
            limits,
            (),
            source(REVISITED, "presets"),
        )
    return Choice(
        "Preset",
        "the largest residual preset that the memory target allows, where there are many cases and images do not fit "
        "a patch; else plain. The batch keeps its cap.",
        advice.saw,
        limits,
        advice.rejected,
        source(f"{OURS}, from published cross-validations", "presets"),
    )


def normalization(fingerprint: Fingerprint, plan: Plan) -> Choice:
    """Why each channel is scaled as it is."""
    first = next(iter(plan.configurations.values()))
    schemes, masks = first.normalization_schemes, first.use_mask_for_norm
    kept = fingerprint.median_relative_size_after_cropping
    if any(masks):
        rejected = "statistics over the whole image: most of it was set to zero by somebody"
    elif kept < MASK_BELOW_RELATIVE_SIZE:
        rejected = "statistics inside the mask: no channel is scaled by its own mean and deviation"
    else:
        rejected = "statistics inside the mask: cropping removes too little for a margin that somebody set to zero"
    return Choice(
        "Normalization",
        "a channel named CT is scaled alike in all cases, any other by itself unless its name says otherwise. "
        "Statistics are taken inside the non-zero mask where cropping removed more than a quarter of the median case.",
        (
            f"channel names {', '.join(plan.channel_names)}",
            f"cropping keeps {100 * kept:.3g} % of the median case; the mask counts below "
            f"{100 * MASK_BELOW_RELATIVE_SIZE:.0f} %",
        ),
        tuple(
            f"{name}: {_scaled(scheme, statistics)}{', inside the non-zero mask' if mask else ''}"
            for name, scheme, mask, statistics in zip(plan.channel_names, schemes, masks, plan.intensities, strict=True)
        ),
        (rejected,),
        source(NNUNET, "normalization"),
    )


def _scaled(scheme: NormalizationScheme, statistics: IntensityStatistics) -> str:
    """What a scheme does, in words."""
    if scheme == "ct":
        return (
            f"clipped to {statistics.percentile_00_5:.4g} ... {statistics.percentile_99_5:.4g} (foreground "
            f"percentiles 0.5 and 99.5), minus {statistics.mean:.4g}, over {statistics.std:.4g}"
        )
    told: dict[NormalizationScheme, str] = {
        "zscore": "z-score, each image by its own mean and deviation",
        "rescale_to_0_1": "each image from 0 to 1",
        "rgb_to_0_1": "divided by 255",
        "none": "left alone",
    }
    return told[scheme]


def resampling(fingerprint: Fingerprint, plan: Plan, grid: Grid) -> Choice:
    """Why cases are resampled in this way."""
    first = next(iter(plan.configurations.values())).resampling
    target = tuple(grid.spacing[axis] for axis in grid.backward)
    spacings = [case.geometry.spacing_mm for case in fingerprint.cases]
    apart = sum(separate_axis(each, target, first.force_separate_z) is not None for each in spacings)
    names = ("nearest", "linear", "quadratic", "cubic")
    return Choice(
        "Resampling",
        "images by cubic splines, labels and logits linearly. Where an axis is more than three times coarser than "
        "another, slices are copied across it; that is decided case by case.",
        (f"{apart} of {len(spacings)} cases have such an axis, by their own spacing or that of the target",),
        (
            f"images {names[first.data_order]}, across thick slices {names[first.data_order_z]}",
            f"labels {names[first.label_order]}, across thick slices {names[first.label_order_z]}; logits "
            f"{names[first.probabilities_order]}, across thick slices {names[first.probabilities_order_z]}",
        ),
        (),
        source(NNUNET, "resampling"),
    )


def mirroring(plan: Plan, grid: Grid) -> Choice:
    """Why these axes are mirrored."""
    sided = names_sides(plan.labels)
    chose = [
        f"{name}: {', '.join(axis_names(grid, len(each.patch_size))[axis] for axis in each.mirror_axes) or 'none'}"
        for name, each in plan.configurations.items()
    ]
    full = plan.configurations.get("3d_fullres")
    left_out = [name for axis, name in enumerate(axis_names(grid)) if full is not None and axis not in full.mirror_axes]
    return Choice(
        "Mirroring",
        "along every axis, but not along the patient's left-right, which the image headers tell, where label names "
        "tell left from right.",
        (f"label names {', '.join(plan.labels)}: sides are {'named' if sided else 'not named'}",),
        tuple(chose),
        (f"{', '.join(left_out) or 'the left-right axis'}: a mirrored left would be taught as right",) if sided else (),
        source(f"{NNUNET}; the exception is {OURS}", "mirroring"),
    )
