"""Cases from two plain folders whose names belong together: images and labels -> cases."""

import shlex
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from autoseg.artifacts.dataset import Case, Naming
from autoseg.datasets.found import Found, readable_files, some, stored_path
from autoseg.datasets.pairing import (
    FIRST_CHANNEL,
    Cut,
    case_of,
    closest,
    commonest_ending,
    find_cut,
    misnamed,
    split_channel,
    stems_of,
)
from autoseg.errors import DatasetError
from autoseg.images.endings import file_ending

IMAGE_FOLDERS = ("images", "image", "imagestr", "imgs", "img", "scans", "volumes")
LABEL_FOLDERS = (
    "labels", "label", "labelstr", "masks", "mask", "segmentations", "segmentation", "segs", "seg", "annotations",
)  # fmt: skip


def find_folders(raw: Path) -> tuple[Path, Path] | None:
    """The image and the label folder inside `raw`; None where there isn't exactly one of each."""
    folders = [entry for entry in sorted(raw.iterdir()) if entry.is_dir()]
    images = [folder for folder in folders if folder.name.lower() in IMAGE_FOLDERS]
    labels = [folder for folder in folders if folder.name.lower() in LABEL_FOLDERS]
    return (images[0], labels[0]) if len(images) == 1 and len(labels) == 1 else None


def find_pairs(images: Path, labels: Path, root: Path) -> Found:
    """Match the files of two folders by their names.

    Parameters
    ----------
    images, labels : Path
        Absolute folders.
    root : Path
        What stored paths start from.

    Raises
    ------
    DatasetError
        A folder without images; folders that look swapped; no names that agree; an image without label or a label
        without image; a label among the images; a case with a missing channel; a case that is there twice.
    """
    _check_order(images, labels)
    image_files = stems_of(readable_files(images), str(images))
    label_files = stems_of(readable_files(labels), str(labels))
    cut, matches = find_cut(list(image_files), list(label_files))
    members = {stem: {"": name} for stem, name in image_files.items()}
    # The number may as well be the case's own, so it is a channel only where that explains more labels.
    grouped = group_channels(image_files)
    channel_cut, channel_matches = find_cut(list(grouped), list(label_files))
    several = any(len(channels) > 1 for channels in grouped.values())
    if channel_matches > matches or (channel_matches == matches and several):
        cut, matches, members = channel_cut, channel_matches, grouped
    if matches < len(label_files):
        _check_strays(image_files, label_files, images, labels)
    if matches == 0:
        raise _nothing_agrees(image_files, label_files, images, labels)
    by_case = {f"{cut.image_prefix}{_key(stem, cut)}": stem for stem in members}
    label_by_case = {
        f"{cut.image_prefix}{case_of(stem, cut.label_prefix, cut.label_suffix) or stem}": name
        for stem, name in label_files.items()
    }
    check_channels({case: members[stem] for case, stem in by_case.items()}, images)
    check_partners(set(by_case), set(label_by_case), images, labels)
    marks = sorted(next(iter(members.values())))
    ending = commonest_ending(image_files.values())
    naming = Naming(
        image_suffixes=tuple(f"{cut.image_suffix}{mark}{ending}" for mark in marks),
        label_suffix=f"{cut.label_suffix}{commonest_ending(label_files.values())}",
    )
    cases = tuple(
        Case(
            name=case,
            images=tuple(stored_path(images / members[by_case[case]][mark], root) for mark in marks),
            label=stored_path(labels / label_by_case[case], root),
        )
        for case in sorted(by_case)
    )
    return Found(cases, naming)


def group_channels(
    image_files: Mapping[str, str], label_stems: Collection[str] = frozenset()
) -> dict[str, dict[str, str]]:
    """Case to channel (``_0000``, ``_0001``; empty where the name has none) to file name.

    Parameters
    ----------
    image_files : mapping of str to str
        Stem to file name.
    label_stems : collection of str
        Names that are cases even if they end in four digits.

    Returns
    -------
    dict of str to dict of str to str
        Where each case has one file and only some have ``_0000``, all are given the channel that most have.
    """
    grouped: dict[str, dict[str, str]] = {}
    for stem, name in image_files.items():
        case, mark = split_channel(stem)
        if not case or (stem in label_stems and case not in label_stems):
            case, mark = stem, ""
        grouped.setdefault(case, {})[mark] = name
    marks = [mark for channels in grouped.values() for mark in channels]
    if len(marks) == len(grouped) and set(marks) == {"", FIRST_CHANNEL}:
        usual = max(("", FIRST_CHANNEL), key=marks.count)
        return {case: {usual: next(iter(channels.values()))} for case, channels in grouped.items()}
    return grouped


