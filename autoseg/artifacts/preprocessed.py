"""Where a preprocessed volume came from, so that a prediction finds the way back."""

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.bounds import AtLeastOne, Count
from autoseg.artifacts.geometry import Geometry


class Placement(Record, frozen=True, kw_only=True):
    """How the network's grid lies in the file's.

    Attributes
    ----------
    geometry : Geometry
        Of the file.
    crop_start, crop_stop : tuple of int, length 3
        Half-open box kept by the crop, in voxels of the file along (Z, Y, X).
    shape : tuple of int, length 3
        Of the network's grid: cropped, transposed, resampled.
    """

    geometry: Geometry
    crop_start: tuple[int, int, int]
    crop_stop: tuple[int, int, int]
    shape: tuple[AtLeastOne, AtLeastOne, AtLeastOne]


class PreprocessedCase(Artifact, frozen=True, kw_only=True):
    """The record beside a preprocessed case's arrays; written last, so that its presence means they are whole.

    Attributes
    ----------
    name : str
    inputs_sha256 : str
        Of the files' stamps and of every part of the plan that shapes the arrays.
    arrays_sha256 : str
        Of the arrays themselves.
    placement : Placement
    num_channels : int
    foreground_voxels : dict of str to int
        How many voxels each foreground label has on the network's grid, by label name.
    """

    name: str
    inputs_sha256: str
    arrays_sha256: str
    placement: Placement
    num_channels: AtLeastOne
    foreground_voxels: dict[str, int]


class PreviousMap(Artifact, frozen=True, kw_only=True):
    """The record beside what the first stage of a cascade predicted of a case; written last, like the case's own.

    Attributes
    ----------
    name : str
        Of the case.
    inputs_sha256 : str
        Of the first stage's weights and of all else that shapes the map.
    map_sha256 : str
        Of the map itself.
    configuration_name : str
        The first stage.
    fold : int
        The one of its folds that predicted: it was not trained on this case.
    weights_sha256 : str
        Of that fold's weights.
    """

    name: str
    inputs_sha256: str
    map_sha256: str
    configuration_name: str
    fold: Count
    weights_sha256: str
