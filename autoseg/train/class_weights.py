"""Weights of the cross-entropy: the user's, or from how much of each class the training cases hold."""

from collections.abc import Mapping, Sequence
from math import prod, sqrt

from autoseg.artifacts.labels import foreground, has_regions, ignored
from autoseg.artifacts.plan import ClassWeights
from autoseg.artifacts.preprocessed import PreprocessedCase

HEAVIEST = 10.0


def resolve_class_weights(
    wish: ClassWeights,
    records: Sequence[PreprocessedCase],
    labels: Mapping[str, int | tuple[int, ...]],
) -> tuple[float, ...]:
    """The weight of each output's cross-entropy.

    Parameters
    ----------
    wish : "automatic", tuple of float, or None
        The plan's.
    records : sequence of PreprocessedCase
        Of the training cases.
    labels : mapping of str to int or tuple of int

    Returns
    -------
    tuple of float
        One an output, empty where all are 1.

    Notes
    -----
    The weight of a class with n of the voxels is sqrt(m / n), where m is that of the most frequent one, and 10 at
    most. The root tempers inverse frequency, with which a few voxels, and the errors of their annotation, would
    outweigh the rest; see docs/explanation/training-recipe.md. A region is held against what lies outside it. With an
    ignore label it is not known how much background is annotated: it then weighs 1, and classes and regions are held
    against the most frequent of them.
    """
    if wish is None:
        return ()
    if wish != "automatic":
        return wish
    total = sum(prod(record.placement.shape) for record in records)
    counts = [sum(record.foreground_voxels[name] for record in records) for name in foreground(labels)]
    sparse = ignored(labels) is not None
    if has_regions(labels):
        return tuple(_weight(max(counts) if sparse else total - count, count) for count in counts)
    background = max(counts) if sparse else total - sum(counts)
    counts = [background, *counts]
    return tuple(_weight(max(counts), count) for count in counts)


def _weight(reference_voxels: int, voxels: int) -> float:
    """From 1, where there are as many voxels as in the reference or more, to the heaviest."""
    return round(min(HEAVIEST, max(1.0, sqrt(reference_voxels / max(1, voxels)))), 4)
