"""Cases from two plain folders whose names belong together: images and labels -> cases."""

from pathlib import Path

from autoseg.artifacts.dataset import Case, Naming
from autoseg.datasets.found import Found, readable_files, some, stored_path
from autoseg.datasets.pairing import Cut, case_of, closest, commonest_ending, find_cut, split_channel, stems_of
from autoseg.errors import DatasetError

IMAGE_FOLDERS = ("images", "image", "imagestr", "imgs", "img", "scans", "volumes")
LABEL_FOLDERS = (
    "labels", "label", "labelstr", "masks", "mask", "segmentations", "segmentation", "segs", "seg", "annotations",
)  # fmt: skip


def find_folders(raw: Path) -> tuple[Path, Path]:
    """The image and the label folder inside `raw`.

    Raises
    ------
    DatasetError
        The folder is empty, or there isn't exactly one of each.
    """
    entries = [entry for entry in sorted(raw.iterdir()) if not entry.name.startswith(".")]
    folders = [entry for entry in entries if entry.is_dir()]
    images = [folder for folder in folders if folder.name.lower() in IMAGE_FOLDERS]
    labels = [folder for folder in folders if folder.name.lower() in LABEL_FOLDERS]
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    if not entries:
        raise DatasetError(
            "the dataset folder is empty", where=str(raw), allowed="a dataset.json, or a folder of images and of labels"
        )
    raise DatasetError(
        "no dataset is recognised in this folder",
        where=str(raw),
        found=some([f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]),
        allowed="a dataset.json (nnU-Net or Medical Decathlon), or one folder images/ and one labels/ or masks/",
        hint="name the two folders: --images DIR --labels DIR",
    )


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
        A folder without images; no names that agree; an image without label or a label without image; a case
        with a missing channel; a case that is there twice.
    """
    image_files = stems_of(readable_files(images), str(images))
    label_files = stems_of(readable_files(labels), str(labels))
    cut, whole_matches = find_cut(list(image_files), list(label_files))
    grouped = group_channels(image_files)
    # The number may as well be the case's own, so it is a channel only where that explains more labels.
    channel_cut, channel_matches = find_cut(list(grouped), list(label_files)) if grouped else (cut, 0)
    if channel_matches > whole_matches or (grouped and channel_matches == whole_matches and _several(grouped)):
        cut, matches = channel_cut, channel_matches
        members = grouped
    else:
        matches = whole_matches
        members = {stem: {0: name} for stem, name in image_files.items()}
    if matches == 0:
        first = min(label_files)
        raise DatasetError(
            "no image belongs to a label",
            where=f"{images} and {labels}",
            found=f"label {label_files[first]}; the closest images are {closest(first, image_files.values())}",
            allowed="names that agree but for an ending that all images, or all labels, share (pt_1_ct, pt_1_label)",
            hint="rename the files, or name the folders: --images DIR --labels DIR",
        )
    by_case = {f"{cut.image_prefix}{_key(stem, cut)}": stem for stem in members}
    label_by_case = {
        f"{cut.image_prefix}{case_of(stem, cut.label_prefix, cut.label_suffix) or stem}": name
        for stem, name in label_files.items()
    }
    check_channels({case: members[stem] for case, stem in by_case.items()}, images)
    check_partners(set(by_case), set(label_by_case), images, labels)
    numbers = sorted(next(iter(members.values())))
    ending = commonest_ending(image_files.values())
    is_numbered = members is grouped
    naming = Naming(
        image_suffixes=tuple(
            f"{cut.image_suffix}_{number:04d}{ending}" if is_numbered else f"{cut.image_suffix}{ending}"
            for number in numbers
        ),
        label_suffix=f"{cut.label_suffix}{commonest_ending(label_files.values())}",
    )
    cases = tuple(
        Case(
            name=case,
            images=tuple(stored_path(images / members[by_case[case]][number], root) for number in numbers),
            label=stored_path(labels / label_by_case[case], root),
        )
        for case in sorted(by_case)
    )
    return Found(cases, naming)


def group_channels(image_files: dict[str, str]) -> dict[str, dict[int, str]]:
    """Case to channel number to file name, for names that all end in ``_0000``, ``_0001``; empty otherwise.

    Parameters
    ----------
    image_files : dict of str to str
        Stem to file name.
    """
    grouped: dict[str, dict[int, str]] = {}
    for stem, name in image_files.items():
        case, number = split_channel(stem)
        if number is None or not case:
            return {}
        grouped.setdefault(case, {})[number] = name
    return grouped


def check_channels(channels: dict[str, dict[int, str]], folder: Path, expected: int | None = None) -> None:
    """See that every case has the same channels, or the `expected` number of them, counted from 0.

    Raises
    ------
    DatasetError
        A case misses a channel, or has one too many.
    """
    numbers = set(range(expected)) if expected is not None else set().union(*channels.values())
    for case in sorted(channels):
        missing = sorted(numbers - set(channels[case]))
        excess = sorted(set(channels[case]) - numbers)
        if missing or excess:
            wrong = missing or excess
            raise DatasetError(
                "a case misses a channel" if missing else "a case has a channel too many",
                where=f"case {case} in {folder}",
                found=", ".join(sorted(channels[case].values())),
                allowed=f"channels {', '.join(f'_{number:04d}' for number in sorted(numbers))}",
                hint=f"{'add' if missing else 'remove'} {', '.join(f'{case}_{number:04d}' for number in wrong)}, "
                "or take the case out",
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
        raise DatasetError(
            "an image has no label",
            where=f"case {some(without_label)}",
            found=f"no such label in {label_folder}; the closest to {case} are {closest(case, labels)}",
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


def _several(grouped: dict[str, dict[int, str]]) -> bool:
    return any(len(numbers) > 1 for numbers in grouped.values())


def _key(stem: str, cut: Cut) -> str:
    return case_of(stem, cut.image_prefix, cut.image_suffix) or stem
