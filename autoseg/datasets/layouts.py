"""Recognises a dataset's layout: folders -> Dataset; and groups the files to be predicted in the same way."""

import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from autoseg.artifacts.base import read_json
from autoseg.artifacts.dataset import Case, Dataset, Naming
from autoseg.datasets import described
from autoseg.datasets.folders import find_folders, find_pairs
from autoseg.datasets.found import Found, checked_folder, readable_files, some
from autoseg.datasets.names import channel_names, label_values, with_background
from autoseg.datasets.pairing import closest, stem
from autoseg.datasets.scans import scans
from autoseg.errors import DatasetError
from autoseg.images import dicom
from autoseg.images.endings import DICOM_FOLDER, KINDS, file_ending

log = logging.getLogger(__name__)


def find_dataset(
    raw: Path | None,
    *,
    images: Path | None = None,
    labels: Path | None = None,
    channels: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
) -> Dataset:
    """Find the training cases in a folder, whichever of the known layouts it has.

    Parameters
    ----------
    raw : Path or None
        A folder in nnU-Net's layout, the Medical Decathlon's, or with a folder of images and one of labels.
    images, labels : Path, optional
        Two plain folders; both or neither. They take precedence over what `raw` holds.
    channels : sequence of str, optional
        Names of the channels; needed for volumes without dataset.json.
    label_names : sequence of str, optional
        Names of the labels in order of their values, without the background. Without them and without
        dataset.json all label files are read, and a value is called ``label_1``.

    Returns
    -------
    Dataset

    Raises
    ------
    DatasetError
        One error, naming the case or folder: no such folder or an empty one; no layout recognised; nothing
        matches; a missing channel; an image without label or the reverse; a case that is there twice; regions
        or an ignore label; label values with gaps; channel names missing.
    """
    command = _command(raw, images, labels)
    stated_channels = tuple(channels) if channels else None
    described_labels: dict[str, int] | None = None
    count: int | None = None
    if images is not None or labels is not None:
        if images is None or labels is None:
            raise DatasetError("--images and --labels belong together", allowed="both, or a dataset folder alone")
        images = checked_folder(images, "the image folder")
        labels = checked_folder(labels, "the label folder")
        if images == labels:
            raise DatasetError(
                "images and labels lie in one folder",
                where=str(images),
                hint="move the labels to a folder of their own: which file is which can't be told by names alone",
            )
        root = Path(os.path.commonpath([images, labels]))
        found = find_pairs(images, labels, root)
    elif raw is None:
        raise DatasetError("no dataset is given", allowed="a dataset folder, or --images DIR --labels DIR")
    else:
        root = checked_folder(raw)
        file = root / "dataset.json"
        if file.is_file():
            description = read_json(file)
            stated_channels = stated_channels or described.described_channels(description, str(file))
            described_labels = described.described_labels(description, str(file))
            count = described.described_count(description)
            found = _find_described(root, description, stated_channels)
        else:
            found = find_pairs(*find_folders(root), root)
    # Before the labels, which may take minutes to read.
    names = channel_names(found, root, stated_channels, command)
    if described_labels is not None and not label_names:
        values = with_background(described_labels, f"{root / 'dataset.json'}, labels")
    else:
        values = label_values(found, root, label_names or None)
    if count is not None and count != len(found.cases):
        log.warning(
            "dataset.json says numTraining = %d, but there are %d cases; the plan's batch size goes by numTraining",
            count,
            len(found.cases),
        )
    return Dataset(
        root=root.as_posix(),
        channel_names=names,
        labels=values,
        naming=found.naming,
        cases=found.cases,
        num_training=count or len(found.cases),
    )


