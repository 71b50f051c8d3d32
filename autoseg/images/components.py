"""Connected components of a mask."""

from typing import Final

import cc3d
import numpy as np
from numpy.typing import NDArray

CONNECTIVITY: Final = 26  # voxels that share a corner belong together, as in nnU-Net


def components(mask_zyx: NDArray[np.bool_]) -> tuple[NDArray[np.integer], NDArray[np.float64]]:
    """Number the components of a mask.

    Returns
    -------
    numbers : ndarray of unsigned integers, shape (Z, Y, X)
        0 outside the mask, then from 1.
    volumes : ndarray of float64, shape (N,)
        In voxels.
    """
    if not mask_zyx.size:
        return np.zeros(mask_zyx.shape, np.uint16), np.zeros(0)
    # In boxes one voxel wide and high cc3d 4.1.1 fails for bools, and numbers uint8 cut from larger arrays wrongly.
    numbers = cc3d.connected_components(np.ascontiguousarray(mask_zyx, np.uint8), connectivity=CONNECTIVITY)
    return numbers, np.bincount(numbers.ravel())[1:].astype(np.float64)
