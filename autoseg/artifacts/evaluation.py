"""evaluation.json: how well predicted label maps agree with their references."""

from typing import Literal

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.bounds import Count, NonNegative, Share
from autoseg.artifacts.labels import Labels, Name, Value

METRICS = (
    "dice",
    "iou",
    "sensitivity",
    "precision",
    "volume_difference_ml",
    "hd_mm",
    "hd95_mm",
    "assd_mm",
    "nsd",
    "lesion_f1",
    "lesion_sensitivity",
    "lesion_precision",
)
"""The metric keys, in the order in which they are shown."""


class Metrics(Record, frozen=True, kw_only=True):
    """One value for each metric; None where it is undefined.

    Attributes
    ----------
    dice, iou, sensitivity, precision : float or None
        Overlap, in [0, 1]. None when both masks are empty, 0 when one is.
    volume_difference_ml : float or None
        Predicted minus reference volume. None when both masks are empty, and for 2D images that have a
        spacing: an area has no volume. Where `Evaluation.unit` is ``pixels``, a number of pixels.
    hd_mm : float or None
        Hausdorff distance: the largest distance from one surface to the other.
    hd95_mm : float or None
        The larger of the two directed 95th percentiles.
    assd_mm : float or None
        Mean distance, over the voxels of both surfaces pooled.
    nsd : float or None
        Surface Dice: the share of both surfaces' voxels that lie within the label's tolerance of the other
        surface. None when both masks are empty, 0 when one is.
    lesion_f1, lesion_sensitivity, lesion_precision : float or None
        How many components were found, in [0, 1]; None where `Evaluation.lesion_iou` is, and when both masks are
        empty.

    Notes
    -----
    The three distances are None as soon as one mask is empty. Where `Evaluation.unit` is ``pixels`` they count
    pixels.
    """

    dice: Share | None
    iou: Share | None
    sensitivity: Share | None
    precision: Share | None
    volume_difference_ml: float | None
    hd_mm: NonNegative | None
    hd95_mm: NonNegative | None
    assd_mm: NonNegative | None
    nsd: Share | None
    lesion_f1: Share | None = None
    lesion_sensitivity: Share | None = None
    lesion_precision: Share | None = None


class LabelScores(Metrics, frozen=True, kw_only=True):
    """The metrics of one label in one case.

    Attributes
    ----------
    n_reference_voxels, n_predicted_voxels : int
        Size of the two masks.
    n_reference_lesions, n_predicted_lesions, n_found_lesions : int or None
        Components of the two masks, and pairs of them that overlap enough; None where `Evaluation.lesion_iou` is.
    """

    n_reference_voxels: Count
    n_predicted_voxels: Count
    n_reference_lesions: Count | None = None
    n_predicted_lesions: Count | None = None
    n_found_lesions: Count | None = None


class LabelSummary(Metrics, frozen=True, kw_only=True):
    """Means of one label over the cases where the metric is defined, and how often it is not.

    Attributes
    ----------
    n_cases : int
        All scored cases.
    n_both_empty : int
        Label rightly absent: every metric is undefined, and the case is in no mean.
    n_false_alarms : int
        Label predicted where the reference has none: overlap 0, distances undefined.
    n_missed : int
        Label not predicted where the reference has it: overlap 0, distances undefined.
    n_distances_undefined : int
        Cases in which exactly one mask is empty: `n_false_alarms` + `n_missed`.
    dice_where_present : float or None
        Mean Dice over the cases whose reference has the label; None when there is none.
    specificity_where_absent : float or None
        Share of the cases without the label in which nothing was predicted; None when there is none.
    false_positive_ml_where_absent : float or None
        Mean volume that was predicted in the cases without the label, none counting as 0; in pixels where
        `Evaluation.unit` is ``pixels``. None when there is no such case, and for 2D images that have a spacing.
    """

    n_cases: Count
    n_both_empty: Count
    n_false_alarms: Count
    n_missed: Count
    n_distances_undefined: Count
    dice_where_present: Share | None
    specificity_where_absent: Share | None
    false_positive_ml_where_absent: NonNegative | None = None


class Summary(Record, frozen=True, kw_only=True):
    """Means over the cases.

    Attributes
    ----------
    mean : Metrics
        Mean over cases of each case's mean over its foreground labels; undefined values are left out of
        both means.
    labels : dict of str to LabelSummary
    """

    mean: Metrics
    labels: dict[Name, LabelSummary]


class Evaluation(Artifact, frozen=True, kw_only=True):
    """Scores of a set of predictions.

    Attributes
    ----------
    unit : {'mm', 'pixels'}
        What distances count in; ``pixels`` for pictures whose files state no spacing.
    labels : dict of str to int or tuple of int
        Name to value of the scored labels, or to the values of a region; without the background.
    ignore : int or None
        Value in the references of voxels that count nowhere.
    tolerance_mm : dict of str to float
        Tolerance of `nsd`, label by label, inclusive; in pixels where `unit` is ``pixels``.
    lesion_iou : float or None
        How much two components overlap at least that count as one lesion; None: lesions were not counted.
    summary : Summary
    cases : dict of str to dict of str to LabelScores
        Case name to label name to scores; sorted by case name.
    hashes : dict of str to str
        SHA-256 of what was scored: ``predicted`` and ``reference``, each over all file contents.
    """

    unit: Literal["mm", "pixels"]
    labels: Labels
    ignore: Value | None = None
    tolerance_mm: dict[Name, NonNegative]
    lesion_iou: Share | None = None
    summary: Summary
    cases: dict[Name, dict[Name, LabelScores]]
    hashes: dict[str, str]
