"""Statistics of the dataset from those of its cases, each case weighing the same."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.fingerprint import IntensityStatistics
from autoseg.fingerprint.case import Distribution

EXACT = 1e-12  # cumulative weights this close are equal


def merge(cases: Sequence[Distribution]) -> IntensityStatistics:
    """One channel's foreground intensities over all cases.

    Parameters
    ----------
    cases : sequence of Distribution
        At least one; of the cases that have foreground.

    Returns
    -------
    IntensityStatistics

    Notes
    -----
    nnU-Net v2 (2.8.1) draws the same number of voxels from each case, with replacement. These are the figures
    that such draws tend to: each of a case's n voxels weighs 1 / n, minimum and maximum are those of all voxels.
    docs/explanation/fingerprint.md.
    """
    means = np.array([case.mean for case in cases])
    mean = float(means.mean())
    spread = np.array([case.variance for case in cases]) + (means - mean) ** 2
    values = np.concatenate([case.values for case in cases])
    weights = np.concatenate([case.counts / (case.counts.sum() * len(cases)) for case in cases])
    low, middle, high = weighted_quantiles(values, weights, (0.005, 0.5, 0.995))
    return IntensityStatistics(
        mean=mean,
        median=middle,
        std=float(np.sqrt(spread.mean())),
        min=min(case.min for case in cases),
        max=max(case.max for case in cases),
        percentile_00_5=low,
        percentile_99_5=high,
    )


def weighted_quantiles(
    values: NDArray[np.float32], weights: NDArray[np.float64], shares: Sequence[float]
) -> tuple[float, ...]:
    """The values below which given shares of the weight lie.

    Parameters
    ----------
    values : ndarray of float32, shape (N,)
        In any order.
    weights : ndarray of float64, shape (N,)
        Positive, summing to 1.
    shares : sequence of float
        Between 0 and 1.

    Returns
    -------
    tuple of float
        Where a share ends exactly between two values, the middle of them.
    """
    order = np.argsort(values, kind="stable")
    ascending, below = values[order], np.cumsum(weights[order])
    last = len(values) - 1
    quantiles = []
    for share in shares:
        first = min(int(np.searchsorted(below, share - EXACT)), last)
        second = min(int(np.searchsorted(below, share + EXACT, side="right")), last)
        quantiles.append((float(ascending[first]) + float(ascending[second])) / 2)
    return tuple(quantiles)
