"""Cases from a list with explicit paths: CSV, TSV or JSON, the Medical Decathlon's dataset.json too -> cases."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoseg.artifacts.base import read_any_json
from autoseg.artifacts.dataset import Case
from autoseg.artifacts.stamp import split_series
from autoseg.datasets.described import HIGHEST, check_spelling, stated
from autoseg.datasets.found import Found, Stated, is_there, some, stored_path
from autoseg.datasets.naming import case_names, naming_of
from autoseg.datasets.pairing import closest
from autoseg.errors import DatasetError
from autoseg.images.endings import KINDS, file_ending

TABLES, JSON = (".csv", ".tsv"), ".json"
COLUMNS = ("case", "image", "label", "fold", "group")
CHANNEL = "image_"
SEPARATORS = ",;\t"
EXAMPLE = "a first line case,image,label and one for each case: a,scans/a.nii.gz,labels/a.nii.gz"


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of a list, with paths as written there.

    Attributes
    ----------
    where : str
        File and line, or file and key.
    images : tuple of str
    channels : tuple of str or None
        Their names, where the list gives them.
    others : dict of str to str
        What other columns say.
    """

    where: str
    case: str | None
    images: tuple[str, ...]
    channels: tuple[str, ...] | None
    label: str
    fold: int | None
    group: str | None
    others: dict[str, str]


def is_list(file: Path) -> bool:
    """Whether a file's name promises a list of cases."""
    return file.suffix.lower() in (*TABLES, JSON)


def find_listed(file: Path) -> Found:
    """The cases of a list; relative paths start from its folder.

    Parameters
    ----------
    file : Path
        Absolute. CSV and TSV have a column ``image`` or one a channel (``image_CT``), ``label``, and if wished
        ``case``, ``fold`` and ``group``. JSON has a list of objects with these keys, or an object with such a list
        under ``training`` or ``cases``, and if wished what a dataset.json says of channels and labels.

    Raises
    ------
    DatasetError
        The list can't be read, is empty or lacks a column, a column looks misspelt, a cell is empty; a file is
        missing; a case or an image is there twice; cases have different channels.
    """
    description, entries = _read_json(file) if file.suffix.lower() == JSON else ({}, _read_table(file))
    # The Decathlon's lists hold the hidden files that some systems make beside each file.
    rows = [row for row in (_row(*entry) for entry in entries) if not Path(row.images[0]).name.startswith(".")]
    if not rows:
        raise DatasetError("a list holds no case", where=str(file), allowed=EXAMPLE)
    _check_alike(rows)
    root = file.parent
    names = _names(rows, root, file)
    cases = [
        Case(
            name=name,
            images=tuple(stored_path(_existing(image, root, row.where, name), root) for image in row.images),
            label=stored_path(_existing(row.label, root, row.where, name), root),
            group=row.group,
            fold=row.fold,
        )
        for name, row in zip(names, rows, strict=True)
    ]
    _check_images(cases, rows, root)
    said = stated(description, str(file)) if description else Stated(where=str(file))
    if said.channel_names is None:
        said = replace(said, channel_names=rows[0].channels)
    columns: dict[str, dict[str, str]] = {}
    for name, row in zip(names, rows, strict=True):
        for column, text in {**row.others, **({"group": row.group} if row.group else {})}.items():
            columns.setdefault(column, {})[name] = text
    cases.sort(key=lambda case: case.name)
    return Found(tuple(cases), naming_of(cases, said.channel_names), said, columns)


