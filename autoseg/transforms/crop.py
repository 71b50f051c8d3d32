"""Which box of a volume is kept: the one around everything that is not zero."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open box of voxels.

    Attributes
    ----------
    start, stop : tuple of int, length 3
        Along the axes of the array, in voxels.
    """

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index."""
        (a, b, c), (d, e, f) = self.start, self.stop
        return slice(a, d), slice(b, e), slice(c, f)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Its edges in voxels."""
        (a, b, c), (d, e, f) = self.start, self.stop
        return d - a, e - b, f - c


SPARSE = 1 / 32  # share of zeros up to which looking at each of them beats passes over the whole


def cropped_box(array_czyx: NDArray[np.float32]) -> Box:
    """The box alone that `nonzero_box` gives, with far less work."""
    # Filling holes before taking the box or after it gives the same, because no hole reaches outside.
    z, y, x = array_czyx.shape[1:]
    if all(array_czyx.take(end, axis).any() for axis in (1, 2, 3) for end in (0, -1)):
        return Box((0, 0, 0), (z, y, x))
    return _bounding_box(_nonzero(array_czyx))


def nonzero_box(array_czyx: NDArray[np.float32]) -> tuple[Box, NDArray[np.bool_] | None]:
    """The box of the voxels that are not zero, and the mask inside it.

    Parameters
    ----------
    array_czyx : ndarray of float32, shape (C, Z, Y, X)

    Returns
    -------
    box : Box
        The whole array if every voxel of every channel is zero.
    mask_zyx : ndarray of bool, shape of the box, or None
        Where any channel differs from exactly 0, holes that are closed in 3D included; None where that is
        everywhere.

    Notes
    -----
    In a single slice nothing is filled: both its faces are open border. Source: nnU-Net v2 (2.8.1).
    """
    box = cropped_box(array_czyx)
    mask = _nonzero(array_czyx[(slice(None), *box.slices)])
    zeros = mask.size - int(np.count_nonzero(mask))
    # A hole needs a layer of mask around it: an edge of one or two voxels leaves no room for any.
    if 0 < zeros < mask.size and min(mask.shape) > 2:
        if zeros < SPARSE * mask.size:
            _fill_sparse(mask)
        else:
            # Most cases need no filling, and loading scipy takes longer than preparing a small one.
            from scipy.ndimage import binary_fill_holes

            mask = binary_fill_holes(mask)
        zeros = mask.size - int(np.count_nonzero(mask))
    return box, mask if zeros else None


def _nonzero(array_czyx: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where any channel differs from 0."""
    mask: NDArray[np.bool_] = array_czyx[0] != 0
    for channel in array_czyx[1:]:
        if mask.all():
            break
        mask |= channel != 0
    return mask


def _fill_sparse(mask: NDArray[np.bool_]) -> None:
    """What `binary_fill_holes` gives, in place, with work for the voxels outside the mask alone."""
    empty = np.flatnonzero(~mask)
    zyx = np.unravel_index(empty, mask.shape)
    pairs = []
    for index, edge, step in zip(zyx, mask.shape, (mask.shape[1] * mask.shape[2], mask.shape[2], 1), strict=True):
        first = np.flatnonzero(index < edge - 1)
        second = np.minimum(np.searchsorted(empty, empty[first] + step), len(empty) - 1)
        adjacent = empty[second] == empty[first] + step
        pairs.append(np.stack([first[adjacent], second[adjacent]]))
    first, second = np.concatenate(pairs, axis=1)
    open_ = np.zeros(len(empty), bool)
    for index, edge in zip(zyx, mask.shape, strict=True):
        open_[(index == 0) | (index == edge - 1)] = True
    spreads = open_[first] | open_[second]
    for _ in range(MOST_ROUNDS):
        if not spreads.any():
            np.put(mask, empty[~open_], True)
            return
        open_[first[spreads]] = open_[second[spreads]] = True
        first, second = first[~spreads], second[~spreads]
        spreads = open_[first] | open_[second]
    # A long tunnel takes a round for each voxel of its length.
    from scipy.ndimage import binary_fill_holes

    mask[...] = binary_fill_holes(mask)


def _bounding_box(mask: NDArray[np.bool_]) -> Box:
    starts, stops = [], []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(mask.any(axis=others))
        if not used.size:
            return Box((0, 0, 0), (mask.shape[0], mask.shape[1], mask.shape[2]))
        starts.append(int(used[0]))
        stops.append(int(used[-1]) + 1)
    return Box((starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2]))


def uncrop(
    array_zyx: NDArray[np.generic], box: Box, shape: tuple[int, int, int], fill: float = 0
) -> NDArray[np.generic]:
    """Put a cropped array back into its place.

    Parameters
    ----------
    array_zyx : ndarray, shape (..., *box.shape)
        Leading axes are kept.
    box : Box
    shape : tuple of int, length 3
        Of the whole.
    fill : float, optional
        What stands outside the box.

    Returns
    -------
    ndarray of the same dtype, shape (..., *shape)
    """
    whole = np.full((*array_zyx.shape[:-3], *shape), fill, array_zyx.dtype)
    whole[(..., *box.slices)] = array_zyx
    return whole
