"""Reasons for each network: patch, batch, depth, resolution, loss and memory."""

from collections.abc import Iterator, Sequence
from math import prod

from autoseg.artifacts.plan import Configuration
from autoseg.networks.cost import planned_step_memory
from autoseg.plan.configurations import COARSENING, LOW_RESOLUTION_BELOW, Coarsening, Grid
from autoseg.plan.decide import Decisions
from autoseg.plan.patch import MAX_FEATURES, REFERENCE_BATCH, START_VOXELS, PatchChoice
from autoseg.plan.reasons import NNUNET, OURS, Choice, axis_names, by, in_mm, source
from autoseg.plan.topology import SMALLEST_EDGE_VOXELS, topology

SHORT = 2 * SMALLEST_EDGE_VOXELS


def network(name: str, choice: PatchChoice, decisions: Decisions) -> Iterator[Choice]:
    """Why a configuration has this patch, batch and depth."""
    planned = decisions.planned[name]
    yield _patch(name, choice, planned, decisions)
    yield _batch(name, choice, decisions)
    yield _depth(name, choice, planned, axis_names(decisions.geometry.grid, len(planned.patch_size)))


def _patch(name: str, choice: PatchChoice, planned: Configuration, decisions: Decisions) -> Choice:
    d = len(choice.topology.patch)
    reference = REFERENCE_BATCH[d]
    least = decisions.preset.flat_batch_in_search if d == 2 else reference
    limit = choice.budget * reference / least
    first, last = choice.steps[0], choice.steps[-1]
    edge_mm = (START_VOXELS[d] * prod(planned.spacing)) ** (1 / d)
    cube = f"{round(START_VOXELS[d] ** (1 / d))}^{d}"
    axes = " x ".join(axis_names(decisions.geometry.grid, d))
    divisors = topology(choice.start, planned.spacing).divisors
    median = planned.median_image_size_in_voxels
    shares = [edge / size for edge, size in zip(last.patch, median, strict=True)]
    covers = (
        "the whole median image"
        if min(shares) >= 1
        else f"{' x '.join(f'{100 * share:.0f} %' for share in shares)} of the median image along its axes"
    )
    stuck = "" if last.memory_proxy <= limit else "; no axis can shrink further"
    return Choice(
        f"{name}: patch",
        f"the median image, but no more than {cube} voxels of equal edges in mm, or as much of it as fits: the patch "
        "shrinks along the axis where it covers most of the image (the last of equals) until a batch of "
        f"{least} fits the memory target. The estimate counts the outputs of all convolutions, voxels x features; "
        "edges are multiples of what the network divides them by, which is worked out anew with each step.",
        (
            f"median image {by(median)} voxels at {in_mm(planned.spacing)} ({axes})",
            f"start: edges of {edge_mm:.4g} mm, which make {cube} voxels, clipped to the median image: "
            f"{by(choice.start)}; rounded up to multiples of {by(divisors)}, as this size is divided: "
            f"{by(first.patch)}",
            f"limit for a patch: {_millions(limit)}; the published reference for {decisions.plan.gpu_memory_gb:g} "
            f"GB is {_millions(choice.budget)} a patch in a batch of {reference}"
            + ("" if least == reference else f", which is {_millions(limit)} a patch in one of {least}"),
        ),
        (
            f"{by(last.patch)}: estimate {_millions(last.memory_proxy)}, {_share(last.memory_proxy / limit)}{stuck}",
            f"it covers {covers}",
        ),
        tuple(
            f"{by(step.patch)}: estimate {_millions(step.memory_proxy)}, {_share(step.memory_proxy / limit)}"
            for step in choice.steps[:-1]
        )
        or ("nothing: the first patch fits",),
        source(NNUNET, "patch-and-batch"),
    )


