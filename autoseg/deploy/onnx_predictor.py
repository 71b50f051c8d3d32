"""Segments volumes with the networks beside this file; needs numpy, SimpleITK and onnxruntime alone.

    python predict.py INPUT... OUTPUT_FOLDER [--no-mirroring] [--threads N] [--overwrite]

Loaded once for many volumes, with the folder that holds model.json:

    from predict import OnnxPredictor

    predictor = OnnxPredictor("folder")
    label_zyx = predictor.predict(array_czyx, spacing_mm)

Arrays are (C, Z, Y, X) and spacings (Z, Y, X), as `SimpleITK.GetArrayFromImage` gives the one and the reverse of
`GetSpacing()` the other. A volume is cropped to what is not zero, normalized, resampled, given to the networks window
by window, and its mean logits are resampled back before the winner is chosen, as `autoseg predict` does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from math import ceil, prod
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import onnxruntime
import SimpleITK

SCHEMA_VERSION = 1
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl")
ANISOTROPY = 3.0  # coarsest edge over finest, above which slices are copied rather than interpolated
NEGLIGIBLE = 1e-9  # a spline's tails run into denormal numbers, which make products slow
SMALLEST_DIVISOR = 1e-8
GAUSSIAN_SHARE, PEAK, LEAST = 0.125, 10.0, 6e-8
SLAB_BYTES = 128 * 2**20
PADDING = 12  # voxels, after which a spline has forgotten its border
SAME_GRID_VOXELS = 0.1


class PredictionError(Exception):
    """Something that the user can put right, told in one message."""


# ----------------------------------------------------------------------------------------------------------------
# The model


@dataclass(frozen=True)
class Model:
    """What model.json says; docs/reference/files.md of autoseg has every key."""

    networks: tuple[tuple[str, str], ...]  # file and its SHA-256
    num_classes: int
    channel_names: tuple[str, ...]
    image_suffixes: tuple[str, ...]  # behind a case's name, before the ending
    regions_class_order: tuple[int, ...]
    written_values: tuple[int, ...]  # for each of 0, 1, 2, ...
    transpose_forward: tuple[int, ...]
    spacing: tuple[float, ...]
    patch_size: tuple[int, ...]
    mirror_axes: tuple[int, ...]
    step: float
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    intensities: tuple[dict[str, float], ...]
    resampling: dict[str, Any]


def read_model(folder: Path) -> Model:
    """The record in a folder.

    Raises
    ------
    PredictionError
        It is missing, no such record, or of a newer autoseg.
    """
    file = folder / "model.json"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        version = said["schema_version"]
        if version != SCHEMA_VERSION:
            raise PredictionError(f"{file} has schema_version {version}; this program reads {SCHEMA_VERSION}")
        values = {value for one in said["labels"].values() for value in (one if isinstance(one, list) else [one])}
        return Model(
            networks=tuple((fold["file"], fold["sha256"]) for fold in said["folds"]),
            num_classes=said["num_classes"],
            channel_names=tuple(said["channel_names"]),
            image_suffixes=tuple(said["image_suffixes"]),
            regions_class_order=tuple(said["regions_class_order"]),
            written_values=tuple(said["file_values"] or range(max(values) + 1)),
            transpose_forward=tuple(said["transpose_forward"]),
            spacing=tuple(said["spacing"]),
            patch_size=tuple(said["patch_size"]),
            mirror_axes=tuple(said["mirror_axes"]),
            step=said["step"],
            normalization_schemes=tuple(said["normalization_schemes"]),
            use_mask_for_norm=tuple(said["use_mask_for_norm"]),
            intensities=tuple(said["intensities"]),
            resampling=said["resampling"],
        )
    except OSError as error:
        raise PredictionError(f"{file} can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PredictionError(f"{file} is no record of a model: {type(error).__name__} {error}") from error


def open_network(
    file: Path, sha256: str, options: onnxruntime.SessionOptions, providers: Sequence[Any]
) -> onnxruntime.InferenceSession:
    """A fold's network.

    Raises
    ------
    PredictionError
        Its file is missing, or not the one on record, or onnxruntime can't run it.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise PredictionError(f"{file} can't be read: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise PredictionError(f"{file} is damaged, or not the one that model.json names: its SHA-256 is {found}")
    try:
        return onnxruntime.InferenceSession(content, options, providers=list(providers))
    except Exception as error:  # its own have no common class
        raise PredictionError(f"onnxruntime {onnxruntime.__version__} can't run {file}: {error}") from error


