"""Is one method better than another? Tables of per-case scores -> paired statistics."""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from autoseg.artifacts.comparison import Better, Comparison, Comparisons, Interval, PairedResult
from autoseg.artifacts.selection import SIGNIFICANCE, Difference
from autoseg.errors import DatasetError
from autoseg.evaluate.baselines import ScoreTable, match_labels
from autoseg.evaluate.bootstrap import bootstrap_interval
from autoseg.evaluate.comparable import one_sided, other_cases, other_folds
from autoseg.evaluate.patients import by_patient, patient_means
from autoseg.evaluate.words import verdict

POWER = 0.8
FEWEST_TESTED = 6

# Below this share of the scores' size a spread is rounding, not spread.
ROUNDING = 1e-12


def compare_all(results: Sequence[Sequence[ScoreTable]], *, seed: int = 0) -> Comparisons:
    """Compare each of several methods with the first, by one or more metrics.

    Parameters
    ----------
    results : sequence of sequence of ScoreTable
        For each method its tables, one a metric, in the same order; at least two methods.
    seed : int, optional
        Of the bootstrap.

    Returns
    -------
    Comparisons
        p-values of labels are corrected for the number of labels, metrics and pairs together, those of the mean over
        labels for the number of metrics and pairs.

    Raises
    ------
    DatasetError
        As `compare`.
    ValueError
        There are fewer than two methods, or the numbers of tables differ.

    Notes
    -----
    Each against the first, not all pairs: the usual question is whether something new is better than what one has, and
    fewer questions leave each a better chance to be answered.
    """
    if len(results) < 2:
        message = "at least two results are compared"
        raise ValueError(message)
    first, *others = results
    pairs = [_compare(one, two, seed) for other in others for one, two in zip(first, other, strict=True)]
    return Comparisons(comparisons=_judged(pairs))


def compare(a: ScoreTable, b: ScoreTable, *, seed: int = 0) -> Comparison:
    """Compare two methods over the cases that both scored.

    Parameters
    ----------
    a, b : ScoreTable
        Of the same metric. Labels are matched by name, else by value.
    seed : int, optional
        Of the bootstrap.

    Returns
    -------
    Comparison
        Differences are B minus A. `volume_difference_ml` is compared by its size, without the sign.

    Raises
    ------
    DatasetError
        The metrics or units differ, or no case or label is in both.

    Notes
    -----
    Paired t-test and Wilcoxon's signed-rank test as recommended in Maier-Hein et al., Why rankings of biomedical
    image analysis competitions should be interpreted with care, Nature Communications 9 (2018). p-values of the
    labels are corrected after Holm, Scandinavian Journal of Statistics 6 (1979). Where a table knows the patients and
    one has several cases, these are averaged first and patients are paired: cases of one patient are not independent
    (Altman and Bland, Statistics notes: Units of analysis, BMJ 314, 1997), and all tests then see one number a patient.
    """
    return _judged([_compare(a, b, seed)])[0]


