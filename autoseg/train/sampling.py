"""Where in a case a patch is taken, and the voxels there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Readable(Protocol):
    """An array in memory or a chunked file: anything with a shape that slices give voxels of."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    def __getitem__(self, key: Any, /) -> NDArray[np.generic]: ...  # noqa: ANN401 - as numpy has it


class Arrays(Protocol):
    """The arrays of a preprocessed case."""

    @property
    def image(self) -> Readable: ...  # noqa: D102

    @property
    def label(self) -> Readable: ...  # noqa: D102

    @property
    def locations(self) -> NDArray[np.int32]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class TrainingCase:
    """A preprocessed case.

    Attributes
    ----------
    name : str
    arrays : Arrays
        In memory, or opened on disk for each patch.
    previous_zyx : Readable or None
        In the second stage of a cascade: the label map that the first one predicted, int16, shape (Z, Y, X).
    """

    name: str
    arrays: Arrays
    previous_zyx: Readable | None = None

    @property
    def image_czyx(self) -> Readable:
        """The image, float32, shape (C, Z, Y, X)."""
        return self.arrays.image

    @property
    def label_zyx(self) -> Readable:
        """The label map, int16, shape (Z, Y, X); -1 outside the mask."""
        return self.arrays.label

    @property
    def locations(self) -> NDArray[np.int32]:
        """Sampled foreground voxels, int32, shape (N, 4): class, z, y, x."""
        return self.arrays.locations


@dataclass(frozen=True, slots=True)
class RareClasses:
    """How much oftener than by chance patches are centred on classes that few cases have.

    Attributes
    ----------
    case_probabilities : ndarray of float64, shape (N,)
        For a patch centred on foreground, that of each case to be the one it is cut from.
    class_weights : ndarray of float64, shape (K,)
        Of foreground classes or regions, as they are numbered from 1: among those that the case has, one is drawn in
        proportion to its weight.
    """

    case_probabilities: NDArray[np.float64]
    class_weights: NDArray[np.float64]


def weigh_rare_classes(presence: NDArray[np.bool_], strength: float) -> RareClasses:
    """Prefer cases and classes by how few cases have a class.

    Parameters
    ----------
    presence : ndarray of bool, shape (N, K)
        Which case has which foreground class.
    strength : float
        From 0, where cases and classes are equally likely, to 1.

    Notes
    -----
    A class in a share f of the cases weighs f to the power of minus `strength`, a case as much as the weightiest class
    it has, or 1 without any. This is the repeat factor of Gupta et al. 2019 (LVIS), with 1 for its threshold; they
    take the square root, a strength of 0.5.
    """
    shares = presence.mean(axis=0)
    weights = np.where(shares > 0, shares, 1.0) ** -strength
    cases = np.where(presence, weights, 1.0).max(axis=1, initial=1.0)
    return RareClasses(cases / cases.sum(), weights)


def forced_foreground(batch_size: int, share: float) -> NDArray[np.bool_]:
    """Which samples of a batch are centred on foreground: the last ones, as many as the share rounds to."""
    return np.arange(batch_size) >= round(batch_size * (1 - share))


def choose_corner(
    rng: np.random.Generator,
    shape: Sequence[int],
    patch: Sequence[int],
    locations: NDArray[np.int32],
    *,
    foreground: bool,
    class_weights: NDArray[np.float64] | None = None,
) -> tuple[int, ...]:
    """Lower corner of a patch; negative where the patch begins in the padding.

    Parameters
    ----------
    rng : Generator
    shape, patch : sequence of int, length 3
        In 2D the patch's first edge is 1.
    locations : ndarray of int32, shape (N, 4)
        Class, z, y, x; ascending in the class. Class 0 are annotated voxels of a case that is not wholly annotated.
    foreground : bool
        Centre the patch on a stored voxel of a class drawn among those present. Without, or where none is, it lies
        anywhere, but where some voxels are not annotated it is centred on one that is.
    class_weights : ndarray of float64, shape (K,), optional
        How likely each of the classes present is, in relation to the others; None: all the same.

    Notes
    -----
    A volume smaller than the patch is padded on both sides; the corner then lies at or below 0. A patch centred on
    foreground may run beyond the upper end, as in nnU-Net.
    """
    lower, upper = [], []
    for edge, length in zip(patch, shape, strict=True):
        missing = max(0, edge - length)
        lower.append(-(missing // 2))
        upper.append(length + missing - missing // 2 - edge)
    voxel = _centre(rng, locations, class_weights, foreground=foreground)
    if voxel is not None:
        return tuple(max(low, int(v) - edge // 2) for low, v, edge in zip(lower, voxel, patch, strict=True))
    return tuple(int(rng.integers(low, max(low, high) + 1)) for low, high in zip(lower, upper, strict=True))


def _centre(
    rng: np.random.Generator,
    locations: NDArray[np.int32],
    class_weights: NDArray[np.float64] | None,
    *,
    foreground: bool,
) -> NDArray[np.int32] | None:
    """The voxel (z, y, x) that a patch is centred on; None: it may lie anywhere."""
    num_annotated = int(np.searchsorted(locations[:, 0], 1))  # these rows come first
    if foreground and num_annotated < len(locations):
        # Rows of a class stand together.
        starts = [*np.flatnonzero(np.diff(locations[:, 0], prepend=-1)), len(locations)]
        starts = starts[starts.index(num_annotated) :]
        if class_weights is None:
            chosen = int(rng.integers(len(starts) - 1))
        else:
            weights = class_weights[locations[starts[:-1], 0] - 1]
            chosen = int(rng.choice(len(weights), p=weights / weights.sum()))
        return locations[rng.integers(starts[chosen], starts[chosen + 1]), 1:]
    return locations[rng.integers(num_annotated), 1:] if num_annotated else None


def read_region(source: Readable, start: Sequence[int], edges: Sequence[int], fill: float) -> NDArray[np.generic]:
    """A box of the last three axes, filled where it leaves the volume.

    Parameters
    ----------
    source : Readable, shape (..., Z, Y, X)
    start, edges : sequence of int, length 3
    fill : float

    Returns
    -------
    ndarray, shape (..., *edges)
    """
    length = source.shape[-3:]
    inside = [
        (max(0, low), max(max(0, low), min(low + edge, n))) for low, edge, n in zip(start, edges, length, strict=True)
    ]
    lead = (slice(None),) * (len(source.shape) - 3)
    block = source[(*lead, *(slice(low, high) for low, high in inside))]
    if block.shape[-3:] == tuple(edges):
        return np.array(block)
    region = np.full((*block.shape[:-3], *edges), fill, dtype=block.dtype)
    place = [slice(low - at, high - at) for at, (low, high) in zip(start, inside, strict=True)]
    region[(*lead, *place)] = block
    return region
