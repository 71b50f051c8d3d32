"""Why a plan is as it is: each choice with its rule, the numbers it saw, what it chose and what it rejected."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import Configuration, Plan
from autoseg.networks.cost import training_step_memory
from autoseg.plan.configurations import COARSENING, LOW_RESOLUTION_BELOW, Coarsening, Grid
from autoseg.plan.decide import Decisions
from autoseg.plan.mirroring import names_sides
from autoseg.plan.normalization import MASK_BELOW_RELATIVE_SIZE
from autoseg.plan.patch import REFERENCE_BATCH, PatchChoice
from autoseg.plan.spacing import ANISOTROPY
from autoseg.plan.topology import SMALLEST_EDGE_VOXELS

PAPER = "Isensee et al., Nature Methods 18, 203-211 (2021), online methods; nnU-Net 2.8.1"
REVISITED = "Isensee et al., nnU-Net Revisited, MICCAI 2024; nnU-Net 2.8.1"
OURS = "autoseg's own rule"
AXES = ("Z", "Y", "X")
MIXED = StepStyle(precision="bfloat16")


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision of the planner.

    Attributes
    ----------
    title : str
    rule : str
        In one sentence.
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
    plan = decisions.plan
    shapes = [case.shape_after_crop for case in fingerprint.cases]
    channels, labels = ", ".join(plan.channel_names), ", ".join(plan.labels)
    lines = [
        "# Why this plan",
        "",
        f"{len(shapes)} cases measured, {fingerprint.num_training} reckoned with. Channels: {channels}. Labels: "
        f"{labels}.",
        f"Cropped shapes from {_by(np.min(shapes, axis=0))} to {_by(np.max(shapes, axis=0))} voxels. Axes are in array "
        "order, slices first (Z, Y, X); spacings are in mm.",
    ]
    if not all(case.geometry.has_spacing for case in fingerprint.cases):
        lines += ["Pictures without spacing count 1 mm a pixel."]
    for choice in choices(fingerprint, decisions):
        lines += ["", f"## {choice.title}", "", f"Rule: {choice.rule}"]
        for word, found in (("Saw", choice.saw), ("Chose", choice.chose), ("Rejected", choice.rejected)):
            lines += ["", f"{word}:", *(f"- {line}" for line in found)] if found else []
        lines += ["", f"Source: {choice.source}"]
    return "\n".join(lines) + "\n"


def choices(fingerprint: Fingerprint, decisions: Decisions) -> Iterator[Choice]:
    """The planner's decisions in the order in which they were made."""
    plan, geometry = decisions.plan, decisions.geometry
    yield _spacing(fingerprint, geometry.grid, given=decisions.spacing_was_given)
    yield _axis_order(geometry.grid)
    yield _preset(decisions)
    yield _normalization(fingerprint, plan)
    yield _resampling(plan)
    yield _mirroring(plan, geometry.grid)
    yield from _network("2d", geometry.flat, decisions)
    if geometry.full is None or geometry.coarsening is None:
        yield Choice(
            "No 3D networks",
            "a 3D network is planned where the median image has more than one slice.",
            (f"median image {_by(geometry.grid.median_size)} voxels",),
            ("2d alone",),
            ("3d_fullres, 3d_lowres and the cascade: there is nothing to see across slices",),
            _source(PAPER, "configurations"),
        )
    else:
        yield from _network("3d_fullres", geometry.full, decisions)
        yield _low_resolution(geometry.grid, geometry.coarsening, geometry.full, decisions)
        if geometry.low is not None:
            yield from _network("3d_lowres", geometry.low, decisions)
    yield _batch_dice(decisions)
    yield _memory(decisions)
    if decisions.fits:
        yield _fits(decisions)


