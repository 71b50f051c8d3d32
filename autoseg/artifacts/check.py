"""check.json: what a look at every case of a dataset found."""

from typing import Annotated, Literal

import msgspec

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import Labels, Name, Value


class CaseCheck(Record, frozen=True, kw_only=True):
    """One case.

    Attributes
    ----------
    name : str
    problem : str or None
        Why the case can't be used; None where it can.
    geometry : Geometry or None
        Of its image; None where the case can't be read.
    label_grid : {'equal', 'snapped', 'resampled'} or None
        How the label's grid compares with the image's, as in fingerprint.json.
    label_voxels : dict of str to int
        How many voxels each foreground label has, by name.
    image_sha256 : str or None
        Of the image's voxels.
    """

    name: Name
    problem: str | None = None
    geometry: Geometry | None = None
    label_grid: Literal["equal", "snapped", "resampled"] | None = None
    label_voxels: dict[Name, Annotated[int, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=dict)
    image_sha256: str | None = None


class Check(Artifact, frozen=True, kw_only=True):
    """A dataset as found, and each of its cases.

    Attributes
    ----------
    root : str
    channel_names : tuple of str
    labels : dict of str to int or tuple of int
    file_values : tuple of int
        The value in the label files of each of 0, 1, 2, ...; empty where they are the same.
    num_problems : int
        Cases that can't be used.
    remarks : tuple of str
        What a user should know, though it stops nothing.
    cases : tuple of CaseCheck
    """

    root: str
    channel_names: tuple[Name, ...]
    labels: Labels
    file_values: tuple[Value, ...] = ()
    num_problems: int
    remarks: tuple[str, ...]
    cases: tuple[CaseCheck, ...]
