"""Names of channels, from what the user says, the dataset says, or the files hold."""

from pathlib import Path

from autoseg.datasets.found import Found, some
from autoseg.errors import DatasetError
from autoseg.images.endings import KINDS, Kind, file_ending
from autoseg.images.image import Image
from autoseg.images.io import read_image

VOLUMES = ("volume", "dicom")
HOUNSFIELD_AIR = -500.0  # No other common modality has values below it, so one tells a CT.


def channel_names(found: Found, root: Path, stated: tuple[str, ...] | None, command: str) -> tuple[str, ...]:
    """The channels' names, in order; the files are only opened where the names leave a question.

    Parameters
    ----------
    found : Found
    root : Path
    stated : tuple of str or None
        What the user or dataset.json says.
    command : str
        How autoseg was called, for the hint.

    Raises
    ------
    DatasetError
        The number of names differs from the number of channels; or nothing names the channels of a volume,
        whose normalisation depends on the name.
    """
    first, known = found.cases[0], found.stated.channel_names
    num_files = len(first.images)
    if stated is not None and len(stated) == num_files and num_files > 1:
        return stated
    if stated is not None and len(stated) == num_files == 1 and _kind(first.images[0]) in VOLUMES:
        return stated
    image = read_image([root / file for file in first.images], case=first.name)
    count = len(image.array_czyx)
    if stated is not None:
        if len(stated) != count:
            raise DatasetError(
                "the number of channel names differs from the number of channels",
                where=f"case {first.name}, {first.images[0]}",
                found=f"{len(stated)} names ({', '.join(stated)}) and {count} channels",
                allowed="a name for each channel" + (f": {', '.join(known)}" if known and known != stated else ""),
                hint=f"the files are {some(list(first.images))}" if num_files > 1 else None,
            )
        return stated
    is_picture = image.geometry.num_dimensions == 2 and _kind(first.images[0]) not in VOLUMES
    if is_picture and count in (1, 3):
        return ("gray",) if count == 1 else ("R", "G", "B")
    raise _unnamed(image, count, command, f"case {first.name}, {first.images[0]}")


def _kind(file: str) -> Kind:
    """What reads a stored path: one without a readable ending is a folder of DICOM slices."""
    return KINDS.get((file_ending(file) or "").lower(), "dicom")


def _unnamed(image: Image, count: int, command: str, where: str) -> DatasetError:
    """The error that asks for channel names, with a guess from the values."""
    lows = [float(channel.min()) for channel in image.array_czyx]
    guess = ",".join("CT" if low < HOUNSFIELD_AIR else "MRI" for low in lows)
    return DatasetError(
        "the channels have no names, and a CT is normalised unlike any other image",
        where=where,
        found=f"{count} channel{'s' * (count > 1)} with lowest value {', '.join(f'{low:g}' for low in lows)}",
        allowed="CT for Hounsfield units; any other name (MRI, PET) for the rest",
        hint=f"{command} --channels {guess}",
    )