def _spacing(fingerprint: Fingerprint, grid: Grid, *, given: bool) -> Choice:
    spacings = np.asarray([case.geometry.spacing_mm for case in fingerprint.cases])
    shapes = np.asarray([case.shape_after_crop for case in fingerprint.cases])
    typical, size = np.percentile(spacings, 50, axis=0), np.percentile(shapes, 50, axis=0)
    target = tuple(grid.spacing[axis] for axis in grid.backward)
    saw = [
        f"spacing of the cases: median {_mm(typical)}, from {_mm(spacings.min(axis=0))} to {_mm(spacings.max(axis=0))}",
        f"cropped shape of the cases: median {_by(size)} voxels",
    ]
    if given:
        return Choice(
            "Target spacing",
            "what the user gives takes the place of the rule.",
            tuple(saw),
            (f"{_mm(target)}, from --spacing",),
            (f"the median, {_mm(typical)}",),
            _source("the user", "target-spacing"),
        )
    worst = int(np.argmax(typical))
    others = [axis for axis in range(3) if axis != worst]
    next_coarsest, next_shortest = max(typical[a] for a in others), min(size[a] for a in others)
    coarse, short = typical[worst] > ANISOTROPY * next_coarsest, size[worst] * ANISOTROPY < next_shortest
    saw += [
        f"the coarsest axis is {AXES[worst]} with {typical[worst]:.4g} mm: "
        f"{'more' if coarse else 'not more'} than 3 times the next, {next_coarsest:.4g} mm",
        f"along it there are {size[worst]:g} voxels: {'less' if short else 'not less'} than a third of the "
        f"next shortest axis, {next_shortest:g}",
    ]
    tenth = np.percentile(spacings[:, worst], 10)
    if coarse and short:
        chose = f"{_mm(target)}: along {AXES[worst]} the 10th percentile, {tenth:.4g} mm, so that thin slices are kept"
        rejected = f"the median along {AXES[worst]}, {typical[worst]:.4g} mm: thick and few slices would set the grid"
    else:
        chose = f"{_mm(target)}: the median along every axis"
        rejected = (
            f"the 10th percentile along {AXES[worst]}, {tenth:.4g} mm: it is for an axis both coarse and short, "
            f"and this one is {'only short' if short else 'only coarse' if coarse else 'neither'}"
        )
    return Choice(
        "Target spacing",
        "the median spacing of the cases, but the 10th percentile along an axis that is more than three times coarser "
        "and three times shorter than the others.",
        tuple(saw),
        (chose,),
        (rejected,),
        _source(PAPER, "target-spacing"),
    )


def _axis_order(grid: Grid) -> Choice:
    order = "".join(AXES[axis] for axis in grid.forward)
    moved = grid.forward != (0, 1, 2)
    return Choice(
        "Axis order and median image",
        "the coarsest axis comes first, for 2D networks slice across it; the median image is the median of the cases' "
        "shapes on the target grid.",
        (f"target spacing {_mm(tuple(grid.spacing[axis] for axis in grid.backward))} along Z, Y, X",),
        (
            f"axes in the order {order}{'' if moved else ', as they are'}; all that follows is in this order",
            f"median image {_by(grid.median_size)} voxels at {_mm(grid.spacing)}",
        ),
        ("the files' own order ZYX: its first axis is not the coarsest",) if moved else (),
        _source(PAPER, "axis-order"),
    )


def _preset(decisions: Decisions) -> Choice:
    plan, preset, advice = decisions.plan, decisions.preset, decisions.advice
    limits = (
        f"{plan.preset} for {plan.gpu_memory_gb:g} GB; a batch holds at most {100 * preset.dataset_share:g} % of the "
        "dataset's voxels",
    )
    if advice is None:
        return Choice(
            "Preset",
            "the user names the family of networks; plain is the default.",
            (f"--preset {plan.preset}, memory target {plan.gpu_memory_gb:g} GB",),
            limits,
            (),
            _source(REVISITED, "presets"),
        )
    return Choice(
        "Preset",
        "the largest residual preset that the memory target allows, where there are many cases and images do not fit "
        "a patch; else plain. The batch keeps its cap.",
        advice.saw,
        limits,
        advice.rejected,
        _source(f"{OURS}, from published cross-validations", "presets"),
    )


def _normalization(fingerprint: Fingerprint, plan: Plan) -> Choice:
    first = next(iter(plan.configurations.values()))
    kept = fingerprint.median_relative_size_after_cropping
    told = {
        "ct": "clipped to the dataset's foreground percentiles 0.5 and 99.5, then scaled by its mean and deviation",
        "zscore": "each image by its own mean and deviation",
        "rescale_to_0_1": "each image from 0 to 1",
        "rgb_to_0_1": "divided by 255",
        "none": "left alone",
    }
    chose = [
        f"{name}: {scheme}, {told[scheme]}{', inside the non-zero mask' if mask else ''}"
        for name, scheme, mask in zip(
            plan.channel_names, first.normalization_schemes, first.use_mask_for_norm, strict=True
        )
    ]
    masked = any(first.use_mask_for_norm)
    return Choice(
        "Normalization",
        "a channel named CT is scaled alike in all cases, any other by itself unless its name says otherwise; z-scores "
        "look inside the non-zero mask alone where cropping removed more than a quarter of the median case.",
        (
            f"channel names {', '.join(plan.channel_names)}",
            f"cropping keeps {kept:.3g} of the median case; the mask counts below {MASK_BELOW_RELATIVE_SIZE}",
        ),
        tuple(chose),
        () if masked else ("statistics inside the mask: there is little around it, or no z-score",),
        _source(PAPER, "normalization"),
    )


