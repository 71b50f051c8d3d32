"""Patch and batch size under a memory budget: the iterative search."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from autoseg.plan.presets import Preset
from autoseg.plan.topology import Topology, topology

REFERENCE_BATCH = {2: 12, 3: 2}
START_VOXELS = {2: 2048.0**2, 3: 256.0**3}
MAX_FEATURES = {2: 512, 3: 320}
BASE_FEATURES = 32
SMALLEST_BATCH = 2


@dataclass(frozen=True, slots=True)
class Step:
    """A patch that the search looked at.

    Attributes
    ----------
    patch : tuple of int
    memory_proxy : float
        Its estimate, in voxels x features.
    """

    patch: tuple[int, ...]
    memory_proxy: float


@dataclass(frozen=True, slots=True)
class PatchChoice:
    """What the search ended with, and how it came there.

    Attributes
    ----------
    topology : Topology
        Of the final patch; `topology.patch` is the patch.
    batch_size : int
        At least 2.
    features : tuple of int
        One a stage.
    memory_proxy : float
        Estimate for the final patch, in voxels x features.
    budget : float
        What the proxy of a batch of `REFERENCE_BATCH` may reach.
    affordable_batch, capped_batch : int
        What memory allows, and what the dataset's size allows.
    start : tuple of float
        The patch before any rule: equal edges in mm, clipped to the median image.
    steps : tuple of Step
        Every patch of the search, the last of which was chosen.
    """

    topology: Topology
    batch_size: int
    features: tuple[int, ...]
    memory_proxy: float
    budget: float
    affordable_batch: int
    capped_batch: int
    start: tuple[float, ...]
    steps: tuple[Step, ...]


def features_per_stage(num_stages: int, dimensions: int) -> tuple[int, ...]:
    """Features double at each stage, from 32 up to 320 in 3D and 512 in 2D."""
    return tuple(min(MAX_FEATURES[dimensions], BASE_FEATURES * 2**stage) for stage in range(num_stages))


def memory_proxy(patch: Sequence[int], strides: Sequence[Sequence[int]], num_labels: int, preset: Preset) -> float:
    """Voxels x features of all feature maps of a U-Net for one sample.

    Notes
    -----
    Counts each convolution's output once (a residual stage's shortcut too, and the stem), transposed convolutions at
    the finer level, and one segmentation head; kernel sizes and input channels don't enter. Source: nnU-Net v2
    (2.8.1).
    """
    num_stages = len(strides)
    voxels = []
    size = [float(edge) for edge in patch]
    for stride in strides:
        size = [edge / factor for edge, factor in zip(size, stride, strict=True)]
        voxels.append(prod(size))
    weighted = [f * v for f, v in zip(features_per_stage(num_stages, len(patch)), voxels, strict=True)]
    blocks = preset.encoder_blocks(num_stages)
    if preset.residual:
        encoder = weighted[0] + sum(2 * b * w for b, w in zip(blocks, weighted, strict=True)) + sum(weighted[1:])
    else:
        encoder = sum(b * w for b, w in zip(blocks, weighted, strict=True))
    decoder = sum((b + 1) * w for b, w in zip(preset.decoder_convolutions(num_stages), weighted[:-1], strict=True))
    head = num_labels * voxels[0] if num_stages > 1 else 0.0
    return encoder + decoder + head


def search(
    spacing: Sequence[float],
    median_size: Sequence[float],
    dataset_voxels: float,
    num_labels: int,
    preset: Preset,
    gpu_memory_gb: float,
) -> PatchChoice:
    """Shrink a huge patch until a batch of 2 fits, then give what memory is left to the batch.

    Parameters
    ----------
    spacing : sequence of float, length d
        Target spacing in mm.
    median_size : sequence of float, length d
        Median image at that spacing, in voxels; halves may occur.
    dataset_voxels : float
        Voxels of the median image times the number of cases.
    num_labels : int
        Label names in dataset.json, background, regions and ignore label included.
    preset : Preset
    gpu_memory_gb : float
        Memory target.

    Returns
    -------
    PatchChoice

    Notes
    -----
    Source: nnU-Net v2 (2.8.1); docs/explanation/patch-and-batch.md has a worked example.
    """
    d = len(spacing)
    reference = preset.reference_proxy_2d if d == 2 else preset.reference_proxy_3d
    budget = reference * (gpu_memory_gb / preset.reference_gb)
    batch_in_search = preset.flat_batch_in_search if d == 2 else REFERENCE_BATCH[3]
    start = _start_patch(spacing, median_size)
    shape = topology(start, spacing)
    cost = memory_proxy(shape.patch, shape.strides, num_labels, preset)
    steps = [Step(shape.patch, cost)]
    while cost * batch_in_search / REFERENCE_BATCH[d] > budget:
        smaller = shrink(shape, spacing, median_size, {step.patch for step in steps})
        if smaller is None:
            break
        shape = smaller
        cost = memory_proxy(shape.patch, shape.strides, num_labels, preset)
        steps.append(Step(shape.patch, cost))
    affordable = round(budget / cost * REFERENCE_BATCH[d])
    cap = round(dataset_voxels * preset.dataset_share / float(prod(shape.patch)))
    return PatchChoice(
        topology=shape,
        batch_size=max(min(affordable, cap), SMALLEST_BATCH),
        features=features_per_stage(len(shape.strides), d),
        memory_proxy=cost,
        budget=budget,
        affordable_batch=affordable,
        capped_batch=cap,
        start=tuple(start),
        steps=tuple(steps),
    )


def _start_patch(spacing: Sequence[float], median_size: Sequence[float]) -> list[float]:
    """Equal physical edges and a huge volume, clipped to the median image."""
    d = len(spacing)
    voxels_per_mm = [1 / edge for edge in spacing]
    scale = (START_VOXELS[d] / prod(voxels_per_mm)) ** (1 / d)
    # An axis coarser than that edge would round to nothing, where nnU-Net's planner fails.
    return [min(max(1, round(count * scale)), limit) for count, limit in zip(voxels_per_mm, median_size, strict=True)]


def shrink(
    shape: Topology, spacing: Sequence[float], median_size: Sequence[float], seen: set[tuple[int, ...]]
) -> Topology | None:
    """Take one divisor off the axis that is largest relative to the median image (the last one if tied).

    Parameters
    ----------
    shape : Topology
        Of the present patch.
    spacing, median_size : sequence of float, length d
    seen : set of tuple of int
        Patches not to come back to.

    Returns
    -------
    Topology or None
        None when no axis can be made smaller.

    Notes
    -----
    The divisor is that of the patch already made smaller: it can be less than the present one, so that no legal
    size is skipped (256 -> 224, not 192). An axis that can't be made smaller, or whose padding leads back to a patch
    seen before, gives way to the next; None when there is none left.
    """
    ratios = [edge / limit for edge, limit in zip(shape.patch, median_size, strict=True)]
    for axis in sorted(range(len(ratios)), key=lambda a: (ratios[a], a), reverse=True):
        smaller = list(shape.patch)
        smaller[axis] -= shape.divisors[axis]
        divisor = topology(smaller, spacing).divisors[axis]
        smaller[axis] = shape.patch[axis] - divisor
        if smaller[axis] < 1:
            continue
        made = topology(smaller, spacing)
        if made.patch not in seen:
            return made
    return None
