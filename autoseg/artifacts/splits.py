"""splits.json: which cases train and which validate, fold by fold."""

from typing import Annotated

import msgspec

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.labels import Name

Count = Annotated[int, msgspec.Meta(ge=0)]


class Fold(Record, frozen=True, kw_only=True):
    """Names of the cases, sorted; a student trains on all, so that none is left to validate on."""

    training: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    validation: tuple[str, ...]


class FoldCounts(Record, frozen=True, kw_only=True):
    """What a fold is validated on.

    Attributes
    ----------
    cases, groups : int
        A case without a group counts as one.
    labels : dict of str to int
        How many of the cases have any voxel of each foreground label; empty where nobody counted voxels.
    """

    cases: Count
    groups: Count
    labels: dict[Name, Count] = msgspec.field(default_factory=dict)


class SplitSource(Record, frozen=True, kw_only=True):
    """A file of the user's that says the folds: its absolute path, and its SHA-256 when it was read."""

    path: Name
    sha256: str


class Splits(Artifact, frozen=True, kw_only=True):
    """All folds and how they were made.

    Attributes
    ----------
    inputs_sha256 : str
        Of the names of the cases, of those that stay together, and of what was asked for.
    method : str
        How the folds were made, in words.
    seed : int or None
        Of the random order; None where nothing was drawn.
    grouped, stratified : bool
        Whether cases of one group were kept together, and whether labels and their sizes were balanced.
    source : SplitSource or None
        The user's file, where the folds are from one.
    counts : tuple of FoldCounts
        One a fold, as the folds were made; they do not follow later edits.
    """

    inputs_sha256: str
    method: str
    seed: Annotated[int, msgspec.Meta(ge=0)] | None = None
    grouped: bool = False
    stratified: bool = False
    source: SplitSource | None = None
    counts: tuple[FoldCounts, ...] = ()
    folds: Annotated[tuple[Fold, ...], msgspec.Meta(min_length=1)]