def _resampling(plan: Plan) -> Choice:
    first = next(iter(plan.configurations.values())).resampling
    return Choice(
        "Resampling",
        "images by cubic splines, labels and logits linearly; across an axis that is more than three times coarser "
        "than another, nearest neighbour, decided case by case.",
        (f"median spacing of the cases {_mm(plan.original_median_spacing)}",),
        (
            f"images: order {first.data_order}, {first.data_order_z} across thick slices",
            f"labels: order {first.label_order}, {first.label_order_z} across; "
            f"logits: order {first.probabilities_order}, {first.probabilities_order_z} across",
        ),
        (),
        _source(PAPER, "resampling"),
    )


def _mirroring(plan: Plan, grid: Grid) -> Choice:
    # The 3D configuration tells about all axes; where there is none, the plane's two are what matters.
    name = "3d_fullres" if "3d_fullres" in plan.configurations else "2d"
    configuration = plan.configurations[name]
    axes = _names(grid, len(configuration.patch_size))
    sided = names_sides(plan.labels)
    chose = ", ".join(axes[axis] for axis in configuration.mirror_axes) or "none"
    return Choice(
        "Mirroring",
        "along every axis, but not along the patient's left-right where label names tell left from right.",
        (f"label names {', '.join(plan.labels)}: sides are {'named' if sided else 'not named'}",),
        (f"{name}: {chose}",),
        ("the left-right axis: a mirrored left would be taught as right",) if sided else (),
        _source(f"mirroring: {PAPER}; the exception: {OURS}", "mirroring"),
    )


def _network(name: str, choice: PatchChoice, decisions: Decisions) -> Iterator[Choice]:
    planned = decisions.plan.configurations[name]
    yield _patch(name, choice, planned, decisions)
    yield _batch(name, choice, decisions)
    yield _depth(name, choice, planned, _names(decisions.geometry.grid, len(planned.patch_size)))


def _patch(name: str, choice: PatchChoice, planned: Configuration, decisions: Decisions) -> Choice:
    d = len(choice.topology.patch)
    least = decisions.preset.flat_batch_in_search if d == 2 else REFERENCE_BATCH[3]
    limit = choice.budget * REFERENCE_BATCH[d] / least
    first = choice.steps[0]
    rejected = [
        f"{_by(step.patch)}: estimate {step.memory_proxy / 1e6:,.1f} million, {step.memory_proxy / limit:.2f} of "
        "the limit"
        for step in choice.steps[:-1]
    ]
    last = choice.steps[-1]
    fitting = last.memory_proxy <= limit
    return Choice(
        f"{name}: patch",
        "as large as the median image at most; it shrinks along the axis where it covers most of the image until a "
        f"batch of {least} fits the memory target.",
        (
            f"median image {_by(planned.median_image_size_in_voxels)} voxels at {_mm(planned.spacing)}",
            f"start: equal edges in mm, clipped to the median image: {_by(choice.start)}; "
            f"rounded up so that the network can halve it: {_by(first.patch)}",
            f"limit for one patch: {limit / 1e6:,.1f} million voxels x features at {decisions.plan.gpu_memory_gb:g} GB",
        ),
        (
            f"{_by(last.patch)}: estimate {last.memory_proxy / 1e6:,.1f} million, {last.memory_proxy / limit:.2f} "
            f"of the limit{'' if fitting else '; no axis can shrink further'}",
            f"it covers {_shares(last.patch, planned.median_image_size_in_voxels)} of the median image along its axes",
        ),
        tuple(rejected) or ("nothing: the first patch fits",),
        _source(PAPER, "patch-and-batch"),
    )


