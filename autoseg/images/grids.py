"""How the grids of two files compare, and a label map's way from one to another: Geometry, Geometry -> level."""

from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.geometry import Geometry
from autoseg.images.image import LabelMap

Level = Literal["equal", "noise", "real"]

# In voxels: how far apart the same voxel of two grids may lie.
EQUAL_VOXELS = 1e-4
NOISE_VOXELS = 0.1
# What is worth naming where grids differ.
SPACING_TOLERANCE = 1e-4  # relative
PLACE_TOLERANCE = 1e-3  # mm for the origin, cosine for the direction


@dataclass(frozen=True, slots=True)
class GridComparison:
    """How two grids compare.

    Attributes
    ----------
    level : {'equal', 'noise', 'real'}
    shift_voxels : float
        The furthest that a voxel of one grid lies from the same voxel of the other, in voxels; infinite where the
        shapes differ, 0 where a file states no spacing.
    words : str
        What differs.
    """

    level: Level
    shift_voxels: float
    words: str


def compare_grids(one: Geometry, other: Geometry) -> GridComparison:
    """Hold two grids against each other by where their voxels lie.

    Parameters
    ----------
    one, other : Geometry

    Returns
    -------
    GridComparison
        ``equal`` up to 1e-4 of a voxel, which is what single precision in a header leaves open; ``noise`` up to a
        tenth of a voxel, less than any annotation knows; ``real`` beyond, and where shapes differ.

    Notes
    -----
    Not spacing, origin and direction each by itself: a thousandth of a millimetre means nothing in an origin, and in
    a spacing it moves the thousandth voxel by one. nnU-Net v2 (2.8.1) refuses differences of spacing above 1e-5,
    relative, and takes those of origin and direction with a warning, however large.
    """
    size, place = geometry_differences(one, other)
    if one.shape != other.shape:
        return GridComparison("real", float("inf"), "; ".join(size + place))
    if not (one.has_spacing and other.has_spacing):
        return GridComparison("equal", 0.0, "")
    to_mm, start = affine(one)
    other_to_mm, other_start = affine(other)
    corners = np.array(list(product(*((0, n - 1) for n in one.shape[::-1]))), dtype=np.float64).T
    apart_mm = (other_to_mm - to_mm) @ corners + (other_start - start)[:, None]
    shift = float(np.abs(np.linalg.solve(to_mm, apart_mm)).max())
    words = "; ".join([*size, *place, f"voxels lie up to {shift:.3g} voxels apart"])
    level: Level = "equal" if shift <= EQUAL_VOXELS else "noise" if shift <= NOISE_VOXELS else "real"
    return GridComparison(level, shift, words)


def geometry_differences(one: Geometry, other: Geometry) -> tuple[list[str], list[str]]:
    """How two grids differ beyond rounding, number by number.

    Parameters
    ----------
    one, other : Geometry

    Returns
    -------
    size : list of str
        Differences in shape and in spacing (above 1e-4, relative; spacing counts where both files state it).
    place : list of str
        Differences in origin (above 1e-3 mm) and in direction (above 1e-3), likewise.
    """
    size, place = [], []
    if one.shape != other.shape:
        size.append(f"shape {one.shape} and {other.shape}")
    if one.has_spacing and other.has_spacing:
        if not np.allclose(one.spacing_mm, other.spacing_mm, rtol=SPACING_TOLERANCE, atol=0):
            size.append(f"spacing {_numbers(one.spacing_mm)} and {_numbers(other.spacing_mm)} mm")
        if not np.allclose(one.origin_mm, other.origin_mm, rtol=0, atol=PLACE_TOLERANCE):
            place.append(f"origin {_numbers(one.origin_mm)} and {_numbers(other.origin_mm)} mm")
        if not np.allclose(one.direction, other.direction, rtol=0, atol=PLACE_TOLERANCE):
            place.append(f"direction {_numbers(one.direction)} and {_numbers(other.direction)}")
    return size, place


def _numbers(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.6g}' for value in values)})"


def resample_onto(label: LabelMap, geometry: Geometry, outside: int = 0) -> LabelMap:
    """Bring a label map onto another grid in the same space.

    Parameters
    ----------
    label : LabelMap
    geometry : Geometry
        Of the wanted grid.
    outside : int, optional
        Value of voxels that the old map does not reach.

    Returns
    -------
    LabelMap
        Each voxel has the value of the nearest voxel of the old map.

    Raises
    ------
    ValueError
        The two grids have no place in common.
    """
    import SimpleITK

    grid = _as_itk(SimpleITK, np.zeros(geometry.shape, np.uint8), geometry)
    there = _as_itk(SimpleITK, np.ones(label.array_zyx.shape, np.uint8), label.geometry)
    if not _resample(SimpleITK, there, grid, 0).any():
        message = "it lies outside the image"
        raise ValueError(message)
    source = _as_itk(SimpleITK, label.array_zyx, label.geometry)
    array = _resample(SimpleITK, source, grid, outside)
    return LabelMap(array.astype(label.array_zyx.dtype, copy=False), geometry)


def _resample(sitk: Any, source: Any, grid: Any, outside: int) -> NDArray[np.integer]:  # noqa: ANN401
    moved = sitk.Resample(source, grid, sitk.Transform(), sitk.sitkNearestNeighbor, outside)
    return np.array(sitk.GetArrayViewFromImage(moved))


def affine(geometry: Geometry) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From voxels (x, y, z) to mm: matrix and offset."""
    direction = np.reshape(geometry.direction, (3, 3))
    return direction * np.array(geometry.spacing_mm[::-1]), np.array(geometry.origin_mm)


def _as_itk(sitk: Any, array_zyx: NDArray[Any], geometry: Geometry) -> Any:  # noqa: ANN401 - SimpleITK has no types
    image = sitk.GetImageFromArray(array_zyx)
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image
