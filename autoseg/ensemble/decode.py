"""From probabilities to labels: the most likely class, or the voxels whose expected Dice is highest."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.selection import Decoding
from autoseg.ensemble.average import summed_slabs
from autoseg.images.probabilities import WHOLE

Levels = NDArray[np.uint16]
Labels = NDArray[np.uint16]


def decode(parts: Sequence[Any], decoding: Decoding, class_order: tuple[int, ...] = ()) -> Labels:
    """The label map of one case.

    Parameters
    ----------
    parts : sequence of array of uint8, each of shape (K, Z, Y, X)
        Of each configuration; 255 is probability 1. They need not be in memory: slabs are read.
    decoding : {'argmax', 'dice'}
    class_order : tuple of int, optional
        The value written for each region, later ones over earlier ones; empty: classes, of which the first is the
        background.

    Returns
    -------
    ndarray of uint16, shape (Z, Y, X)
        Values as the network counts them, from 0.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    whole = WHOLE * len(parts)
    label_zyx = np.zeros(parts[0].shape[1:], np.uint16)
    choose = _by_argmax(whole, class_order)
    if decoding == "dice":
        histograms = histogram((block for _, block in summed_slabs(parts)), whole)
        choose = _by_thresholds(dice_thresholds(histograms), class_order)
    for rows, block in summed_slabs(parts):
        label_zyx[rows] = choose(block)
    return label_zyx


def histogram(blocks: Iterable[Levels], whole: int) -> NDArray[np.int64]:
    """How many voxels of each class have each level; int64, shape (K, whole + 1)."""
    counts: NDArray[np.int64] | None = None
    for block in blocks:
        found = np.stack([np.bincount(levels.ravel(), minlength=whole + 1) for levels in block])
        counts = found if counts is None else counts + found
    if counts is None:
        message = "no slabs"
        raise ValueError(message)
    return counts


def dice_thresholds(histograms: NDArray[np.int64]) -> NDArray[np.float64]:
    """For each class, the level from which on voxels are in the set with the highest expected Dice.

    Parameters
    ----------
    histograms : ndarray of int64, shape (K, whole + 1)

    Returns
    -------
    ndarray of float64, shape (K,)
        Infinite where it is best to leave the class out.

    Notes
    -----
    Of all sets of n voxels the one with the n highest probabilities is the best, with a ratio of expectations of
    2 * sum of its p / (n + sum of all p). The n with the highest ratio are those whose p is above half that ratio
    (Lipton, Elkan and Naryanaswamy, ECML PKDD 2014, for the F1 score; Dai and Li, RankSEG, JMLR 24, 2023, for Dice in
    segmentation, who also give the exact expectation). An empty set is right where no voxel has the class, which for
    independent voxels has the probability prod(1 - p); it is chosen where that is above the ratio.
    """
    levels = np.arange(histograms.shape[1])
    # From the highest level down: how many voxels, and the sum of their probabilities.
    number = histograms[:, ::-1].cumsum(axis=1)
    mass = (histograms * levels / levels[-1])[:, ::-1].cumsum(axis=1)
    ratio = 2 * mass / np.maximum(number + mass[:, -1:], 1)
    best = ratio.max(axis=1)
    with np.errstate(divide="ignore"):
        log_absent = np.log1p(-levels / levels[-1])
    absent = np.array([np.exp((row[row > 0] * log_absent[row > 0]).sum()) for row in histograms])
    thresholds: NDArray[np.float64] = np.where((best == 0) | (absent > best), np.inf, levels[-1] * best / 2)
    return thresholds


def _by_argmax(whole: int, class_order: tuple[int, ...]) -> Callable[[Levels], Labels]:
    """The most likely class, the smallest on a tie; of regions those that hold a voxel more likely than not."""

    def choose(block_kzyx: Levels) -> Labels:
        if class_order:
            return _written(block_kzyx > whole / 2, class_order)
        best = block_kzyx[0].copy()
        label = np.zeros(best.shape, np.uint16)
        for index, levels in enumerate(block_kzyx[1:], start=1):
            np.copyto(label, index, where=levels > best, casting="unsafe")
            np.maximum(best, levels, out=best)
        return label

    return choose


def _by_thresholds(thresholds: NDArray[np.float64], class_order: tuple[int, ...]) -> Callable[[Levels], Labels]:
    """The class that is the furthest above its threshold, as a ratio; background where none reaches its own."""

    def choose(block_kzyx: Levels) -> Labels:
        if class_order:
            return _written(block_kzyx >= thresholds[:, None, None, None], class_order)
        label = np.zeros(block_kzyx.shape[1:], np.uint16)
        # Just below 1, so that a class that reaches its threshold exactly is in.
        best = np.full(label.shape, np.nextafter(np.float32(1), np.float32(0)), np.float32)
        for index, (levels, threshold) in enumerate(zip(block_kzyx[1:], thresholds[1:], strict=True), start=1):
            times = levels.astype(np.float32) / np.float32(threshold)
            np.copyto(label, index, where=times > best, casting="unsafe")
            np.maximum(best, times, out=best)
        return label

    return choose


def _written(inside_kzyx: NDArray[np.bool_], class_order: tuple[int, ...]) -> Labels:
    label = np.zeros(inside_kzyx.shape[1:], np.uint16)
    for value, inside in zip(class_order, inside_kzyx, strict=True):
        label[inside] = value
    return label
