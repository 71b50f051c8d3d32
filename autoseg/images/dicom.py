"""DICOM through SimpleITK's GDCM: a folder of slices -> its series -> array and geometry.

A folder may hold several series; ``FOLDER#SERIES_UID`` names one of them. A single file is a series of one slice.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.stamp import files_of, split_series
from autoseg.errors import DatasetError
from autoseg.images.volumes import quiet

DICOM_ENDINGS = (".dcm", ".ima")
PREAMBLE_BYTES = 128
META_BYTES = 4096
LONG_LENGTHS = (b"OB", b"OW", b"UN", b"SQ", b"UT")
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
CONTOURS = "1.2.840.10008.5.1.4.1.1.481.3"
# DICOM part 4, B.5. What these hold is no picture: presentation states, reports, waveforms, contours, plans, PDF.
PICTURELESS = (
    "1.2.840.10008.1.3.10",
    "1.2.840.10008.5.1.4.1.1.9.",
    "1.2.840.10008.5.1.4.1.1.11.",
    "1.2.840.10008.5.1.4.1.1.66",
    "1.2.840.10008.5.1.4.1.1.67",
    "1.2.840.10008.5.1.4.1.1.88.",
    "1.2.840.10008.5.1.4.1.1.104.",
    *(f"1.2.840.10008.5.1.4.1.1.481.{number}" for number in (3, 4, 5, 6, 7, 8, 9)),
)
TOLERANCE = 1e-3  # of direction cosines, and relative of the pixels' size
# A slice may lie this far from an even grid, in slice distances: positions are often rounded to 0.1 mm.
UNEVEN = 0.1
SHIFTED_VOXELS = 0.5


@dataclass(frozen=True, slots=True)
class Slice:
    """One file's header.

    Attributes
    ----------
    file : Path
    size_xyz : tuple of int
        Of the file: z is above 1 in multi-frame files.
    spacing_mm, origin_mm, direction : tuple of float
        In ITK's order (x, y, z); the direction's third column is the normal.
    has_place, has_spacing : bool
        Whether the file states them.
    num_components : int
        3 for colour.
    """

    file: Path
    size_xyz: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: tuple[float, ...]
    has_place: bool
    has_spacing: bool
    num_components: int


@dataclass(frozen=True, slots=True)
class Series:
    """The slices that share a series UID, in the order of their file names, and what the scanner called them."""

    uid: str
    number: str
    description: str
    modality: str
    slices: tuple[Slice, ...]

    def __str__(self) -> str:
        """One line for a list of series."""
        count = f"{len(self.slices)} file{'s' * (len(self.slices) != 1)}"
        parts = [count, self.modality, f"number {self.number}" if self.number else "", self.description]
        return f"{self.uid} ({', '.join(part for part in parts if part)})"


def is_folder(path: Path) -> bool:
    """Whether a case's path means a folder, or a series in one, rather than a file."""
    return split_series(path)[0].is_dir()


def is_dicom(file: Path) -> bool:
    """Whether a file says that it is DICOM, by its content or, where that says nothing, by its ending.

    Notes
    -----
    DICOM part 10, section 7.1: the four letters follow a preamble. Some old files lack both.
    """
    with file.open("rb") as stream:
        start = stream.read(PREAMBLE_BYTES + 4)
    return start[PREAMBLE_BYTES:] == b"DICM" or file.suffix.lower() in DICOM_ENDINGS


def storage_class(file: Path) -> str:
    """What kind of object a DICOM file holds: its storage class UID; empty where the file doesn't say.

    Notes
    -----
    DICOM part 10, section 7.1: the meta header is always explicit little endian. Read here, because GDCM refuses
    files without a picture before it could be asked what they are.
    """
    with file.open("rb") as stream:
        header = stream.read(META_BYTES)
    at = PREAMBLE_BYTES + 4
    while header[at : at + 2] == b"\x02\x00":
        if header[at + 4 : at + 6] in LONG_LENGTHS:
            value_at, length = at + 12, int.from_bytes(header[at + 8 : at + 12], "little")
        else:
            value_at, length = at + 8, int.from_bytes(header[at + 6 : at + 8], "little")
        if header[at + 2 : at + 4] == b"\x02\x00":
            return header[value_at : value_at + length].decode("ascii", "replace").strip(" \x00")
        at = value_at + length
    return ""


