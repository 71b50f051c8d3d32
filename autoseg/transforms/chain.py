"""The way of a case into the network's grid and of a prediction back: forward and restore, an inverse pair."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.labels import all_values
from autoseg.artifacts.plan import Configuration, Plan
from autoseg.artifacts.preprocessed import Placement
from autoseg.images.image import Image, LabelMap
from autoseg.transforms.crop import Box, nonzero_box
from autoseg.transforms.normalize import normalize
from autoseg.transforms.resample import Shape, resampled_shape, resize, resize_labels, resized_slabs, separate_axis

OUTSIDE = -1
SLAB_BYTES = 128 * 2**20
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case on the network's grid.

    Attributes
    ----------
    image_czyx : ndarray of float32, shape (C, Z, Y, X)
        Axes in the plan's order.
    label_zyx : ndarray of int16, shape (Z, Y, X), or None
        -1 where a voxel is background outside the image's non-zero mask.
    placement : Placement
    """

    image_czyx: NDArray[np.float32]
    label_zyx: NDArray[np.int16] | None
    placement: Placement


def forward(image: Image, label: LabelMap | None, plan: Plan, configuration: Configuration) -> Prepared:
    """Transpose, crop, normalize, resample.

    Parameters
    ----------
    image : Image
        As read; not changed.
    label : LabelMap or None
        On the same grid.
    plan : Plan
    configuration : Configuration
        One of the plan's. With two axes (2d) slices along the first transposed axis are not resampled.

    Returns
    -------
    Prepared

    Raises
    ------
    ValueError
        Image, label and plan disagree in shape or number of channels.

    Notes
    -----
    Normalizing on the file's grid means that interpolation does not change the statistics. Source: nnU-Net v2
    (2.8.1).
    """
    if len(image.array_czyx) != len(configuration.normalization_schemes):
        message = f"{len(image.array_czyx)} channels, the plan has {len(configuration.normalization_schemes)}"
        raise ValueError(message)
    if label is not None and label.array_zyx.shape != image.array_czyx.shape[1:]:
        message = f"label of shape {label.array_zyx.shape} for an image of {image.array_czyx.shape[1:]}"
        raise ValueError(message)
    box, mask = nonzero_box(image.array_czyx)
    axes = plan.transpose_forward
    array = image.array_czyx[(slice(None), *box.slices)].transpose(0, *(axis + 1 for axis in axes)).copy()
    inside = None if mask is None else mask.transpose(axes)
    values = None
    if label is not None:
        values = np.ascontiguousarray(label.array_zyx[box.slices].transpose(axes), dtype=np.int16)
        if inside is not None:
            outside = ~inside
            outside &= values == 0
            np.copyto(values, OUTSIDE, where=outside)
            inside = ~outside
    for channel, scheme, use_mask, intensities in zip(
        array, configuration.normalization_schemes, configuration.use_mask_for_norm, plan.intensities, strict=True
    ):
        normalize(channel, scheme, intensities, inside if use_mask else None)

    source, target = grids(image.geometry.spacing_mm, plan, configuration)
    shape = _triple(resampled_shape(array.shape[1:], source, target))
    how = configuration.resampling
    apart = separate_axis(source, target, how.force_separate_z)
    array = resize(array, shape, how.data_order, how.data_order_z, apart)
    if values is not None:
        values = resize_labels(values, shape, how.label_order, how.label_order_z, apart).astype(np.int16, copy=False)
    placement = Placement(geometry=image.geometry, crop_start=box.start, crop_stop=box.stop, shape=shape)
    return Prepared(array, values, placement)


def grids(spacing_mm: Triple, plan: Plan, configuration: Configuration) -> tuple[Triple, Triple]:
    """Spacing of the file and of the network's grid, in mm, along the transposed axes."""
    a, b, c = (spacing_mm[axis] for axis in plan.transpose_forward)
    target = configuration.spacing
    # In 2D the network never sees across slices, so they stay where they are.
    first, second, third = target if len(target) == 3 else (a, *target)
    return (a, b, c), (first, second, third)


