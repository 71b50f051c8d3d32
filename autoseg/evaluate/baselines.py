"""Scores from elsewhere: our evaluation.json, nnU-Net's summary.json, a CSV -> one table, label -> case -> score."""

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import msgspec

from autoseg.artifacts.base import read
from autoseg.artifacts.comparison import Unit
from autoseg.artifacts.evaluation import METRICS, Evaluation
from autoseg.artifacts.model import TrainedModel
from autoseg.errors import ArtifactError, DatasetError, SettingError
from autoseg.evaluate.pairing import stem
from autoseg.layout import FoldFolder

Scores = dict[str, dict[str, float | None]]


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """One metric of one method, case by case.

    Attributes
    ----------
    source : str
        Where the scores come from, for messages and reports.
    metric : str
        One of `METRICS`.
    unit : str
        ``fraction``, ``ml``, ``mm`` or ``pixels``.
    scores : dict of str to dict of str to float or None
        Label to case to score; None where the metric is undefined.
    values : dict of str to int
        Label to value in the label files, where the source tells; in order of the values.
    folds : dict of str to int
        Case to the fold that it was held out of, where the source tells.
    training : dict of int to frozenset of str
        Fold to the cases that its network learned from, where a manifest tells.
    groups : dict of str to str
        Case to patient, where the dataset has groups.
    """

    source: str
    metric: str
    unit: Unit
    scores: Scores
    values: dict[str, int]
    folds: dict[str, int] = field(default_factory=dict)
    training: dict[int, frozenset[str]] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)

    @property
    def cases(self) -> set[str]:
        """All that have a score or an undefined one."""
        return {case for cases in self.scores.values() for case in cases}


def read_scores(path: Path, *, metric: str = "dice", task: str | None = None, arch: str | None = None) -> ScoreTable:
    """Read the per-case scores of one method, whatever their format.

    Parameters
    ----------
    path : Path
        An evaluation.json of autoseg, a summary.json of nnU-Net v2, a CSV with the columns case, label and the
        metric (and, where it holds several, task and arch), or a folder: with such a JSON in it, or with
        ``fold_*/validation/``, whose folds are put together.
    metric : str, optional
        One of `METRICS`.
    task, arch : str, optional
        Which rows of a CSV; needed only where it holds several. ``Hippocampus``, ``Task04_Hippocampus`` and
        ``004_Hippocampus`` are the same task.

    Returns
    -------
    ScoreTable

    Raises
    ------
    SettingError
        The metric, task or arch is not in the file, or the choice is ambiguous; what exists is listed.
    DatasetError
        The path is missing, holds no scores, or a case occurs twice.
    ArtifactError
        A file is damaged.
    """
    if metric not in METRICS:
        raise SettingError("unknown metric", found=metric, allowed=", ".join(METRICS))
    if not path.exists():
        raise DatasetError("there are no scores", where=str(path), found="no such file or folder")
    if path.is_dir():
        tables = [read_scores(file, metric=metric) for file in _find_scores(path)]
        return merge([_in_fold(table) for table in tables], source=str(path))
    if path.suffix.lower() == ".csv":
        return _read_csv(path, metric, task, arch)
    if _is_ours(path):
        return _read_evaluation(path, metric)
    return _read_summary(path, metric)


def merge(tables: Iterable[ScoreTable], *, source: str) -> ScoreTable:
    """Put the folds of one method together.

    Parameters
    ----------
    tables : iterable of ScoreTable
        At least one; of the same metric, unit and label values.
    source : str

    Returns
    -------
    ScoreTable

    Raises
    ------
    DatasetError
        A case occurs twice, or metric, unit or label values differ.
    """
    first, *others = tables
    scores = {label: dict(cases) for label, cases in first.scores.items()}
    for table in others:
        if (table.metric, table.unit, table.values) != (first.metric, first.unit, first.values):
            raise DatasetError(
                "scores of different kinds can't be put together", where=f"{first.source}, {table.source}"
            )
        for label, cases in table.scores.items():
            known = scores.setdefault(label, {})
            twice = sorted(known.keys() & cases.keys())
            if twice:
                raise DatasetError("a case is scored twice", where=table.source, found=", ".join(twice[:10]))
            known.update(cases)
    every = (first, *others)
    return replace(
        first,
        source=source,
        scores=scores,
        folds={case: fold for table in every for case, fold in table.folds.items()},
        training={fold: cases for table in every for fold, cases in table.training.items()},
    )