def _read_table(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Rows of a CSV or TSV, each with its place; channels are gathered under ``image``."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            "a list is not in UTF-8",
            where=str(file),
            found=f"byte {error.start} is {error.object[error.start]:#x}",
            hint="save it as UTF-8 (in a spreadsheet program: CSV UTF-8)",
        ) from error
    except OSError as error:
        raise DatasetError("a list can't be read", where=str(file), found=error.strerror) from error
    first = text.split("\n", 1)[0]
    separator = "\t" if file.suffix.lower() == ".tsv" else max(SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    entries: list[tuple[str, dict[str, Any]]] = []
    header: list[str] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            where = f"{file}, line {reader.line_num}"
            if not header:
                header = [_known(name) for name in cells]
                _check_header(header, where)
                continue
            if len(cells) != len(header):
                raise DatasetError(
                    "a line has not as many cells as there are columns",
                    where=where,
                    found=f"{len(cells)} cells: {some(cells)}",
                    allowed=f"{len(header)}: {', '.join(header)}",
                    hint='a name that holds the separator stands in quotes: "a, b.nii.gz"',
                )
            entries.append((where, _gathered(dict(zip(header, cells, strict=True)))))
    except csv.Error as error:
        raise DatasetError(
            "a list can't be read", where=f"{file}, line {reader.line_num}", found=str(error), allowed=EXAMPLE
        ) from error
    return entries


def _check_header(header: list[str], where: str) -> None:
    twice = next((name for name in header if header.count(name) > 1 and name), None)
    if twice is not None:
        raise DatasetError("a list has two columns of one name", where=where, found=twice)
    channels = [name for name in header if name.startswith(CHANNEL)]
    known = [name for name in COLUMNS if not (channels and name == "image")]
    check_spelling(header, known, where)
    for name in header:
        # images_CT, imge_CT
        word, mark, channel = name.partition("_")
        if mark and channel and word != "image" and "image" not in header:
            check_spelling([name], [f"{CHANNEL}{channel}"], where)
    missing = [] if "image" in header or channels else ["image, or image_CHANNEL for each channel"]
    missing += [] if "label" in header else ["label"]
    if missing:
        raise DatasetError(
            "a list lacks a column",
            where=f"{where}: {' and '.join(missing)}",
            found=", ".join(header),
            allowed=EXAMPLE,
            hint="name the columns in the first line",
        )
    if channels and "image" in header:
        raise DatasetError(
            "a list has images with and without channel names",
            where=where,
            found=", ".join(["image", *channels]),
            allowed="image for a file with all channels, or image_CHANNEL for each channel",
        )


def _known(name: str) -> str:
    """A column's name, in lower case where it is a known one."""
    if name.lower() in COLUMNS:
        return name.lower()
    return CHANNEL + name[len(CHANNEL) :] if name.lower().startswith(CHANNEL) else name


def _gathered(cells: dict[str, str]) -> dict[str, Any]:
    channels = {name.removeprefix(CHANNEL): cell for name, cell in cells.items() if name.startswith(CHANNEL)}
    others: dict[str, Any] = {name: cell for name, cell in cells.items() if not name.startswith(CHANNEL)}
    for optional in ("fold", "group"):
        if others.get(optional) == "":
            others[optional] = None
    return {**others, "image": channels} if channels else others


def _read_json(file: Path) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """What a JSON list says of the dataset, and its entries, each with its place."""
    content = read_any_json(file)
    description = content if isinstance(content, dict) else {}
    key = next((name for name in ("training", "cases") if name in description), "training")
    entries = description.get(key) if isinstance(content, dict) else content
    if not isinstance(entries, list):
        beside = (file.parent / "imagesTr").is_dir()
        raise DatasetError(
            "a JSON file holds no list of cases",
            where=str(file),
            found=f"the keys {some(sorted(description))}" if description else type(content).__name__,
            allowed='[{"image": "a.nii.gz", "label": "a_seg.nii.gz"}, ...], or such a list under the key training',
            hint=f"autoseg plan {file.parent}" if beside else None,
        )
    prefix = f"{file}, {key}." if isinstance(content, dict) else f"{file}, "
    placed = []
    for number, entry in enumerate(entries):
        where = f"{prefix}{number}"
        if not isinstance(entry, dict):
            raise _malformed(where, entry)
        check_spelling(entry, COLUMNS, where)
        placed.append((where, entry))
    return description, placed


def _row(where: str, entry: Mapping[str, Any]) -> Row:
    """An entry with everything at its place and of its kind."""
    image, label = entry.get("image"), entry.get("label")
    case: Any = entry.get("case")
    channels = tuple(image) if isinstance(image, dict) else None
    images = tuple(image.values()) if isinstance(image, dict) else tuple(image) if isinstance(image, list) else (image,)
    if isinstance(case, int) and not isinstance(case, bool):
        case = str(case)
    for column, text in [("image", each) for each in images] + [("label", label), ("case", case or None)]:
        if column == "case" and "case" not in entry:
            continue
        if text is None or (isinstance(text, str) and not text.strip()):
            raise DatasetError("a cell is empty", where=f"{where}, {column}", hint="fill it, or remove the line")
        if not isinstance(text, str) or "\0" in text:
            raise _malformed(f"{where}, {column}", text)
    if not images or (channels and not all(channels)):
        raise _malformed(f"{where}, image", image)
    if case is not None and (case.startswith(".") or "/" in case or "\\" in case):
        raise DatasetError(
            "a case's name is unfit for a file", where=f"{where}, case", found=case, allowed="a name without / and \\"
        )
    known = {"image", "label", "case", "fold"}
    others = {
        name: str(value) for name, value in entry.items() if name not in known and isinstance(value, str | int | float)
    }
    group = others.pop("group", "").strip() or None
    return Row(where, case, images, channels, str(label), _fold(where, entry.get("fold")), group, others)


def _fold(where: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not str(value).isdecimal() or int(str(value)) > HIGHEST:
        raise DatasetError("a fold is no number", where=f"{where}, fold", found=value, allowed="0, 1, 2, ...")
    return int(str(value))


def _malformed(where: str, entry: object) -> DatasetError:
    return DatasetError(
        "an entry of a list is malformed",
        where=where,
        found=entry,
        allowed='{"image": "a.nii.gz", "label": "a_seg.nii.gz"}; image may be a list, or {"CT": "a_ct.nii.gz", ...}',
    )


def _check_alike(rows: Sequence[Row]) -> None:
    """See that all rows have the same channels, and that all have a fold, a group and a name, or none has."""
    first = rows[0]
    for row in rows:
        if row.channels != first.channels or len(row.images) != len(first.images):
            raise DatasetError(
                "the cases of a list have different channels",
                where=row.where,
                found=", ".join(row.channels or row.images),
                allowed=f"as in {first.where}: {', '.join(first.channels or first.images)}",
            )
        for column in ("fold", "group", "case"):
            one, other = getattr(first, column), getattr(row, column)
            if (one is None) != (other is None):
                empty = row if other is None else first
                raise DatasetError(
                    "a list gives only some cases what all or none should have",
                    where=f"{empty.where}, {column}",
                    found="nothing",
                    hint=f"fill {column} for every case, or take it out",
                )


def _names(rows: Sequence[Row], root: Path, file: Path) -> list[str]:
    """The cases' names, each once."""
    names = [row.case for row in rows if row.case is not None]
    if not names:
        files = [([root / image for image in row.images], root / row.label) for row in rows]
        seen: dict[Path, str] = {}
        for row, (images, _) in zip(rows, files, strict=True):
            _check_new(images[0], row.where, seen)
        return case_names(files, str(file))
    places: dict[str, str] = {}
    for name, row in zip(names, rows, strict=True):
        if name in places:
            raise DatasetError(
                "a case is there twice",
                where=f"case {name}, {row.where}",
                found=f"also in {places[name]}",
                hint="remove one of the two, or give it another name",
            )
        places[name] = row.where
    return names


def _existing(path: str, root: Path, where: str, case: str) -> Path:
    """A file of the list, absolute."""
    file = root / path
    if not is_there(file) and not is_there(split_series(file)[0]):
        folder = file.parent
        close = closest(file.name, [entry.name for entry in folder.iterdir()]) if folder.is_dir() else None
        raise DatasetError(
            "a listed file is missing",
            where=f"case {case}, {where}",
            found=path,
            allowed=f"in {folder} are {close}" if close else f"there is no folder {folder}",
            hint=f"correct the path (relative ones start from {root}), copy the file, or take the line out",
        )
    if file.is_file() and file_ending(file.name) is None:
        raise DatasetError(
            "a listed file is of an unknown kind",
            where=f"case {case}, {where}",
            found=path,
            allowed=f"files ending in {', '.join(KINDS)}",
        )
    return file


def _check_images(cases: Sequence[Case], rows: Sequence[Row], root: Path) -> None:
    """See that no file is listed twice as image, or as image and label."""
    seen: dict[Path, str] = {}
    for case, row in zip(cases, rows, strict=True):
        for image in case.images:
            _check_new(root / image, f"case {case.name}, {row.where}", seen)
            if case.label is not None and (root / image).resolve() == (root / case.label).resolve():
                raise DatasetError(
                    "a file is both image and label", where=f"case {case.name}, {row.where}", found=image
                )


def _check_new(image: Path, where: str, seen: dict[Path, str]) -> None:
    file = image.resolve()
    if file in seen:
        raise DatasetError(
            "an image is there twice",
            where=where,
            found=f"{image}, which stands also in {seen[file]}",
            hint="take one of the two lines out",
        )
    seen[file] = where
