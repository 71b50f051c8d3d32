"""Reads and writes images and label maps: files -> Image, LabelMap, Geometry, and back.

Whatever goes wrong with a file comes out as one `DatasetError` that names the case and the file.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from autoseg.artifacts.base import atomic_path
from autoseg.artifacts.geometry import Geometry
from autoseg.errors import ArtifactError, AutosegError, DatasetError
from autoseg.images import dicom, pictures, segmentations, tiff, volumes
from autoseg.images.endings import DICOM_FOLDER, KINDS, Kind, file_ending, label_ending
from autoseg.images.grids import compare_grids
from autoseg.images.image import Image, LabelMap

SIDECAR = ".json"  # of a TIFF, beside it: its spacing


def read_image(files: Sequence[Path], *, case: str) -> Image:
    """Read all channels of one case.

    Parameters
    ----------
    files : sequence of Path
        One file for each channel, or a single file that holds all of them: the 4th axis of a NIfTI, vector
        voxels, or the red, green and blue of a picture. A folder of DICOM slices, or ``FOLDER#SERIES_UID`` for
        one of the series in it, counts as a file.
    case : str
        Its name, for errors and for a TIFF's sidecar ``CASE.json``.

    Returns
    -------
    Image
        float32, shape (C, Z, Y, X); spacing, origin and direction as in the first file.

    Raises
    ------
    DatasetError
        A file is missing, unreadable, cut short or of an unknown kind; channels lie on different grids; a
        voxel is NaN or infinite.
    """
    first, geometry = _read(files[0], case, np.float32, label=False)
    if len(files) == 1:
        array = np.ascontiguousarray(first)
    else:
        array = np.empty((len(files), *geometry.shape), np.float32)
        for channel, file in enumerate(files):
            if channel == 0:
                part, grid = first, geometry
            else:
                part, grid = _read(file, case, np.float32, label=False)
            _check_channel(part, grid, geometry, f"case {case}, channel {channel}, {file}")
            array[channel] = part[0]
    for channel, values in enumerate(array):
        _check_finite(values, f"case {case}, channel {channel}")
    return Image(array, geometry)


def read_label(file: Path, *, case: str, grid: Geometry | None = None) -> LabelMap:
    """Read one segmentation.

    Parameters
    ----------
    file : Path
    case : str
    grid : Geometry, optional
        Of the image. Only a DICOM-SEG needs it, which stores no more of the grid than its segments cover.

    Returns
    -------
    LabelMap
        uint8 when every value is below 256, else uint16; shape (Z, Y, X).

    Raises
    ------
    DatasetError
        As `read_image`; a JPEG; or values that aren't whole numbers from 0 to 65535; or several channels that differ.
    """
    where = f"case {case}, label {file}"
    if file.suffix.lower() in (".jpg", ".jpeg"):
        raise DatasetError("JPEG changes label values", where=where, hint="store label maps as PNG")
    array_czyx, geometry = _read(file, case, None, label=True, grid=grid)
    array = array_czyx[0]
    if any(not np.array_equal(array, other) for other in array_czyx[1:]):
        raise DatasetError(
            "a label file has several channels",
            where=where,
            found=f"{len(array_czyx)} channels",
            allowed="one channel with a whole number for each voxel",
            hint="if its colours are classes, numbers for them come from "
            "numpy.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)",
        )
    return LabelMap(_whole_numbers(array, where), geometry)


def read_geometry(files: Sequence[Path], *, case: str) -> Geometry:
    """The grid of a case, from the header of its first file where the format allows.

    Raises
    ------
    DatasetError
        The file is missing, unreadable or of an unknown kind.
    """
    file = files[0]
    with _explained(file, case):
        kind, ending = _kind(file)
        match kind:
            case "volume":
                return volumes.read_geometry(file, ending)
            case "dicom":
                segmentation = segmentations.segmentation_file(file, case)
                if segmentation is not None and next(dicom.slices_of(file), None) is None:
                    return segmentations.read_geometry(segmentation, case)
                return dicom.read_geometry(file, case)
            case "tiff":
                return tiff.read_geometry(file, case)
            case _:
                return pictures.read(file, label=True)[1]


def write_label(path: Path, array_zyx: NDArray[np.integer], geometry: Geometry) -> None:
    """Write a label map, whole or not at all, in the format of the path's ending.

    Parameters
    ----------
    path : Path
        Any readable ending but JPEG, ``.mhd`` and DICOM (see `label_ending`). A TIFF with spacing gets its sidecar
        JSON beside it.
    array_zyx : ndarray of integer, shape (Z, Y, X)
        Values from 0 to 65535; stored as uint8 when all are below 256, else as uint16.
    geometry : Geometry
        Of the same shape. NIfTI keeps single precision.

    Raises
    ------
    ArtifactError
        The folder can't be written, or the format can't hold this label map.
    ValueError
        Shape and geometry disagree.
    """
    if array_zyx.shape != geometry.shape:
        raise ValueError(f"label map of shape {array_zyx.shape} on a grid of {geometry.shape}")
    try:
        ending = _known_ending(path)
        if label_ending(ending) != ending and ending != ".bmp":
            raise ValueError(f"labels can't be written as {ending}: use {label_ending(ending)}")
        array = _smallest(array_zyx)
        if KINDS[ending] == "tiff" and geometry.has_spacing:
            # Before the label map, whose presence says that the case is done.
            with atomic_path(path.with_suffix(SIDECAR)) as temporary:
                temporary.write_bytes(tiff.spacing_record(geometry))
        with atomic_path(path) as temporary:
            match KINDS[ending]:
                case "volume":
                    volumes.write(temporary, array, geometry)
                case "tiff":
                    tiff.write(temporary, array, geometry)
                case _:
                    pictures.write(temporary, array)
    except (ValueError, OSError, RuntimeError) as error:
        raise ArtifactError("a label map can't be written", where=str(path), found=_last_line(error)) from error


def sidecar(path: Path) -> Path | None:
    """The file that `write_label` may write beside a label map: a TIFF's, for its spacing."""
    return path.with_suffix(SIDECAR) if KINDS.get(_known_ending(path)) == "tiff" else None


