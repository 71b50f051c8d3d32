"""DICOM-SEG through highdicom, an optional package: a file of segments -> label map on the grid of its image.

Such a file leaves out slices and margins without segments, so it says where its voxels are, but not how far the
image goes: the image's grid has to come from elsewhere.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import BACKGROUND, IGNORE
from autoseg.errors import DatasetError
from autoseg.images import dicom
from autoseg.images.endings import file_ending

OFF_GRID_VOXELS = 0.1  # Positions are written with few digits.


def segmentation_file(path: Path, case: str) -> Path | None:
    """The DICOM-SEG file that a label's path means: itself, or the only one in a folder; None where there is none.

    Raises
    ------
    DatasetError
        A folder holds several.
    """
    if not dicom.is_folder(path) and (file_ending(path.name) or "").lower() not in ("", ".dcm"):
        return None
    found = [file for file in dicom.dicom_files(path) if dicom.storage_class(file) in dicom.SEGMENTATIONS]
    if len(found) > 1:
        raise DatasetError(
            "a folder holds several DICOM segmentations",
            where=f"case {case}, {path}",
            found=", ".join(file.name for file in found),
            allowed="one",
            hint="move the others out of the folder",
        )
    return found[0] if found else None


def read(file: Path, case: str, grid: Geometry | None) -> tuple[NDArray[Any], Geometry]:
    """Read the segments of a file as label values: a segment's number is its value.

    Parameters
    ----------
    file : Path
    case : str
        For errors.
    grid : Geometry or None
        Of the image. None leaves the segments on the part of it that they cover.

    Returns
    -------
    array_zyx : ndarray of unsigned integers, shape (Z, Y, X)
    geometry : Geometry
        `grid`, where it was given.

    Raises
    ------
    DatasetError
        highdicom isn't installed; segments overlap or are probabilities; the voxels are not those of the grid, or
        labels lie outside of it.
    """
    where = f"case {case}, {file}"
    try:
        with _opened(file, where) as segmentation:
            volume = segmentation.get_volume(combine_segments=True, rtol=OFF_GRID_VOXELS)
    except (RuntimeError, ValueError) as error:
        raise DatasetError(
            "a DICOM segmentation makes no label map",
            where=where,
            found=" ".join(str(error).split()),
            allowed="segments that don't overlap, of one value each, on parallel slices",
            hint="export it anew, or convert it to NIfTI",
        ) from error
    array, affine = np.asarray(volume.array), np.asarray(volume.affine)
    if grid is None:
        return _own_grid(array, affine)
    return _on_grid(array, affine, grid, where), grid


def read_geometry(file: Path, case: str) -> Geometry:
    """The part of a grid that the segments of a file cover."""
    return read(file, case, None)[1]


def segment_names(path: Path, case: str) -> dict[int, str]:
    """What the segments of a DICOM-SEG are called; empty for other files, and where a name occurs twice.

    Raises
    ------
    DatasetError
        As `read`, and where a folder holds several such files.
    """
    file = segmentation_file(path, case)
    if file is None:
        return {}
    with _opened(file, f"case {case}, {file}") as segmentation:
        names = {
            number: str(segmentation.get_segment_description(number).segment_label).strip()
            for number in segmentation.segment_numbers
            if number != 0
        }
    unfit = {"", BACKGROUND, IGNORE} & {name.lower() for name in names.values()}
    return names if len(set(names.values())) == len(names) and not unfit else {}


@contextmanager
def _opened(file: Path, where: str) -> Iterator[Any]:
    try:
        import highdicom
    except ImportError as error:
        raise DatasetError(
            "reading a DICOM segmentation needs the package highdicom",
            where=where,
            found="it is not installed",
            hint="pip install 'autoseg[dicom]'",
        ) from error
    with warnings.catch_warnings():
        # pydicom's remarks on attributes that scanners fill carelessly.
        warnings.simplefilter("ignore")
        try:
            segmentation = highdicom.seg.segread(file)
        except Exception as error:
            raise DatasetError(
                "a DICOM segmentation can't be read",
                where=where,
                found=" ".join(str(error).split()) or type(error).__name__,
                hint="replace or repair the file, or leave the case out",
            ) from error
        yield segmentation


def _own_grid(array: NDArray[Any], affine: NDArray[np.float64]) -> tuple[NDArray[Any], Geometry]:
    if np.linalg.det(affine[:3, :3]) > 0:
        # highdicom counts slices against the normal, an image's slices are sorted along it.
        affine = affine @ np.array([[-1, 0, 0, len(array) - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        array = array[::-1]
    edges_mm = np.linalg.norm(affine[:3, :3], axis=0)
    # ITK's axes are (x, y, z), the array's (z, y, x).
    xx, xy, xz, yx, yy, yz, zx, zy, zz = ((affine[:3, :3] / edges_mm)[:, ::-1] + 0.0).ravel().tolist()
    z, y, x = array.shape
    geometry = Geometry(
        shape=(z, y, x),
        spacing_mm=(float(edges_mm[0]), float(edges_mm[1]), float(edges_mm[2])),
        origin_mm=(float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3])),
        direction=(xx, xy, xz, yx, yy, yz, zx, zy, zz),
    )
    return array, geometry


def _on_grid(array: NDArray[Any], affine: NDArray[np.float64], grid: Geometry, where: str) -> NDArray[Any]:
    """Copy voxels to where they are on another grid, by turning and shifting alone."""
    grid_affine = np.eye(4)
    grid_affine[:3, :3] = np.reshape(grid.direction, (3, 3))[:, ::-1] * grid.spacing_mm
    grid_affine[:3, 3] = grid.origin_mm
    exact = np.linalg.inv(grid_affine) @ affine
    for axis in np.flatnonzero(np.array(array.shape) == 1):
        # The distance to the next voxel means nothing where there is only one.
        exact[:3, axis] /= np.abs(exact[:3, axis]).max()
    whole = np.rint(exact)
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in array.shape))]).T
    is_turn = (np.abs(whole[:3, :3]).sum(axis=0) == 1).all() and (np.abs(whole[:3, :3]).sum(axis=1) == 1).all()
    off = np.abs((exact - whole) @ corners).max()
    if not is_turn or off > OFF_GRID_VOXELS:
        raise DatasetError(
            "a DICOM segmentation lies on another grid than its image",
            where=where,
            found=f"voxels of {_rounded(np.linalg.norm(affine[:3, :3], axis=0))} mm from {_rounded(affine[:3, 3])} mm",
            allowed=f"voxels of {_rounded(grid.spacing_mm)} mm from {_rounded(grid.origin_mm)} mm",
            hint="is it of another series? Else convert it to NIfTI and resample it onto the image",
        )
    turned = array.transpose([int(np.flatnonzero(row)[0]) for row in whole[:3, :3]])
    turned = np.flip(turned, tuple(axis for axis in range(3) if whole[axis, :3].sum() < 0))
    first = (whole @ corners)[:3].min(axis=1).astype(int)
    start, stop = np.maximum(first, 0), np.minimum(first + turned.shape, grid.shape)
    inside = turned[tuple(slice(max(a - f, 0), max(b - f, 0)) for a, b, f in zip(start, stop, first, strict=True))]
    if np.count_nonzero(inside) < np.count_nonzero(turned):
        raise DatasetError(
            "a DICOM segmentation reaches beyond its image",
            where=where,
            found=f"{np.count_nonzero(turned) - np.count_nonzero(inside)} labelled voxels outside",
            hint="is it of another series?",
        )
    placed = np.zeros(grid.shape, array.dtype)
    if inside.size:
        placed[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = inside
    return placed


def _rounded(values: Any) -> str:  # noqa: ANN401 - any sequence of numbers
    return " x ".join(f"{value:.6g}" for value in values)