def check_fit(network: onnxruntime.InferenceSession, model: Model) -> None:
    """Refuse a network that takes or gives something else than the record says.

    Raises
    ------
    PredictionError
        It does.
    """
    (image,), (logits,) = network.get_inputs(), network.get_outputs()
    d = len(model.patch_size)
    found = (len(image.shape) - 2, image.shape[1], len(logits.shape) - 2, logits.shape[1])
    if found != (d, len(model.channel_names), d, model.num_classes):
        raise PredictionError(f"a network maps {image.shape} to {logits.shape}, which is not what model.json says")


class OnnxPredictor:
    """Networks that are loaded once and predict any number of volumes.

    Parameters
    ----------
    folder : path
        Holds model.json and the ONNX files it names.
    threads : int, optional
        Of the networks; default the CPUs that this process may use.
    providers : sequence, optional
        Of onnxruntime, e.g. ``["CUDAExecutionProvider", "CPUExecutionProvider"]`` with onnxruntime-gpu.

    Raises
    ------
    PredictionError
        The folder does not hold what its record says.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        threads: int | None = None,
        providers: Sequence[Any] = ("CPUExecutionProvider",),
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cpus()
        options.log_severity_level = 3  # errors
        self.model = read_model(Path(folder))
        if not self.model.networks:
            raise PredictionError(f"{Path(folder) / 'model.json'} names no network")
        self._networks = [
            # No part of a name leads out of the folder.
            open_network(Path(folder) / Path(file).name, sha256, options, providers)
            for file, sha256 in self.model.networks
        ]
        for network in self._networks:
            check_fit(network, self.model)

    def predict(self, array_czyx: np.ndarray, spacing_mm: Sequence[float], *, mirroring: bool = True) -> np.ndarray:
        """The label map of a volume.

        Parameters
        ----------
        array_czyx : ndarray, shape (C, Z, Y, X)
            Of any type; not changed.
        spacing_mm : sequence of float, length 3
            Along (Z, Y, X).
        mirroring : bool
            Average over the mirrorings that the model was made for.

        Returns
        -------
        ndarray of uint8, or uint16 where a value needs it, shape (Z, Y, X)
            With the values of the dataset's label files.

        Raises
        ------
        PredictionError
            Shape, spacing or values are not those of a volume.
        """
        model = self.model
        array = checked(array_czyx, spacing_mm, len(model.channel_names))
        start, stop = nonzero_box(array)
        box = tuple(slice(low, high) for low, high in zip(start, stop))
        order = model.transpose_forward
        # A copy, since it is normalized in place.
        cropped = array[(slice(None), *box)].transpose(0, *(axis + 1 for axis in order)).astype(np.float32, order="C")
        inside = filled((cropped != 0).any(axis=0)) if any(model.use_mask_for_norm) else None
        for number, channel in enumerate(cropped):
            normalize(
                channel,
                model.normalization_schemes[number],
                model.intensities[number],
                inside if model.use_mask_for_norm[number] else None,
            )
        source = tuple(float(spacing_mm[axis]) for axis in order)
        # In 2D the network never sees across slices, so they stay where they are.
        target = model.spacing if len(model.spacing) == 3 else (source[0], *model.spacing)
        shape = resampled_shape(cropped.shape[1:], source, target)
        how = model.resampling
        apart = separate_axis(source, target, how["force_separate_z"])
        image = np.stack([resize(one, shape, how["data_order"], how["data_order_z"], apart) for one in cropped])
        logits = self._mean_logits(image, model.mirror_axes if mirroring else ())

        label = np.zeros(array.shape[1:], np.uint16)
        window = label[box].transpose(order)
        apart = separate_axis(target, source, how["force_separate_z"])
        orders = [how["probabilities_order_z" if axis == apart else "probabilities_order"] for axis in range(3)]
        for rows, block in resized_slabs(logits, cropped.shape[1:], orders):
            window[rows] = winners(block, model.regions_class_order)
        written = np.array(model.written_values, np.uint16)[label]
        return written.astype(np.uint8) if written.max() < 256 else written

    def _mean_logits(self, image_czyx: np.ndarray, mirror_axes: Sequence[int]) -> np.ndarray:
        """Mean logits over networks, windows and mirrorings, shape (K, Z, Y, X)."""
        patch, flat = self.model.patch_size, len(self.model.patch_size) == 2
        padded, inside = pad_to_patch(image_czyx, patch)
        weights = gaussian_weights(patch)
        subsets = [axes for size in range(len(mirror_axes) + 1) for axes in combinations(mirror_axes, size)]
        share = weights / (len(subsets) * len(self._networks))
        total = np.zeros((self.model.num_classes, *padded.shape[1:]), np.float32)
        norm = np.zeros(padded.shape[1:], np.float32)
        for place in windows(padded.shape[1:], patch, self.model.step):
            norm[place] += weights
            window = padded[(slice(None), *place)]
            if flat:
                window = window[:, 0]
            for axes in subsets:
                turned = tuple(axis + 1 for axis in axes)
                given = np.ascontiguousarray(np.flip(window, turned))[None]
                for network in self._networks:
                    (logits,) = network.run(None, {network.get_inputs()[0].name: given})
                    straight = np.flip(logits[0], turned) * share
                    total[(slice(None), *place)] += straight[:, None] if flat else straight
        total /= norm
        return total[(slice(None), *inside)]


def checked(array_czyx: np.ndarray, spacing_mm: Sequence[float], num_channels: int) -> np.ndarray:
    """The volume, if it is one."""
    array = np.asarray(array_czyx)
    if array.ndim != 4 or array.shape[0] != num_channels or 0 in array.shape:
        raise PredictionError(f"the volume has the shape {array.shape}, the model takes ({num_channels}, Z, Y, X)")
    if len(spacing_mm) != 3 or not all(np.isfinite(edge) and edge > 0 for edge in spacing_mm):
        raise PredictionError(f"the spacing is {tuple(spacing_mm)}, it has to be three numbers above 0")
    if np.iscomplexobj(array):
        raise PredictionError("the voxels are complex numbers")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise PredictionError("a voxel is NaN or infinite")
    return array


def available_cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ----------------------------------------------------------------------------------------------------------------
# To the network's grid


def nonzero_box(array_czyx: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First and behind last voxel, along each axis, of what differs from 0; of the whole where nothing does."""
    mask = (array_czyx != 0).any(axis=0)
    if not mask.any():
        return (0, 0, 0), mask.shape
    used = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(int(at[0]) for at in used), tuple(int(at[-1]) + 1 for at in used)