def _batch(name: str, choice: PatchChoice, decisions: Decisions) -> Choice:
    share = 100 * decisions.preset.dataset_share
    patch_voxels = prod(choice.topology.patch)
    dataset_voxels = decisions.dataset_voxels
    if name == "3d_lowres" and decisions.geometry.coarsening is not None:
        dataset_voxels /= decisions.geometry.coarsening.voxel_ratio
    memory, cap, chosen = choice.affordable_batch, choice.capped_batch, choice.batch_size
    if min(memory, cap) < chosen:
        why = "the least there is"
    else:
        why = "as many as memory allows" if memory <= cap else "as many as the dataset allows"
    return Choice(
        f"{name}: batch size",
        f"as many patches as memory allows, but not more than {share:g} % of the dataset's voxels, and at least 2.",
        (
            f"memory allows {memory}: {choice.budget * REFERENCE_BATCH[len(choice.topology.patch)] / 1e6:,.1f} million "
            f"for a batch, {choice.memory_proxy / 1e6:,.1f} million a patch",
            f"the dataset allows {cap}: {share:g} % of its {dataset_voxels:,.0f} voxels there, "
            f"{patch_voxels:,} a patch",
        ),
        (f"{chosen}, {why}",),
        tuple(
            f"{size}: {what}"
            for size, what in ((memory, "more than the dataset allows"), (cap, "more than memory allows"))
            if size > chosen
        ),
        _source(PAPER, "patch-and-batch"),
    )


