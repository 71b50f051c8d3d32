"""Where a model stands beside a published figure, as JSON: nothing is paired."""

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.bounds import Count, Share
from autoseg.artifacts.comparison import Interval
from autoseg.artifacts.labels import Name


class StandingRow(Record, frozen=True, kw_only=True):
    """One label, or the mean over labels.

    Attributes
    ----------
    n : int
        Cases in which the score is defined; for the mean over labels, of any label.
    mean : float or None
        Of this model; None where a label has no score in any case.
    interval : Interval or None
        95 %, by the bootstrap over cases, or over patients where these are known. Of this model's mean alone: how sure
        the published figure is, it does not say. None when there are fewer than two.
    published : float
    difference : float or None
        This model minus the published figure.
    verdict : str
        In words.
    """

    n: Count
    mean: Share | None = None
    interval: Interval | None = None
    published: Share
    difference: float | None = None
    verdict: str = ""


class Standing(Artifact, frozen=True, kw_only=True):
    """A model beside a published baseline.

    Attributes
    ----------
    source : str
        Where the model's scores come from.
    baseline : str
        Name of the baseline.
    described : str
        What the baseline is: method, configuration, protocol, number of cases.
    metric : str
    seed : int
        Of the bootstrap.
    num_cases, num_patients : int
        Of the model's scores; the two are equal where no groups are known.
    foreground : StandingRow or None
        Mean over labels of the labels' means. None where the labels are not the same.
    labels : dict of str to StandingRow
    notes : tuple of str
        What keeps the two apart.
    """

    source: str
    baseline: Name
    described: str
    metric: Name
    seed: int
    num_cases: Count
    num_patients: Count
    foreground: StandingRow | None
    labels: dict[Name, StandingRow]
    notes: tuple[str, ...]
