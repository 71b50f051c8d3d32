"""What to say where no layout fits: what is there, what was expected, and the command that would work."""

import re
import shlex
from pathlib import Path

from autoseg.datasets.bids import is_bids
from autoseg.datasets.folders import IMAGE_FOLDERS, LABEL_FOLDERS, find_folders
from autoseg.datasets.found import images_among, some
from autoseg.datasets.listed import TABLES
from autoseg.datasets.per_case import find_per_case
from autoseg.errors import DatasetError
from autoseg.images.endings import file_ending

EXPECTED = (
    "a dataset.json (nnU-Net, Medical Decathlon); one folder images/ and one labels/ or masks/; one folder a case with "
    "image.nii.gz and label.nii.gz; BIDS (sub-01/anat/..., derivatives/NAME/sub-01/...); or a list of files as RAW"
)
LIST_HINT = "list what belongs together in a file with the columns image,label: autoseg plan LIST.csv"


def unrecognised(root: Path) -> DatasetError:
    """The error for a folder that holds no known layout."""
    entries = [entry for entry in sorted(root.iterdir()) if not entry.name.startswith(".")]
    if not entries:
        return DatasetError("the dataset folder is empty", where=str(root), allowed=EXPECTED)
    return DatasetError(
        "no dataset is recognised in this folder",
        where=str(root),
        found=some([f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]),
        allowed=EXPECTED,
        hint=_command(root, entries),
    )


def no_list(raw: Path) -> DatasetError:
    """The error for a file that is no list of cases."""
    is_image = file_ending(raw.name) is not None
    hint = (
        shlex.join(["autoseg", "plan", str(raw.parent)])
        if is_image
        else "from a spreadsheet program, save it as CSV UTF-8"
        if raw.suffix.lower() in (".xlsx", ".xls", ".ods")
        else None
    )
    return DatasetError(
        "a dataset is a folder or a list of files",
        where=str(raw),
        found="an image" if is_image else f"a file ending in {raw.suffix or 'nothing'}",
        allowed=f"a folder, or a list ending in {', '.join(TABLES)} or .json",
        hint=hint,
    )


def _command(root: Path, entries: list[Path]) -> str:
    """What would work, as far as can be told without opening files."""
    folders = [entry for entry in entries if entry.is_dir()]
    deeper = next((folder for folder in _below(folders) if _looks_like_a_dataset(folder)), None)
    if deeper is not None:
        return shlex.join(["autoseg", "plan", str(deeper)])
    lists = [entry for entry in entries if entry.suffix.lower() in TABLES]
    if len(lists) == 1:
        return shlex.join(["autoseg", "plan", str(lists[0])])
    filled = [folder for folder in folders if images_among(list(folder.iterdir()))]
    labels = [folder for folder in filled if _like(folder, LABEL_FOLDERS)] or filled[1:]
    if len(filled) == 2 and len(labels) == 1:
        (images,) = (folder for folder in filled if folder != labels[0])
        return shlex.join(["autoseg", "plan", "--images", str(images), "--labels", str(labels[0])])
    images_there = [folder for folder in filled if _like(folder, IMAGE_FOLDERS)]
    if len(images_there) == len(labels) == 1:
        return shlex.join(["autoseg", "plan", "--images", str(images_there[0]), "--labels", str(labels[0])])
    return f"name the two folders: --images DIR --labels DIR; or {LIST_HINT}"


def _below(folders: list[Path]) -> list[Path]:
    """The folders, then those in them."""
    inside = [entry for folder in folders for entry in sorted(folder.iterdir()) if entry.is_dir()]
    return [*folders, *inside]


def _looks_like_a_dataset(folder: Path) -> bool:
    if (folder / "dataset.json").is_file() or find_folders(folder) is not None or is_bids(folder):
        return True
    try:
        return find_per_case(folder, None) is not None
    except DatasetError:
        return True


def _like(folder: Path, names: tuple[str, ...]) -> bool:
    """Whether a word of the folder's name is one of the usual ones, or its singular or plural."""
    return any(word in names or word == "gt" for word in re.split(r"[^a-z]+", folder.name.lower()))