def check_channels(
    channels: Mapping[str, Mapping[str, str]],
    folder: Path,
    expected: Collection[str] | None = None,
    *,
    joint: str = "",
    hint: str = "",
) -> None:
    """See that every case has the `expected` channels, or those that at least half of the cases have.

    Parameters
    ----------
    channels : mapping of str to mapping of str to str
        Case to channel to file name.
    folder : Path
        For the error.
    expected : collection of str, optional
    joint : str
        What stands between case and channel in a file's name, for the error.
    hint : str
        Another way out, for the error.

    Raises
    ------
    DatasetError
        A case misses a channel, or has one too many.
    """
    counts = Counter(channel for case in channels.values() for channel in case)
    wanted = set(expected or (channel for channel, count in counts.items() if 2 * count >= len(channels)))
    for case in sorted(channels):
        missing = sorted(wanted - set(channels[case]))
        excess = sorted(channels[case][channel] for channel in set(channels[case]) - wanted)
        if missing or excess:
            add = ", ".join(f"{case}{joint}{each}" for each in missing)
            todo = f"add {add}" if missing else f"remove {', '.join(excess)}"
            raise DatasetError(
                "a case misses a channel" if missing else "a case has a channel too many",
                where=f"case {case} in {folder}",
                found=", ".join(sorted(channels[case].values())),
                allowed=f"channels {', '.join(sorted(wanted)) or 'without a number'}",
                hint=f"{todo}, or take the case out{hint}",
            )


def check_partners(images: set[str], labels: set[str], image_folder: Path, label_folder: Path) -> None:
    """See that every image has its label and every label its image.

    Raises
    ------
    DatasetError
        One has no partner, or none has.
    """
    without_label, without_image = sorted(images - labels), sorted(labels - images)
    if without_label:
        case = without_label[0]
        # The likeliest partner of a misspelt name is one that lacks a partner too.
        close = closest(case, without_image or labels)
        raise DatasetError(
            "an image has no label",
            where=f"case {some(without_label)}",
            found=f"no such label in {label_folder}; the closest to {case} are {close}",
            hint="add the label, or take the image out of the training images",
        )
    if without_image:
        case = without_image[0]
        raise DatasetError(
            "a label has no image",
            where=f"case {some(without_image)}",
            found=f"no such image in {image_folder}; the closest to {case} are {closest(case, images)}",
            hint="add the image, or take the label out",
        )


def _check_order(images: Path, labels: Path) -> None:
    """Refuse folders whose names say the reverse."""
    if images.name.lower() in LABEL_FOLDERS and labels.name.lower() in IMAGE_FOLDERS:
        raise DatasetError(
            "images and labels look swapped",
            where=f"--images {images} --labels {labels}",
            hint=shlex.join(["autoseg", "plan", "--images", str(labels), "--labels", str(images)]),
        )


def _check_strays(image_files: dict[str, str], label_files: dict[str, str], images: Path, labels: Path) -> None:
    """Refuse files that spoil a pattern that all others keep to: labels among the images, and misspelt names."""
    strays = sorted(set(image_files) & set(label_files))
    others = [name for name in image_files if name not in strays]
    if strays and others and find_cut(others, list(label_files))[1] == len(others):
        raise DatasetError(
            "a label lies among the images",
            where=str(images / image_files[strays[0]]),
            found=f"{some([image_files[name] for name in strays])}, named as in {labels}",
            hint=f"remove {some([image_files[name] for name in strays])} from {images}",
        )
    for files, folder, others in ((image_files, images, list(label_files)), (label_files, labels, list(image_files))):
        odd = misnamed(list(files), others)
        if odd is not None:
            name, corrected = files[odd[0]], f"{odd[1]}{file_ending(files[odd[0]])}"
            raise DatasetError(
                "a file is not named as the others are",
                where=str(folder / name),
                found=name,
                allowed=f"a name like {min(each for each in files.values() if each != name)}",
                hint=f"rename it, perhaps to {corrected}",
            )


def _nothing_agrees(
    image_files: dict[str, str], label_files: dict[str, str], images: Path, labels: Path
) -> DatasetError:
    first = min(label_files)
    return DatasetError(
        "no image belongs to a label",
        where=f"{images} and {labels}",
        found=f"label {label_files[first]}; the closest images are {closest(first, image_files.values())}",
        allowed="names that agree but for an ending that all images, or all labels, share (pt_1_ct, pt_1_label)",
        hint="rename the files, name other folders with --images DIR --labels DIR, or list what belongs together in "
        "a file with the columns image,label: autoseg plan LIST.csv",
    )


def _key(stem: str, cut: Cut) -> str:
    return case_of(stem, cut.image_prefix, cut.image_suffix) or stem
