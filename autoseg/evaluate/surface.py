"""How far two mask surfaces lie apart: masks and voxel size -> distances in mm -> HD, HD95, ASSD, surface Dice."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

# Distances that are equal on paper differ in the last bits (3 x 0.1 > 0.3); the tolerance of the surface Dice
# is inclusive, so it is widened by this share.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class SurfaceDistances:
    """Distances between two surfaces, in both directions.

    Parameters
    ----------
    to_predicted_mm : ndarray of float64, shape (R,)
        From each boundary voxel of the reference to the nearest one of the prediction, between centres;
        infinite when the prediction is empty.
    to_reference_mm : ndarray of float64, shape (P,)
        The other way round.
    """

    to_predicted_mm: NDArray[np.float64]
    to_reference_mm: NDArray[np.float64]

    @property
    def defined(self) -> bool:
        """True when both surfaces have voxels."""
        return self.to_predicted_mm.size > 0 and self.to_reference_mm.size > 0

    @property
    def hd_mm(self) -> float | None:
        """Hausdorff distance: the largest of all distances; None when a mask is empty."""
        if not self.defined:
            return None
        return float(max(self.to_predicted_mm.max(), self.to_reference_mm.max()))

    @property
    def hd95_mm(self) -> float | None:
        """The larger of the two directed 95th percentiles (linear interpolation); None when a mask is empty."""
        if not self.defined:
            return None
        return float(max(np.percentile(self.to_predicted_mm, 95), np.percentile(self.to_reference_mm, 95)))

    @property
    def assd_mm(self) -> float | None:
        """Mean over the voxels of both surfaces pooled; None when a mask is empty."""
        if not self.defined:
            return None
        total_mm = self.to_predicted_mm.sum() + self.to_reference_mm.sum()
        return float(total_mm / (self.to_predicted_mm.size + self.to_reference_mm.size))

    def nsd(self, tolerance_mm: float) -> float | None:
        """Surface Dice: share of both surfaces' voxels within the tolerance of the other surface.

        Parameters
        ----------
        tolerance_mm : float
            Inclusive; >= 0.

        Returns
        -------
        float or None
            In [0, 1]; None when both masks are empty. 0 when one is: a surface without a counterpart lies
            within no tolerance, so a missed structure counts as missed.

        Notes
        -----
        Source: Nikolov et al., J Med Internet Res 23 (2021) e26151. There surfaces are weighted by their area
        in mm²; here each boundary voxel counts once.
        """
        num_voxels = self.to_predicted_mm.size + self.to_reference_mm.size
        if num_voxels == 0:
            return None
        limit_mm = tolerance_mm * (1 + ROUNDING)
        within = np.count_nonzero(self.to_predicted_mm <= limit_mm) + np.count_nonzero(self.to_reference_mm <= limit_mm)
        return float(within / num_voxels)


def boundary(mask_zyx: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels of a mask that have a face neighbour outside it.

    Parameters
    ----------
    mask_zyx : ndarray of bool, shape (Z, Y, X)

    Returns
    -------
    ndarray of bool, shape (Z, Y, X)

    Notes
    -----
    The border of the image counts as outside. An axis of length one doesn't count: along it a single slice would
    be all boundary, and the outline of a 2D mask would be the whole mask.

    Examples
    --------
    >>> boundary(np.ones((1, 3, 3), dtype=bool)).astype(int).tolist()
    [[[1, 1, 1], [1, 0, 1], [1, 1, 1]]]
    """
    interior = mask_zyx.copy()
    counted = [axis for axis, length in enumerate(mask_zyx.shape) if length > 1]
    if not counted:
        return interior
    for axis in counted:
        whole = np.moveaxis(mask_zyx, axis, 0)
        inside = np.moveaxis(interior, axis, 0)
        inside[1:] &= whole[:-1]
        inside[:-1] &= whole[1:]
        inside[0] = False
        inside[-1] = False
    edge: NDArray[np.bool_] = mask_zyx & ~interior
    return edge


def joint_box(*masks_zyx: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds every voxel of every mask; all of the grid when all masks are empty.

    Parameters
    ----------
    *masks_zyx : ndarray of bool, shape (Z, Y, X)
        Masks on the same grid.

    Returns
    -------
    tuple of slice
        One for each axis.
    """
    box = []
    for axis, length in enumerate(masks_zyx[0].shape):
        others = tuple(other for other in range(masks_zyx[0].ndim) if other != axis)
        filled = np.flatnonzero(np.logical_or.reduce([mask.any(axis=others) for mask in masks_zyx]))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, length))
    return tuple(box)


def surface_distances(
    reference_zyx: NDArray[np.bool_], predicted_zyx: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> SurfaceDistances:
    """Distances between two mask surfaces, in both directions.

    Parameters
    ----------
    reference_zyx, predicted_zyx : ndarray of bool, shape (Z, Y, X)
        Masks on the same grid.
    spacing_mm : tuple of float, length 3
        Voxel size along Z, Y, X in millimetres; all > 0. Along an axis of length one it has no effect.

    Returns
    -------
    SurfaceDistances
        Both arrays empty when both masks are; when one is, the distances from the other are infinite.

    Raises
    ------
    ValueError
        The shapes differ, or the spacing is not three positive finite numbers.

    Notes
    -----
    Definitions as in Maier-Hein et al., Metrics reloaded, Nature Methods 21 (2024), with the boundary voxels of
    the mask as its surface and distances between their centres. Cost: two Euclidean distance transforms of the
    joint bounding box.

    Examples
    --------
    >>> reference = np.array([[[True, False, False, False]]])
    >>> predicted = np.array([[[False, False, True, False]]])
    >>> surface_distances(reference, predicted, (5.0, 1.0, 0.5)).hd_mm
    1.0
    """
    if reference_zyx.shape != predicted_zyx.shape:
        raise ValueError(f"masks differ in shape: {reference_zyx.shape} and {predicted_zyx.shape}")
    if len(spacing_mm) != 3 or not all(np.isfinite(step) and step > 0 for step in spacing_mm):
        raise ValueError(f"spacing must be three positive numbers in mm, got {spacing_mm}")
    box = joint_box(reference_zyx, predicted_zyx)
    reference_edge = _cropped_boundary(reference_zyx, box)
    predicted_edge = _cropped_boundary(predicted_zyx, box)
    return SurfaceDistances(
        to_predicted_mm=_nearest_mm(reference_edge, predicted_edge, spacing_mm),
        to_reference_mm=_nearest_mm(predicted_edge, reference_edge, spacing_mm),
    )


def _cropped_boundary(mask_zyx: NDArray[np.bool_], box: tuple[slice, ...]) -> NDArray[np.bool_]:
    """The boundary within the box.

    What lies beyond the box is outside the mask, as beyond the image; but an axis that is one voxel long only
    in the box still counts, hence the margin on the axes that are longer in the image.
    """
    margins = [int(length > 1) for length in mask_zyx.shape]
    padded = np.pad(mask_zyx[box], [(margin, margin) for margin in margins])
    return boundary(padded)[
        tuple(slice(margin, length - margin) for margin, length in zip(margins, padded.shape, strict=True))
    ]


def _nearest_mm(
    start_zyx: NDArray[np.bool_], end_zyx: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> NDArray[np.float64]:
    """From each voxel of `start_zyx` to the nearest of `end_zyx`; infinite when there is none."""
    if not start_zyx.any() or not end_zyx.any():
        return np.full(int(np.count_nonzero(start_zyx)), np.inf)
    distances_mm: NDArray[np.float64] = distance_transform_edt(~end_zyx, sampling=spacing_mm)[start_zyx]
    return distances_mm