def has_picture(file: Path) -> bool:
    """Whether a DICOM file may be a slice: no directory, report, contour or segmentation."""
    return not storage_class(file).startswith(PICTURELESS)


def dicom_files(path: Path) -> Iterator[Path]:
    """The DICOM files that a case's path stands for, whatever they hold."""
    return filter(is_dicom, files_of(path))


def slices_of(path: Path) -> Iterator[Path]:
    """Those of the files that may be slices."""
    return filter(has_picture, dicom_files(path))


def direct_slices(folder: Path) -> Iterator[Path]:
    """The slices that lie in the folder itself."""
    files = (entry for entry in sorted(folder.iterdir()) if entry.is_file() and not entry.name.startswith("."))
    return (file for file in files if is_dicom(file) and has_picture(file))


def is_one_scan(folder: Path) -> bool:
    """Whether the first two slices that lie in the folder itself belong to one series."""
    uids = []
    for file in direct_slices(folder):
        uids.append(_header(file)[1]["uid"])
        if len(uids) == 2:
            return uids[0] == uids[1]
    return False


def find_series(files: Iterable[Path], where: str) -> list[Series]:
    """Read the headers of slices and put those of one series together.

    Parameters
    ----------
    files : iterable of Path
        DICOM files.
    where : str
        Case and folder, for errors.

    Returns
    -------
    list of Series
        By series number.

    Raises
    ------
    DatasetError
        None of the files holds an image.
    ValueError
        A file is damaged.
    """
    slices: dict[str, list[Slice]] = {}
    tags: dict[str, dict[str, str]] = {}
    classes = set()
    for file in files:
        if has_picture(file):
            header, stated = _header(file)
            slices.setdefault(stated["uid"], []).append(header)
            tags.setdefault(stated["uid"], stated)
        else:
            classes.add(storage_class(file))
    if not slices:
        raise _no_image(classes, where)
    series = [Series(slices=tuple(slices[uid]), **stated) for uid, stated in tags.items()]
    return sorted(series, key=lambda one: (len(one.number), one.number, one.uid))


def choose_series(path: Path, case: str) -> Series:
    """The series that a case's path names, or the only one there is.

    Raises
    ------
    DatasetError
        There are several and none is named, the one that is named isn't there, or no file holds an image.
    ValueError
        A file is damaged.
    """
    folder, uid = split_series(path)
    where = f"case {case}, {folder}"
    series = find_series(dicom_files(path), where)
    listed = "; ".join(str(one) for one in series)
    if uid is not None:
        named = [one for one in series if one.uid == uid]
        if not named:
            raise DatasetError("there is no such DICOM series in a folder", where=where, found=uid, allowed=listed)
        return named[0]
    if len(series) > 1:
        raise DatasetError(
            "a folder holds several DICOM series",
            where=where,
            found=listed,
            allowed="one series",
            hint=f"move the others out of the folder, or where a path can be given, name one: {folder}#{series[0].uid}",
        )
    return series[0]


