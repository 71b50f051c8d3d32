"""Which configurations a dataset gets, and each of them in full: the planner's pure core."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from autoseg.artifacts.plan import Configuration, NormalizationScheme, Resampling
from autoseg.plan.mirroring import in_plane
from autoseg.plan.patch import PatchChoice, features_per_stage, memory_proxy, search
from autoseg.plan.presets import Preset
from autoseg.plan.spacing import axis_order, target_spacing
from autoseg.plan.topology import Topology
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
    spacing : sequence of float, length 3 or 2, optional
        Takes the place of the target spacing, in the original axis order; two numbers are for Y and X.
    transpose : bool
        False keeps the axis order.
    """
    all_spacings = np.asarray(spacings, dtype=np.float64)
    all_shapes = np.asarray(shapes, dtype=np.float64)
    target = target_spacing(all_spacings, all_shapes)
    if spacing is not None:
        target[-len(spacing) :] = spacing
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


@dataclass(frozen=True, slots=True)
class Coarsening:
    """The search for a low resolution.

    Attributes
    ----------
    covered : float
        Share of the median image that a patch of the full resolution sees.
    rounds : int
        How often the spacing grew.
    spacing, median_size : tuple of float, length 3
        What it ended with.
    choice : PatchChoice or None
        The patch there; None when the spacing never grew.
    voxel_ratio : float
        Voxels of the full resolution over those of the low one.
    kept : bool
        Whether the configuration is worth having.
    """

    covered: float
    rounds: int
    spacing: tuple[float, ...]
    median_size: tuple[float, ...]
    choice: PatchChoice | None
    voxel_ratio: float
    kept: bool


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the planner decided, and what it went through: for the plan, and for those who ask why.

    Attributes
    ----------
    grid : Grid
    flat : PatchChoice
        Of 2d.
    full : PatchChoice or None
        Of 3d_fullres; None where the median image is a single slice.
    coarsening : Coarsening or None
        On the way to 3d_lowres; None where there is no `full`.
    """

    grid: Grid
    flat: PatchChoice
    full: PatchChoice | None
    coarsening: Coarsening | None

    @property
    def low(self) -> PatchChoice | None:
        """Of 3d_lowres, where there is one."""
        return self.coarsening.choice if self.coarsening is not None and self.coarsening.kept else None


def plan_geometry(grid: Grid, *, num_cases: int, num_labels: int, preset: Preset, gpu_memory_gb: float) -> Geometry:
    """Patch, batch and topology of every configuration.

    Parameters
    ----------
    grid : Grid
    num_cases : int
        `numTraining`.
    num_labels : int
        Label names, with the background, regions and ignore label.
    preset : Preset
    gpu_memory_gb : float
    """
    voxels = prod(grid.median_size) * num_cases
    flat = search(grid.spacing[1:], grid.median_size[1:], voxels, num_labels, preset, gpu_memory_gb)
    if grid.median_size[0] == 1:
        return Geometry(grid, flat, None, None)
    full = search(grid.spacing, grid.median_size, voxels, num_labels, preset, gpu_memory_gb)
    return Geometry(grid, flat, full, _coarsen(grid, full, num_cases, num_labels, preset, gpu_memory_gb))


def _coarsen(
    grid: Grid, full: PatchChoice, num_cases: int, num_labels: int, preset: Preset, gpu_memory_gb: float
) -> Coarsening:
    """Look for a resolution at which a patch sees enough of the image.

    Notes
    -----
    The image is coarsened by 3 % at a time, fine axes first, until a patch covers a quarter of it; a result less
    than twice as coarse in voxels is dropped. Source: nnU-Net v2 (2.8.1).
    """
    full_voxels = image_voxels = prod(grid.median_size)
    covered = prod(full.topology.patch) / full_voxels
    spacing, size, choice, rounds = grid.spacing, grid.median_size, None, 0
    patch_voxels = float(prod(full.topology.patch))
    while patch_voxels / image_voxels < LOW_RESOLUTION_BELOW:
        fine = [max(spacing) / edge > 2 for edge in spacing]
        grows = fine if any(fine) else [True] * 3
        spacing = tuple(edge * COARSENING if grow else edge for edge, grow in zip(spacing, grows, strict=True))
        exact = [a / b * n for a, b, n in zip(grid.spacing, spacing, grid.median_size, strict=True)]
        image_voxels = prod(exact)
        # A thin axis would round to nothing, where nnU-Net's planner fails.
        size = tuple(float(max(1, round(edge))) for edge in exact)
        choice = search(spacing, size, image_voxels * num_cases, num_labels, preset, gpu_memory_gb)
        patch_voxels = float(prod(choice.topology.patch))
        rounds += 1
    ratio = full_voxels / image_voxels
    kept = choice is not None and (ratio >= 2 or not preset.drops_similar_low_resolution)
    return Coarsening(covered, rounds, spacing, size, choice, ratio, kept)


def plan_configurations(
    geometry: Geometry,
    *,
    num_labels: int,
    preset: Preset,
    schemes: tuple[NormalizationScheme, ...],
    use_mask: tuple[bool, ...],
    mirror: tuple[int, ...],
) -> dict[str, Configuration]:
    """Every configuration in full.

    Parameters
    ----------
    geometry : Geometry
    num_labels : int
    preset : Preset
    schemes, use_mask : tuple
        One entry a channel.
    mirror : tuple of int
        Axes of the transposed volume that may be mirrored.

    Returns
    -------
    dict of str to Configuration
        ``2d`` always; ``3d_fullres`` unless the resampled median image is one slice; ``3d_lowres`` and
        ``3d_cascade_fullres`` where a full-resolution patch sees too little of the image.
    """
    grid = geometry.grid

    def configuration(
        choice: PatchChoice, spacing: Sequence[float], size: Sequence[float], batch_dice: bool
    ) -> Configuration:
        return Configuration(
            spacing=tuple(spacing),
            median_image_size_in_voxels=tuple(size),
            batch_size=choice.batch_size,
            batch_dice=batch_dice,
            normalization_schemes=schemes,
            use_mask_for_norm=use_mask,
            resampling=Resampling(),
            mirror_axes=mirror if len(spacing) == 3 else in_plane(mirror),
            **network_fields(choice.topology, num_labels, preset),
        )

    made = {"2d": configuration(geometry.flat, grid.spacing[1:], grid.median_size[1:], batch_dice=True)}
    low, coarsening = geometry.low, geometry.coarsening
    if low is not None and coarsening is not None:
        small = configuration(low, coarsening.spacing, coarsening.median_size, batch_dice=False)
        made["3d_lowres"] = replace(small, next_stage="3d_cascade_fullres")
    if geometry.full is not None:
        # Beside a low resolution the full one sees only a small part of each image, often without foreground.
        full = configuration(geometry.full, grid.spacing, grid.median_size, batch_dice=low is not None)
        made["3d_fullres"] = full
        if low is not None:
            made["3d_cascade_fullres"] = replace(full, previous_stage="3d_lowres")
    return made


def network_fields(shape: Topology, num_labels: int, preset: Preset) -> dict[str, Any]:
    """Those fields of a configuration that follow from its patch."""
    stages = len(shape.strides)
    blocks = preset.encoder_blocks(stages)
    return {
        "patch_size": shape.patch,
        "strides": shape.strides,
        "kernel_sizes": shape.kernels,
        "features_per_stage": features_per_stage(stages, len(shape.patch)),
        "n_stages": stages,
        "n_conv_per_stage": None if preset.residual else blocks,
        "n_blocks_per_stage": blocks if preset.residual else None,
        "n_conv_per_stage_decoder": preset.decoder_convolutions(stages),
        "memory_proxy": memory_proxy(shape.patch, shape.strides, num_labels, preset),
    }
