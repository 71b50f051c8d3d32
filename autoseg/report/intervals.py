"""How far a mean over cases may be from that over all patients: values -> bootstrap intervals."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 9999
BATCH = 500  # resamples at a time, so that many cases fit in memory
PERCENTILES = (2.5, 97.5)


def mean_intervals(
    values: NDArray[np.float64], groups: Sequence[Hashable], *, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of the columns and their 95 % intervals.

    Parameters
    ----------
    values : ndarray of float64, shape (cases, columns)
        NaN where a score is undefined; it is in no mean.
    groups : sequence of hashable, length cases
        Cases of one group (a patient) are drawn together, since they resemble each other.
    seed : int, optional

    Returns
    -------
    means : ndarray of float64, shape (columns,)
        NaN where a column has no value.
    ends : ndarray of float64, shape (columns, 2)
        Lower and upper end; NaN for fewer than two groups with a value.

    Notes
    -----
    Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13) with 9999 resamples;
    all columns see the same resamples.
    """
    _, index = np.unique(np.asarray([repr(group) for group in groups]), return_inverse=True)
    n_groups = int(index.max()) + 1
    known = np.isfinite(values)
    sums, counts = np.zeros((2, n_groups, values.shape[1]))
    np.add.at(sums, index, np.where(known, values, 0.0))
    np.add.at(counts, index, known)
    rng = np.random.default_rng(seed)
    drawn = []
    for start in range(0, NUM_RESAMPLES, BATCH):
        size = min(BATCH, NUM_RESAMPLES - start)
        weights = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=size).astype(np.float64)
        drawn.append(_ratio(weights @ sums, weights @ counts))
    ends = np.full((values.shape[1], 2), np.nan)
    enough = np.count_nonzero(counts, axis=0) > 1
    if enough.any():
        # A resample may lack every case in which a rare score is defined.
        ends[enough] = np.nanpercentile(np.concatenate(drawn)[:, enough], PERCENTILES, axis=0).T
    return _ratio(sums.sum(axis=0), counts.sum(axis=0)), ends


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means; NaN of nothing."""
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means
