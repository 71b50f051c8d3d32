"""What a dataset.json says, and the cases of nnU-Net's layout."""

import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from autoseg.artifacts.dataset import Case, Naming
from autoseg.artifacts.labels import Labels, has_regions
from autoseg.datasets.folders import check_channels, check_partners, group_channels
from autoseg.datasets.found import Found, Stated, checked_folder, is_there, readable_files, stored_path
from autoseg.datasets.pairing import closest, commonest_ending, stems_of
from autoseg.errors import DatasetError
from autoseg.images.endings import file_ending

Description = dict[str, Any]
HIGHEST = 65535  # of the values that a label map can hold
KEYS = ("channel_names", "modality", "labels", "regions_class_order", "numTraining", "training", "file_ending")


def described_channels(description: Description, where: str) -> tuple[str, ...] | None:
    """The channel names under ``channel_names`` or the older ``modality``; None when there are none.

    Raises
    ------
    DatasetError
        The keys aren't "0", "1", ... or a name is no text.
    """
    for key in ("channel_names", "modality"):
        names = description.get(key)
        if isinstance(names, list):
            names = {str(number): name for number, name in enumerate(names)}
        if key == "channel_names" and names is not None and not isinstance(names, dict):
            raise _no_object(names, f"{where}, {key}", '{"0": "CT", "1": "PET"}')
        if isinstance(names, dict) and names:
            wanted = [str(number) for number in range(len(names))]
            if sorted(names, key=lambda number: (len(number), number)) != wanted or not all(
                isinstance(name, str) and name for name in names.values()
            ):
                raise DatasetError(
                    "the channels are not numbered as they should be",
                    where=f"{where}, {key}",
                    found=names,
                    allowed='{"0": "CT", "1": "PET"}',
                )
            return tuple(names[number] for number in wanted)
    return None


def described_labels(description: Description, where: str) -> Labels | None:
    """Label names to values, or for a region to several, also from the older ``{"0": "background"}``.

    Returns
    -------
    dict of str to int or tuple of int, or None
        None when there are none.

    Raises
    ------
    DatasetError
        A value is no whole number.
    """
    labels = description.get("labels")
    if labels is not None and not isinstance(labels, dict):
        raise _no_object(labels, f"{where}, labels", '{"background": 0, "tumour": 1}')
    if not labels:
        return None
    if all(name.isdigit() and isinstance(value, str) and not value.isdigit() for name, value in labels.items()):
        labels = {value: int(name) for name, value in labels.items()}
    found: Labels = {}
    for name, value in labels.items():
        values = value if isinstance(value, list) and value else [value]
        for each in values:
            if isinstance(each, bool) or not str(each).isdecimal() or int(each) > HIGHEST:
                raise DatasetError(
                    "a label value is no whole number",
                    where=f"{where}, labels.{name}",
                    found=each,
                    allowed=f"0, 1, 2, ... to {HIGHEST}",
                )
        numbers = tuple(int(each) for each in values)
        found[name] = numbers if isinstance(value, list) else numbers[0]
    return found


def _no_object(found: object, where: str, example: str) -> DatasetError:
    return DatasetError("names are not given as they should be", where=where, found=found, allowed=example)


def described_class_order(description: Description, where: str) -> tuple[int, ...]:
    """``regions_class_order``: the value written for each region; empty when there is none.

    Raises
    ------
    DatasetError
        It is no list of whole numbers.
    """
    order = description.get("regions_class_order") or []
    if not isinstance(order, list) or any(isinstance(each, bool) or not isinstance(each, int) for each in order):
        raise DatasetError(
            "the order of the regions is no list of label values",
            where=f"{where}, regions_class_order",
            found=order,
            allowed="a label value for each region, in the order of labels: [1, 2, 3]",
        )
    return tuple(order)


def described_count(description: Description) -> int | None:
    """``numTraining``, where it is a positive whole number."""
    count = description.get("numTraining")
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None


