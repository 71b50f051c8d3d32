"""Cases from one folder each: ``case1/image.nii.gz`` and ``case1/label.nii.gz``, or ``BraTS_001/BraTS_001_t1.nii``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.artifacts.dataset import Case
from autoseg.datasets.folders import LABEL_FOLDERS, check_channels
from autoseg.datasets.found import Found, Stated, images_among, some, stored_path
from autoseg.datasets.naming import naming_of
from autoseg.datasets.pairing import CHANNEL, SEPARATORS, chosen_channels, shared_start, stems_of
from autoseg.errors import DatasetError

LABEL_WORDS = {*LABEL_FOLDERS, "gt", "groundtruth", "truth", "manual", "annotation", "roi", "dseg"}
# Words that name an image's modality well enough to plan by.
MODALITIES = {
    "adc", "ct", "dce", "dwi", "flair", "hbv", "mr", "mri", "pd", "pet", "swi", "t1", "t1c", "t1ce", "t1gd", "t1n",
    "t1w", "t2", "t2f", "t2flair", "t2w",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Folder:
    """A case's folder: its images by what their names differ in, and its labels."""

    path: Path
    images: dict[str, Path]
    labels: list[Path]


def find_per_case(root: Path, channels: Sequence[str] | None) -> Found | None:
    """The cases, one a folder; None where no folder holds images beside a label.

    Parameters
    ----------
    root : Path
        Absolute.
    channels : sequence of str, optional
        Which images are the channels, in order (``t1,flair``); without it all are.

    Raises
    ------
    DatasetError
        A folder has no label, several, or no image; a case misses a channel.
    """
    folders = [_sort_out(folder) for folder in sorted(root.iterdir()) if _holds_images(folder)]
    if not any(folder.labels and folder.images for folder in folders):
        return None
    for folder in folders:
        _check_label(folder)
    known = sorted({part for folder in folders for part in folder.images})
    wanted = chosen_channels(known, channels)
    picked = {
        folder.path.name: {part: file for part, file in folder.images.items() if wanted is None or part in wanted}
        for folder in folders
    }
    common = ",".join(part for part in known if part and all(part in folder.images for folder in folders))
    check_channels(
        {case: {part: file.name for part, file in files.items()} for case, files in picked.items()},
        root,
        wanted,
        joint="/",
        hint=f", or use only what all cases have: --channels {common}" if common else "",
    )
    order = wanted or sorted(next(iter(picked.values())))
    named = wanted is not None or all(part.lower() in MODALITIES for part in order)
    cases = tuple(
        Case(
            name=folder.path.name,
            images=tuple(stored_path(folder.images[part], root) for part in order),
            label=stored_path(folder.labels[0], root),
        )
        for folder in folders
    )
    numbered = any(CHANNEL.search(f"_{part}") for part in order)
    return Found(
        cases, naming_of(cases, None if numbered else order), Stated(channel_names=tuple(order) if named else None)
    )


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith(".") and bool(images_among(list(folder.iterdir())))


def _sort_out(folder: Path) -> _Folder:
    """Tell a folder's label from its images by the words in which their names differ."""
    files = images_among(list(folder.iterdir()))
    stems = stems_of((file.name for file in files), str(folder))
    start = shared_start(list(stems)) if len(stems) > 1 else ""
    if all(name.startswith(folder.name) for name in stems):
        start = max(start, folder.name, key=len)
    parts = {name[len(start) :].strip(SEPARATORS): folder / file for name, file in stems.items()}
    labels = [part for part in parts if _is_label(part)]
    if not labels and "" in parts and all(CHANNEL.search(f"_{part}") for part in parts if part):
        labels = [""]  # case1.nii.gz beside case1_0000.nii.gz
    images = {part: file for part, file in parts.items() if part not in labels}
    return _Folder(folder, images, [parts[part] for part in labels])


def _is_label(part: str) -> bool:
    return any(word in LABEL_WORDS for word in re.split(r"[_\-. ]+", part.lower()))


def _check_label(folder: _Folder) -> None:
    images = ", ".join(file.name for file in folder.images.values())
    if not folder.labels:
        raise DatasetError(
            "an image has no label",
            where=f"case {folder.path.name} in {folder.path}",
            found=images,
            allowed="one file with seg, label or mask in its name",
            hint="add the label, or take the folder out",
        )
    if len(folder.labels) > 1:
        raise DatasetError(
            "a case has two labels",
            where=f"case {folder.path.name} in {folder.path}",
            found=some([file.name for file in folder.labels]),
            hint="keep one of them, or list the files: autoseg plan LIST.csv with the columns case,image,label",
        )
    if not folder.images:
        raise DatasetError(
            "a label has no image",
            where=f"case {folder.path.name} in {folder.path}",
            found=folder.labels[0].name,
            hint="add the image, or take the folder out",
        )
