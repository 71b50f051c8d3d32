"""Paired comparisons of methods, as JSON."""

from typing import Literal

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.bounds import Count, Share
from autoseg.artifacts.labels import Name

Unit = Literal["fraction", "ml", "mm", "pixels"]
Better = Literal["higher", "lower"]


class Interval(Record, frozen=True, kw_only=True):
    """Both ends of an interval, in the metric's unit."""

    low: float
    high: float


class PairedResult(Record, frozen=True, kw_only=True):
    """One label (or the mean over labels) compared over the cases, or the patients, that both methods scored.

    Attributes
    ----------
    n : int
        Cases (patients, where `Comparison.paired_by` says so) in which both scores are defined; every number here is
        over these.
    n_undefined : int
        Those in both tables that are left out, since a score is undefined.
    mean_a, mean_b : float or None
        None when `n` is 0, in the metric's unit, like all that follows but the p-values.
    mean_b_minus_a, median_b_minus_a : float or None
        Of the differences.
    sd_of_differences : float or None
        None when `n` < 2.
    interval_t, interval_bootstrap : Interval or None
        95 % interval of the mean difference, by Student's t and by the bootstrap. None when `n` < 2; a point when
        all differences are equal.
    t : float or None
        None when `n` < 2 or all differences are equal.
    p_t, p_wilcoxon : float or None
        Two-sided, of the paired t-test and of the signed-rank test; 1 when no case differs. None when `n` < 2,
        and for the t-test when all cases differ by the same amount.
    p_t_holm, p_wilcoxon_holm : float or None
        The same, corrected after Holm: labels for the number of labels, metrics and pairs, the mean over labels for
        that of metrics and pairs. With one metric and one pair, the latter is one question and is not corrected.
    detectable_difference : float or None
        The smallest true mean difference that this many cases with this spread would show in four of five
        studies (80 % power, two-sided 5 %).
    verdict : str
        The result in words.
    """

    n: Count
    n_undefined: Count
    mean_a: float | None = None
    mean_b: float | None = None
    mean_b_minus_a: float | None = None
    median_b_minus_a: float | None = None
    sd_of_differences: float | None = None
    interval_t: Interval | None = None
    interval_bootstrap: Interval | None = None
    t: float | None = None
    p_t: Share | None = None
    p_wilcoxon: Share | None = None
    p_t_holm: Share | None = None
    p_wilcoxon_holm: Share | None = None
    detectable_difference: float | None = None
    verdict: str = ""


class Comparison(Artifact, frozen=True, kw_only=True):
    """Two methods by one metric, paired case by case or patient by patient.

    Attributes
    ----------
    a, b : str
        Where the scores come from.
    metric : str
    unit : str
        ``fraction``, ``ml``, ``mm`` or ``pixels``.
    better : {'higher', 'lower'}
        Which way the metric improves.
    seed : int
        Of the bootstrap.
    paired_by : {'case', 'patient'}
        By patient where one has several cases: these are averaged first, and a patient counts once.
    foreground : PairedResult
        Each case's mean over `labels`.
    labels : dict of str to PairedResult
    only_a, only_b : tuple of str
        Cases that one side alone has; they take no part.
    warnings : tuple of str
        Why the two may not be comparable: other cases, other folds.
    notes : tuple of str
        What else a reader should know: how labels were matched, for one.
    """

    a: str
    b: str
    metric: Name
    unit: Unit
    better: Better
    seed: int
    paired_by: Literal["case", "patient"] = "case"
    foreground: PairedResult
    labels: dict[Name, PairedResult]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...]


class Comparisons(Artifact, frozen=True, kw_only=True):
    """Each of several methods against the first, by each metric.

    Attributes
    ----------
    comparisons : tuple of Comparison
        Pair by pair, and of each pair metric by metric.
    """

    comparisons: tuple[Comparison, ...]
