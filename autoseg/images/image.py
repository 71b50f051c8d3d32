"""An image and a label map: an array and the grid it lives on."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.geometry import Geometry


@dataclass(frozen=True, slots=True)
class Image:
    """All channels of one case.

    Attributes
    ----------
    array_czyx : ndarray of float32, shape (C, Z, Y, X)
    geometry : Geometry
        Of the grid; its shape is (Z, Y, X).
    """

    array_czyx: NDArray[np.float32]
    geometry: Geometry


@dataclass(frozen=True)
class LabelMap:
    """The segmentation of one case.

    Attributes
    ----------
    array_zyx : ndarray of uint8 or uint16, shape (Z, Y, X)
    geometry : Geometry
    """

    array_zyx: NDArray[np.integer]
    geometry: Geometry

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How many voxels have each value, from 0 to the highest that occurs; int64, shape (highest + 1,)."""
        counts = np.zeros(int(self.array_zyx.max()) + 1, np.int64)
        # A slice at a time, because numpy makes an index of eight bytes of each voxel; and most are background.
        for slice_yx in self.array_zyx:
            foreground = slice_yx[slice_yx > 0]
            counts += np.bincount(foreground, minlength=len(counts))
            counts[0] += slice_yx.size - foreground.size
        return counts

    def values(self) -> list[int]:
        """The values that occur, each once, sorted."""
        return [int(value) for value in np.flatnonzero(self.counts)]