def _depth(name: str, choice: PatchChoice, planned: Configuration, axes: Sequence[str]) -> Choice:
    shape = choice.topology
    sizes, spacings = list(shape.patch), list(planned.spacing)
    told = []
    for number, (kernel, features) in enumerate(zip(shape.kernels, choice.features, strict=True)):
        halved = shape.strides[number + 1] if number + 1 < len(shape.strides) else None
        line = f"stage {number}: {_by(sizes)} at {_mm(spacings)}, {features} features, kernel {_by(kernel)}"
        if halved is None:
            told.append(f"{line}; the end")
            break
        kept = [
            f"{axes[axis]} waits, {_why_not_halved(axis, sizes, spacings)}"
            for axis, stride in enumerate(halved)
            if stride == 1
        ]
        told.append(f"{line}; then strides {_by(halved)}{''.join(f' ({why})' for why in kept)}")
        sizes = [-(-size // stride) for size, stride in zip(sizes, halved, strict=True)]
        spacings = [edge * stride for edge, stride in zip(spacings, halved, strict=True)]
    longest = max(sizes)
    end = (
        f"no axis has {2 * SMALLEST_EDGE_VOXELS} voxels any more"
        if longest < 2 * SMALLEST_EDGE_VOXELS
        else f"only one axis could be halved, and with {longest} voxels it is below {3 * SMALLEST_EDGE_VOXELS}"
    )
    kind = "residual blocks" if planned.residual else "convolutions"
    return Choice(
        f"{name}: depth and kernels",
        "an axis is halved while it has at least 8 voxels and a spacing below twice the finest one; its kernel "
        "grows from 1 to 3 once its spacing is below twice the finest.",
        tuple(told),
        (
            f"{len(shape.strides)} stages; encoder {_list(planned.encoder_blocks)} {kind}, "
            f"decoder {_list(planned.n_conv_per_stage_decoder)} convolutions",
        ),
        (f"one stage more: {end}",),
        _source(PAPER, "topology"),
    )


def _why_not_halved(axis: int, sizes: Sequence[int], spacings: Sequence[float]) -> str:
    if sizes[axis] < 2 * SMALLEST_EDGE_VOXELS:
        return f"{sizes[axis]} voxels are fewer than {2 * SMALLEST_EDGE_VOXELS}"
    finest = min(spacing for size, spacing in zip(sizes, spacings, strict=True) if size >= 2 * SMALLEST_EDGE_VOXELS)
    return f"{spacings[axis]:.3g} mm are {spacings[axis] / finest:.1f} times {finest:.3g} mm"


def _low_resolution(grid: Grid, coarsening: Coarsening, full: PatchChoice, decisions: Decisions) -> Choice:
    saw = [
        f"a patch of 3d_fullres, {_by(full.topology.patch)}, holds {coarsening.covered:.3g} of the voxels of the "
        f"median image, {_by(grid.median_size)}; the limit is {LOW_RESOLUTION_BELOW}"
    ]
    cascade = "3d_cascade_fullres: 3d_fullres that is also given what 3d_lowres predicted"
    if coarsening.rounds == 0:
        chose = ["no 3d_lowres and no cascade"]
        rejected = ["3d_lowres: the full resolution sees enough"]
    else:
        saw.append(
            f"after {coarsening.rounds} steps of {100 * (COARSENING - 1):.0f} % the spacing is "
            f"{_mm(coarsening.spacing)}, the image {_by(coarsening.median_size)}, and a patch holds enough of it; "
            f"that is {coarsening.voxel_ratio:.2f} times fewer voxels"
        )
        if coarsening.kept:
            chose, rejected = [f"3d_lowres at {_mm(coarsening.spacing)}", cascade], []
        else:
            chose = ["no 3d_lowres and no cascade"]
            rejected = [
                f"3d_lowres: with {coarsening.voxel_ratio:.2f} times fewer voxels, less than 2, it would be too similar"
            ]
    return Choice(
        "Low resolution and cascade",
        "where a patch of the full resolution holds less than a quarter of the median image, the image is made "
        "coarser until a patch does; the result is kept if it has at most half the voxels.",
        tuple(saw),
        tuple(chose),
        tuple(rejected),
        _source(PAPER, "configurations"),
    )


def _batch_dice(decisions: Decisions) -> Choice:
    over = [name for name, planned in decisions.plan.configurations.items() if planned.batch_dice]
    apart = [name for name in decisions.plan.configurations if name not in over]
    return Choice(
        "Dice of the loss",
        "over the batch as one volume in 2d, and in 3d_fullres where a patch sees too little of the image; else "
        "sample by sample.",
        (f"low resolution planned: {'yes' if decisions.geometry.low is not None else 'no'}",),
        tuple(
            f"{_list(names)}: {how}" for names, how in ((over, "over the batch"), (apart, "sample by sample")) if names
        ),
        (),
        _source(PAPER, "configurations"),
    )


def _memory(decisions: Decisions) -> Choice:
    plan = decisions.plan
    chose = []
    for name, planned in plan.configurations.items():
        memory = training_step_memory(planned, plan.num_inputs(planned), plan.num_classes, MIXED, on_cpu=False)
        chose.append(
            f"{name}: {memory.peak_bytes / 2**30:.2f} GiB at the worst moment of a step, of which weights, "
            f"gradients and momentum {3 * memory.parameter_bytes / 2**30:.2f}; {memory.parameter_bytes / 4e6:.1f} "
            "million weights"
        )
    return Choice(
        "Memory of a training step",
        "counted from the network, tensor by tensor, in mixed precision on a GPU; the search above goes by the "
        "published estimate instead, so that plans stay comparable.",
        (f"memory target {plan.gpu_memory_gb:g} GB",),
        tuple(chose),
        (),
        _source(OURS, "memory"),
    )


def _fits(decisions: Decisions) -> Choice:
    chose, tried = [], []
    for name, made in decisions.fits.items():
        first, last = made.tries[0], made.configuration
        changed = (first.patch, first.batch_size) != (last.patch_size, last.batch_size)
        chose.append(
            f"{name}: {f'batch {first.batch_size} of {_by(first.patch)} becomes ' if changed else ''}"
            f"batch {last.batch_size} of {_by(last.patch_size)}{'' if changed else ', as planned'}"
        )
        tried += [
            f"{name}, batch {each.batch_size} of {_by(each.patch)}: {each.needed_bytes / 2**30:.2f} GiB "
            f"{'measured' if each.measured else 'foreseen'}"
            for each in made.tries
        ]
    limit = next(iter(decisions.fits.values())).limit_bytes
    return Choice(
        "Measured",
        "the batch becomes smaller, down to 2, then the patch, until a training step that is really done fits the "
        "memory.",
        (f"{limit / 2**30:.2f} GiB on {decisions.device_name}", *tried),
        tuple(chose),
        (),
        _source(OURS, "memory"),
    )


def _names(grid: Grid, dimensions: int) -> list[str]:
    """What the axes of a patch are called in the files."""
    return [AXES[axis] for axis in grid.forward][-dimensions:]


def _source(what: str, page: str) -> str:
    return f"{what}. See docs/explanation/{page}.md"


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _mm(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values) + " mm"


def _list(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values)


def _shares(patch: Sequence[int], size: Sequence[float]) -> str:
    return " x ".join(f"{100 * min(1, edge / limit):.0f} %" for edge, limit in zip(patch, size, strict=True))
