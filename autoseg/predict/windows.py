"""Where the patches of a sliding window lie and how much each voxel of a patch counts."""

from collections.abc import Sequence
from itertools import combinations, product
from math import ceil

import numpy as np
from numpy.typing import NDArray

GAUSSIAN_SHARE = 0.125
PEAK = 10.0
LEAST = 6e-8  # the least that half precision knows, which is nnU-Net's, too


def starts(length: int, edge: int, step: float) -> list[int]:
    """First voxels of the windows along one axis, evenly spread, at most `step` edges apart.

    Parameters
    ----------
    length : int
        Voxels of the volume, at least `edge`.
    edge : int
        Voxels of the window.
    step : float
        Greatest distance of neighbours, in edges; above 0, at most 1.

    Returns
    -------
    list of int
        The first is 0, the last `length - edge`.
    """
    room = length - edge
    count = ceil(room / (edge * step)) + 1
    spread = room / (count - 1) if count > 1 else 0.0
    return [round(spread * i) for i in range(count)]


def windows(shape: Sequence[int], patch: Sequence[int], step: float) -> list[tuple[slice, ...]]:
    """Slices of every window of a volume that is at least as large as the patch.

    Notes
    -----
    A patch with fewer axes than the volume (2D) visits each slice along the first axis.
    """
    lead = [[slice(z, z + 1) for z in range(n)] for n in shape[: len(shape) - len(patch)]]
    rest = [
        [slice(at, at + edge) for at in starts(length, edge, step)]
        for length, edge in zip(shape[len(shape) - len(patch) :], patch, strict=True)
    ]
    return list(product(*lead, *rest))


def gaussian_weights(patch: Sequence[int]) -> NDArray[np.float32]:
    """How much each voxel of a patch counts: a Gaussian of an eighth of the edge, 10 at the centre, never 0.

    Notes
    -----
    Predictions are poorer near a patch's border, where the network sees less around (Isensee et al. 2021). The peak
    of 10 keeps the corners representable in half precision.
    """
    weights: NDArray[np.float64] = np.ones(())
    for edge in patch:
        distance = np.arange(edge) - edge // 2
        line = np.exp(-0.5 * (distance / max(edge * GAUSSIAN_SHARE, 1e-9)) ** 2)
        weights = weights[..., None] * line
    weights = weights / weights.max() * PEAK
    return np.maximum(weights, LEAST).astype(np.float32)


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every subset of the axes, the empty one first."""
    return [subset for size in range(len(axes) + 1) for subset in combinations(axes, size)]
