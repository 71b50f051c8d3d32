"""Figures of an augmented patch, the same in both environments, and the images that are augmented."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

NAMES = ("mean", "deviation", "skewness", "lowest", "highest", "roughness", "corner")


def figures(image_czyx: NDArray[np.float32]) -> list[float]:
    """Moments of the first channel, its percentiles, how much neighbours differ, and the mean of a corner."""
    x = image_czyx[0].astype(np.float64)
    mean, deviation = x.mean(), x.std() + 1e-12
    skewness = (((x - mean) / deviation) ** 3).mean()
    low, high = np.percentile(x, (1, 99))
    roughness = np.mean([np.abs(np.diff(x, axis=axis)).mean() for axis in range(x.ndim)]) / deviation
    corner = x[tuple(slice(0, edge // 4) for edge in x.shape)].mean()
    return [float(value) for value in (mean, deviation, skewness, low, high, roughness, corner)]


def source(edges: Sequence[int], channels: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """An image with structures of several sizes, and a label map of three values, as a region read from a case."""
    rng = np.random.default_rng(seed)
    coarse = [max(4, edge // 4) for edge in edges]
    index = np.ix_(*(np.minimum(np.arange(n) // 4, m - 1) for n, m in zip(edges, coarse, strict=True)))
    image = np.empty((channels, *edges), dtype=np.float32)
    for channel in image:
        smooth = gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), 2)[index]
        channel[:] = smooth / smooth.std() + 0.1 * rng.standard_normal(edges, dtype=np.float32)
    label = (image[0] > 0.5).astype(np.int16) + (image[0] > 1.5)
    return image, label.astype(np.int16)
