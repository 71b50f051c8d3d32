"""What the files of cases have in common: the cases' names, and how new files are to be named like them."""

import re
from collections.abc import Sequence
from pathlib import Path

from autoseg.artifacts.dataset import Case, Naming
from autoseg.datasets.pairing import FIRST_CHANNEL, SEPARATORS, commonest_ending, shared_start, stem
from autoseg.errors import DatasetError

USUAL_ENDING = ".nii.gz"
FIT_FOR_FILES = re.compile(r"[\w.+-]+")


def naming_of(cases: Sequence[Case], channels: Sequence[str] | None) -> Naming:
    """How new files are to be named so that they are grouped as these were.

    Parameters
    ----------
    cases : sequence of Case
        All with the same number of images.
    channels : sequence of str or None
        The channels' names.

    Returns
    -------
    Naming
        What stands behind the case's name where that is the same in all cases (``_T1w.nii.gz``). Otherwise the
        ending alone for a single file a case, and for several ``_CHANNEL`` (``_CT.nii.gz``), or ``_0000``, ``_0001``
        where channels have no names that suit a file.
    """
    suffixes = [_behind(cases, [case.images[channel] for case in cases]) for channel in range(len(cases[0].images))]
    if None in suffixes or len(set(suffixes)) < len(suffixes):
        if len(suffixes) == 1:
            suffixes = [""]
        elif channels and len(channels) == len(suffixes) and all(map(FIT_FOR_FILES.fullmatch, channels)):
            suffixes = [f"_{name}" for name in channels]
        else:
            suffixes = [f"_{number:04d}" for number in range(len(suffixes))]
    ending = commonest_ending(Path(file).name for case in cases for file in case.images) or USUAL_ENDING
    labels = [case.label or "" for case in cases]
    label_ending = commonest_ending(Path(file).name for file in labels) or USUAL_ENDING
    return Naming(
        image_suffixes=tuple(f"{suffix}{ending}" for suffix in suffixes),
        label_suffix=f"{_behind(cases, labels) or ''}{label_ending}",
    )


def case_names(files: Sequence[tuple[Sequence[Path], Path]], where: str) -> list[str]:
    """Names for cases that have none.

    Parameters
    ----------
    files : sequence of (sequence of Path, Path)
        Images and label of each case.
    where : str
        For the error.

    Returns
    -------
    list of str
        The first of these that names every case, each differently: the words that the names of a case's files begin
        with (``pt_1`` of ``pt_1_ct`` and ``pt_1_oar``); the name of its only image; the name of its folder.

    Raises
    ------
    DatasetError
        None of them does.
    """
    stems = [[stem(file.name) for file in (*images, label)] for images, label in files]
    beginnings = [shared_start(names) for names in stems]
    only = [
        names[0].removesuffix(FIRST_CHANNEL) if len(images) == 1 else ""
        for names, (images, _) in zip(stems, files, strict=True)
    ]
    folders = [images[0].parent.name for images, _ in files]
    for names in (beginnings, only, folders):
        if all(names) and len(set(names)) == len(names):
            return names
    twice = next(name for name in folders if folders.count(name) > 1)
    raise DatasetError(
        "the cases can't be told apart by the names of their files",
        where=where,
        found=", ".join(str(images[0]) for (images, _), name in zip(files, folders, strict=True) if name == twice),
        hint="add a column `case` with a different name for each case",
    )


def _behind(cases: Sequence[Case], files: Sequence[str]) -> str | None:
    """What stands behind the case's name in each file's, without the ending; None where it isn't always the same."""
    stems = [stem(Path(file).name) for file in files]
    if not all(name.startswith(case.name) for case, name in zip(cases, stems, strict=True)):
        return None
    rests = {name[len(case.name) :] for case, name in zip(cases, stems, strict=True)}
    rest = rests.pop()
    # A letter or number that goes on is part of another case's name.
    return rest if not rests and (not rest or rest[0] in SEPARATORS) else None