def arrange(series: Series, where: str) -> tuple[list[Slice], Geometry]:
    """Sort a series' slices along their normal, and find the grid that they make.

    Returns
    -------
    slices : list of Slice
        First to last.
    geometry : Geometry
        Slices are as far apart as their positions say, whatever they state as thickness.

    Raises
    ------
    DatasetError
        The slices make no volume: sizes or orientations differ, a position is missing or there twice, slices are
        shifted sideways, or they are in colour.
    """
    slices, first = list(series.slices), series.slices[0]
    refuse = partial(_no_volume, where, series)
    if any(one.num_components != 1 for one in slices):
        raise refuse("its slices are in colour", "grey slices", "is it a screenshot or an ultrasound? Take it out")
    if any(one.size_xyz[2:] not in ((), (1,)) for one in slices):
        raise refuse(
            f"{first.file.name} holds many frames",
            "one file for each slice",
            "convert it to NIfTI, for example with dcm2niix",
        )
    for one in slices:
        if one.size_xyz != first.size_xyz or not np.allclose(one.spacing_mm[:2], first.spacing_mm[:2], rtol=TOLERANCE):
            found = " and ".join(f"{each.file.name} {_plane(each)}" for each in (first, one))
            raise refuse(f"slices of different size: {found}", "one size", "are there two series in one?")
        if not np.allclose(one.direction, first.direction, rtol=0, atol=TOLERANCE):
            found = f"{first.file.name} and {one.file.name}"
            raise refuse(f"slices of different orientation: {found}", "one orientation", "is it a scout? Take it out")
    if len(slices) > 1 and not all(one.has_place for one in slices):
        raise refuse("slices that state no position", "ImagePositionPatient in each file", "convert the series by hand")
    axes = _axes(first)
    places = np.array([one.origin_mm for one in slices]) @ axes  # along rows, columns and the normal
    order = np.argsort(places[:, 2], kind="stable")
    slices, places = [slices[i] for i in order], places[order]
    step_mm = float(first.spacing_mm[2])
    if len(slices) > 1:
        step_mm = _even_step(slices, places, refuse)
    spacing_mm = (step_mm, float(first.spacing_mm[1]), float(first.spacing_mm[0]))
    if not all(0 < edge < np.inf for edge in spacing_mm):
        raise refuse(f"an impossible spacing {spacing_mm}", "more than 0 mm", "correct the files")
    origin_x, origin_y, origin_z = (float(value) for value in slices[0].origin_mm)
    xx, xy, xz, yx, yy, yz, zx, zy, zz = (axes + 0.0).ravel().tolist()
    geometry = Geometry(
        shape=(len(slices), first.size_xyz[1], first.size_xyz[0]),
        spacing_mm=spacing_mm,
        origin_mm=(origin_x, origin_y, origin_z),
        direction=(xx, xy, xz, yx, yy, yz, zx, zy, zz),
        has_spacing=first.has_spacing,
    )
    return slices, geometry


def read(path: Path, case: str, dtype: DTypeLike | None) -> tuple[NDArray[Any], Geometry]:
    """Read the volume that a series makes, in the units that its rescale tags lead to (Hounsfield for CT).

    Parameters
    ----------
    path : Path
        A folder, a series in it (``FOLDER#SERIES_UID``), or a single file.
    case : str
        For errors.
    dtype : numpy dtype or None
        Wanted element type; None is float64, which holds whatever slope the slices have.

    Returns
    -------
    array_czyx : ndarray, shape (1, Z, Y, X)
    geometry : Geometry

    Raises
    ------
    DatasetError
        As `choose_series` and `arrange`.
    ValueError
        A file is damaged.
    """
    slices, geometry = arrange(choose_series(path, case), f"case {case}, {path}")
    sitk = _itk()
    reader = _reader()
    array = np.empty((1, *geometry.shape), dtype or np.float64)
    for plane_yx, one in zip(array[0], slices, strict=True):
        reader.SetFileName(str(one.file))
        try:
            with quiet():
                image = reader.Execute()
        except RuntimeError as error:
            raise _damaged(one.file) from error
        with np.errstate(over="ignore", invalid="ignore"):
            plane_yx[:] = sitk.GetArrayViewFromImage(image)[0]
    return array, geometry


def read_geometry(path: Path, case: str) -> Geometry:
    """The grid of a series from its headers alone; raises as `read` does."""
    return arrange(choose_series(path, case), f"case {case}, {path}")[1]


def _itk() -> Any:  # noqa: ANN401 - SimpleITK has no types
    import SimpleITK

    return SimpleITK


def _reader() -> Any:  # noqa: ANN401 - SimpleITK has no types
    reader = _itk().ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    return reader


