"""splits.json: which cases train and which validate, fold by fold."""

from typing import Annotated

import msgspec

from autoseg.artifacts.base import Artifact, Record


class Fold(Record, frozen=True, kw_only=True):
    """Names of the cases, sorted."""

    training: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    validation: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class Splits(Artifact, frozen=True, kw_only=True):
    """All folds and how they were made."""

    inputs_sha256: str
    method: str
    folds: Annotated[tuple[Fold, ...], msgspec.Meta(min_length=1)]