def _compare(a: ScoreTable, b: ScoreTable, seed: int) -> Comparison:
    """One pair by one metric, without correction and verdicts."""
    if (a.metric, a.unit) != (b.metric, b.unit):
        raise DatasetError(
            "scores of different kinds can't be compared",
            found=f"{a.metric} ({a.unit}) and {b.metric} ({b.unit})",
        )
    a, b, notes = match_labels(a, b)
    if a.metric == "volume_difference_ml":
        a, b = _magnitudes(a), _magnitudes(b)
        notes = (*notes, "volume differences are compared by their size, whatever their sign")
    cases_a, cases_b = a.cases, b.cases
    shared = sorted(cases_a & cases_b)
    if not shared:
        raise DatasetError(
            "the two have no case in common",
            found=f"{min(cases_a)} and others in {a.source}; {min(cases_b)} and others in {b.source}",
            hint="both must name their cases alike",
        )
    better: Better = "lower" if a.metric.endswith(("_mm", "_ml")) else "higher"
    patients = by_patient(shared, {**b.groups, **a.groups})
    grouped = len(patients) < len(shared)
    if grouped:
        notes = (
            *notes,
            f"{len(shared)} cases of {len(patients)} patients: a patient's cases are averaged, n is patients",
        )
    place = {case: index for index, case in enumerate(shared)}
    members = [[place[case] for case in cases] for cases in patients.values()]

    def paired(scores_a: list[float | None], scores_b: list[float | None]) -> PairedResult:
        return compare_pairs(*patient_means(scores_a, scores_b, members), seed=seed)

    labels = {
        label: paired([a.scores[label].get(case) for case in shared], [b.scores[label].get(case) for case in shared])
        for label in a.scores
    }
    foreground = paired(_case_means(a, shared), _case_means(b, shared))
    return Comparison(
        a=a.source,
        b=b.source,
        metric=a.metric,
        unit=a.unit,
        better=better,
        seed=seed,
        paired_by="patient" if grouped else "case",
        foreground=foreground,
        labels=labels,
        only_a=tuple(sorted(cases_a - cases_b)),
        only_b=tuple(sorted(cases_b - cases_a)),
        warnings=(*other_cases(a, b), *other_folds(a, b), *one_sided(a, b, shared)),
        notes=notes,
    )


def compare_pairs(scores_a: Sequence[float | None], scores_b: Sequence[float | None], *, seed: int = 0) -> PairedResult:
    """Paired statistics of two lists of scores.

    Parameters
    ----------
    scores_a, scores_b : sequence of float or None
        Case by case; a pair with a None is left out and counted.
    seed : int, optional
        Of the bootstrap.

    Returns
    -------
    PairedResult
        Without correction and with an empty verdict.

    Raises
    ------
    ValueError
        The lengths differ.

    Notes
    -----
    The bootstrap is the bias-corrected and accelerated one (Efron, JASA 82, 1987) with 9999 resamples. The smallest
    detectable difference is (t at 97.5 % + t at 80 %) standard errors.
    """
    pairs = [(one, two) for one, two in zip(scores_a, scores_b, strict=True) if one is not None and two is not None]
    n = len(pairs)
    n_undefined = len(scores_a) - n
    if n == 0:
        return PairedResult(n=0, n_undefined=n_undefined)
    first, second = np.asarray(pairs, dtype=np.float64).T
    differences = second - first
    mean = float(differences.mean())
    known = PairedResult(
        n=n,
        n_undefined=n_undefined,
        mean_a=float(first.mean()),
        mean_b=float(second.mean()),
        mean_b_minus_a=mean,
        median_b_minus_a=float(np.median(differences)),
    )
    if n == 1:
        return known
    sd = float(differences.std(ddof=1))
    if sd <= ROUNDING * float(np.abs(pairs).max()):
        point = Interval(low=mean, high=mean)
        differing = abs(mean) > ROUNDING * float(np.abs(pairs).max())
        return msgspec.structs.replace(
            known,
            sd_of_differences=0.0,
            interval_t=point,
            interval_bootstrap=point,
            p_t=None if differing else 1.0,
            p_wilcoxon=_wilcoxon(differences) if differing else 1.0,
            detectable_difference=0.0,
        )
    error = sd / math.sqrt(n)
    quantile = float(stats.t.ppf(1 - SIGNIFICANCE / 2, n - 1))
    t = mean / error
    return msgspec.structs.replace(
        known,
        sd_of_differences=sd,
        interval_t=Interval(low=mean - quantile * error, high=mean + quantile * error),
        interval_bootstrap=bootstrap_interval([differences], np.mean, seed),
        t=t,
        p_t=float(2 * stats.t.sf(abs(t), n - 1)),
        p_wilcoxon=_wilcoxon(differences),
        detectable_difference=(quantile + float(stats.t.ppf(POWER, n - 1))) * error,
    )


