"""dataset.json: which files are the cases, what the channels and labels are called."""

from typing import Annotated, Literal

import msgspec

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.labels import Labels, Name, Value, all_values, fault, foreground, in_files


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
    group : str or None
        The patient, or whatever else cases share that may not be torn apart by the folds.
    fold : int or None
        The fold that validates it, where the user's list says so.
    """

    name: Name
    images: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    label: Name | None = None
    group: Name | None = None
    fold: Annotated[int, msgspec.Meta(ge=0)] | None = None


Repair = Literal["resample-labels"]


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
    labels : dict of str to int or tuple of int
        Name to value in the label maps as autoseg reads them; contains ``background`` with 0, values are consecutive.
        A tuple is a region: all voxels with one of these values. ``ignore`` is the value that is not annotated.
    regions_class_order : tuple of int
        Where there are regions: the value written for each of them, later ones over earlier ones.
    file_values : tuple of int
        The value that stands in the label files for each of 0, 1, 2, ...; empty where they are the same. A mask of 0
        and 255 has (0, 255).
    naming : Naming
    cases : tuple of Case
        Sorted by name.
    num_training : int
        The number of cases the planner reckons with: `numTraining` as written in an nnU-Net dataset.json,
        else the number of cases.
    group_by : str or None
        The column or the regular expression that gave the cases their groups, where the user named one.
    repair : {'resample-labels'} or None
        What is done where image and label lie on different grids; None: such a case is an error.
    rejected : dict of str to str
        Cases that the user wished to leave out where they can't be used, and why each was.
    """

    root: Name
    channel_names: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    labels: Labels
    regions_class_order: tuple[Value, ...] = ()
    file_values: tuple[Value, ...] = ()
    naming: Naming
    cases: Annotated[tuple[Case, ...], msgspec.Meta(min_length=1)]
    num_training: Annotated[int, msgspec.Meta(ge=1)]
    group_by: Name | None = None
    repair: Repair | None = None
    rejected: dict[Name, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hold the labels against each other.

        Raises
        ------
        ValueError
            They contradict each other, or a value of them lacks its value in the files.
        """
        wrong = fault(self.labels, self.regions_class_order)
        if wrong is not None:
            raise ValueError(wrong)
        count = len(all_values(self.labels))
        if self.file_values and len(self.file_values) != count:
            message = f"file_values has {len(self.file_values)} entries, there are {count} values"
            raise ValueError(message)

    @property
    def foreground(self) -> dict[str, int | tuple[int, ...]]:
        """The labels that are to be found, in the order of a network's outputs."""
        return foreground(self.labels)

    @property
    def labels_in_files(self) -> Labels:
        """The labels with the values that stand in the label files."""
        return in_files(self.labels, self.file_values)


def without(dataset: Dataset, rejected: dict[str, str]) -> Dataset:
    """The dataset without the cases that were rejected, which stay on record with the reason."""
    if not rejected:
        return dataset
    return msgspec.structs.replace(
        dataset,
        cases=tuple(case for case in dataset.cases if case.name not in rejected),
        num_training=max(1, dataset.num_training - len(rejected)),
        rejected={**dataset.rejected, **rejected},
    )
