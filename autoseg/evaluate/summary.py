"""From the scores of each case to means: case -> label -> metrics becomes one Summary."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from autoseg.artifacts.evaluation import METRICS, LabelScores, LabelSummary, Metrics, Summary


def mean_defined(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None when there is none."""
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None


def mean_metrics(scores: Sequence[Metrics]) -> dict[str, float | None]:
    """Metric by metric, the mean over the records where it is defined."""
    return {metric: mean_defined(getattr(record, metric) for record in scores) for metric in METRICS}


def summarize(cases: Mapping[str, Mapping[str, LabelScores]], labels: Iterable[str]) -> Summary:
    """Average the cases.

    Parameters
    ----------
    cases : mapping of str to mapping of str to LabelScores
        Case name to label name to scores; each case holds every label.
    labels : iterable of str
        The foreground labels.

    Returns
    -------
    Summary
        `Summary.mean` is the mean over cases of each case's mean over labels, undefined values left out of
        both.

    Notes
    -----
    nnU-Net's `foreground_mean` averages over the labels' means instead. Both agree where every case has every
    label; otherwise a rare label weighs more there, and a case here always weighs as much as any other.
    """
    case_means = [Metrics(**mean_metrics(list(scores.values()))) for scores in cases.values()]
    return Summary(
        mean=Metrics(**mean_metrics(case_means)),
        labels={label: summarize_label([scores[label] for scores in cases.values()]) for label in labels},
    )


def summarize_label(scores: Sequence[LabelScores]) -> LabelSummary:
    """Average one label over the cases, and count the cases in which a mask is empty."""
    present = [record for record in scores if record.n_reference_voxels > 0]
    absent = [record for record in scores if record.n_reference_voxels == 0]
    num_false_alarms = sum(record.n_predicted_voxels > 0 for record in absent)
    num_missed = sum(record.n_predicted_voxels == 0 for record in present)
    return LabelSummary(
        **mean_metrics(scores),
        n_cases=len(scores),
        n_both_empty=len(absent) - num_false_alarms,
        n_false_alarms=num_false_alarms,
        n_missed=num_missed,
        n_distances_undefined=num_false_alarms + num_missed,
        dice_where_present=mean_defined(record.dice for record in present),
        specificity_where_absent=(len(absent) - num_false_alarms) / len(absent) if absent else None,
        false_positive_ml_where_absent=_mean_volume(absent),
    )


def _mean_volume(absent: Sequence[LabelScores]) -> float | None:
    """Of what was predicted in cases without the label; None where voxels have no volume, and without cases."""
    # The difference from nothing is the volume itself; it has none where nothing was predicted, either.
    alarms = [record.volume_difference_ml for record in absent if record.n_predicted_voxels > 0]
    volumes = [volume for volume in alarms if volume is not None]
    return sum(volumes) / len(absent) if absent and len(volumes) == len(alarms) else None