def restore_labels(
    logits_kzyx: NDArray[np.floating], placement: Placement, plan: Plan, configuration: Configuration
) -> NDArray[np.uint8 | np.uint16]:
    """The label map of a prediction, on the file's grid.

    Parameters
    ----------
    logits_kzyx : ndarray of float32 or float16, shape (K, *placement.shape)
        One output for each label, in the order of the labels' values, or for each region.
    placement : Placement
    plan : Plan
    configuration : Configuration

    Returns
    -------
    ndarray of uint8, or uint16 where a label's value needs it, shape placement.geometry.shape
        0 outside the crop.

    Raises
    ------
    ValueError
        The logits' shape is not what placement and plan say.

    Notes
    -----
    Logits are resampled before the winner is chosen, a slab of slices at a time: memory grows with classes x
    slab, not with classes x volume. A tie goes to the smallest value. Where there are regions, each voxel that is more
    likely inside one than not gets the value that `Plan.regions_class_order` gives it, later ones over earlier ones.
    """
    labels: NDArray[np.uint8 | np.uint16] = np.zeros(placement.geometry.shape, _label_type(plan))
    window = labels[_box(placement).slices].transpose(plan.transpose_forward)
    for rows, block in _file_slabs(logits_kzyx, placement, plan, configuration):
        window[rows] = _labels(block, plan)
    return labels


def next_stage_map(
    logits_kzyx: NDArray[np.floating],
    plan: Plan,
    configuration: Configuration,
    next_configuration: Configuration,
    placement: Placement,
) -> NDArray[np.uint8 | np.uint16]:
    """The label map of a prediction by the first stage of a cascade, on the grid of the second.

    Parameters
    ----------
    logits_kzyx : ndarray of float32 or float16, shape (K, Z, Y, X)
        On the first stage's grid of the whole crop.
    plan : Plan
    configuration, next_configuration : Configuration
        The two stages.
    placement : Placement
        On the second one's grid.

    Returns
    -------
    ndarray of uint8, or uint16 where a label's value needs it, shape placement.shape

    Notes
    -----
    As `restore_labels`, logits are resampled before the winner is chosen, slab by slab, and never by way of the file's
    grid. Both stages crop a case alike.
    """
    labels: NDArray[np.uint8 | np.uint16] = np.zeros(placement.shape, _label_type(plan))
    spacing_mm = placement.geometry.spacing_mm
    spacings = grids(spacing_mm, plan, configuration)[1], grids(spacing_mm, plan, next_configuration)[1]
    for rows, block in _slabs(logits_kzyx, placement.shape, spacings, configuration):
        labels[rows] = _labels(block, plan)
    return labels


def restore_probabilities(
    logits_kzyx: NDArray[np.floating], placement: Placement, plan: Plan, configuration: Configuration
) -> NDArray[np.float16]:
    """The probability of each class, on the file's grid.

    Parameters
    ----------
    logits_kzyx, placement, plan, configuration
        As for `restore_labels`.

    Returns
    -------
    ndarray of float16, shape (K, *placement.geometry.shape)
        Softmax over the resampled logits, background 1 outside the crop; of regions the sigmoid, 0 outside.

    Raises
    ------
    ValueError
        As `restore_labels`.

    Notes
    -----
    Holds the whole volume of all classes, for those who ask for it. The most likely class is the one that
    `restore_labels` gives, but where half precision rounds two probabilities to the same number.
    """
    probabilities = np.zeros((plan.num_classes, *placement.geometry.shape), np.float16)
    probabilities[:1] = not plan.regions_class_order
    for place, block in probability_slabs(logits_kzyx, placement, plan, configuration):
        probabilities[(slice(None), *place)] = block
    return probabilities