def _read(
    file: Path, case: str, dtype: DTypeLike | None, *, label: bool, grid: Geometry | None = None
) -> tuple[NDArray[Any], Geometry]:
    """Array (C, Z, Y, X) and geometry of one file, whatever its kind."""
    with _explained(file, case):
        kind, ending = _kind(file)
        match kind:
            case "volume":
                return volumes.read(file, ending, dtype)
            case "dicom":
                segmentation = segmentations.segmentation_file(file, case) if label else None
                if segmentation is None:
                    return dicom.read(file, case, dtype)
                array, geometry = segmentations.read(segmentation, case, grid)
                return array[None], geometry
            case "tiff":
                array, geometry = tiff.read(file, case, label=label)
            case _:
                array, geometry = pictures.read(file, label=label)
        if np.iscomplexobj(array):
            raise ValueError("its pixels are complex numbers")
        with np.errstate(over="ignore", invalid="ignore"):
            return array.astype(dtype or array.dtype, copy=False), geometry


@contextmanager
def _explained(file: Path, case: str) -> Iterator[None]:
    """Turn whatever a reading library raises into one error that names the case and the file."""
    try:
        if not file.is_file() and not dicom.is_folder(file):
            raise DatasetError("a file is missing", where=f"case {case}, {file}")
        yield
    except (AutosegError, MemoryError):
        raise
    except Exception as error:
        raise DatasetError(
            "a file can't be read",
            where=f"case {case}, {file}",
            found=_last_line(error),
            hint="replace the file, or leave the case out; in a dataset, check tells of all such cases, and plan "
            "--reject leaves them out",
        ) from error


def _last_line(error: Exception) -> str:
    """What a library says without the addresses and line numbers that ITK puts in front."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR: ") if lines else type(error).__name__


def _kind(file: Path) -> tuple[Kind, str]:
    """What reads a file or a folder of DICOM slices, and its ending in lower case."""
    if dicom.is_folder(file):
        return "dicom", DICOM_FOLDER
    if file_ending(file.name) is None and dicom.is_dicom(file):
        return "dicom", ".dcm"
    ending = _known_ending(file)
    return KINDS[ending], ending


def _known_ending(file: Path) -> str:
    ending = file_ending(file.name)
    if ending is None:
        raise ValueError(f"unknown kind of file; known are {', '.join(KINDS)}")
    return ending.lower()


def _check_channel(part: NDArray[Any], grid: Geometry, expected: Geometry, where: str) -> None:
    if len(part) != 1:
        raise DatasetError(
            "a file that should hold one channel holds several",
            where=where,
            found=f"{len(part)} channels",
            allowed="one file for each channel, or a single file with all of them",
        )
    compared = compare_grids(expected, grid)
    if compared.level == "real":
        raise DatasetError(
            "the channels of a case lie on different grids",
            where=where,
            found=compared.words,
            allowed="the same shape, spacing, origin and direction as channel 0, but for rounding",
            hint="resample the channels onto one grid",
        )


def _check_finite(values: NDArray[np.float32], where: str) -> None:
    # The extremes tell without an array of flags: NaN and infinity both come through.
    if np.isfinite(values.min()) and np.isfinite(values.max()):
        return
    bad_nan, bad_inf = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    raise DatasetError(
        "an image holds values that are no numbers",
        where=where,
        found=f"{bad_nan} NaN and {bad_inf} infinite of {values.size} voxels",
        allowed="finite numbers",
        hint="replace them in the file, for example by the value of air",
    )


def _whole_numbers(array: NDArray[Any], where: str) -> NDArray[np.integer]:
    if array.dtype.kind == "f":
        if np.isnan(array).any():
            raise DatasetError("a label map holds NaN", where=where, found=f"{int(np.isnan(array).sum())} voxels")
        wrong = array[array != np.rint(array)]
        if wrong.size:
            some = ", ".join(f"{value:g}" for value in np.unique(wrong)[:5])
            raise DatasetError(
                "a label map holds values that aren't whole numbers",
                where=where,
                found=f"{some}{', ...' if np.unique(wrong).size > 5 else ''} in {wrong.size} voxels",
                allowed="whole numbers from 0 to 65535",
                hint="was it resampled by interpolation? Use nearest neighbour for labels",
            )
    low, high = array.min(), array.max()
    if low < 0 or high > 65535:
        raise DatasetError(
            "a label value is out of bounds", where=where, found=f"values from {low} to {high}", allowed="0 to 65535"
        )
    return _smallest(array)


def _smallest(array: NDArray[Any]) -> NDArray[np.integer]:
    """The values as uint8, or as uint16 where one needs it."""
    if array.min() < 0 or array.max() > 65535:
        raise ValueError(f"label values from {array.min()} to {array.max()}; allowed are 0 to 65535")
    return np.ascontiguousarray(array, dtype=np.uint8 if array.max() < 256 else np.uint16)
