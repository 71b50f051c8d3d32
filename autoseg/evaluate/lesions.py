"""How many structures of a kind were found: two masks -> their components, and which of them belong together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from autoseg.images.components import components


@dataclass(frozen=True, slots=True)
class Lesions:
    """Components of two masks on one grid, and the detection metrics that follow from them.

    Attributes
    ----------
    n_reference_lesions, n_predicted_lesions : int
    n_found_lesions : int
        Pairs of one of each that overlap enough; none is in two pairs.

    Notes
    -----
    Without a component in either mask every metric is None; with components in one alone every metric is 0, as for
    `Overlap`.
    """

    n_reference_lesions: int
    n_predicted_lesions: int
    n_found_lesions: int

    @property
    def f1(self) -> float | None:
        """Twice the pairs over the number of all components, in [0, 1]."""
        return self._share(2 * self.n_found_lesions, self.n_reference_lesions + self.n_predicted_lesions)

    @property
    def sensitivity(self) -> float | None:
        """Share of the reference's components that were found, in [0, 1]."""
        return self._share(self.n_found_lesions, self.n_reference_lesions)

    @property
    def precision(self) -> float | None:
        """Share of the predicted components that are one of the reference's, in [0, 1]."""
        return self._share(self.n_found_lesions, self.n_predicted_lesions)

    def _share(self, part: int, whole: int) -> float | None:
        if not self.n_reference_lesions and not self.n_predicted_lesions:
            return None
        return part / whole if whole else 0.0


def match_lesions(reference_zyx: NDArray[np.bool_], predicted_zyx: NDArray[np.bool_], least_iou: float) -> Lesions:
    """Pair the components of two masks.

    Parameters
    ----------
    reference_zyx, predicted_zyx : ndarray of bool, shape (Z, Y, X)
        Masks on the same grid.
    least_iou : float
        Of a pair: common voxels over all voxels of the two, inclusive, in [0, 1]. At 0 a common voxel is enough.

    Returns
    -------
    Lesions

    Raises
    ------
    ValueError
        The shapes differ.

    Notes
    -----
    Voxels that share a corner belong together. Counted are the most pairs that can be made; for an IoU above 0.5 there
    is no choice (Kirillov et al., Panoptic segmentation, CVPR 2019), below it one large component may overlap several
    small ones, of which it finds one. Maier-Hein et al., Metrics reloaded, Nature Methods 21 (2024), on detection.

    Examples
    --------
    >>> reference = np.array([[[True, True, False, False, True]]])
    >>> predicted = np.array([[[False, True, False, False, False]]])
    >>> match_lesions(reference, predicted, 0.1)
    Lesions(n_reference_lesions=2, n_predicted_lesions=1, n_found_lesions=1)
    """
    if reference_zyx.shape != predicted_zyx.shape:
        raise ValueError(f"masks differ in shape: {reference_zyx.shape} and {predicted_zyx.shape}")
    there, sizes_there = components(reference_zyx)
    found, sizes_found = components(predicted_zyx)
    both = reference_zyx & predicted_zyx
    # Each pair that shares a voxel, and how many it shares.
    pairs, common = np.unique(there[both].astype(np.int64) * (len(sizes_found) + 1) + found[both], return_counts=True)
    rows, columns = pairs // (len(sizes_found) + 1) - 1, pairs % (len(sizes_found) + 1) - 1
    enough = common >= least_iou * (sizes_there[rows] + sizes_found[columns] - common)
    num_pairs = 0
    if enough.any():
        graph = csr_array(
            (np.ones(int(enough.sum()), bool), (rows[enough], columns[enough])),
            shape=(len(sizes_there), len(sizes_found)),
        )
        num_pairs = int(np.count_nonzero(maximum_bipartite_matching(graph, perm_type="column") >= 0))
    return Lesions(len(sizes_there), len(sizes_found), num_pairs)
