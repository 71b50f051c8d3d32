"""Patch and batch size under a memory budget: the iterative search."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.plan.topology import Topology, topology

REFERENCE_GB = 8.0
REFERENCE_PROXY = {2: 85e6, 3: 560e6}
REFERENCE_BATCH = {2: 12, 3: 2}
START_VOXELS = {2: 2048.0**2, 3: 256.0**3}
MAX_FEATURES = {2: 512, 3: 320}
BASE_FEATURES = 32
CONVOLUTIONS_PER_STAGE = 2
SMALLEST_BATCH = 2
DATASET_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class PatchChoice:
    """What the search ended with.

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
    """

    topology: Topology
    batch_size: int
    features: tuple[int, ...]
    memory_proxy: float


def features_per_stage(num_stages: int, dimensions: int) -> tuple[int, ...]:
    """Features double at each stage, from 32 up to 320 in 3D and 512 in 2D."""
    return tuple(min(MAX_FEATURES[dimensions], BASE_FEATURES * 2**stage) for stage in range(num_stages))


def memory_proxy(patch: Sequence[int], strides: Sequence[Sequence[int]], num_labels: int) -> float:
    """Voxels x features of all feature maps of a plain U-Net for one sample.

    Notes
    -----
    Counts each convolution's output once, transposed convolutions at the finer level, and one segmentation head;
    kernel sizes and input channels don't enter. Source: nnU-Net v2 (2.8.1).
    """
    voxels = []
    cumulative = np.ones(len(patch))
    for stride in strides:
        cumulative = cumulative * np.asarray(stride)
        voxels.append(float(np.prod(np.asarray(patch) / cumulative)))
    features = features_per_stage(len(strides), len(patch))
    weighted = [f * v for f, v in zip(features, voxels, strict=True)]
    encoder = CONVOLUTIONS_PER_STAGE * sum(weighted)
    decoder = (CONVOLUTIONS_PER_STAGE + 1) * sum(weighted[:-1])
    head = num_labels * voxels[0] if len(strides) > 1 else 0.0
    return encoder + decoder + head


def search(
    spacing: Sequence[float],
    median_size: Sequence[float],
    dataset_voxels: float,
    num_labels: int,
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
        Label names in dataset.json, background included.
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
    budget = REFERENCE_PROXY[d] * (gpu_memory_gb / REFERENCE_GB)
    shape = topology(_start_patch(spacing, median_size), spacing)
    cost = memory_proxy(shape.patch, shape.strides, num_labels)
    while cost * SMALLEST_BATCH / REFERENCE_BATCH[d] > budget:
        smaller = _shrink(shape, spacing, median_size)
        if smaller == shape.patch:
            break
        shape = topology(smaller, spacing)
        cost = memory_proxy(shape.patch, shape.strides, num_labels)
    affordable = round(budget / cost * REFERENCE_BATCH[d])
    cap = round(dataset_voxels * DATASET_SHARE / float(np.prod(np.asarray(shape.patch, dtype=np.float64))))
    return PatchChoice(
        topology=shape,
        batch_size=max(min(affordable, cap), SMALLEST_BATCH),
        features=features_per_stage(len(shape.strides), d),
        memory_proxy=cost,
    )


def _start_patch(spacing: Sequence[float], median_size: Sequence[float]) -> list[float]:
    """Equal physical edges and a huge volume, clipped to the median image."""
    d = len(spacing)
    voxels_per_mm = 1 / np.asarray(spacing, dtype=np.float64)
    scale = (START_VOXELS[d] / np.prod(voxels_per_mm)) ** (1 / d)
    return [min(round(float(edge)), limit) for edge, limit in zip(voxels_per_mm * scale, median_size, strict=True)]


def _shrink(shape: Topology, spacing: Sequence[float], median_size: Sequence[float]) -> tuple[int, ...]:
    """Take one divisor off the axis that is largest relative to the median image (the last one if tied).

    The divisor is that of the patch already made smaller: it can be less than the present one, so that no legal
    size is skipped (256 -> 224, not 192).
    """
    ratios = [edge / limit for edge, limit in zip(shape.patch, median_size, strict=True)]
    axis = max(range(len(ratios)), key=lambda a: (ratios[a], a))
    probe = list(shape.patch)
    probe[axis] -= shape.divisors[axis]
    step = topology(probe, spacing).divisors[axis]
    smaller = list(shape.patch)
    smaller[axis] -= step
    return tuple(smaller) if smaller[axis] >= 1 else shape.patch
