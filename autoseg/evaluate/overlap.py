"""How far two masks cover each other: voxel counts -> Dice, IoU, sensitivity, precision."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.labels import all_values, values_of


@dataclass(frozen=True, slots=True)
class Overlap:
    """Voxel counts of two masks on one grid, and the metrics that follow from them.

    Parameters
    ----------
    n_reference_voxels, n_predicted_voxels : int
        Size of each mask.
    n_common_voxels : int
        Voxels in both.

    Notes
    -----
    Both masks empty: nothing is to be found and nothing was said, every metric is None. One mask empty: every
    metric is 0, also the one whose own formula would be 0/0 (sensitivity without a reference, precision without
    a prediction): a case in which only one of the two speaks of the label is a failure, and dropping it from one
    of the means would hide it. Dice and IoU are those of nnU-Net's summary.json; sensitivity and precision follow
    Maier-Hein et al., Metrics reloaded, Nature Methods 21 (2024).
    """

    n_reference_voxels: int
    n_predicted_voxels: int
    n_common_voxels: int

    @property
    def both_empty(self) -> bool:
        """True when neither mask has a voxel."""
        return self.n_reference_voxels == 0 and self.n_predicted_voxels == 0

    @property
    def dice(self) -> float | None:
        """Twice the common voxels over the sum of both masks, in [0, 1]."""
        return self._share(2 * self.n_common_voxels, self.n_reference_voxels + self.n_predicted_voxels)

    @property
    def iou(self) -> float | None:
        """Common voxels over the union, in [0, 1]."""
        return self._share(
            self.n_common_voxels, self.n_reference_voxels + self.n_predicted_voxels - self.n_common_voxels
        )

    @property
    def sensitivity(self) -> float | None:
        """Share of the reference that was found, in [0, 1]."""
        return self._share(self.n_common_voxels, self.n_reference_voxels)

    @property
    def precision(self) -> float | None:
        """Share of the prediction that is right, in [0, 1]."""
        return self._share(self.n_common_voxels, self.n_predicted_voxels)

    def _share(self, part: int, whole: int) -> float | None:
        if self.both_empty:
            return None
        return part / whole if whole else 0.0


def overlap(reference_zyx: NDArray[np.bool_], predicted_zyx: NDArray[np.bool_]) -> Overlap:
    """Count the voxels of two masks and those they share.

    Parameters
    ----------
    reference_zyx, predicted_zyx : ndarray of bool, shape (Z, Y, X)
        Masks on the same grid.

    Returns
    -------
    Overlap

    Raises
    ------
    ValueError
        The shapes differ.

    Examples
    --------
    >>> reference = np.array([[[True, True, False]]])
    >>> predicted = np.array([[[False, True, False]]])
    >>> round(overlap(reference, predicted).dice, 3)
    0.667
    """
    if reference_zyx.shape != predicted_zyx.shape:
        raise ValueError(f"masks differ in shape: {reference_zyx.shape} and {predicted_zyx.shape}")
    return Overlap(
        n_reference_voxels=int(np.count_nonzero(reference_zyx)),
        n_predicted_voxels=int(np.count_nonzero(predicted_zyx)),
        n_common_voxels=int(np.count_nonzero(reference_zyx & predicted_zyx)),
    )


def label_overlaps(
    reference_zyx: NDArray[np.integer], predicted_zyx: NDArray[np.integer], labels: Mapping[str, int | tuple[int, ...]]
) -> dict[str, Overlap]:
    """`overlap` of every label, in one pass however many there are.

    Parameters
    ----------
    reference_zyx, predicted_zyx : ndarray of integers, shape (Z, Y, X)
        Label maps on the same grid, without negative values.
    labels : mapping of str to int or tuple of int
        The foreground labels; a region has several values.

    Returns
    -------
    dict of str to Overlap

    Raises
    ------
    ValueError
        The shapes differ.

    Examples
    --------
    >>> reference, predicted = np.array([[[1, 1, 2]]]), np.array([[[1, 2, 2]]])
    >>> label_overlaps(reference, predicted, {"a": 1, "all": (1, 2)})["all"].dice
    1.0
    """
    if reference_zyx.shape != predicted_zyx.shape:
        raise ValueError(f"label maps differ in shape: {reference_zyx.shape} and {predicted_zyx.shape}")
    known = np.array(sorted({0, *all_values(labels)}))
    # Where each value stands among the known ones; any other counts as background.
    highest = max(int(known[-1]), int(reference_zyx.max()), int(predicted_zyx.max()))
    place = np.zeros(highest + 1, np.intp)
    place[known] = np.arange(len(known))
    counts = np.zeros((len(known), len(known)), np.int64)
    for reference, predicted in zip(reference_zyx, predicted_zyx, strict=True):
        pairs = place[reference] * len(known) + place[predicted]
        counts += np.bincount(pairs.ravel(), minlength=counts.size).reshape(counts.shape)
    found = {}
    for name, value in labels.items():
        rows = place[list(values_of(value))]
        found[name] = Overlap(
            n_reference_voxels=int(counts[rows].sum()),
            n_predicted_voxels=int(counts[:, rows].sum()),
            n_common_voxels=int(counts[np.ix_(rows, rows)].sum()),
        )
    return found
