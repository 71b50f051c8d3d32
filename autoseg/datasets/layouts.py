"""Recognises a dataset's layout: folders or a list -> Dataset; and groups the files to be predicted in the same way."""

import logging
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoseg.artifacts.base import read_json
from autoseg.artifacts.dataset import Case, Dataset, Naming
from autoseg.datasets import described
from autoseg.datasets.bids import find_bids, is_bids
from autoseg.datasets.folders import find_folders, find_pairs
from autoseg.datasets.found import Found, checked_folder, readable_files, some
from autoseg.datasets.groups import with_groups
from autoseg.datasets.listed import find_listed, is_list
from autoseg.datasets.names import channel_names
from autoseg.datasets.pairing import closest, stem
from autoseg.datasets.per_case import find_per_case
from autoseg.datasets.scans import refuse_slice, scans
from autoseg.datasets.unrecognised import no_list, unrecognised
from autoseg.datasets.values import find_meaning
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
    group_by: str | None = None,
    lenient: bool = False,
) -> Dataset:
    """Find the training cases, whichever of the known layouts they have.

    Parameters
    ----------
    raw : Path or None
        A folder in nnU-Net's layout, the Medical Decathlon's or BIDS', with a folder of images and one of labels, or
        with one folder a case; or a list of files (CSV, TSV, JSON).
    images, labels : Path, optional
        Two plain folders, which take precedence over what `raw` holds. `labels` alone chooses among the derivatives
        of BIDS.
    channels : sequence of str, optional
        Names of the channels; needed for volumes where nothing else names them. Where files are told apart by such
        names, in BIDS or folders of cases, those are chosen.
    label_names : sequence of str, optional
        Names of the labels in order of their values, without the background. Without them and without
        dataset.json all label files are read, and a value is called ``label_1``.
    group_by : str, optional
        As `autoseg.datasets.groups.with_groups`.
    lenient : bool, optional
        Where label files are read to see their values, pass over those that can't be used.

    Returns
    -------
    Dataset

    Raises
    ------
    DatasetError
        One error, naming the case or file: no such folder or an empty one; no layout recognised; nothing matches; a
        missing channel; an image without label or the reverse; a case that is there twice; labels that contradict
        each other; channel names missing; a case without a group.
    """
    root, found = _find(raw, images, labels, channels)
    if group_by:
        found = with_groups(found, group_by)
    _check_kinds(found)
    said = found.stated
    # Before the labels, which may take minutes to read.
    named = tuple(channels) if channels else said.channel_names
    names = channel_names(found, root, named, _command(raw, images, labels))
    meaning = find_meaning(found, root, label_names or None, lenient=lenient)
    if said.num_training is not None and said.num_training != len(found.cases):
        log.warning(
            "%s says numTraining = %d, but there are %d cases; the plan's batch size goes by numTraining",
            Path(said.where).name,
            said.num_training,
            len(found.cases),
        )
    return Dataset(
        root=root.as_posix(),
        channel_names=names,
        labels=meaning.labels,
        regions_class_order=meaning.regions_class_order,
        file_values=meaning.file_values,
        naming=found.naming,
        cases=found.cases,
        group_by=group_by or None,
        num_training=said.num_training or len(found.cases),
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


def _find(
    raw: Path | None, images: Path | None, labels: Path | None, channels: Sequence[str] | None
) -> tuple[Path, Found]:
    """What paths start from, and the cases."""
    if images is not None and labels is not None:
        images = checked_folder(images, "the image folder")
        labels = checked_folder(labels, "the label folder")
        if images == labels:
            raise DatasetError(
                "images and labels lie in one folder",
                where=str(images),
                hint="move the labels to a folder of their own, or list what belongs together in a file with the "
                "columns image,label: autoseg plan LIST.csv",
            )
        root = Path(os.path.commonpath([images, labels]))
        return root, find_pairs(images, labels, root)
    if images is None and raw is not None:
        if raw.is_file():
            file = raw.absolute()
            if not is_list(file):
                raise no_list(raw)
            if labels is None:
                return file.parent, find_listed(file)
        else:
            root = checked_folder(raw)
            if labels is None or is_bids(root):
                return root, _find_in(root, labels, channels)
    if (images is None) != (labels is None):
        raise DatasetError(
            "--images and --labels belong together", allowed="both, or a dataset alone; --labels alone is for BIDS"
        )
    raise DatasetError("no dataset is given", allowed="a dataset folder, a list, or --images DIR --labels DIR")


def _find_in(root: Path, labels: Path | None, channels: Sequence[str] | None) -> Found:
    """The cases in a folder, by the first layout that fits."""
    file = root / "dataset.json"
    if file.is_file():
        return _find_described(root, file, channels)
    if is_bids(root):
        return find_bids(root, labels, channels)
    folders = find_folders(root)
    found = find_pairs(*folders, root) if folders else find_per_case(root, channels)
    if found is None:
        raise unrecognised(root)
    return found


def _find_described(root: Path, file: Path, channels: Sequence[str] | None) -> Found:
    description = read_json(file)
    if described.is_decathlon(root, description):
        return find_listed(file)
    said = described.stated(description, str(file))
    named = channels or said.channel_names
    folders = find_folders(root)
    if (root / "imagesTr").is_dir() or not folders:
        found = described.find_nnunet(root, description, len(named) if named else None)
    else:
        found = find_pairs(*folders, root)
    return replace(found, stated=said)


def _check_kinds(found: Found) -> None:
    """Refuse label files that can't hold labels, before any is read."""
    for case in found.cases:
        if case.label is not None and (file_ending(case.label) or "").lower() in (".jpg", ".jpeg"):
            raise DatasetError(
                "JPEG changes label values",
                where=f"case {case.name}, label {case.label}",
                hint="export the masks again, as PNG",
            )


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
            refuse_slice(absolute)
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