def signed_ranks(before: Sequence[float], after: Sequence[float]) -> Difference:
    """How a score of the same cases changes, and whether that may be chance.

    Parameters
    ----------
    before, after : sequence of float
        Case by case.

    Returns
    -------
    Difference

    Raises
    ------
    ValueError
        The lengths differ, or there are no cases.

    Notes
    -----
    Cases that do not change are left out of the test, as Wilcoxon did. With five others or fewer the exact test can't
    be below 0.05, and none is made. A mean can rise while most cases fall, hence the rank-biserial correlation beside
    it (Kerby, Comprehensive Psychology 3, 2014): its sign is the direction of the test.

    Examples
    --------
    >>> signed_ranks([0.5] * 7, [0.6, 0.61, 0.62, 0.63, 0.64, 0.65, 0.49]).rank_biserial
    0.9285714285714286
    """
    if len(before) != len(after) or not before:
        message = f"{len(before)} and {len(after)} scores"
        raise ValueError(message)
    differences = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    changed = differences[np.abs(differences) > ROUNDING]
    tested = changed.size >= FEWEST_TESTED
    ranks = stats.rankdata(np.abs(changed))
    return Difference(
        mean=float(differences.mean()),
        num_higher=int(np.count_nonzero(changed > 0)),
        num_lower=int(np.count_nonzero(changed < 0)),
        p_wilcoxon=_wilcoxon(changed) if tested else None,
        rank_biserial=float((ranks * np.sign(changed)).sum() / ranks.sum()) if tested else None,
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for their number after Holm.

    Parameters
    ----------
    p_values : sequence of float or None
        None where no test was possible; it takes no part.

    Returns
    -------
    list of float or None
        In the same order, each at most 1.

    Examples
    --------
    >>> holm([0.04, None, 0.01])
    [0.04, None, 0.02]
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        corrected[index] = highest
    return corrected


def _case_means(table: ScoreTable, cases: Sequence[str]) -> list[float | None]:
    """Each case's mean over the labels that are defined in it, as in evaluation.json."""
    means: list[float | None] = []
    for case in cases:
        defined = [score for scores in table.scores.values() if (score := scores.get(case)) is not None]
        means.append(fmean(defined) if defined else None)
    return means


def _magnitudes(table: ScoreTable) -> ScoreTable:
    """The table without signs."""
    return replace(
        table,
        scores={
            label: {case: None if score is None else abs(score) for case, score in cases.items()}
            for label, cases in table.scores.items()
        },
    )


def _wilcoxon(differences: NDArray[np.float64]) -> float:
    """Two-sided p of the signed-rank test; pairs without a difference are left out, as Wilcoxon did."""
    nonzero = differences[differences != 0]
    return float(stats.wilcoxon(nonzero).pvalue) if nonzero.size else 1.0


def _judged(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The comparisons with p-values corrected for the number of tests, and verdicts.

    Means over labels are one family, labels the other. A family of a single mean is not corrected.
    """
    foregrounds = _corrected([one.foreground for one in comparisons])
    labels = iter(_corrected([result for one in comparisons for result in one.labels.values()]))
    judged = []
    for one, corrected in zip(comparisons, foregrounds, strict=True):

        def say(result: PairedResult, one: Comparison = one) -> PairedResult:
            return msgspec.structs.replace(result, verdict=verdict(result, one))

        judged.append(
            msgspec.structs.replace(
                one,
                foreground=say(corrected if len(comparisons) > 1 else one.foreground),
                labels={label: say(next(labels)) for label in one.labels},
            )
        )
    return tuple(judged)


def _corrected(results: Sequence[PairedResult]) -> list[PairedResult]:
    """The results with p-values corrected for their number."""
    p_t = holm([result.p_t for result in results])
    p_wilcoxon = holm([result.p_wilcoxon for result in results])
    return [
        msgspec.structs.replace(result, p_t_holm=one, p_wilcoxon_holm=two)
        for result, one, two in zip(results, p_t, p_wilcoxon, strict=True)
    ]
