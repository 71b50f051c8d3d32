"""Which spacing and axis order the network works in, from the spacings and shapes of the cases."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ANISOTROPY = 3.0


def target_spacing(spacings: NDArray[np.float64], shapes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spacing of the full resolution.

    Parameters
    ----------
    spacings : ndarray of float64, shape (N, 3)
        Of each case, in mm, along (Z, Y, X).
    shapes : ndarray of float64, shape (N, 3)
        Of each case after cropping, in voxels.

    Returns
    -------
    ndarray of float64, shape (3,)
        In mm, in the order given.

    Notes
    -----
    The median, but along an axis that is both coarse (more than three times the others) and short (less than a
    third of the others) the 10th percentile, so that thick slices don't set the resolution for everyone. Isensee
    et al., Nature Methods 18, 203-211 (2021), online methods; docs/explanation/target-spacing.md.
    """
    target = np.percentile(spacings, 50, axis=0)
    size = np.percentile(shapes, 50, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    coarsest_other = max(target[axis] for axis in others)
    coarse = target[worst] > ANISOTROPY * coarsest_other
    short = size[worst] * ANISOTROPY < min(size[axis] for axis in others)
    if coarse and short:
        fine = np.percentile(spacings[:, worst], 10)
        # Never finer than the plane: the slice axis stays the coarsest.
        target[worst] = fine if fine >= coarsest_other else coarsest_other + 1e-5
    return target


def axis_order(spacing: Sequence[float]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Put the coarsest axis first; returns the order and its inverse.

    Notes
    -----
    2D networks cut slices along the first axis, and "dummy 2D" augmentation leaves it alone; both want the axis
    with the largest spacing there.
    """
    coarsest = int(np.argmax(np.asarray(spacing)))
    forward = (coarsest, *(axis for axis in range(3) if axis != coarsest))
    backward = tuple(forward.index(axis) for axis in range(3))
    return (forward[0], forward[1], forward[2]), (backward[0], backward[1], backward[2])
