"""Names of channels and labels, from what the user says, dataset.json says, or the files hold."""

from collections.abc import Sequence
from pathlib import Path

from autoseg.artifacts.labels import BACKGROUND, IGNORE, foreground
from autoseg.datasets.found import Found
from autoseg.errors import DatasetError
from autoseg.images.endings import KINDS, Kind, file_ending
from autoseg.images.image import Image
from autoseg.images.io import read_image, read_label
from autoseg.images.segmentations import segment_names

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
    first = found.cases[0]
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
            )
        return stated
    is_picture = image.geometry.num_dimensions == 2 and _kind(first.images[0]) not in VOLUMES
    if is_picture and count in (1, 3):
        return ("gray",) if count == 1 else ("R", "G", "B")
    raise _unnamed(image, count, command, f"case {first.name}, {first.images[0]}")


def label_values(found: Found, root: Path, names: Sequence[str] | None) -> dict[str, int]:
    """Label names to values; without names every label file is read to see which values there are.

    DICOM segmentations bring names of their own.

    Parameters
    ----------
    found : Found
    root : Path
    names : sequence of str or None
        The labels' names in order of their values, starting at 1.

    Raises
    ------
    DatasetError
        A name is there twice or empty; without names: a label file can't be read, the values aren't 1, 2, 3, ...
        there is only background, or a segment's name differs from case to case.
    """
    if names is not None:
        names = list(names[1:] if names and names[0].lower() == "background" else names)
        if not names or len(set(names)) < len(names) or {"", BACKGROUND, IGNORE} & set(names):
            raise DatasetError(
                "the label names can't be used",
                where="--label-names",
                found=", ".join(names) or "none",
                allowed="different names, in order of the label values, without the background; ignore is none",
            )
        return {"background": 0} | {name: value for value, name in enumerate(names, start=1)}
    values: dict[int, str] = {}
    for case in found.cases:
        if case.label is not None:
            for value in read_label(root / case.label, case=case.name).values():
                values.setdefault(value, case.name)
    present = sorted(set(values) - {0})
    if not present:
        raise DatasetError(
            "the labels hold nothing but background", where=f"all {len(found.cases)} label files", found="only 0"
        )
    check_consecutive(present, f"the label files; {present[-1]} is in case {values[present[-1]]}")
    segments = _segments(found, root)
    if not set(present) <= set(segments):
        segments = {value: f"label_{value}" for value in present}
    return {"background": 0} | {segments[value]: value for value in present}


def with_background(labels: dict[str, int], where: str) -> dict[str, int]:
    """Labels as stated, with the name of value 0 set to ``background``.

    Raises
    ------
    DatasetError
        Two labels share a value, values leave a gap, or there is only background.
    """
    if len(set(labels.values())) < len(labels):
        raise DatasetError("two labels have the same value", where=where, found=labels)
    named = foreground(labels)
    if "background" in named:
        raise DatasetError("the background must be 0", where=where, found=named["background"])
    if not named:
        raise DatasetError("there is no label but the background", where=where, found=labels)
    check_consecutive(list(named.values()), where)
    return {"background": 0} | named


def check_consecutive(values: list[int], where: str) -> None:
    """See that sorted label values are 1, 2, 3, ...; DatasetError otherwise."""
    if values != list(range(1, len(values) + 1)):
        raise DatasetError(
            "the label values leave gaps",
            where=where,
            found=", ".join(map(str, values[:20])) + (", ..." if len(values) > 20 else ""),
            allowed="0 for the background, then 1, 2, 3, ... without a gap",
            hint="renumber the values in the label files (for a 0/255 mask: 255 to 1)",
        )


def _segments(found: Found, root: Path) -> dict[int, str]:
    """What all the label files call their values, where they are DICOM segmentations."""
    named: dict[int, tuple[str, str]] = {}
    for case in found.cases:
        if case.label is None:
            continue
        for value, name in segment_names(root / case.label, case.name).items():
            other, first = named.setdefault(value, (name, case.name))
            if other != name:
                raise DatasetError(
                    "segments of one number have different names",
                    where=f"case {first} and case {case.name}",
                    found=f"segment {value} is called {other} and {name}",
                    hint="renumber the segments, or if they mean the same, name the labels with --label-names",
                )
    names = {value: name for value, (name, _) in named.items()}
    return names if len(set(names.values())) == len(names) else {}


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
