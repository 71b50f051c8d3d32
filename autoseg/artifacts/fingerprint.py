"""fingerprint.json: what the training cases measure; all that the planner needs to know."""

from typing import Annotated, Literal

import msgspec

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.bounds import AtLeastOne
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import Labels, Name, Value, fault


class IntensityStatistics(Record, frozen=True, kw_only=True):
    """Foreground intensities of one channel over the whole dataset, each case weighing the same."""

    mean: float
    median: float
    std: Annotated[float, msgspec.Meta(ge=0)]
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


LabelGrid = Literal["equal", "snapped", "resampled"]


class CaseMeasure(Record, frozen=True, kw_only=True):
    """Grid of one case, before and after cropping to the box of non-zero voxels.

    Attributes
    ----------
    geometry : Geometry
        As read.
    shape_after_crop : tuple of int, length 3
        (Z, Y, X).
    label_voxels : dict of str to int
        How many voxels of the file each foreground label has, by name; empty where the fingerprint is nnU-Net's.
    label_grid : str
        How the label's grid compares with the image's: ``equal``; ``snapped``, different by rounding alone; or
        ``resampled`` onto it by the user's wish.
    """

    name: str
    geometry: Geometry
    shape_after_crop: tuple[AtLeastOne, AtLeastOne, AtLeastOne]
    label_voxels: dict[Name, Annotated[int, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=dict)
    label_grid: LabelGrid = "equal"

    @property
    def relative_size_after_crop(self) -> float:
        """Share of the voxels that the crop keeps."""
        before = self.geometry.shape[0] * self.geometry.shape[1] * self.geometry.shape[2]
        after = self.shape_after_crop[0] * self.shape_after_crop[1] * self.shape_after_crop[2]
        return after / before


class Fingerprint(Artifact, frozen=True, kw_only=True):
    """Everything the planner needs to know about the dataset.

    Attributes
    ----------
    inputs_sha256 : str
        Of dataset.json's content and of each file's path, size and time of change.
    channel_names : tuple of str
    labels : dict of str to int or tuple of int
        A tuple is a region: all voxels with one of these values. ``ignore`` is the value that is not annotated.
    regions_class_order : tuple of int
        Where there are regions: the value written for each of them, later ones over earlier ones.
    num_training : int
        The number of cases that the planner reckons with.
    cases : tuple of CaseMeasure
        In the dataset's order.
    rejected : dict of str to str
        Cases that could not be used and were left out by the user's wish, and why each was.
    median_relative_size_after_cropping : float
    intensities : tuple of IntensityStatistics
        One for each channel.
    """

    inputs_sha256: str
    channel_names: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    labels: Labels
    regions_class_order: tuple[Value, ...] = ()
    num_training: AtLeastOne
    cases: Annotated[tuple[CaseMeasure, ...], msgspec.Meta(min_length=1)]
    rejected: dict[Name, str] = msgspec.field(default_factory=dict)
    median_relative_size_after_cropping: Annotated[float, msgspec.Meta(gt=0, le=1)]
    intensities: Annotated[tuple[IntensityStatistics, ...], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Hold the channels and labels against each other.

        Raises
        ------
        ValueError
            A channel lacks its intensities, or the labels contradict each other.
        """
        if len(self.intensities) != len(self.channel_names):
            message = f"intensities has {len(self.intensities)} entries, there are {len(self.channel_names)} channels"
            raise ValueError(message)
        wrong = fault(self.labels, self.regions_class_order)
        if wrong is not None:
            raise ValueError(wrong)
