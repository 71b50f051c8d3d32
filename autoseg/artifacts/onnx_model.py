"""model.json: all that a predictor without autoseg has to know of a model beside its ONNX files."""

from typing import Annotated

import msgspec

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.bounds import AtLeastOne, Count, NonNegative, Positive
from autoseg.artifacts.fingerprint import IntensityStatistics
from autoseg.artifacts.labels import Labels, Name, Value
from autoseg.artifacts.plan import Axis, NormalizationScheme, Resampling


class OnnxFold(Record, frozen=True, kw_only=True):
    """One fold's network.

    Attributes
    ----------
    fold : int
    file : str
        Beside the record.
    sha256 : str
        Of that file.
    weights_sha256 : str
        Of the weights that it was made from.
    largest_difference : float
        Between the logits of onnxruntime and of torch, over the shapes compared when it was made.
    """

    fold: Count
    file: Name
    sha256: str
    weights_sha256: str
    largest_difference: NonNegative


class OnnxModel(Artifact, frozen=True, kw_only=True):
    """An ensemble of networks, and the way of a volume to them and back.

    Attributes
    ----------
    autoseg_version : str
        Which made it.
    configuration_name : str
    folds : tuple of OnnxFold
        Their mean logits predict.
    num_classes : int
        Outputs of a network.
    channel_names : tuple of str
    image_suffixes : tuple of str
        Of each channel's file, between the case's name and the ending; a single one where one file holds all.
    labels, regions_class_order
        As in the plan.
    file_values : tuple of int
        What is written for each of 0, 1, 2, ...; empty where it is the same.
    transpose_forward : tuple of int, length 3
        Axis order of the network's world.
    spacing : tuple of float, length 3 (2 for 2d)
        Of the network's grid, in mm along the transposed axes; in 2d slices stay as they are.
    patch_size : tuple of int
    mirror_axes : tuple of int
        Axes of the patch, over all subsets of which is averaged; empty where the plan wishes for no mirroring.
    step : float
        Greatest distance of neighbouring windows, in patch edges.
    normalization_schemes, use_mask_for_norm, intensities : tuple
        One entry a channel.
    resampling : Resampling
    """

    autoseg_version: str
    configuration_name: Name
    folds: Annotated[tuple[OnnxFold, ...], msgspec.Meta(min_length=1)]
    num_classes: AtLeastOne
    channel_names: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    image_suffixes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    labels: Labels
    regions_class_order: tuple[Value, ...]
    file_values: tuple[Value, ...]
    transpose_forward: tuple[Axis, Axis, Axis]
    spacing: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=2, max_length=3)]
    patch_size: Annotated[tuple[AtLeastOne, ...], msgspec.Meta(min_length=2, max_length=3)]
    mirror_axes: tuple[Axis, ...]
    step: Annotated[float, msgspec.Meta(gt=0, le=1)]
    normalization_schemes: tuple[NormalizationScheme, ...]
    use_mask_for_norm: tuple[bool, ...]
    intensities: tuple[IntensityStatistics, ...]
    resampling: Resampling
