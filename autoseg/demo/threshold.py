"""How far intensity alone gets: images and labels -> the Dice of the best interval of intensities for each class."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUM_QUANTILES = 200


def best_threshold_dice(
    images: Sequence[NDArray[np.floating]], labels: Sequence[NDArray[np.integer]]
) -> dict[int, float]:
    """Score the best intensity interval of each class, chosen on the very volumes it is scored on.

    Every interval [lo, hi] between two of 200 quantiles of the class's own intensities is tried, the same one for
    all volumes. Choosing with the reference at hand makes this an upper bound of what a threshold can do.

    Parameters
    ----------
    images : sequence of ndarray of float, each of any shape
        One volume for each case.
    labels : sequence of ndarray of int, each of its image's shape
        0 is background.

    Returns
    -------
    dict of int to float
        For each class that occurs, the mean over the cases of the Dice; a case without the class counts 0 if the
        interval finds anything in it, and is left out if not.

    Examples
    --------
    >>> best_threshold_dice([np.array([1.0, 5.0, 5.0, 9.0])], [np.array([0, 1, 0, 2])])
    {1: 0.666..., 2: 1.0}
    """
    pairs = list(zip(images, labels, strict=True))
    classes = sorted({int(value) for label in labels for value in np.unique(label)} - {0})
    return {value: _best_interval(pairs, value) for value in classes}


def _best_interval(pairs: list[tuple[NDArray[np.floating], NDArray[np.integer]]], value: int) -> float:
    """The highest mean Dice of one class over all intervals."""
    inside = np.concatenate([image[label == value] for image, label in pairs])
    # Between two neighbouring intensities of the class an interval only gains false positives, so its own suffice.
    edges = np.unique(np.quantile(inside, np.linspace(0, 1, NUM_QUANTILES), method="nearest"))
    scores = []
    for image, label in pairs:
        hits = _within(edges, image[label == value])
        size = np.count_nonzero(label == value) + _within(edges, image.ravel())
        scores.append(np.divide(2.0 * hits, size, out=np.full(hits.shape, np.nan), where=size > 0))
    stack = np.stack(scores)
    counted = np.maximum(np.isfinite(stack).sum(axis=0), 1)
    return float((np.nansum(stack, axis=0) / counted).max())


def _within(edges: NDArray[np.floating], values: NDArray[np.floating]) -> NDArray[np.int64]:
    """How many values lie in [edges[i], edges[j]], as a matrix over i and j; 0 where j < i."""
    ordered = np.sort(values)
    below, upto = (np.searchsorted(ordered, edges, side=side) for side in ("left", "right"))
    counts: NDArray[np.int64] = np.maximum(upto[None, :] - below[:, None], 0)
    return counts
