"""The scores of all folds together: evaluations -> cases, means with intervals, the worst cases."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from autoseg.artifacts.evaluation import METRICS, Evaluation, LabelScores
from autoseg.report.intervals import mean_intervals

ALL = "all labels"


@dataclass(frozen=True, slots=True)
class ScoredCase:
    """A case that a fold did not train on, with the scores of its labels."""

    name: str
    fold: int
    scores: Mapping[str, LabelScores]

    def mean(self, metric: str) -> float | None:
        """Over the labels for which the metric is defined."""
        values = [value for each in self.scores.values() if (value := getattr(each, metric)) is not None]
        return fmean(values) if values else None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over cases, and its 95 % interval where there are enough of them."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    label : str or None
        None: the mean over the labels of each case.
    n_cases, n_absent, n_missed, n_false_alarms : int
        All cases; those without the label in reference and prediction; in the prediction alone missing; in the
        reference alone missing. Of all labels together: the sums over the labels.
    estimates : dict of str to Estimate or None
        By metric; None where it is defined in no case.
    """

    label: str | None
    n_cases: int
    n_absent: int
    n_missed: int
    n_false_alarms: int
    estimates: dict[str, Estimate | None]


def pooled(evaluations: Mapping[int, Evaluation]) -> tuple[ScoredCase, ...]:
    """The cases of all folds, each fold's in turn."""
    return tuple(
        ScoredCase(name, fold, scores)
        for fold, evaluation in evaluations.items()
        for name, scores in evaluation.cases.items()
    )


def rows(cases: Sequence[ScoredCase], labels: Sequence[str], groups: Mapping[str, Hashable]) -> list[Row]:
    """The table: the mean over labels first, then each label.

    Parameters
    ----------
    cases : sequence of ScoredCase
        At least one, each with every label.
    labels : sequence of str
    groups : mapping of str to hashable
        What a case belongs to, by name; a case that is not in it stands for itself.
    """
    per_label = {label: [case.scores[label] for case in cases] for label in labels}
    columns = [[case.mean(metric) for case in cases] for metric in METRICS]
    columns += [[getattr(each, metric) for each in scores] for scores in per_label.values() for metric in METRICS]
    values = np.asarray(columns, dtype=np.float64).T  # None becomes NaN
    means, ends = mean_intervals(values, [groups.get(case.name, case.name) for case in cases])
    estimates = [_estimate(mean, *pair) for mean, pair in zip(means.tolist(), ends.tolist(), strict=True)]
    width = len(METRICS)
    parts = [
        dict(zip(METRICS, estimates[start : start + width], strict=True)) for start in range(0, len(estimates), width)
    ]
    named = [_row(label, per_label[label], part) for label, part in zip(labels, parts[1:], strict=True)]
    together = Row(
        None,
        len(cases),
        sum(row.n_absent for row in named),
        sum(row.n_missed for row in named),
        sum(row.n_false_alarms for row in named),
        parts[0],
    )
    return [together, *named]


def worst(cases: Sequence[ScoredCase], most: int) -> list[tuple[ScoredCase, float]]:
    """The cases with the lowest mean Dice over their labels, lowest first; those without any are left out."""
    scored = [(case, dice) for case in cases if (dice := case.mean("dice")) is not None]
    return sorted(scored, key=lambda pair: (pair[1], pair[0].name))[:most]


def _row(label: str, scores: Sequence[LabelScores], estimates: dict[str, Estimate | None]) -> Row:
    masks = [(each.n_reference_voxels > 0, each.n_predicted_voxels > 0) for each in scores]
    return Row(
        label,
        len(scores),
        masks.count((False, False)),
        masks.count((True, False)),
        masks.count((False, True)),
        estimates,
    )


def _estimate(mean: float, low: float, high: float) -> Estimate | None:
    if np.isnan(mean):
        return None
    return Estimate(mean, *(None if np.isnan(end) else end for end in (low, high)))
