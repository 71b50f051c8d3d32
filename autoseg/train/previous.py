"""What the previous stage of a cascade predicted, as it is shown to the next one: label map -> label map, channels."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.train.draws import MapChange


def change_map(map_zyx: NDArray[np.int16], changes: Sequence[MapChange], largest_voxels: float) -> NDArray[np.int16]:
    """Make a predicted map differ from what was predicted, as it may on cases that nobody trained on.

    Parameters
    ----------
    map_zyx : ndarray of int16, shape (Z, Y, X) or (Y, X)
        Not changed.
    changes : sequence of MapChange
        In order.
    largest_voxels : float
        Components of this size and larger are left.

    Returns
    -------
    ndarray of int16
        A voxel that a label grows into is that label's.
    """
    changed = map_zyx.copy() if changes else map_zyx
    for change in changes:
        mask = changed == change.value
        if not mask.any():
            continue
        if change.operation == "remove":
            changed[_component(mask, change.amount, largest_voxels)] = 0
            continue
        after = _reshaped(mask, change)
        changed[mask & ~after] = 0
        changed[after] = change.value
    return changed


def _reshaped(mask: NDArray[np.bool_], change: MapChange) -> NDArray[np.bool_]:
    radius = int(change.amount)
    match change.operation:
        case "grow":
            return grown(mask, radius)
        case "shrink":
            return shrunk(mask, radius)
        case "open":
            return grown(shrunk(mask, radius), radius)
        case _:
            return shrunk(grown(mask, radius), radius)


def grown(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """All voxels no farther than `radius` voxels from one of the mask.

    Notes
    -----
    Counts the mask's voxels in a ball around each voxel by Fourier transforms, whose cost does not grow with the
    ball; a count is wrong by less than a thousandth.
    """
    from scipy.signal import fftconvolve

    near: NDArray[np.bool_] = fftconvolve(mask.astype(np.float32), _ball(radius, mask.ndim), mode="same") > 0.5
    return near


def shrunk(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """All voxels farther than `radius` voxels from any outside the mask; what lies beyond the array is not outside."""
    return ~grown(~mask, radius)


@lru_cache(maxsize=32)
def _ball(radius: int, ndim: int) -> NDArray[np.float32]:
    offsets = np.indices((2 * radius + 1,) * ndim) - radius
    ball: NDArray[np.float32] = ((offsets**2).sum(axis=0) <= radius**2).astype(np.float32)
    return ball


def _component(mask: NDArray[np.bool_], pick: float, largest_voxels: float) -> NDArray[np.bool_]:
    """One of the mask's connected components that are small enough, touching corners included; none if none is."""
    from scipy.ndimage import label

    numbered, count = label(mask, np.ones((3,) * mask.ndim))
    sizes = np.bincount(numbered.reshape(-1), minlength=count + 1)
    small = np.flatnonzero(sizes[1:] < largest_voxels) + 1
    if small.size == 0:
        return np.zeros_like(mask)
    component: NDArray[np.bool_] = numbered == small[int(pick * small.size)]
    return component


def one_hot(map_bzyx: Tensor, num_values: int, kind: torch.dtype) -> Tensor:
    """A channel for each of the labels 1 to `num_values`: 1 where the map has it, else 0.

    Parameters
    ----------
    map_bzyx : Tensor of int16, shape (B, *patch)
        0 and less: no label's.
    num_values : int
    kind : dtype
        Of the channels.

    Returns
    -------
    Tensor, shape (B, num_values, *patch)
    """
    values = torch.arange(1, num_values + 1, dtype=map_bzyx.dtype, device=map_bzyx.device)
    return (map_bzyx[:, None] == values.view(1, -1, *(1 for _ in map_bzyx.shape[1:]))).to(kind)
