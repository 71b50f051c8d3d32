"""How sure a mean is: the bootstrap, by scipy."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from autoseg.artifacts.comparison import Interval
from autoseg.artifacts.selection import SIGNIFICANCE

NUM_RESAMPLES = 9999
# Resamples at a time: a thousand of a thousand cases are 8 MB for each column.
BATCH = 1000


def bootstrap_interval(
    columns: Sequence[NDArray[np.float64]], statistic: Callable[..., Any], seed: int
) -> Interval | None:
    """95 % interval of a statistic.

    Parameters
    ----------
    columns : sequence of float64[case]
        One number a case in each; cases are drawn as a whole.
    statistic : callable
        Takes the columns and `axis`.
    seed : int

    Returns
    -------
    Interval or None
        The bias-corrected and accelerated one (Efron, JASA 82, 1987) of 9999 resamples; the percentile one where that
        does not exist (very few cases); None where that does not, either.
    """
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # scipy warns of a degenerate distribution and answers NaN, which is dealt with here.
            warnings.simplefilter("ignore")
            ends = stats.bootstrap(
                tuple(columns),
                statistic,
                n_resamples=NUM_RESAMPLES,
                batch=BATCH,
                paired=len(columns) > 1,
                vectorized=True,
                confidence_level=1 - SIGNIFICANCE,
                method=method,
                random_state=np.random.default_rng(seed),
            ).confidence_interval
        if math.isfinite(ends.low) and math.isfinite(ends.high):
            return Interval(low=float(ends.low), high=float(ends.high))
    return None
