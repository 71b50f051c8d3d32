"""dataset.json: which files are the cases, what the channels and labels are called."""

from typing import Annotated

import msgspec

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.labels import Name, Value, foreground


class Case(Record, frozen=True, kw_only=True):
    """One subject or scan.

    Attributes
    ----------
    name : str
        Unique within the dataset.
    images : tuple of str
        One file for each channel, or a single file that holds all channels; POSIX paths relative to
        `Dataset.root`, or absolute.
    label : str or None
        The reference segmentation, likewise; None for a case to be predicted.
    """

    name: Name
    images: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    label: Name | None = None


class Naming(Record, frozen=True, kw_only=True):
    """How file names make a case, so that new volumes are grouped as the training files were.

    Attributes
    ----------
    image_suffixes : tuple of str
        Ending of each channel's file behind the case's name, extension included (``_0000.nii.gz``); a single
        one where one file holds all channels.
    label_suffix : str
        The same for the label file (``.nii.gz``, ``_oar.nii.gz``).
    """

    image_suffixes: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    label_suffix: Name


class Dataset(Artifact, frozen=True, kw_only=True):
    """The training set as found on disk.

    Attributes
    ----------
    root : str
        Absolute folder that the case paths start from.
    channel_names : tuple of str
        In the order of the channels.
    labels : dict of str to int
        Name to value in the label files; contains ``background`` with 0, values are consecutive.
    naming : Naming
    cases : tuple of Case
        Sorted by name.
    num_training : int
        The number of cases the planner reckons with: `numTraining` as written in an nnU-Net dataset.json,
        else the number of cases.
    """

    root: Name
    channel_names: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    labels: dict[Name, Value]
    naming: Naming
    cases: Annotated[tuple[Case, ...], msgspec.Meta(min_length=1)]
    num_training: Annotated[int, msgspec.Meta(ge=1)]

    @property
    def foreground(self) -> dict[str, int]:
        """The labels without the background, in order of their values."""
        return foreground(self.labels)