def filled(mask: np.ndarray) -> np.ndarray:
    """A mask with its holes, which are closed in 3D."""
    if mask.all() or min(mask.shape) < 3:
        return mask
    whole = SimpleITK.BinaryFillhole(
        SimpleITK.GetImageFromArray(mask.astype(np.uint8)), fullyConnected=False, foregroundValue=1
    )
    return SimpleITK.GetArrayFromImage(whole).astype(bool)


def normalize(
    channel_zyx: np.ndarray, scheme: str, intensities: dict[str, float], inside_zyx: np.ndarray | None
) -> None:
    """Scale one channel in place; ``zscore`` within a mask where one is given."""
    if scheme == "ct":
        np.clip(channel_zyx, intensities["percentile_00_5"], intensities["percentile_99_5"], out=channel_zyx)
        channel_zyx -= np.float32(intensities["mean"])
        channel_zyx /= np.float32(max(intensities["std"], SMALLEST_DIVISOR))
    elif scheme == "zscore":
        if inside_zyx is not None and not inside_zyx.any():
            return
        values = channel_zyx[...] if inside_zyx is None else channel_zyx[inside_zyx]
        values = values - np.float32(values.mean(dtype=np.float64))
        values /= np.float32(max(float(values.std(dtype=np.float64)), SMALLEST_DIVISOR))
        channel_zyx[... if inside_zyx is None else inside_zyx] = values
    elif scheme == "rescale_to_0_1":
        channel_zyx -= channel_zyx.min()
        channel_zyx /= np.float32(max(float(channel_zyx.max()), SMALLEST_DIVISOR))
    elif scheme == "rgb_to_0_1":
        channel_zyx /= np.float32(255)
    elif scheme != "none":
        raise PredictionError(f"model.json asks for the normalization {scheme}, which this program has not")


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Voxels after resampling, rounded half to even, at least one."""
    return tuple(max(1, round(old / new * n)) for n, old, new in zip(shape, spacing, target))


def separate_axis(spacing: Sequence[float], target: Sequence[float], force: bool | None) -> int | None:
    """The axis across which slices are copied; None where all three are interpolated.

    The coarsest, where it is alone the coarsest, of the first of the two grids that is anisotropic.
    """
    if force is False:
        return None
    for edges in (spacing, target):
        if force or max(edges) / min(edges) > ANISOTROPY:
            coarsest = [axis for axis, edge in enumerate(edges) if edge == max(edges)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


# ----------------------------------------------------------------------------------------------------------------
# Resampling


def spline(distance: np.ndarray, order: int) -> np.ndarray:
    """The B-spline of an order from 0 to 3 at distances from its centre, in voxels."""
    x = np.abs(distance)
    if order == 0:
        return np.where(x < 0.5, 1.0, 0.0)
    if order == 1:
        return np.maximum(1 - x, 0)
    if order == 2:
        return np.where(x < 0.5, 0.75 - x**2, np.maximum(1.5 - x, 0) ** 2 / 2)
    return np.where(x < 1, 2 / 3 - x**2 + x**3 / 2, np.maximum(2 - x, 0) ** 3 / 6)


@lru_cache(maxsize=16)
def resize_matrix(n_in: int, n_out: int, order: int) -> np.ndarray:
    """The resize of one axis as a matrix, float32, shape (n_out, n_in).

    Voxels keep to half-pixel centres, and the edge voxel goes on beyond the border, as in
    `scipy.ndimage.zoom(mode="nearest", grid_mode=True)`.
    """
    centres = n_in / n_out * (np.arange(n_out) + 0.5) - 0.5
    if order < 2:
        centres = np.clip(centres, 0, n_in - 1)
        # Halves go up.
        places = np.floor(centres + 0.5) if order == 0 else centres
        matrix = spline(places[:, None] - np.arange(n_in), order)
    else:
        # Behind the border the edge voxel is repeated, then mirrored.
        n = n_in + 2 * PADDING
        repeated = np.eye(n_in)[np.clip(np.arange(n) - PADDING, 0, n_in - 1)]
        # Which values a spline's coefficients give at the voxels.
        side = float(spline(np.ones(1), order)[0])
        values = (
            np.diag(np.full(n, 1 - 2 * side)) + np.diag(np.full(n - 1, side), 1) + np.diag(np.full(n - 1, side), -1)
        )
        values[0, 0] = values[-1, -1] = 1 - side
        coefficients = np.linalg.solve(values, repeated)
        matrix = spline((centres + PADDING)[:, None] - np.arange(n), order) @ coefficients
    matrix[np.abs(matrix) < NEGLIGIBLE] = 0
    single = matrix.astype(np.float32)
    single.setflags(write=False)
    return single


def along(matrix: np.ndarray, array: np.ndarray, axis: int) -> np.ndarray:
    """A matrix applied to one axis."""
    return np.moveaxis(np.tensordot(matrix, array, (1, axis)), 0, axis)


def interpolated(array: np.ndarray, shape: Sequence[int], orders: Sequence[int]) -> np.ndarray:
    """The last axes of an array, as many as `shape` has, resized one after the other, shrinking ones first."""
    first = array.ndim - len(shape)
    for axis in sorted(range(len(shape)), key=lambda a: shape[a] / array.shape[first + a]):
        n_in, n_out = array.shape[first + axis], shape[axis]
        if n_in != n_out:
            array = along(resize_matrix(n_in, n_out, orders[axis]), array, first + axis)
    return array


def resize(array_zyx: np.ndarray, shape: Sequence[int], order: int, order_z: int, apart: int | None) -> np.ndarray:
    """Resize one channel; `order_z` holds across the axis `apart`.

    A spline of order 2 or 3 is clipped to the range that it comes from: the channel's, or each slice's own.
    """
    if array_zyx.shape == tuple(shape):
        return array_zyx
    if apart is None:
        return clipped(interpolated(array_zyx, shape, (order,) * 3), array_zyx, order)
    slices, edges = np.moveaxis(array_zyx, apart, 0), [n for axis, n in enumerate(shape) if axis != apart]
    planes = np.stack([clipped(interpolated(one, edges, (order, order)), one, order) for one in slices])
    if len(slices) != shape[apart]:
        planes = clipped(along(resize_matrix(len(slices), shape[apart], order_z), planes, 0), slices, order_z)
    return np.moveaxis(planes, 0, apart)


def clipped(resized: np.ndarray, original: np.ndarray, order: int) -> np.ndarray:
    """A spline inside the range of what it was made from."""
    return np.clip(resized, original.min(), original.max()) if order > 1 else resized


def resized_slabs(
    logits_kzyx: np.ndarray, shape: Sequence[int], orders: Sequence[int]
) -> Iterator[tuple[slice, np.ndarray]]:
    """Resize logits some slices at a time: the slices of the result and their logits (K, rows, Y, X)."""
    n_in, n_out = logits_kzyx.shape[1], shape[0]
    largest = max(prod(shape[1:]), prod(logits_kzyx.shape[2:]))
    slab = max(1, SLAB_BYTES // (4 * len(logits_kzyx) * largest))
    for start in range(0, n_out, slab):
        rows = slice(start, min(start + slab, n_out))
        if n_in == n_out:
            block = logits_kzyx[:, rows]
        else:
            matrix = resize_matrix(n_in, n_out, orders[0])[rows]
            used = np.flatnonzero(matrix.any(axis=0))
            near = slice(int(used[0]), int(used[-1]) + 1)
            block = along(matrix[:, near], logits_kzyx[:, near], 1)
        yield rows, interpolated(block, shape[1:], orders[1:])


def winners(block_kzyx: np.ndarray, class_order: Sequence[int]) -> np.ndarray:
    """The class with the largest logit; of regions the value of the last one that holds a voxel."""
    if not class_order:
        return block_kzyx.argmax(axis=0)
    written = np.zeros(block_kzyx.shape[1:], np.uint16)
    for value, logits in zip(class_order, block_kzyx):
        written[logits > 0] = value
    return written


# ----------------------------------------------------------------------------------------------------------------
# Windows


def pad_to_patch(image_czyx: np.ndarray, patch: Sequence[int]) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Zeros around a volume smaller than the patch, and where the volume lies in the result."""
    space = image_czyx.shape[1:]
    edges = (*space[: len(space) - len(patch)], *patch)
    before = [max(0, edge - n) // 2 for edge, n in zip(edges, space)]
    after = [max(0, edge - n) - low for edge, n, low in zip(edges, space, before)]
    inside = tuple(slice(low, low + n) for low, n in zip(before, space))
    return np.pad(image_czyx, [(0, 0), *zip(before, after)]), inside


def windows(shape: Sequence[int], patch: Sequence[int], step: float) -> Iterable[tuple[slice, ...]]:
    """Slices of every window, evenly spread, at most `step` edges apart; a flat patch visits each slice."""
    lines = [[slice(z, z + 1) for z in range(n)] for n in shape[: len(shape) - len(patch)]]
    for length, edge in zip(shape[len(shape) - len(patch) :], patch):
        room = length - edge
        count = ceil(room / (edge * step)) + 1
        spread = room / (count - 1) if count > 1 else 0.0
        starts = [round(spread * number) for number in range(count)]
        lines.append([slice(at, at + edge) for at in starts])
    return product(*lines)


def gaussian_weights(patch: Sequence[int]) -> np.ndarray:
    """How much each voxel of a patch counts: a Gaussian of an eighth of the edge, never 0."""
    weights = np.ones(())
    for edge in patch:
        distance = np.arange(edge) - edge // 2
        weights = weights[..., None] * np.exp(-0.5 * (distance / (edge * GAUSSIAN_SHARE)) ** 2)
    return np.maximum(weights / weights.max() * PEAK, LEAST).astype(np.float32)


# ----------------------------------------------------------------------------------------------------------------
# Files


@dataclass(frozen=True)
class Grid:
    """Where a file's voxels lie; ITK's order (x, y, z), three axes always."""

    shape_zyx: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: np.ndarray
    num_dimensions: int

    def corners_mm(self) -> np.ndarray:
        """Places of the first and last voxels, shape (3, 8)."""
        ends = product(*((0, n - 1) for n in self.shape_zyx[::-1]))
        return self.direction * self.spacing @ np.array(list(ends)).T + np.array(self.origin)[:, None]


def read_volume(file: Path) -> tuple[np.ndarray, Grid]:
    """The channels of a file, shape (C, Z, Y, X), and its grid.

    Raises
    ------
    PredictionError
        It can't be read, or is no volume.
    """
    try:
        image = SimpleITK.ReadImage(str(file))
    except RuntimeError as error:
        raise PredictionError(f"{file} can't be read: {str(error).strip().splitlines()[-1]}") from error
    array = SimpleITK.GetArrayFromImage(image)
    dimensions = image.GetDimension()
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    elif dimensions < 4:
        array = array[None]
    n = min(dimensions, 3)
    if array.ndim != n + 1:
        raise PredictionError(f"{file} has too many axes: {image.GetSize()}")
    direction = np.eye(3)
    direction[:n, :n] = np.reshape(image.GetDirection(), (dimensions, dimensions))[:n, :n]
    spacing, origin = image.GetSpacing()[:3], image.GetOrigin()[:3]
    if n == 2:
        array, spacing, origin = array[:, None], (*spacing, 999 * max(spacing)), (*origin, 0.0)
    return array, Grid(array.shape[1:], spacing, origin, direction, n)


def read_case(files: Sequence[Path]) -> tuple[np.ndarray, Grid]:
    """All channels of a case: of one file, or one of each.

    Raises
    ------
    PredictionError
        A file can't be read, or they don't lie on one grid.
    """
    read = [read_volume(file) for file in files]
    grid = read[0][1]
    for file, (array, other) in zip(files, read):
        if len(files) > 1 and len(array) > 1:
            raise PredictionError(f"{file} holds {len(array)} channels, it should hold one")
        apart = None
        if other.shape_zyx == grid.shape_zyx:
            apart = np.linalg.solve(grid.direction * grid.spacing, other.corners_mm() - grid.corners_mm())
        if apart is None or np.abs(apart).max() > SAME_GRID_VOXELS:
            raise PredictionError(f"{file} lies on another grid than {files[0].name}")
    return np.concatenate([array for array, _ in read]), grid


def write_label(file: Path, label_zyx: np.ndarray, grid: Grid) -> None:
    """Write a label map, whole or not at all.

    Raises
    ------
    PredictionError
        It can't be written.
    """
    n = grid.num_dimensions
    image = SimpleITK.GetImageFromArray(label_zyx if n == 3 else label_zyx[0])
    image.SetSpacing(grid.spacing[:n])
    image.SetOrigin(grid.origin[:n])
    image.SetDirection(grid.direction[:n, :n].ravel().tolist())
    temporary = file.with_name(f".{token_hex(4)}.part.{file.name}")
    try:
        SimpleITK.WriteImage(image, str(temporary), useCompression=True)
        temporary.replace(file)
    except (OSError, RuntimeError) as error:
        raise PredictionError(f"{file} can't be written: {str(error).strip().splitlines()[-1]}") from error
    finally:
        temporary.unlink(missing_ok=True)


def ending_of(name: str) -> str | None:
    """The ending of a volume's file name, as it is written there."""
    return next((name[-len(e) :] for e in ENDINGS if name.lower().endswith(e) and len(name) > len(e)), None)


def listed(inputs: Sequence[Path]) -> dict[Path, bool]:
    """The volumes among files and in folders, and whether each was given by itself.

    Raises
    ------
    PredictionError
        An input is missing, or no volume.
    """
    files: dict[Path, bool] = {}
    for path in inputs:
        if path.is_dir():
            files.update({file: False for file in sorted(path.iterdir()) if file.is_file() and ending_of(file.name)})
        elif not path.is_file():
            raise PredictionError(f"{path} does not exist")
        elif ending_of(path.name) is None:
            raise PredictionError(f"{path} is none of the files that are read here: {', '.join(ENDINGS)}")
        else:
            files[path] = True
    return files


def group(files: dict[Path, bool], suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Files grouped to cases by what stands behind a case's name: case to a file for each of the suffixes.

    Raises
    ------
    PredictionError
        A case misses a channel or is there twice, or nothing matches.
    """
    matches = {file: match(stem(file), suffixes) for file in files}
    if len(suffixes) == 1:
        # A file given by itself may have any name, and all may leave _0000 away.
        free = suffixes == ("_0000",) and not any(matches.values())
        matches = {file: found or ((stem(file), 0) if free or files[file] else None) for file, found in matches.items()}
    cases: dict[str, dict[int, Path]] = {}
    for file, found in matches.items():
        if found is None:
            print(f"{file} is no channel of a case and is left out", file=sys.stderr)
            continue
        case, channel = found
        if channel in cases.setdefault(case, {}):
            raise PredictionError(f"case {case} is there twice: {cases[case][channel]} and {file}")
        cases[case][channel] = file
    wanted = ", ".join(f"CASE{suffix}{ENDINGS[0]}" for suffix in suffixes)
    if not cases:
        raise PredictionError(f"no input is named as the training images were: {wanted}")
    for case, members in cases.items():
        if len(members) < len(suffixes):
            raise PredictionError(f"case {case} misses a channel; its files should be {wanted.replace('CASE', case)}")
    return {case: [cases[case][channel] for channel in range(len(suffixes))] for case in sorted(cases)}


def stem(file: Path) -> str:
    """A file's name without its ending."""
    return file.name[: len(file.name) - len(ending_of(file.name) or "")]


def match(name: str, suffixes: Sequence[str]) -> tuple[str, int] | None:
    """Case and channel of a name; the longest suffix wins, so that an empty one takes only what is left."""
    for channel in sorted(range(len(suffixes)), key=lambda number: -len(suffixes[number])):
        case = name[: len(name) - len(suffixes[channel])]
        if case and name.endswith(suffixes[channel]):
            return case, channel
    return None


def targets(cases: dict[str, list[Path]], out: Path, *, overwrite: bool) -> dict[str, Path]:
    """Where each case's label map goes.

    Raises
    ------
    PredictionError
        An image would be replaced, or something that is there already and may not be.
    """
    inputs = {file.resolve() for files in cases.values() for file in files}
    made = {}
    for case, files in cases.items():
        ending = (ending_of(files[0].name) or "").lower()
        # A .mhd is two files, which can't be replaced at once.
        made[case] = out / f"{case}{'.mha' if ending == '.mhd' else ending}"
        if made[case].resolve() in inputs:
            raise PredictionError(f"{made[case]} would be replaced, which is an image: choose another output folder")
        if made[case].exists() and not overwrite:
            raise PredictionError(f"{made[case]} is there already: choose another output folder, or give --overwrite")
    return made


# ----------------------------------------------------------------------------------------------------------------
# The program


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="predict.py", description="Segment volumes with the networks beside this file."
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="files, folders, or both")
    parser.add_argument("output", type=Path, metavar="OUTPUT_FOLDER", help="made if missing")
    parser.add_argument("--no-mirroring", action="store_true", help="one pass a window: faster, a little worse")
    parser.add_argument("--threads", type=int, metavar="N", help="of the networks; default: the CPUs at hand")
    parser.add_argument("--overwrite", action="store_true", help="replace label maps that are there")
    made = parser.parse_args(arguments)
    if made.threads is not None and made.threads < 1:
        parser.error("--threads: at least 1")
    return made


def main(arguments: Sequence[str] | None = None, folder: Path | None = None) -> int:
    """Predict files; returns the exit code: 0 done, 1 an error that was explained. Wrong usage ends with 2."""
    asked = parse(arguments)
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    failed = []
    try:
        predictor = OnnxPredictor(folder or Path(__file__).resolve().parent, threads=asked.threads)
        cases = group(listed(asked.inputs), predictor.model.image_suffixes)
        files = targets(cases, asked.output, overwrite=asked.overwrite)
        asked.output.mkdir(parents=True, exist_ok=True)
        for case, channels in cases.items():
            try:
                array, grid = read_case(channels)
                label = predictor.predict(array, grid.spacing[::-1], mirroring=not asked.no_mirroring)
            except PredictionError as error:
                failed.append(case)
                print(f"Error: case {case}: {error}", file=sys.stderr)
                continue
            write_label(files[case], label, grid)
            print(f"{case} -> {files[case]}", flush=True)
    except (PredictionError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if failed:
        print(f"Error: {len(failed)} of {len(cases)} cases are not predicted: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