def _batch(name: str, choice: PatchChoice, decisions: Decisions) -> Choice:
    share = 100 * decisions.preset.dataset_share
    patch_voxels = prod(choice.topology.patch)
    dataset_voxels, where = decisions.dataset_voxels, ""
    coarsening = decisions.geometry.coarsening
    if name == "3d_lowres" and coarsening is not None:
        dataset_voxels, where = dataset_voxels / coarsening.voxel_ratio, " at this spacing"
    memory, cap, chosen = choice.affordable_batch, choice.capped_batch, choice.batch_size
    reference = REFERENCE_BATCH[len(choice.topology.patch)]
    in_batch = choice.budget * reference
    if min(memory, cap) < chosen:
        why = "the least there is"
    elif memory == cap:
        why = "as many as memory and the dataset allow"
    else:
        why = "as many as memory allows" if memory < cap else "as many as the dataset allows"
    return Choice(
        f"{name}: batch size",
        f"as many patches as memory allows, but not more than {share:g} % of the dataset's voxels, both rounded "
        "to the nearest, and at least 2.",
        (
            f"memory allows {memory}: {_millions(in_batch)} for a batch ({reference} x {_millions(choice.budget)}) "
            f"over {_millions(choice.memory_proxy)} a patch = {in_batch / choice.memory_proxy:.2f}",
            f"the dataset allows {cap}: {share:g} % of {dataset_voxels:,.0f} voxels (cases x median image{where}) over "
            f"{patch_voxels:,} a patch = {dataset_voxels * share / 100 / patch_voxels:.2f}",
        ),
        (f"{chosen}, {why}",),
        tuple(
            f"{size}: {what}"
            for size, what in ((memory, "more than the dataset allows"), (cap, "more than memory allows"))
            if size > chosen
        ),
        source(NNUNET, "patch-and-batch"),
    )