def match_labels(first: ScoreTable, second: ScoreTable) -> tuple[ScoreTable, ScoreTable, tuple[str, ...]]:
    """Give both tables the same label names.

    Parameters
    ----------
    first, second : ScoreTable

    Returns
    -------
    first, second : ScoreTable
        With the labels that both have, under the same names.
    notes : tuple of str
        Which label was taken for which, and which were left out.

    Raises
    ------
    DatasetError
        No label is in both.

    Notes
    -----
    Names count first. Where a name is in one table alone, its value decides: nnU-Net and published tables know
    labels by value (``1``), our evaluation.json by name and value.
    """
    names = {value: label for label, value in second.values.items()}
    names |= {value: label for label, value in first.values.items() if not _is_value(label) or value not in names}
    notes: list[str] = []

    def rename(table: ScoreTable, other: ScoreTable) -> ScoreTable:
        renamed = {}
        for label in table.scores:
            value = table.values.get(label)
            if value is None or label in other.scores or names[value] in table.scores:
                continue
            if names[value] in other.scores:
                renamed[label] = names[value]
                notes.append(f"label {label} of {table.source} is taken for {names[value]}, which has the same value")
        return replace(
            table,
            scores={renamed.get(label, label): cases for label, cases in table.scores.items()},
            values={renamed.get(label, label): value for label, value in table.values.items()},
        )

    one, two = rename(first, second), rename(second, first)
    shared = [label for label in one.scores if label in two.scores]
    if not shared:
        raise DatasetError(
            "the two have no label in common",
            found=f"{', '.join(first.scores)} in {first.source}; {', '.join(second.scores)} in {second.source}",
        )
    for table in (one, two):
        left_out = [label for label in table.scores if label not in shared]
        if left_out:
            notes.append(f"only {table.source} has {', '.join(left_out)}: not compared")
    return _only(one, shared), _only(two, shared), tuple(notes)


def _only(table: ScoreTable, labels: list[str]) -> ScoreTable:
    """The table with these labels, in this order."""
    return replace(
        table,
        scores={label: table.scores[label] for label in labels},
        values={label: table.values[label] for label in labels if label in table.values},
    )


def _is_value(label: str) -> bool:
    """True for a label that is known by its value alone."""
    return label.isdecimal()


def _values(labels: Iterable[str]) -> dict[str, int]:
    """Label to value, for the labels that are values."""
    return {label: int(label) for label in sorted(filter(_is_value, labels), key=int)}


def _unit(metric: str, length: Literal["mm", "pixels"] = "mm") -> Unit:
    """What the metric counts in, given what lengths count in."""
    if metric.endswith("_mm"):
        return length
    if metric.endswith("_ml"):
        return "ml" if length == "mm" else length
    return "fraction"


def _find_scores(folder: Path) -> list[Path]:
    """The score files in a folder: its own, or those of its folds."""
    for pattern in (
        "evaluation.json",
        "summary.json",
        "fold_*/validation/evaluation.json",
        "fold_*/validation/summary.json",
    ):
        files = sorted(folder.glob(pattern))
        if files:
            return files
    raise DatasetError(
        "a folder holds no scores",
        where=str(folder),
        allowed="evaluation.json, summary.json, or fold_*/validation/ with one of them",
    )


def _in_fold(table: ScoreTable) -> ScoreTable:
    """The table with its cases' fold, where it lies in ``fold_K/validation``, and what that fold learned from."""
    folder = Path(table.source).parent.parent
    number = folder.name.removeprefix("fold_")
    if Path(table.source).parent.name != "validation" or not number.isdecimal():
        return table
    manifest = FoldFolder(folder).manifest
    cases = read(manifest, TrainedModel).cases if manifest.exists() else None
    training = {} if cases is None else {int(number): frozenset(cases.training)}
    return replace(table, folds=dict.fromkeys(table.cases, int(number)), training=training)


def _parse_json(path: Path) -> Any:  # noqa: ANN401 - straight from JSON
    """The file's content; NaN is let through, as nnU-Net writes it for undefined scores."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError("a file of scores can't be read", where=str(path), found=str(error)) from error


def _is_ours(path: Path) -> bool:
    """True for what autoseg wrote, however damaged it may be otherwise."""
    content = _parse_json(path)
    return isinstance(content, dict) and "schema_version" in content


def _read_evaluation(path: Path, metric: str) -> ScoreTable:
    """Our own evaluation.json."""
    evaluation = read(path, Evaluation)
    scores: Scores = {label: {} for label in evaluation.labels}
    for case, labels in evaluation.cases.items():
        for label, record in labels.items():
            scores.setdefault(label, {})[case] = getattr(record, metric)
    values = {name: value for name, value in evaluation.labels.items() if isinstance(value, int)}
    return ScoreTable(str(path), metric, _unit(metric, evaluation.unit), scores, values)


class SummaryCase(msgspec.Struct, frozen=True):
    """What is read of one case of nnU-Net's summary.json."""

    metrics: dict[str, dict[str, float | None]]
    prediction_file: str
    reference_file: str = ""


class SummaryFile(msgspec.Struct, frozen=True):
    """What is read of nnU-Net's summary.json."""

    metric_per_case: list[SummaryCase]


