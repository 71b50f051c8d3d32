"""What a label map holds: array, grid and labels -> size, parts, place and slices of each label."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from autoseg.artifacts.case_report import LabelReport
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import all_values, values_of
from autoseg.images.components import components
from autoseg.images.grids import affine

MM3_PER_ML = 1000.0


def measure_labels(
    label_zyx: NDArray[np.integer], geometry: Geometry, labels: Mapping[str, int | tuple[int, ...]]
) -> dict[str, LabelReport]:
    """Measure every label of one case.

    Parameters
    ----------
    label_zyx : ndarray of integers, shape (Z, Y, X)
    geometry : Geometry
        Of its grid.
    labels : mapping of str to int or tuple of int
        Name to value, above 0, in `label_zyx`; a region has several.

    Returns
    -------
    dict of str to LabelReport
        In the order of `labels`.

    Raises
    ------
    ValueError
        Shape and geometry disagree.
    """
    if label_zyx.shape != geometry.shape:
        raise ValueError(f"label map of shape {label_zyx.shape} on a grid of {geometry.shape}")
    # One pass over the volume finds every value's box; all else happens inside the boxes.
    boxes = find_objects(label_zyx, max(all_values(labels), default=0))
    reports = {}
    for name, value in labels.items():
        start, stop = _bounds([boxes[each - 1] for each in values_of(value)])
        box = tuple(slice(*ends) for ends in zip(start, stop, strict=True))
        reports[name] = _measure(_mask(label_zyx[box], values_of(value)), start, geometry)
    return reports


def voxel_volume_mm3(geometry: Geometry) -> float | None:
    """Volume of a voxel; None in 2D, since an area has no volume, and where there is no spacing."""
    return prod(geometry.spacing_mm) if geometry.has_spacing and geometry.num_dimensions == 3 else None


def voxels_of_slices(label_zyx: NDArray[np.integer], values: Sequence[int]) -> NDArray[np.int64]:
    """How many voxels of each slice have one of the values; int64, shape (Z,)."""
    # A slice at a time: masks of whole volumes would take as much memory as the label map.
    return np.array([np.count_nonzero(_mask(label_yx, values)) for label_yx in label_zyx], np.int64)


def _mask(label: NDArray[np.integer], values: Sequence[int]) -> NDArray[np.bool_]:
    """Where one of the values stands."""
    mask = np.zeros(label.shape, bool)
    for value in values:  # numpy.isin takes 12 bytes a voxel
        mask |= label == value
    return mask


def _bounds(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First voxel of the box around all boxes, and the one behind its last; zeros where there is none."""
    there = [box for box in boxes if box is not None]
    if not there:
        return (0, 0, 0), (0, 0, 0)
    axes = list(zip(*there, strict=True))
    return tuple(min(side.start for side in sides) for sides in axes), tuple(
        max(side.stop for side in sides) for sides in axes
    )


def _measure(mask_zyx: NDArray[np.bool_], start: tuple[int, ...], geometry: Geometry) -> LabelReport:
    """What a mask measures, whose first voxel is voxel `start` of the volume."""
    per_slice = np.count_nonzero(mask_zyx, axis=(1, 2))
    voxels = int(per_slice.sum())
    voxel_mm3 = voxel_volume_mm3(geometry)
    volume_ml = None if voxel_mm3 is None else voxels * voxel_mm3 / MM3_PER_ML
    if voxels == 0:
        return LabelReport(voxels=0, volume_ml=volume_ml, components=0)
    _, volumes = components(mask_zyx)
    per_axis = (per_slice, np.count_nonzero(mask_zyx, axis=(0, 2)), np.count_nonzero(mask_zyx, axis=(0, 1)))
    z, y, x = (
        first + float(counts @ np.arange(len(counts))) / voxels for first, counts in zip(start, per_axis, strict=True)
    )
    to_mm, origin_mm = affine(geometry)
    place_x, place_y, place_z = (float(place) for place in to_mm @ (x, y, z) + origin_mm)
    largest = int(per_slice.argmax())
    return LabelReport(
        voxels=voxels,
        volume_ml=volume_ml,
        components=len(volumes),
        centroid_zyx=(z, y, x),
        centroid_mm=(place_x, place_y, place_z) if geometry.has_spacing else None,
        first_slice=start[0],
        last_slice=start[0] + len(per_slice) - 1,
        largest_slice=start[0] + largest,
        largest_area_mm2=int(per_slice[largest]) * prod(geometry.spacing_mm[1:]) if geometry.has_spacing else None,
    )
