"""A file of the user's that says the folds: autoseg's splits.json, nnU-Net's splits_final.json, or a list."""

import csv
import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg.artifacts.splits import Fold
from autoseg.errors import DatasetError, nearest

log = logging.getLogger(__name__)
ALLOWED = (
    'autoseg\'s splits.json; a list of {"train": [...], "val": [...]}, as in nnU-Net\'s splits_final.json; '
    "or a CSV or JSON list with case and fold"
)


def read_folds(file: Path, case_names: Sequence[str]) -> tuple[tuple[Fold, ...], str]:
    """The folds in a file, and the file's SHA-256.

    Parameters
    ----------
    file : Path
        Its content, not its name, says which kind it is.
    case_names : sequence of str
        Of the dataset; a list with case and fold has to have each of them.

    Raises
    ------
    DatasetError
        The file can't be read, is of no kind that is known, or leaves a case without fold.
    """
    try:
        data = file.read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            "the file of folds can't be read", where=str(file), found=str(error), allowed=ALLOWED
        ) from error
    where = str(file)
    if text.lstrip()[:1] in ("[", "{"):
        try:
            content = json.loads(text)
        except ValueError as error:
            raise DatasetError("the file of folds is not valid JSON", where=where, found=str(error)) from error
        folds = _of_json(content, case_names, where)
    else:
        folds = _of_rows(_csv_rows(text, where), case_names, where)
    return folds, hashlib.sha256(data).hexdigest()


def folds_of_numbers(numbers: Mapping[str, int], where: str = "") -> tuple[Fold, ...]:
    """Folds from the one that validates each case.

    Parameters
    ----------
    numbers : mapping of str to int
        Counted from 0, or from 1.
    where : str
        What says so.

    Raises
    ------
    DatasetError
        A number in between is nobody's, or there is one fold alone.
    """
    present = sorted(set(numbers.values()))
    first = present[0]
    if first not in (0, 1) or present != list(range(first, first + len(present))) or len(present) < 2:
        raise DatasetError(
            "the numbers of the folds can't be used",
            where=where,
            found=", ".join(map(str, present)),
            allowed="0, 1, 2, ... without a gap, two folds or more",
        )
    if first == 1:
        log.info("%s counts folds from 1: its fold 1 is fold 0 here, and so on", where)
    names = sorted(numbers)
    return tuple(
        Fold(
            training=tuple(name for name in names if numbers[name] != fold),
            validation=tuple(name for name in names if numbers[name] == fold),
        )
        for fold in present
    )


def _of_json(content: Any, case_names: Sequence[str], where: str) -> tuple[Fold, ...]:  # noqa: ANN401 - any JSON
    """Folds in what a JSON file holds."""
    if isinstance(content, dict) and "folds" not in content:
        return _of_rows([{"case": name, "fold": fold} for name, fold in content.items()], case_names, where)
    entries = content["folds"] if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise _unknown(where, f"{type(entries).__name__} of {len(entries) if isinstance(entries, list) else 0} folds")
    if "fold" in entries[0]:
        return _of_rows(entries, case_names, where)
    return tuple(_of_entry(entry, f"{where}, fold {number}") for number, entry in enumerate(entries))


def _of_entry(entry: dict[str, Any], where: str) -> Fold:
    """A fold whose cases are listed."""
    sides = []
    for long, short in (("training", "train"), ("validation", "val")):
        names = entry.get(long, entry.get(short))
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _unknown(where, ", ".join(map(str, entry)) or "nothing")
        sides.append(tuple(sorted(names)))
    return Fold(training=sides[0], validation=sides[1])


def _csv_rows(text: str, where: str) -> list[dict[str, Any]]:
    """Rows of a table with a heading, whatever separates its columns."""
    heading = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=heading.count), restval="")
    rows = [{str(key).strip(): value for key, value in row.items()} for row in reader]
    if not rows or not {"case", "fold"} <= set(rows[0]):
        raise _unknown(where, f"the heading {heading.strip()!r} and {len(rows)} rows")
    return rows


def _of_rows(rows: Sequence[Mapping[str, Any]], case_names: Sequence[str], where: str) -> tuple[Fold, ...]:
    """Folds from the one that each case has."""
    known = set(case_names)
    numbers: dict[str, int] = {}
    for count, row in enumerate(rows, start=1):
        name, fold = str(row.get("case", "")).strip(), str(row.get("fold", "")).strip()
        here = f"{where}, row {count}, case {name}"
        if name not in known:
            close = nearest(name, case_names)
            raise DatasetError(
                "the file of folds names a case that the dataset has not",
                where=here,
                hint=f"did you mean {close}?" if close else "cases are called as in dataset.json",
            )
        if not fold.isdecimal():
            raise DatasetError("a fold is no number", where=here, found=fold or "nothing", allowed="0, 1, 2, ...")
        if name in numbers:
            raise DatasetError("the file of folds names a case twice", where=here)
        numbers[name] = int(fold)
    without = next((name for name in sorted(case_names) if name not in numbers), None)
    if without is not None:
        raise DatasetError(
            "the file of folds leaves a case out",
            where=f"{where}, case {without}",
            found=f"{len(numbers)} of {len(case_names)} cases have a fold",
            hint="add its row, or take the case out of the dataset",
        )
    return folds_of_numbers(numbers, where)


def _unknown(where: str, found: str) -> DatasetError:
    return DatasetError("the file of folds is of no known kind", where=where, found=found, allowed=ALLOWED)
