"""An image and a label map: an array and the grid it lives on."""

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class LabelMap:
    """The segmentation of one case.

    Attributes
    ----------
    array_zyx : ndarray of uint8 or uint16, shape (Z, Y, X)
    geometry : Geometry
    """

    array_zyx: NDArray[np.integer]
    geometry: Geometry

    def values(self) -> list[int]:
        """The values that occur, each once, sorted; ticked off in a table, which is far quicker than sorting voxels."""
        occurs = np.zeros(int(self.array_zyx.max()) + 1, dtype=bool)
        # A slice at a time, because numpy makes an index of eight bytes of each voxel; and most are background.
        for slice_yx in self.array_zyx:
            foreground = slice_yx[slice_yx > 0]
            occurs[0] |= foreground.size < slice_yx.size
            occurs[foreground] = True
        return [int(value) for value in np.flatnonzero(occurs)]