def group_inputs(inputs: Sequence[Path], naming: Naming, num_channels: int) -> tuple[Case, ...]:
    """Group files to be predicted into cases, as the training files were grouped.

    Parameters
    ----------
    inputs : sequence of Path
        Files, folders, or both. A folder of DICOM slices is a case, or one for each of its series where a case has
        one channel; so is each such folder in a folder.
    naming : Naming
        Of the training set. Another readable ending than the training files' is accepted, so is leaving out
        ``_0000``, and so is any name of a file given by itself or of a DICOM folder, where one file holds a case.
    num_channels : int
        Of the model, for messages.

    Returns
    -------
    tuple of Case
        Sorted by name; absolute paths, no labels.

    Raises
    ------
    DatasetError
        An input is missing or unreadable by its ending; a case misses a channel; a case is there twice; nothing
        matches.
    """
    # A letter in front, because a bare ending alone would be a hidden file's name.
    suffixes = [stem(f"x{suffix}")[1:] for suffix in naming.image_suffixes]
    files, free = _list_inputs(inputs, num_files=len(suffixes))
    cases: dict[tuple[Path, str], dict[int, Path]] = {}
    unmatched: list[Path] = []
    for file, name in files.items():
        match = _match(name, suffixes)
        if match is None and len(suffixes) == 1 and file in free:
            match = (name, 0)
        if match is None:
            unmatched.append(file)
            continue
        case, channel = match
        members = cases.setdefault((file.parent, case), {})
        if channel in members:
            raise DatasetError(
                "a case is there twice",
                where=f"case {case} in {file.parent}",
                found=f"{members[channel].name} and {file.name}",
                hint="remove one of the two",
            )
        members[channel] = file
    if not cases and suffixes == ["_0000"]:
        cases = {(file.parent, files[file]): {0: file} for file in unmatched}
        unmatched = []
    if not cases:
        raise _nothing_matches(list(files), naming)
    for (folder, case), members in sorted(cases.items()):
        missing = [naming.image_suffixes[channel] for channel in range(len(suffixes)) if channel not in members]
        if missing:
            raise DatasetError(
                "a case to predict misses a channel",
                where=f"case {case} in {folder}",
                found=", ".join(members[channel].name for channel in sorted(members)),
                allowed=f"{num_channels} channels: {', '.join(case + suffix for suffix in naming.image_suffixes)}",
                hint=f"add {', '.join(case + suffix for suffix in missing)}",
            )
    if unmatched:
        log.warning("%d files are no channel of a case and are left out: %s", len(unmatched), some(_names(unmatched)))
    return _as_cases(cases)


def _find_described(root: Path, description: described.Description, channels: tuple[str, ...] | None) -> Found:
    if described.is_decathlon(root, description):
        return described.find_decathlon(root, description)
    if (root / "imagesTr").is_dir():
        return described.find_nnunet(root, description, len(channels) if channels else None)
    return find_pairs(*find_folders(root), root)


def _command(raw: Path | None, images: Path | None, labels: Path | None) -> str:
    """How autoseg was called, as far as the dataset goes."""
    words = ["autoseg", "plan", *([str(raw)] if raw else [])]
    words += ["--images", str(images)] if images else []
    words += ["--labels", str(labels)] if labels else []
    return shlex.join(words)


def _list_inputs(inputs: Sequence[Path], num_files: int) -> tuple[dict[Path, str], set[Path]]:
    """All files, absolute and each once, with their names without ending; and those that may have any name."""
    files: dict[Path, str] = {}
    free: set[Path] = set()

    def add_scan(folder: Path) -> None:
        found = scans(folder) if num_files == 1 else {folder: folder.name}
        files.update(found)
        free.update(found)

    for path in inputs:
        absolute = path.absolute()
        if absolute.is_dir() and next(dicom.direct_slices(absolute), None) is not None:
            add_scan(absolute)
        elif absolute.is_dir():
            for name in readable_files(absolute):
                if name.endswith(DICOM_FOLDER):
                    add_scan(absolute / name)
                else:
                    files[absolute / name] = stem(name)
        elif not absolute.is_file():
            raise DatasetError("an input does not exist", where=str(path), hint="check the path")
        elif file_ending(absolute.name) is None:
            raise DatasetError("an input is of an unknown kind", where=str(path), allowed=f"{', '.join(KINDS)}")
        else:
            files[absolute] = stem(absolute.name)
            free.add(absolute)
    return files, free


def _match(file_stem: str, suffixes: list[str]) -> tuple[str, int] | None:
    """Case and channel of a file; the longest suffix wins, so that an empty one takes only what is left."""
    for channel in sorted(range(len(suffixes)), key=lambda number: -len(suffixes[number])):
        case = file_stem.removesuffix(suffixes[channel])
        if case and file_stem.endswith(suffixes[channel]):
            return case, channel
    return None


def _nothing_matches(files: list[Path], naming: Naming) -> DatasetError:
    wanted = ", ".join(f"CASE{suffix}" for suffix in naming.image_suffixes)
    return DatasetError(
        "no input is named as the training images were",
        where=str(files[0].parent) if files else None,
        found=f"the closest names are {closest(naming.image_suffixes[0], _names(files))}",
        allowed=wanted,
        hint="rename the files, or give a single file by itself",
    )


def _names(files: Sequence[Path]) -> list[str]:
    return [file.name for file in files]


def _as_cases(cases: dict[tuple[Path, str], dict[int, Path]]) -> tuple[Case, ...]:
    """Sorted by name, which must be unique, because predictions of several folders share one."""
    seen: dict[str, Path] = {}
    for folder, case in sorted(cases):
        if case in seen:
            raise DatasetError("a case is there twice", where=f"case {case}", found=f"in {seen[case]} and in {folder}")
        seen[case] = folder
    return tuple(
        Case(name=case, images=tuple(members[channel].as_posix() for channel in sorted(members)))
        for (_, case), members in sorted(cases.items(), key=lambda item: item[0][1])
    )
