"""How far two masks cover each other: voxel counts -> Dice, IoU, sensitivity, precision."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