def _header(file: Path) -> tuple[Slice, dict[str, str]]:
    """What a slice's file states: place and size, and the names of its series."""
    reader = _reader()
    reader.SetFileName(str(file))
    try:
        with quiet():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(file) from error

    def tag(key: str) -> str:
        return str(reader.GetMetaData(key)).strip(" \x00") if reader.HasMetaDataKey(key) else ""

    header = Slice(
        file=file,
        size_xyz=tuple(reader.GetSize()),
        spacing_mm=tuple(reader.GetSpacing()),
        origin_mm=tuple(reader.GetOrigin()),
        direction=tuple(reader.GetDirection()),
        has_place=bool(tag("0020|0032")),
        has_spacing=bool(tag("0028|0030") or tag("0018|1164")),
        num_components=reader.GetNumberOfComponents(),
    )
    stated = {
        "uid": tag("0020|000e"),
        "number": tag("0020|0011"),
        "description": tag("0008|103e"),
        "modality": tag("0008|0060"),
    }
    return header, stated


def _damaged(file: Path) -> ValueError:
    return ValueError(f"{file.name} is no whole DICOM image: it is cut short, damaged, or compressed in a rare way")


def _plane(one: Slice) -> str:
    return f"{one.size_xyz[0]}x{one.size_xyz[1]} pixels of {one.spacing_mm[0]:g}x{one.spacing_mm[1]:g} mm"


def _axes(one: Slice) -> NDArray[np.float64]:
    """Direction of rows, columns and normal as the columns of a matrix, made orthonormal: files round them."""
    matrix = np.reshape(one.direction, (3, 3))
    x = matrix[:, 0] / np.linalg.norm(matrix[:, 0])
    y = matrix[:, 1] - (matrix[:, 1] @ x) * x
    y /= np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)], axis=1)


def _even_step(slices: Sequence[Slice], places: NDArray[np.float64], refuse: "partial[DatasetError]") -> float:
    """The distance from slice to slice, which has to be the same everywhere."""
    along = places[:, 2]
    steps = np.diff(along)
    same = np.flatnonzero(steps <= np.ptp(along) / len(slices) * UNEVEN)
    if same.size:
        most = Counter(np.round(along, 2).tolist()).most_common(1)[0][1]
        one, other = slices[same[0]].file.name, slices[same[0] + 1].file.name
        raise refuse(
            f"{most} slices at one position, such as {one} and {other}",
            "one slice at each position",
            "is it a time series, or are there copies? Keep one volume",
        )
    step = float(np.ptp(along) / (len(slices) - 1))
    if np.abs(along - along[0] - step * np.arange(len(slices))).max() > UNEVEN * step:
        usual, widest = float(np.median(steps)), int(np.argmax(steps))
        one, other = slices[widest].file.name, slices[widest + 1].file.name
        raise refuse(
            f"{steps[widest]:.6g} mm between {one} and {other}, where {usual:.6g} mm are usual: a slice is missing, "
            "or distances change",
            "slices at even distances",
            "add what is missing, or resample the scan to even distances",
        )
    shift = np.abs(places[:, :2] - places[0, :2]).max(axis=0)
    if (shift > SHIFTED_VOXELS * np.array(slices[0].spacing_mm[:2])).any():
        raise refuse(
            f"slices shifted sideways by up to {shift.max():.6g} mm: the gantry was tilted",
            "slices straight above each other",
            "convert the series with dcm2niix, which corrects the tilt",
        )
    return step


def _no_volume(where: str, series: Series, found: str, allowed: str, hint: str) -> DatasetError:
    return DatasetError(
        "a DICOM series makes no volume", where=f"{where}, series {series}", found=found, allowed=allowed, hint=hint
    )


def _no_image(classes: set[str], where: str) -> DatasetError:
    """The error for a folder or file without slices: it says what there is instead."""
    if classes & set(SEGMENTATIONS):
        found, hint = "a segmentation (DICOM-SEG)", "segmentations belong into the folder of labels"
    elif CONTOURS in classes:
        found, hint = "contours (RTSTRUCT)", "convert them to a NIfTI label map: see docs/how-to/file-formats.md"
    elif classes:
        found, hint = f"DICOM without a picture (storage class {', '.join(sorted(classes))})", "check the path"
    else:
        found, hint = "no DICOM file", "check the path"
    return DatasetError("there is no DICOM image", where=where, found=found, allowed="slices", hint=hint)
