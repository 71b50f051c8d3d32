"""Whether files are still the ones that something was made from: paths -> text for a digest.

A path of a case may also be a folder of DICOM slices, or ``FOLDER#SERIES_UID`` for one of the series in it.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from autoseg.artifacts.dataset import Case

HEADER_BYTES = 2**16
FOLDER_DEPTH = 2  # How many folders may lie between a case's folder and its slices: p1/STUDY/SERIES/1.dcm


def split_series(path: Path) -> tuple[Path, str | None]:
    """Part ``FOLDER#SERIES_UID``; the series is None where the path names a whole file or folder."""
    folder, mark, series = str(path).rpartition("#")
    if mark and series and not path.exists() and Path(folder).is_dir():
        return Path(folder), series
    return path, None


def files_of(path: Path) -> list[Path]:
    """The files that a case's path stands for: itself, or all in the folder and two levels below it, sorted.

    Hidden files and folders are left out, and so is what does not exist.
    """
    place, _ = split_series(path)
    if not place.is_dir():
        return [place] if place.is_file() else []
    found: list[Path] = []
    folders = [place]
    for _ in range(FOLDER_DEPTH + 1):
        entries = [entry for folder in folders for entry in folder.iterdir() if not entry.name.startswith(".")]
        folders = [entry for entry in entries if entry.is_dir()]
        found += [entry for entry in entries if entry.is_file()]
    return sorted(found)


def stamp(root: Path, files: Iterable[str]) -> str:
    """One line for each file: its path as given, size in bytes, and time of change in ns.

    Parameters
    ----------
    root : Path
        What relative paths start from.
    files : iterable of str

    Returns
    -------
    str
        A file that can't be found is called missing; whoever reads it will say so.
    """
    lines = []
    for file in files:
        try:
            status = (root / file).stat()
        except OSError:
            lines.append(f"{file} missing\n")
        else:
            lines.append(f"{file} {status.st_size} {status.st_mtime_ns}\n")
    return "".join(lines)


def data_file(header: Path) -> str | None:
    """What a MetaImage or NRRD header says of the file with its voxels, as written there; None: they follow in it.

    Raises
    ------
    OSError
        The header can't be read.
    """
    match header.suffix.lower():
        case ".mhd" | ".mha":
            keys, separator = {b"elementdatafile"}, b"="
        case ".nrrd":
            keys, separator = {b"data file", b"datafile"}, b":"
        case _:
            return None
    with header.open("rb") as stream:
        for line in stream.read(HEADER_BYTES).splitlines():
            name, mark, value = line.partition(separator)
            if mark and name.strip().lower() in keys:
                text = value.strip().decode("utf-8", "replace")
                return None if text.upper() == "LOCAL" else text
            if not line.strip():  # an NRRD header ends with an empty line
                return None
    return None


def case_stamp(root: Path, case: Case) -> str:
    """The stamp of everything that is read for a case: images, label, and what lies beside them.

    Notes
    -----
    A TIFF's spacing stands in a JSON file, the voxels of an .mhd, and of some .nrrd, in a file that the header names,
    DICOM's slices in a folder.
    """
    files: list[str] = []
    for file in (*case.images, *([case.label] if case.label is not None else [])):
        path = Path(file)
        beside: set[Path] = set()
        match path.suffix.lower():
            case ".tif" | ".tiff":
                beside = {path.with_suffix(".json"), path.with_name(f"{case.name}.json")}
            case ".mhd" | ".mha" | ".nrrd":
                with suppress(OSError):  # whoever reads it will say so
                    data = data_file(root / file)
                    beside = {path.with_name(data)} if data and "/" not in data and "\0" not in data else set()
        files += [file, *sorted(extra.as_posix() for extra in beside)]
        if split_series(root / file)[0].is_dir():
            files += [slice_file.as_posix() for slice_file in files_of(root / file)]
    return stamp(root, files)
