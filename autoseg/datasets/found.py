"""What a search for cases finds, and the listing of a folder that every search starts with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.artifacts.dataset import Case, Naming
from autoseg.artifacts.labels import Labels
from autoseg.errors import DatasetError, nearest
from autoseg.images import dicom
from autoseg.images.endings import DICOM_FOLDER, KINDS, file_ending


@dataclass(frozen=True, slots=True)
class Stated:
    """What a dataset says of itself, in a dataset.json, a list, or the names of its files.

    Attributes
    ----------
    channel_names : tuple of str or None
    labels : dict of str to int or tuple of int, or None
        With the values that stand in the label files, which may leave gaps.
    regions_class_order : tuple of int
        Likewise.
    value_names : mapping of int to str
        What single values are called, whether they occur or not; counts where `labels` is None.
    num_training : int or None
    where : str
        The file that says so.
    """

    channel_names: tuple[str, ...] | None = None
    labels: Labels | None = None
    regions_class_order: tuple[int, ...] = ()
    value_names: Mapping[int, str] = field(default_factory=dict)
    num_training: int | None = None
    where: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """Cases and how their names are made.

    Attributes
    ----------
    cases : tuple of Case
        Sorted by name; paths relative to the root where they lie below it.
    naming : Naming
    stated : Stated
    columns : mapping of str to mapping of str to str
        What a list says of the cases besides their files: column to case to text.
    """

    cases: tuple[Case, ...]
    naming: Naming
    stated: Stated = field(default_factory=Stated)
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def checked_folder(folder: Path, what: str = "the dataset folder") -> Path:
    """The folder as an absolute path.

    Raises
    ------
    DatasetError
        There is no such folder.
    """
    if not folder.is_dir():
        found = "a file" if folder.is_file() else "nothing" if not folder.exists() else "no folder"
        parent = folder.absolute().parent
        close = nearest(folder.name, (entry.name for entry in parent.iterdir())) if parent.is_dir() else None
        hint = f"check the path; there is {folder.parent / close}" if close else "check the path"
        raise DatasetError(f"{what} does not exist", where=str(folder), found=found, hint=hint)
    return folder.resolve()


def readable_files(folder: Path) -> list[str]:
    """Names of what autoseg can read in `folder`, sorted: files, and folders of DICOM slices with a slash (``p1/``).

    Hidden entries (``._scan.nii.gz``) are left out.

    Raises
    ------
    DatasetError
        There are none, a link leads nowhere, or the folder itself is a scan of DICOM slices.
    """
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    every = [entry.name for entry in entries if entry.is_file()]
    names = [file.name for file in images_among(entries)]
    names += [f"{entry.name}{DICOM_FOLDER}" for entry in entries if entry.is_dir() and _holds_dicom(entry)]
    # Slices without any ending are not in the list, so they count only where nothing else does.
    if all(name.lower().endswith(".dcm") for name in names) and dicom.is_one_scan(folder):
        raise DatasetError(
            "DICOM slices lie directly in a folder of cases",
            where=str(folder),
            allowed=f"one folder for each case: {folder.name}/CASE/{min(every)}",
            hint="make a folder for each case, named after it, and move its slices there",
        )
    if not names:
        found = f"{len(every)} files of other kinds, such as {min(every)}" if every else "an empty folder"
        raise DatasetError(
            "a folder holds no images",
            where=str(folder),
            found=found,
            allowed=f"files ending in {', '.join(KINDS)}, or folders of DICOM slices",
        )
    return sorted(names)


def _holds_dicom(folder: Path) -> bool:
    return next(dicom.dicom_files(folder), None) is not None


def images_among(entries: list[Path]) -> list[Path]:
    """Those of a folder's entries that autoseg can read, sorted; hidden ones are left out.

    Raises
    ------
    DatasetError
        A link leads nowhere.
    """
    known = sorted(entry for entry in entries if file_ending(entry.name) and not entry.name.startswith("."))
    for entry in known:
        if entry.is_symlink() and not entry.exists():
            raise DatasetError(
                "a link points to a file that is not there", where=str(entry), hint="fetch the file, or remove the link"
            )
    return [entry for entry in known if entry.is_file()]


def is_there(path: Path) -> bool:
    """Whether a path leads to a file or folder; no where its name is too long or its folder may not be entered."""
    try:
        return path.exists()
    except OSError:
        return False


def stored_path(file: Path, root: Path) -> str:
    """The path as it is kept in a dataset: POSIX, relative to the root where it lies below it."""
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()


def some(names: list[str], n: int = 5) -> str:
    """The first few of a list of names, as text."""
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