def probability_slabs(
    logits_kzyx: NDArray[np.floating], placement: Placement, plan: Plan, configuration: Configuration
) -> Iterator[tuple[tuple[slice, slice, slice], NDArray[np.float32]]]:
    """The probability of each class slab by slab, for those who keep them in their own way.

    Parameters
    ----------
    logits_kzyx, placement, plan, configuration
        As for `restore_labels`.

    Yields
    ------
    tuple of slice
        Where the slab lies in the file's grid.
    ndarray of float32, shape (K, Z, Y, X)
        As `restore_probabilities` has it there; nothing is yielded for what lies outside the crop.

    Raises
    ------
    ValueError
        As `restore_labels`.
    """
    first, *_ = plan.transpose_forward
    back = (0, *(axis + 1 for axis in plan.transpose_backward))
    for rows, block in _file_slabs(logits_kzyx, placement, plan, configuration):
        place = list(_box(placement).slices)
        start = placement.crop_start[first]
        place[first] = slice(start + rows.start, start + rows.stop)
        a, b, c = place
        yield (a, b, c), (_sigmoid(block) if plan.regions_class_order else _softmax(block)).transpose(back)


def _file_slabs(
    logits_kzyx: NDArray[np.floating], placement: Placement, plan: Plan, configuration: Configuration
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """The logits on the cropped grid of the file, transposed, slab by slab."""
    expected = (plan.num_classes, *placement.shape)
    if logits_kzyx.shape != expected:
        message = f"logits of shape {logits_kzyx.shape}, expected {expected}"
        raise ValueError(message)
    cropped = _box(placement).shape
    shape = _triple(tuple(cropped[axis] for axis in plan.transpose_forward))
    file_spacing, network_spacing = grids(placement.geometry.spacing_mm, plan, configuration)
    return _slabs(logits_kzyx, shape, (network_spacing, file_spacing), configuration)


def _slabs(
    logits_kzyx: NDArray[np.floating], shape: Shape, spacings: tuple[Triple, Triple], configuration: Configuration
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """The logits on a grid of this shape, slab by slab; spacings are of the grid that is left and the one reached."""
    how = configuration.resampling
    apart = separate_axis(*spacings, how.force_separate_z)
    slice_bytes = 4 * len(logits_kzyx) * max(prod(shape[1:]), prod(logits_kzyx.shape[2:]))
    slab = max(1, SLAB_BYTES // slice_bytes)
    return resized_slabs(logits_kzyx, shape, how.probabilities_order, how.probabilities_order_z, apart, slab)


def _label_type(plan: Plan) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if all_values(plan.labels)[-1] < 256 else np.uint16


def _labels(block_kzyx: NDArray[np.float32], plan: Plan) -> NDArray[np.uint16]:
    return _written(block_kzyx, plan.regions_class_order) if plan.regions_class_order else _winners(block_kzyx)


def _winners(block_kzyx: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Argmax over the first axis; numpy's own copies the block to bring that axis to the end."""
    best = block_kzyx[0].copy()
    winner = np.zeros(best.shape, np.uint16)
    for index, candidate in enumerate(block_kzyx[1:], start=1):
        np.copyto(winner, index, where=candidate > best, casting="unsafe")
        np.maximum(best, candidate, out=best)
    return winner


def _written(block_kzyx: NDArray[np.float32], class_order: tuple[int, ...]) -> NDArray[np.uint16]:
    """The value of the last region that holds each voxel."""
    written = np.zeros(block_kzyx.shape[1:], np.uint16)
    for value, logits in zip(class_order, block_kzyx, strict=True):
        np.copyto(written, value, where=logits > 0, casting="unsafe")
    return written


def _softmax(block_kzyx: NDArray[np.float32]) -> NDArray[np.float32]:
    # A new array: where nothing is resampled the block is the caller's.
    block: NDArray[np.float32] = block_kzyx - block_kzyx.max(axis=0)
    np.exp(block, out=block)
    block /= block.sum(axis=0)
    return block


def _sigmoid(block_kzyx: NDArray[np.float32]) -> NDArray[np.float32]:
    # Of magnitudes, whose exponentials can't overflow.
    small = np.exp(-np.abs(block_kzyx))
    probability: NDArray[np.float32] = np.where(block_kzyx >= 0, np.float32(1), small) / (1 + small)
    return probability


def _box(placement: Placement) -> Box:
    return Box(placement.crop_start, placement.crop_stop)


def _triple(values: tuple[int, ...]) -> tuple[int, int, int]:
    a, b, c = values
    return a, b, c
