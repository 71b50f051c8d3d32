"""The mean of several configurations' probabilities, as a sum of levels: exact, and two bytes a voxel and class."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SLAB_BYTES = 64 * 2**20


def summed(parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint16]:
    """The sum of levels; divided by their number times 255 it is the mean probability.

    Parameters
    ----------
    parts : sequence of ndarray of uint8, each of shape (K, Z, Y, X)
        At least one, at most 257; 255 is probability 1.

    Returns
    -------
    ndarray of uint16, shape (K, Z, Y, X)

    Raises
    ------
    ValueError
        The shapes differ.

    Examples
    --------
    >>> summed([np.array([[[[255, 10]]]], np.uint8), np.array([[[[255, 20]]]], np.uint8)]).tolist()
    [[[[510, 30]]]]
    """
    first, *others = parts
    total = first.astype(np.uint16)
    for part in others:
        if part.shape != total.shape:
            message = f"probabilities differ in shape: {total.shape} and {part.shape}"
            raise ValueError(message)
        total += part
    return total


def summed_slabs(parts: Sequence[Any]) -> Iterator[tuple[slice, NDArray[np.uint16]]]:
    """`summed` of arrays that need not be in memory, a slab of slices at a time.

    Yields
    ------
    slice
        Along Z.
    ndarray of uint16, shape (K, slices, Y, X)
    """
    num_classes, num_slices, *plane = parts[0].shape
    slab = max(1, SLAB_BYTES // (2 * num_classes * int(np.prod(plane))))
    for start in range(0, num_slices, slab):
        rows = slice(start, min(start + slab, num_slices))
        yield rows, summed([np.asarray(part[:, rows]) for part in parts])
