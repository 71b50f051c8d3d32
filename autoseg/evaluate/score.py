"""The scores of one case: two label arrays on one grid -> every metric of every label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from autoseg.artifacts.evaluation import LabelScores
from autoseg.artifacts.labels import all_values, values_of
from autoseg.evaluate.lesions import match_lesions
from autoseg.evaluate.overlap import overlap
from autoseg.evaluate.surface import surface_distances

MM3_PER_ML = 1000.0


@dataclass(frozen=True, slots=True)
class Ruler:
    """What the voxels of a case measure.

    Parameters
    ----------
    spacing_mm : tuple of float, length 3
        Voxel size along Z, Y, X; ones where distances count in pixels.
    voxel_ml : float or None
        Volume of a voxel; 1 where volumes count in pixels, None where a voxel has no volume (2D with spacing).
    """

    spacing_mm: tuple[float, float, float]
    voxel_ml: float | None

    @staticmethod
    def pixels() -> "Ruler":
        """Count in pixels: every voxel is 1 x 1 x 1."""
        return Ruler((1.0, 1.0, 1.0), 1.0)

    @staticmethod
    def millimetres(spacing_mm: tuple[float, float, float], *, flat: bool) -> "Ruler":
        """Measure in mm; a flat image (2D) has no thickness, hence no volume."""
        return Ruler(spacing_mm, None if flat else float(np.prod(spacing_mm)) / MM3_PER_ML)


def score_labels(
    reference_zyx: NDArray[np.integer],
    predicted_zyx: NDArray[np.integer],
    labels: Mapping[str, int | tuple[int, ...]],
    ruler: Ruler,
    tolerance_mm: Mapping[str, float],
    lesion_iou: float | None = None,
) -> dict[str, LabelScores]:
    """Score every label of one case.

    Parameters
    ----------
    reference_zyx, predicted_zyx : ndarray of integers, shape (Z, Y, X)
        Label maps on the same grid.
    labels : mapping of str to int or tuple of int
        Name to value of the foreground labels; a region has several.
    ruler : Ruler
    tolerance_mm : mapping of str to float
        Label name to the tolerance of the surface Dice.
    lesion_iou : float or None
        As for `match_lesions`; None: lesions are not counted.

    Returns
    -------
    dict of str to LabelScores
        In the order of `labels`.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if reference_zyx.shape != predicted_zyx.shape:
        raise ValueError(f"label maps differ in shape: {reference_zyx.shape} and {predicted_zyx.shape}")
    # One pass over each volume finds every label's box; all else happens inside the boxes.
    highest = max(all_values(labels), default=0)
    reference_boxes = find_objects(reference_zyx, highest)
    predicted_boxes = find_objects(predicted_zyx, highest)
    scores = {}
    for name, value in labels.items():
        boxes = [each[part - 1] for part in values_of(value) for each in (reference_boxes, predicted_boxes)]
        box = _join(boxes, reference_zyx.shape)
        scores[name] = score_masks(
            _mask(reference_zyx[box], value), _mask(predicted_zyx[box], value), ruler, tolerance_mm[name], lesion_iou
        )
    return scores


def score_masks(
    reference_zyx: NDArray[np.bool_],
    predicted_zyx: NDArray[np.bool_],
    ruler: Ruler,
    tolerance_mm: float,
    lesion_iou: float | None = None,
) -> LabelScores:
    """Every metric of one pair of masks.

    Parameters
    ----------
    reference_zyx, predicted_zyx : ndarray of bool, shape (Z, Y, X)
        Masks on the same grid.
    ruler : Ruler
    tolerance_mm : float
        Of the surface Dice, inclusive.
    lesion_iou : float or None
        As for `match_lesions`; None: lesions are not counted.

    Returns
    -------
    LabelScores

    Raises
    ------
    ValueError
        The shapes differ, or the spacing is not positive.
    """
    counts = overlap(reference_zyx, predicted_zyx)
    surfaces = surface_distances(reference_zyx, predicted_zyx, ruler.spacing_mm)
    difference = counts.n_predicted_voxels - counts.n_reference_voxels
    scores = LabelScores(
        dice=counts.dice,
        iou=counts.iou,
        sensitivity=counts.sensitivity,
        precision=counts.precision,
        volume_difference_ml=None if ruler.voxel_ml is None or counts.both_empty else difference * ruler.voxel_ml,
        hd_mm=surfaces.hd_mm,
        hd95_mm=surfaces.hd95_mm,
        assd_mm=surfaces.assd_mm,
        nsd=surfaces.nsd(tolerance_mm),
        n_reference_voxels=counts.n_reference_voxels,
        n_predicted_voxels=counts.n_predicted_voxels,
    )
    if lesion_iou is None:
        return scores
    lesions = match_lesions(reference_zyx, predicted_zyx, lesion_iou)
    return replace(
        scores,
        lesion_f1=lesions.f1,
        lesion_sensitivity=lesions.sensitivity,
        lesion_precision=lesions.precision,
        n_reference_lesions=lesions.n_reference_lesions,
        n_predicted_lesions=lesions.n_predicted_lesions,
        n_found_lesions=lesions.n_found_lesions,
    )


def _mask(array_zyx: NDArray[np.integer], value: int | tuple[int, ...]) -> NDArray[np.bool_]:
    return np.isin(array_zyx, value) if isinstance(value, tuple) else array_zyx == value


def _join(found: Sequence[tuple[slice, ...] | None], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The box around all boxes with a margin of one voxel, within the image; empty when there is none.

    The margin keeps an axis that is one voxel long only in the box from being taken for the missing axis of a
    2D image.
    """
    boxes = [box for box in found if box is not None]
    if not boxes:
        return tuple(slice(0, 0) for _ in shape)
    return tuple(
        slice(max(0, min(side.start for side in sides) - 1), min(length, max(side.stop for side in sides) + 1))
        for length, *sides in zip(shape, *boxes, strict=True)
    )
