"""Which configurations a dataset gets, and each of them in full: the planner's pure core."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.plan import Configuration, NormalizationScheme, Resampling
from autoseg.plan.patch import CONVOLUTIONS_PER_STAGE, PatchChoice, search
from autoseg.plan.spacing import axis_order, target_spacing
from autoseg.transforms.resample import resampled_shape

LOW_RESOLUTION_BELOW = 0.25
COARSENING = 1.03


@dataclass(frozen=True, slots=True)
class Grid:
    """The dataset in the network's world.

    Attributes
    ----------
    forward, backward : tuple of int, length 3
        Transposition and its inverse.
    spacing : tuple of float, length 3
        Target, transposed, in mm.
    median_size : tuple of float, length 3
        Per-axis median of the resampled shapes, transposed.
    original_spacing, original_shape : tuple of float, length 3
        Medians of the raw fingerprint, transposed.
    """

    forward: tuple[int, int, int]
    backward: tuple[int, int, int]
    spacing: tuple[float, ...]
    median_size: tuple[float, ...]
    original_spacing: tuple[float, ...]
    original_shape: tuple[float, ...]


def target_grid(
    spacings: Sequence[Sequence[float]],
    shapes: Sequence[Sequence[int]],
    *,
    spacing: Sequence[float] | None = None,
    transpose: bool = True,
) -> Grid:
    """Target spacing, axis order and median size.

    Parameters
    ----------
    spacings, shapes : sequence of N triples
        Of the cropped cases along (Z, Y, X).
    spacing : sequence of float, length 3, optional
        Takes the place of the target spacing, in the original axis order.
    transpose : bool
        False keeps the axis order.
    """
    all_spacings = np.asarray(spacings, dtype=np.float64)
    all_shapes = np.asarray(shapes, dtype=np.float64)
    target = target_spacing(all_spacings, all_shapes) if spacing is None else np.asarray(spacing, dtype=np.float64)
    forward, backward = axis_order(list(target)) if transpose else ((0, 1, 2), (0, 1, 2))
    # Resample each case first and take the median afterwards: the other way round gives other sizes.
    resampled = [resampled_shape(n, s, list(target)) for n, s in zip(all_shapes, all_spacings, strict=True)]
    order = list(forward)
    return Grid(
        forward=forward,
        backward=backward,
        spacing=_floats(target[order]),
        median_size=_floats(np.percentile(np.asarray(resampled, dtype=np.float64), 50, axis=0)[order]),
        original_spacing=_floats(np.percentile(all_spacings, 50, axis=0)[order]),
        original_shape=_floats(np.round(np.percentile(all_shapes, 50, axis=0)[order])),
    )


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def plan_configurations(
    grid: Grid,
    *,
    num_cases: int,
    num_labels: int,
    schemes: tuple[NormalizationScheme, ...],
    use_mask: tuple[bool, ...],
    mirror: tuple[int, ...],
    gpu_memory_gb: float,
) -> dict[str, Configuration]:
    """Every configuration of the plain preset.

    Parameters
    ----------
    grid : Grid
    num_cases : int
        `numTraining`.
    num_labels : int
        Label names, background included.
    schemes, use_mask : tuple
        One entry a channel.
    mirror : tuple of int
        Axes of the transposed volume that may be mirrored.
    gpu_memory_gb : float

    Returns
    -------
    dict of str to Configuration
        ``2d`` always; ``3d_fullres`` unless the resampled median image is one slice.
    """
    voxels = float(np.prod(np.asarray(grid.median_size))) * num_cases

    def configuration(
        choice: PatchChoice, spacing: Sequence[float], size: Sequence[float], batch_dice: bool
    ) -> Configuration:
        d = len(spacing)
        stages = len(choice.topology.strides)
        return Configuration(
            spacing=tuple(spacing),
            median_image_size_in_voxels=tuple(size),
            patch_size=choice.topology.patch,
            batch_size=choice.batch_size,
            strides=choice.topology.strides,
            kernel_sizes=choice.topology.kernels,
            features_per_stage=choice.features,
            n_stages=stages,
            n_conv_per_stage=(CONVOLUTIONS_PER_STAGE,) * stages,
            n_conv_per_stage_decoder=(CONVOLUTIONS_PER_STAGE,) * (stages - 1),
            batch_dice=batch_dice,
            normalization_schemes=schemes,
            use_mask_for_norm=use_mask,
            mirror_axes=mirror if d == 3 else tuple(axis - 1 for axis in mirror if axis > 0),
            resampling=Resampling(),
            memory_proxy=choice.memory_proxy,
        )

    flat = search(grid.spacing[1:], grid.median_size[1:], voxels, num_labels, gpu_memory_gb)
    configurations = {"2d": configuration(flat, grid.spacing[1:], grid.median_size[1:], batch_dice=True)}
    if grid.median_size[0] != 1:
        full = search(grid.spacing, grid.median_size, voxels, num_labels, gpu_memory_gb)
        # A full resolution beside a low one sees only a small part of each image, often without foreground.
        sees_little = needs_low_resolution(grid, full, num_cases, num_labels, gpu_memory_gb)
        configurations["3d_fullres"] = configuration(full, grid.spacing, grid.median_size, batch_dice=sees_little)
    return configurations


def needs_low_resolution(grid: Grid, full: PatchChoice, num_cases: int, num_labels: int, gpu_memory_gb: float) -> bool:
    """Whether the full-resolution patch covers so little of the image that a coarser configuration is worth it.

    Notes
    -----
    The image is coarsened by 3 % at a time, fine axes first, until a patch covers a quarter of it; a result less
    than twice as coarse in voxels is dropped. Source: nnU-Net v2 (2.8.1).
    """
    spacing = np.asarray(grid.spacing)
    full_size = np.asarray(grid.median_size)
    full_voxels = float(np.prod(full_size))
    image_voxels = full_voxels
    patch_voxels = float(np.prod(np.asarray(full.topology.patch, dtype=np.float64)))
    coarse = spacing.copy()
    while patch_voxels / image_voxels < LOW_RESOLUTION_BELOW:
        fine = coarse.max() / coarse > 2
        coarse[fine if fine.any() else slice(None)] *= COARSENING
        size = spacing / coarse * full_size
        image_voxels = float(np.prod(size))
        choice = search(
            list(coarse), [float(edge) for edge in np.round(size)], image_voxels * num_cases, num_labels, gpu_memory_gb
        )
        patch_voxels = float(np.prod(np.asarray(choice.topology.patch, dtype=np.float64)))
    return image_voxels < full_voxels and full_voxels / image_voxels >= 2
