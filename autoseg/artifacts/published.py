"""Published figures that come with the package: what they are, where they are from, and what may be done with them."""

from statistics import fmean
from typing import Literal

import msgspec

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.bounds import AtLeastOne, Share
from autoseg.artifacts.labels import Name

Protocol = Literal["5-fold cross-validation", "test server"]


class Source(Record, frozen=True, kw_only=True):
    """Where figures are from.

    Attributes
    ----------
    title : str
        What was published.
    where : str
        Repository, commit and file, or another address.
    licence : str or None
        Of the place they were taken from; None where none is stated or known.
    protocol : {'5-fold cross-validation', 'test server'}
        What the figures were measured on: held-out cases of the training set, or cases whose labels are not public.
    notes : tuple of str
        What a reader should know before comparing.
    """

    title: Name
    where: Name
    licence: Name | None
    protocol: Protocol
    notes: tuple[Name, ...] = ()


class Baseline(Record, frozen=True, kw_only=True):
    """Mean Dice of one method on one dataset.

    Attributes
    ----------
    source : str
        Key of `Published.sources`.
    method : str
    configuration : str or None
        Of nnU-Net, or several that are averaged; None for systems that have none.
    num_cases : int or None
        Scored cases; None where the source does not tell.
    mean : float or None
        Mean foreground Dice as published; None where only the labels are.
    labels : dict of str to float
        Label value, as text, to mean Dice; empty where only the mean is published.
    notes : tuple of str
    """

    source: Name
    method: Name
    configuration: Name | None = None
    num_cases: AtLeastOne | None = None
    mean: Share | None = None
    labels: dict[Name, Share] = msgspec.field(default_factory=dict)
    notes: tuple[Name, ...] = ()

    @property
    def foreground(self) -> float:
        """The published mean, else that of the labels' means, which is how nnU-Net has it."""
        return fmean(self.labels.values()) if self.mean is None else self.mean


class Published(Artifact, frozen=True, kw_only=True):
    """All of them.

    Attributes
    ----------
    sources : dict of str to Source
    baselines : dict of str to Baseline
        By a name of three parts: collection, dataset, method.
    """

    sources: dict[Name, Source]
    baselines: dict[Name, Baseline]

    def __post_init__(self) -> None:
        """Refuse a figure without a source, and a baseline without a figure.

        Raises
        ------
        ValueError
            There is one.
        """
        for name, baseline in self.baselines.items():
            if baseline.source not in self.sources:
                message = f"{name}: there is no source {baseline.source}"
                raise ValueError(message)
            if baseline.mean is None and not baseline.labels:
                message = f"{name}: no figure"
                raise ValueError(message)