def _read_summary(path: Path, metric: str) -> ScoreTable:
    """A summary.json of nnU-Net v2: keyed by label value, regions as ``(1, 2)``."""
    try:
        summary = msgspec.convert(_parse_json(path), SummaryFile)
    except msgspec.ValidationError as error:
        raise ArtifactError(
            "a JSON file is neither an evaluation.json nor a summary.json of nnU-Net v2",
            where=str(path),
            found=str(error),
        ) from error
    if metric not in SUMMARY_METRICS:
        raise SettingError(
            "a summary.json of nnU-Net doesn't hold this metric",
            where=str(path),
            found=metric,
            allowed=", ".join(SUMMARY_METRICS),
        )
    scores: Scores = {}
    for record in summary.metric_per_case:
        case = _case_name(record.prediction_file)
        for label, counts in record.metrics.items():
            cases = scores.setdefault(label, {})
            if case in cases:
                raise DatasetError("a case is scored twice", where=str(path), found=case)
            try:
                cases[case] = _number(SUMMARY_METRICS[metric](counts))
            except (KeyError, TypeError) as error:
                raise ArtifactError(
                    "a case lacks a number", where=f"{path}, case {case}, label {label}", found=str(error)
                ) from error
    return _table(path, metric, scores)


def _rate(wrong: str) -> Callable[[Mapping[str, Any]], float | None]:
    """TP / (TP + `wrong`) with our rules: None when both masks are empty, 0 when one is."""

    def rate(counts: Mapping[str, Any]) -> float | None:
        if counts["TP"] + counts["FP"] + counts["FN"] == 0:
            return None
        whole = counts["TP"] + counts[wrong]
        return float(counts["TP"] / whole) if whole else 0.0

    return rate


SUMMARY_METRICS: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "dice": lambda counts: counts["Dice"],
    "iou": lambda counts: counts["IoU"],
    "sensitivity": _rate("FN"),
    "precision": _rate("FP"),
}
"""How our metrics follow from the numbers that nnU-Net writes."""


def _case_name(file: str) -> str:
    """The case of a path that may come from another system."""
    name = PureWindowsPath(PurePosixPath(file).name).name
    return stem(Path(name)) or name


def _number(value: float | None) -> float | None:
    """A score; None for NaN, which stands for undefined."""
    return None if value is None or math.isnan(value) else float(value)


def _table(path: Path, metric: str, scores: Scores, choice: str = "") -> ScoreTable:
    """The table, unless it is empty; labels in order of their values."""
    if not any(scores.values()):
        raise DatasetError("a file holds no scores", where=str(path))
    values = _values(scores)
    ordered = {label: scores[label] for label in [*values, *sorted(scores.keys() - values.keys())]}
    return ScoreTable(f"{path}{choice}", metric, _unit(metric), ordered, values)


def _read_csv(path: Path, metric: str, task: str | None, arch: str | None) -> ScoreTable:
    """A table with one row for each case and label."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, restval="")
            columns = list(reader.fieldnames or ())
            rows: list[dict[str, str]] = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise ArtifactError("a file of scores can't be read", where=str(path), found=str(error)) from error
    missing = [name for name in ("case", "label", metric) if name not in columns]
    if missing:
        raise SettingError(
            "a CSV lacks columns", where=str(path), found=", ".join(columns), allowed=f"at least {', '.join(missing)}"
        )
    rows, task = _choose(rows, columns, "task", task, path)
    rows, arch = _choose(rows, columns, "arch", arch, path)
    scores: Scores = {}
    folds: dict[str, int] = {}
    for row in rows:
        case, label = row["case"], row["label"]
        if not case or not label:
            raise ArtifactError(
                "a row names no case or no label", where=str(path), found=",".join(map(str, row.values()))
            )
        if case in scores.setdefault(label, {}):
            raise DatasetError("a case is scored twice", where=str(path), found=f"case {case}, label {label}")
        if row.get("fold", "").isdecimal():
            folds[case] = int(row["fold"])
        try:
            scores[label][case] = _number(float(row[metric])) if row[metric] else None
        except ValueError as error:
            raise ArtifactError(
                "a score is not a number", where=f"{path}, case {case}, label {label}", found=row[metric]
            ) from error
    chosen = ", ".join(part for part in (task, arch) if part is not None)
    return replace(_table(path, metric, scores, f" ({chosen})" if chosen else ""), folds=folds)


def _choose(
    rows: list[dict[str, str]], columns: list[str], column: str, wanted: str | None, path: Path
) -> tuple[list[dict[str, str]], str | None]:
    """The rows of one task (or arch), and its name; the only one there is when none is wanted."""
    if column not in columns:
        if wanted is not None:
            raise SettingError(f"a CSV has no column {column}", where=str(path), found=", ".join(columns))
        return rows, None
    existing = sorted({row[column] for row in rows})
    if wanted is None:
        matching = existing
    else:
        exact = [name for name in existing if name == wanted]
        matching = exact or [name for name in existing if _bare(name) == _bare(wanted)]
    if len(matching) != 1:
        raise SettingError(
            f"a CSV doesn't hold exactly one such {column}",
            where=str(path),
            found=wanted,
            allowed=", ".join(existing),
            hint=f"choose one {column}",
        )
    return [row for row in rows if row[column] == matching[0]], matching[0]


def _bare(name: str) -> str:
    """A task's name without its number: ``Task04_Hippocampus`` and ``004_Hippocampus`` are ``hippocampus``."""
    return re.sub(r"^(task|dataset)?\d+_", "", name.lower())