def stated(description: Description, where: str) -> Stated:
    """All that a dataset.json, or a list with the same keys, says of its dataset.

    Raises
    ------
    DatasetError
        A key looks misspelt, or what one says can't be used.
    """
    check_spelling(description, KEYS, where)
    return Stated(
        channel_names=described_channels(description, where),
        labels=described_labels(description, where),
        regions_class_order=described_class_order(description, where),
        num_training=described_count(description),
        where=where,
    )


def check_spelling(words: Collection[str], known: Sequence[str], where: str) -> None:
    """Refuse a word that looks like a known one misspelt; all others are the user's own.

    Raises
    ------
    DatasetError
        One does, and the known word itself is not there.
    """
    for word in words:
        close = get_close_matches(word, [name for name in known if name not in words], n=1, cutoff=0.8)
        if word not in known and close:
            raise DatasetError(
                "a name looks misspelt",
                where=f"{where}, {word}",
                allowed=", ".join(known),
                hint=f"did you mean {close[0]}?",
            )


def _options(description: Description) -> list[str]:
    """The names in a description as options of the command."""
    channels, labels = described_channels(description, ""), described_labels(description, "") or {}
    names = [name for name, value in labels.items() if value != 0]
    return [
        *(["--channels", ",".join(channels)] if channels else []),
        *(["--label-names", ",".join(names)] if names and not has_regions(labels) else []),
    ]


def is_decathlon(raw: Path, description: Description) -> bool:
    """Whether the listed training files exist as written; nnU-Net's first version listed names without ``_0000``."""
    listed = description.get("training")
    if not isinstance(listed, list) or not listed:
        return False
    files = [entry.get("image") for entry in listed if isinstance(entry, dict)]
    return any(isinstance(file, str) and is_there(raw / file) for file in files) or not (raw / "imagesTr").is_dir()


def find_nnunet(raw: Path, description: Description, num_channels: int | None) -> Found:
    """The cases of ``imagesTr`` and ``labelsTr``; ``_0000`` may be left out where one file holds all channels.

    Parameters
    ----------
    raw : Path
        Absolute.
    description : dict
    num_channels : int or None
        As stated; None when nothing states it.

    Raises
    ------
    DatasetError
        A folder is missing or empty; a case misses a channel; an image has no label or a label no image.
    """
    images = checked_folder(raw / "imagesTr", "the folder of training images")
    labels = checked_folder(raw / "labelsTr", "the folder of training labels")
    ending = description.get("file_ending")
    image_names, label_names = (
        [name for name in names if not isinstance(ending, str) or name.endswith(ending)] or names
        for names in (readable_files(images), readable_files(labels))
    )
    image_files, label_files = stems_of(image_names, str(images)), stems_of(label_names, str(labels))
    # A case's own name may end in four digits too; the labels tell.
    members = group_channels(image_files, label_files)
    if set(members) & set(label_files):
        # A single file may hold all channels, and a number of names that fits no case is no fault of a case.
        usual = Counter(map(len, members.values())).most_common(1)[0][0]
        numbered = [f"_{number:04d}" for number in range(usual)]
        check_channels(members, images, numbered if usual == num_channels and usual > 1 else None)
    if not set(members) & set(label_files):
        first = min(label_files)
        raise DatasetError(
            "no image belongs to a label",
            where=f"{images} and {labels}",
            found=f"label {label_files[first]}; the closest images are {closest(first, image_files.values())}",
            allowed=f"for that label {first}_0000{file_ending(min(image_files.values()))}",
            hint="rename the files, or match the folders by suffix: "
            + shlex.join(["autoseg", "plan", "--images", str(images), "--labels", str(labels), *_options(description)]),
        )
    check_partners(set(members), set(label_files), images, labels)
    marks = sorted(next(iter(members.values())))
    image_ending = commonest_ending(image_files.values())
    cases = tuple(
        Case(
            name=case,
            images=tuple(stored_path(images / members[case][mark], raw) for mark in marks),
            label=stored_path(labels / label_files[case], raw),
        )
        for case in sorted(members)
    )
    naming = Naming(
        image_suffixes=tuple(f"{mark}{image_ending}" for mark in marks),
        label_suffix=commonest_ending(label_files.values()),
    )
    return Found(cases, naming)