def _depth(name: str, choice: PatchChoice, planned: Configuration, axes: Sequence[str]) -> Choice:
    shape = choice.topology
    sizes, spacings = list(shape.patch), list(planned.spacing)
    told = []
    for number, (kernel, features) in enumerate(zip(shape.kernels, choice.features, strict=True)):
        line = f"stage {number}: {by(sizes)} at {in_mm(spacings)}, {features} features, kernel {by(kernel)}"
        if number + 1 == len(shape.strides):
            told.append(f"{line}; the end")
            break
        halved = shape.strides[number + 1]
        kept = [_why_not_halved(axes, a, sizes, spacings) for a, stride in enumerate(halved) if stride == 1]
        why = f" ({', '.join(kept)})" if kept else ""
        told.append(f"{line}; then strides {by(halved)}{why}")
        sizes = [-(-size // stride) for size, stride in zip(sizes, halved, strict=True)]
        spacings = [edge * stride for edge, stride in zip(spacings, halved, strict=True)]
    end = (
        f"no axis has {SHORT} voxels any more"
        if max(sizes) < SHORT
        else f"only one axis could be halved, and it has fewer than {3 * SMALLEST_EDGE_VOXELS} voxels"
    )
    decoder = _list(planned.n_conv_per_stage_decoder)
    encoder = "residual blocks" if planned.residual else "convolutions"
    return Choice(
        f"{name}: depth and kernels",
        f"an axis is halved while it has at least {SHORT} voxels and a spacing below twice the finest of such axes; "
        "its kernel grows from 1 to 3 once its spacing is below twice the finest of all. Features double up to "
        f"{MAX_FEATURES[len(axes)]}.",
        tuple(told),
        (
            f"{len(shape.strides)} stages; encoder {_list(planned.encoder_blocks)} {encoder}, "
            f"{f'decoder {decoder} convolutions' if decoder else 'no decoder'}",
        ),
        (f"one stage more: {end}",),
        source(NNUNET, "topology"),
    )


def _why_not_halved(axes: Sequence[str], axis: int, sizes: Sequence[int], spacings: Sequence[float]) -> str:
    if sizes[axis] < SHORT:
        return f"{axes[axis]} stops, {sizes[axis]} voxels are fewer than {SHORT}"
    finest = min(spacing for size, spacing in zip(sizes, spacings, strict=True) if size >= SHORT)
    times = spacings[axis] / finest
    return f"{axes[axis]} waits, {spacings[axis]:.3g} mm are {times:.1f} times {finest:.3g} mm"


def no_volumes(grid: Grid) -> Choice:
    """Why there are no 3D networks."""
    return Choice(
        "No 3D networks",
        "a 3D network is planned where the median image has more than one slice.",
        (f"median image {by(grid.median_size)} voxels",),
        ("2d alone",),
        ("3d_fullres, 3d_lowres and the cascade: there is nothing to see across slices",),
        source(NNUNET, "configurations"),
    )


def low_resolution(grid: Grid, coarsening: Coarsening, full: PatchChoice) -> Choice:
    """Why there is a low resolution, or why not."""
    saw = [
        f"a patch of 3d_fullres, {by(full.topology.patch)}, holds {100 * coarsening.covered:.3g} % of the voxels of "
        f"the median image, {by(grid.median_size)}; the limit is {100 * LOW_RESOLUTION_BELOW:.0f} %"
    ]
    if coarsening.choice is None:
        chose, rejected = ["no 3d_lowres and no cascade"], ["3d_lowres: the full resolution sees enough"]
    else:
        image_voxels = prod(grid.median_size) / coarsening.voxel_ratio
        holds = prod(coarsening.choice.topology.patch) / image_voxels
        saw.append(
            f"after {coarsening.rounds} steps of {100 * (COARSENING - 1):.0f} % the spacing is "
            f"{in_mm(coarsening.spacing)}, the image {by(coarsening.median_size)} (rounded), and a patch planned "
            f"for it, {by(coarsening.choice.topology.patch)}, holds {100 * holds:.1f} % of it"
        )
        saw.append(
            f"that image has {coarsening.voxel_ratio:.2f} times fewer voxels than the full one; 2 times are wanted"
        )
        if coarsening.kept:
            cascade = "3d_cascade_fullres: 3d_fullres that is also given what 3d_lowres predicted"
            chose, rejected = [f"3d_lowres at {in_mm(coarsening.spacing)}", cascade], []
        else:
            chose, rejected = ["no 3d_lowres and no cascade"], ["3d_lowres: it would be too similar"]
    return Choice(
        "Low resolution and cascade",
        "where a patch of the full resolution holds less than a quarter of the median image, the image is made "
        "coarser, axes finer than half the coarsest first, until a patch does; the result is kept if it has at most "
        "half the voxels.",
        tuple(saw),
        tuple(chose),
        tuple(rejected),
        source(NNUNET, "configurations"),
    )


def batch_dice(decisions: Decisions) -> Choice:
    """Why the loss takes Dice over the batch, or sample by sample."""
    over = [name for name, planned in decisions.plan.configurations.items() if planned.batch_dice]
    apart = [name for name in decisions.plan.configurations if name not in over]
    low = decisions.geometry.low is not None
    return Choice(
        "Dice of the loss",
        "over the batch as one volume in 2d, and in 3d_fullres beside a low resolution, where a patch often holds "
        "next to no foreground; else sample by sample.",
        (f"there is {'a' if low else 'no'} low resolution",),
        tuple(
            f"{_list(names)}: {how}" for names, how in ((over, "over the batch"), (apart, "sample by sample")) if names
        ),
        (),
        source(NNUNET, "configurations"),
    )


def memory(decisions: Decisions) -> Choice:
    """What a training step really takes."""
    plan = decisions.plan
    chose = []
    for name, planned in decisions.planned.items():
        step = planned_step_memory(plan, planned)
        chose.append(
            f"{name}: {step.peak_bytes / 2**30:.2f} GiB at the worst moment of a step, of which weights, gradients and "
            f"momentum {3 * step.parameter_bytes / 2**30:.2f}; {step.parameter_bytes / 4e6:.1f} million weights"
        )
    return Choice(
        "Memory of a training step",
        "counted from the network, tensor by tensor, in mixed precision on a GPU. The choices above go by the "
        "published estimate instead, so that plans are those of nnU-Net; what it leaves unused stays unused.",
        (
            f"memory target {plan.gpu_memory_gb:g} GB, in the unit of the estimate; a card needs what stands below, "
            "and some hundred MiB more",
        ),
        tuple(chose),
        (),
        source(OURS, "memory"),
    )


def fits(decisions: Decisions) -> Choice:
    """What measuring changed."""
    chose, tried = [], []
    for name, made in decisions.fits.items():
        first, last = made.tries[0], made.configuration
        changed = (first.patch, first.batch_size) != (last.patch_size, last.batch_size)
        before = f"batch {first.batch_size} of {by(first.patch)} becomes " if changed else ""
        chose.append(
            f"{name}: {before}batch {last.batch_size} of {by(last.patch_size)}{'' if changed else ', as planned'}"
        )
        tried += [
            f"{name}, batch {each.batch_size} of {by(each.patch)}: {each.needed_bytes / 2**30:.2f} GiB "
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
        source(OURS, "memory"),
    )


def _millions(value: float) -> str:
    return f"{value / 1e6:,.1f} million" if value >= 1e8 else f"{value / 1e6:,.4g} million"


def _share(share: float) -> str:
    return f"{share:.2f} of the limit" if share >= 0.005 else "less than 0.01 of the limit"


def _list(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values)
