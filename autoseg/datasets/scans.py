"""DICOM folders to be predicted: folder -> a path and a name for each series in it."""

import logging
import re
from pathlib import Path

from autoseg.errors import DatasetError
from autoseg.images import dicom

log = logging.getLogger(__name__)
NAME_LETTERS = 40


def scans(folder: Path) -> dict[Path, str]:
    """The volumes that a folder of DICOM slices holds.

    Parameters
    ----------
    folder : Path
        Absolute.

    Returns
    -------
    dict of Path to str
        Path (``FOLDER``, or ``FOLDER#SERIES_UID`` where there are several) to a name for the case. Where each of
        several series is one file, the files are cases of their own. Series that make no volume, such as scouts,
        are left out with a logged note.

    Raises
    ------
    DatasetError
        A file is damaged, or there is no volume.
    """
    try:
        series = dicom.find_series(dicom.dicom_files(folder), str(folder))
    except ValueError as error:
        raise DatasetError(
            "a DICOM file can't be read", where=str(folder), found=error, hint="replace it, or leave the scan out"
        ) from error
    if len(series) == 1:
        return {folder: folder.name}
    if all(len(one.slices) == 1 for one in series):
        return {one.slices[0].file: _stem(one.slices[0].file) for one in series}
    found: dict[Path, str] = {}
    refused: list[DatasetError] = []
    for one in series:
        try:
            dicom.arrange(one, str(folder))
        except DatasetError as error:
            refused.append(error)
            continue
        name = "_".join(part for part in (folder.name, _readable(one.number), _readable(one.description)) if part)
        # Two series of one number and description occur; their UIDs differ.
        found[Path(f"{folder}#{one.uid}")] = f"{name}_{_readable(one.uid)}" if name in found.values() else name
    if not found:
        raise refused[0]
    for refusal in refused:
        log.warning("%s is left out: %s", refusal.where, refusal.found)
    return found


def refuse_slice(file: Path) -> None:
    """See that a DICOM file given by itself is not one slice of many.

    Raises
    ------
    DatasetError
        Other files beside it belong to the same series.
    """
    if file.suffix.lower() not in dicom.DICOM_ENDINGS:
        return
    try:
        series = dicom.find_series(dicom.dicom_files(file.parent), str(file.parent))
    except (ValueError, DatasetError):
        return  # Another file is damaged; this one is read, or refused, by itself.
    for one in series:
        if len(one.slices) > 1 and any(each.file == file for each in one.slices):
            raise DatasetError(
                "a DICOM file is one slice of a scan",
                where=str(file),
                found=f"{len(one.slices)} slices of its series in {file.parent}",
                allowed="the folder with all slices",
                hint=f"give {file.parent} instead",
            )


def _stem(file: Path) -> str:
    return file.stem if file.suffix.lower() in dicom.DICOM_ENDINGS else file.name


def _readable(description: str) -> str:
    """The part of a description that any file system takes as a name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", description)[:NAME_LETTERS].strip("-.")
