"""Where does a model stand beside a published mean? Its own mean with an interval, and the difference, unpaired."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.published import Baseline
from autoseg.artifacts.standing import Standing, StandingRow
from autoseg.errors import SettingError
from autoseg.evaluate.baselines import ScoreTable, match_labels
from autoseg.evaluate.bootstrap import bootstrap_interval
from autoseg.evaluate.patients import by_patient
from autoseg.evaluate.published import describe, published

Sums = list[tuple[NDArray[np.float64], NDArray[np.float64]]]


def stand(table: ScoreTable, name: str, baseline: Baseline, *, seed: int = 0) -> Standing:
    """Hold a model's scores against a published baseline.

    Parameters
    ----------
    table : ScoreTable
        Dice of the model, case by case.
    name : str
        Of the baseline.
    baseline : Baseline
    seed : int, optional
        Of the bootstrap.

    Returns
    -------
    Standing

    Raises
    ------
    SettingError
        The scores are not Dice.
    DatasetError
        Labels are published, and the model has none of them.

    Notes
    -----
    The mean over labels is that of the labels' means, as in nnU-Net's summaries; a label that is in neither map of a
    case is left out of that label's mean. The bootstrap draws cases, or patients with all their cases where `table`
    knows them (Field and Welsh, Bootstrapping clustered data, J. R. Stat. Soc. B 69, 2007), which leaves the mean over
    cases what it is; the interval is the bias-corrected and accelerated one.
    """
    if table.metric != "dice":
        raise SettingError("published figures are of Dice", where="--metric", found=table.metric, allowed="dice")
    notes: tuple[str, ...] = ()
    whole = True
    num_labels = len(table.scores)
    cases = sorted(table.cases)
    if baseline.labels:
        figures = ScoreTable(
            name,
            "dice",
            "fraction",
            {label: {"published": dice} for label, dice in baseline.labels.items()},
            {label: int(label) for label in baseline.labels},
        )
        table, renamed, notes = match_labels(table, figures)
        wanted = {label: dices["published"] or 0.0 for label, dices in renamed.scores.items()}
        whole = len(wanted) == num_labels == len(baseline.labels)
    else:
        wanted = {}
        notes = ("which labels the published mean is over is not said: make sure that they are these",)
    patients = by_patient(cases, table.groups)
    sums = {label: _sums(scores, patients) for label, scores in table.scores.items()}
    if not whole:
        notes = (*notes, "the labels are not the same: their means are not compared")
    return Standing(
        source=table.source,
        baseline=name,
        described=describe(baseline),
        metric="dice",
        seed=seed,
        num_cases=len(cases),
        num_patients=len(patients),
        foreground=_row(list(sums.values()), _scored(table, cases), baseline.foreground, seed) if whole else None,
        labels={label: _row([sums[label]], int(sums[label][1].sum()), dice, seed) for label, dice in wanted.items()},
        notes=(*notes, *_apart(table, cases, baseline)),
    )


def _row(sums: Sums, n: int, published_mean: float, seed: int) -> StandingRow:
    """One line: the labels' means averaged."""
    if not all(count.any() for _, count in sums):
        return StandingRow(n=n, published=published_mean, verdict="not compared: a label has no score in any case")
    flat = [column for pair in sums for column in pair]
    mean = float(_mean(*flat))
    interval = bootstrap_interval(flat, _mean, seed) if _several(flat) else None
    difference = mean - published_mean
    side = "above" if difference > 0 else "below"
    size = f"{abs(100 * difference):.2f} points {side} the published figure"
    if interval is None:
        verdict = f"{size}; so few cases have no interval"
    elif interval.low <= published_mean <= interval.high:
        verdict = f"{size}, which lies within this model's interval: these cases can't tell the two apart"
    else:
        verdict = f"{size}, which lies outside of this model's interval"
    return StandingRow(
        n=n, mean=mean, interval=interval, published=published_mean, difference=difference, verdict=verdict
    )


def _sums(
    scores: dict[str, float | None], patients: dict[str, list[str]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of the defined scores of each patient, both float64[patient]."""
    defined = [[score for case in cases if (score := scores.get(case)) is not None] for cases in patients.values()]
    return np.array([sum(each) for each in defined], np.float64), np.array([len(each) for each in defined], np.float64)


def _mean(*columns: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """Mean over labels of each label's mean; `columns` are sum, number, sum, number, ..."""
    means = [
        total.sum(axis=axis) / count.sum(axis=axis) for total, count in zip(columns[::2], columns[1::2], strict=True)
    ]
    return np.asarray(np.mean(means, axis=0))


def _scored(table: ScoreTable, cases: Sequence[str]) -> int:
    """Cases with a score of any label."""
    return sum(any(scores.get(case) is not None for scores in table.scores.values()) for case in cases)


def _apart(table: ScoreTable, cases: Sequence[str], baseline: Baseline) -> tuple[str, ...]:
    """What keeps the two from being the same experiment."""
    source = published().sources[baseline.source]
    notes = [
        "not paired: the published figure is a mean without its cases. The interval is of this model's mean alone; how "
        "sure the published one is, is not in it."
    ]
    if source.protocol == "test server":
        notes.append("other cases: the published figure is of the challenge's hidden test cases")
    elif baseline.num_cases is not None and baseline.num_cases != len(cases):
        notes.append(f"numbers of cases differ: {len(cases)} here, {baseline.num_cases} there")
    if source.protocol == "5-fold cross-validation":
        folds = sorted(set(table.folds.values()))
        here = f"here folds {', '.join(map(str, folds))}; " if folds else ""
        notes.append(f"folds and training sets may differ: {here}there all five")
    if len(by_patient(cases, table.groups)) < len(cases):
        notes.append("the interval draws patients, each with all cases")
    return (*notes, *baseline.notes, *source.notes)


def _several(columns: Sequence[NDArray[np.float64]]) -> bool:
    """Whether more than one patient has a score."""
    return int(np.count_nonzero(np.sum(columns[1::2], axis=0))) > 1
