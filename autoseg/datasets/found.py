"""What a search for cases finds, and the listing of a folder that every search starts with."""

from dataclasses import dataclass
from pathlib import Path

from autoseg.artifacts.dataset import Case, Naming
from autoseg.errors import DatasetError
from autoseg.images import dicom
from autoseg.images.endings import DICOM_FOLDER, KINDS, file_ending


@dataclass(frozen=True, slots=True)
class Found:
    """Cases and how their names are made.

    Attributes
    ----------
    cases : tuple of Case
        Sorted by name; paths relative to the root where they lie below it.
    naming : Naming
    """

    cases: tuple[Case, ...]
    naming: Naming


def checked_folder(folder: Path, what: str = "the dataset folder") -> Path:
    """The folder as an absolute path.

    Raises
    ------
    DatasetError
        There is no such folder.
    """
    if not folder.is_dir():
        found = "a file" if folder.is_file() else "nothing" if not folder.exists() else "no folder"
        raise DatasetError(f"{what} does not exist", where=str(folder), found=found, hint="check the path")
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
    for entry in entries:
        if file_ending(entry.name) is not None and entry.is_symlink() and not entry.exists():
            raise DatasetError(
                "a link points to a file that is not there", where=str(entry), hint="fetch the file, or remove the link"
            )
    every = [entry.name for entry in entries if entry.is_file()]
    names = [name for name in every if file_ending(name) is not None]
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


def stored_path(file: Path, root: Path) -> str:
    """The path as it is kept in a dataset: POSIX, relative to the root where it lies below it."""
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()


def some(names: list[str], n: int = 5) -> str:
    """The first few of a list of names, as text."""
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
