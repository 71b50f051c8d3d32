"""What one case measures: its arrays -> grid and foreground intensities."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.images.image import Image, LabelMap
from autoseg.transforms.crop import cropped_box

MAX_BINS = 65_536
PART_VOXELS = 2**16


@dataclass(frozen=True, slots=True)
class Distribution:
    """Foreground intensities of one channel of one case.

    Attributes
    ----------
    values : ndarray of float32, shape (N,)
        Ascending, without repetition; at most 65,536.
    counts : ndarray of int64, shape (N,)
        How often each occurs.
    mean, variance, min, max : float
        Over all voxels, before anything was put into bins; the variance divides by n.
    """

    values: NDArray[np.float32]
    counts: NDArray[np.int64]
    mean: float
    variance: float
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One case.

    Attributes
    ----------
    shape_after_crop : tuple of int, length 3
        (Z, Y, X), of the box of non-zero voxels.
    voxels_by_value : tuple of int
        How many voxels of the whole label map have each value, from 0 to the highest there is.
    intensities : tuple of Distribution
        One for each channel; empty when the case has no foreground.
    """

    shape_after_crop: tuple[int, int, int]
    voxels_by_value: tuple[int, ...]
    intensities: tuple[Distribution, ...]


def measure(image: Image, label: LabelMap) -> Measured:
    """Crop, and gather the intensities of all voxels with a label above 0.

    Parameters
    ----------
    image : Image
    label : LabelMap
        On the same grid.

    Returns
    -------
    Measured
    """
    box = cropped_box(image.array_czyx)
    voxels = tuple(int(count) for count in label.counts)
    foreground = label.array_zyx[box.slices] > 0
    if not foreground.any():
        return Measured(box.shape, voxels, ())
    channels = (channel[box.slices][foreground] for channel in image.array_czyx)
    return Measured(box.shape, voxels, tuple(distribution(values) for values in channels))


def distribution(values: NDArray[np.float32], max_bins: int = MAX_BINS) -> Distribution:
    """How often each value occurs.

    Parameters
    ----------
    values : ndarray of float32, shape (N,)
        At least one, in any order.
    max_bins : int, optional
        Where there are more different values, the list is replaced by this many of its quantiles, evenly spaced
        and each standing for the same number of voxels.

    Returns
    -------
    Distribution
    """
    # No array here is wider than the values: a label may cover the whole volume.
    mean = float(values.mean(dtype=np.float64))
    parts = (values[start : start + PART_VOXELS] for start in range(0, len(values), PART_VOXELS))
    variance = sum(float(np.square(part - np.float64(mean)).sum()) for part in parts) / len(values)
    ascending = np.sort(values)
    low, high = float(ascending[0]), float(ascending[-1])
    if 1 + np.count_nonzero(ascending[1:] != ascending[:-1]) > max_bins:
        middles = (np.arange(max_bins) + 0.5) * (len(values) / max_bins)
        ascending = ascending[middles.astype(np.intp)]
    starts = np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]]))
    counts = np.diff(starts, append=len(ascending)).astype(np.int64)
    return Distribution(ascending[starts], counts, mean, variance, low, high)
