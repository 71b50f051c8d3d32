"""The random numbers of augmentation, drawn before anything is changed.

One generator gives all numbers of a batch, so a batch depends on its seed alone: not on the device, the number of
workers, or where a run was interrupted. Neutral values (1, 0, identity) stand for "not applied".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from math import ceil, cos, log, radians, sin
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.augmentation import Augmentation, Range

ANISOTROPIC_PATCH = 3.0
ELONGATED_PATCH = 1.5
ELONGATED_DEGREES = 15.0
# A cubic B-spline over n cells has this many more control points.
SPLINE_ORDER = 3
# Where bumps lie and how wide they are, in patch edges.
BUMP_CENTRE = (-0.5, 1.5)
NARROWEST_BUMP = 1 / 6
Operation = Literal["grow", "shrink", "open", "close", "remove"]
MORPHOLOGY: tuple[Operation, ...] = ("grow", "shrink", "open", "close")


@dataclass(frozen=True, slots=True)
class Bumps:
    """A Gaussian bump for each channel, from 0 far away to 1 at its highest place in the patch.

    Attributes
    ----------
    centre_voxels, sigma_voxels : ndarray of float64, shape (B, C, d)
    strength : ndarray of float64, shape (B, C)
        What is added at the top, or the exponent there.
    """

    centre_voxels: NDArray[np.float64]
    sigma_voxels: NDArray[np.float64]
    strength: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Box:
    """A box of a patch, and what is done to it.

    Attributes
    ----------
    sample : int
    other : int
        The channel, or the sample that the content comes from.
    place : tuple of slice
    """

    sample: int
    other: int
    place: tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class MapChange:
    """What is done to a label of the map that the previous stage predicted.

    Attributes
    ----------
    value : int
        Of the label.
    operation : str
        Growing, shrinking, opening or closing; or taking away a connected component.
    amount : float
        Radius of the ball in voxels; or which of the components, as a number from 0 to below 1.
    """

    value: int
    operation: Operation
    amount: float


@dataclass(frozen=True, slots=True)
class Draws:
    """What happens to each sample of a batch of B with C channels and d axes.

    Attributes
    ----------
    matrices : ndarray of float64, shape (B, d, d)
        From patch to source coordinates, both measured from their centres, in voxels.
    moved : ndarray of bool, shape (B,)
        Where the matrix is not the identity, or the patch is deformed.
    axes : ndarray of int64, shape (B, d)
        Axes of the source that become those of the patch, before mirroring; other than in order where a patch is turned
        by a quarter.
    mirrored : ndarray of bool, shape (B, d)
    elastic : dict of int to ndarray of float32, shape (d, *control points)
        How far the control points of those samples are moved, in voxels of the patch.
    noise : dict of int to ndarray of float32, shape (C, *patch)
        Added to those samples.
    blur_sigma_voxels : ndarray of float64, shape (B, C, d)
        0: untouched.
    brightness, contrast, low_resolution, gamma_inverted, gamma : ndarray of float64, shape (B, C)
        1: untouched.
    contrast_clipped : ndarray of bool, shape (B,)
        Whether contrast keeps to the old range.
    median_size_voxels : ndarray of int64, shape (B, C)
        1: untouched.
    shift, sharpen : ndarray of float64, shape (B, C)
        0: untouched.
    gradient, local_gamma : Bumps or None
        Strength 0 and 1: untouched.
    cut_out : tuple of Box
        Boxes of a channel replaced by their mean.
    pasted_from : ndarray of int64, shape (B,)
        The sample whose foreground is copied; itself: none.
    cut_mixed : tuple of Box
        Boxes replaced by what another sample has there.
    mixed_with : ndarray of int64, shape (B,)
        The sample mixed in.
    own_share : float
        A sample's own share in the mixture; 1: nothing is mixed.
    map_changes : dict of int to tuple of MapChange
        Done in order to what the previous stage predicted of those samples, before they are moved.
    """

    matrices: NDArray[np.float64]
    moved: NDArray[np.bool_]
    axes: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    noise: dict[int, NDArray[np.float32]]
    blur_sigma_voxels: NDArray[np.float64]
    brightness: NDArray[np.float64]
    contrast: NDArray[np.float64]
    contrast_clipped: NDArray[np.bool_]
    low_resolution: NDArray[np.float64]
    gamma_inverted: NDArray[np.float64]
    gamma: NDArray[np.float64]
    median_size_voxels: NDArray[np.int64]
    shift: NDArray[np.float64]
    sharpen: NDArray[np.float64]
    pasted_from: NDArray[np.int64]
    mixed_with: NDArray[np.int64]
    elastic: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    gradient: Bumps | None = None
    local_gamma: Bumps | None = None
    cut_out: tuple[Box, ...] = ()
    cut_mixed: tuple[Box, ...] = ()
    own_share: float = 1.0
    map_changes: dict[int, tuple[MapChange, ...]] = field(default_factory=dict)

    def mapping(self, sample: int) -> NDArray[np.float64]:
        """From patch to source coordinates, with mirroring and quarter turns."""
        d = self.axes.shape[1]
        turn = np.zeros((d, d))
        turn[self.axes[sample], np.arange(d)] = np.where(self.mirrored[sample], -1.0, 1.0)
        mapping: NDArray[np.float64] = self.matrices[sample] @ turn
        return mapping

    @property
    def mixes(self) -> bool:
        """Whether a sample takes something from others of its batch."""
        own = np.arange(len(self.pasted_from))
        return bool(self.cut_mixed) or self.own_share < 1 or bool((self.pasted_from != own).any())

    def of(self, samples: range) -> "Draws":
        """Those of some samples that are not mixed with others; samples are numbered from 0 again."""

        def part(value: Any) -> Any:  # noqa: ANN401 - the same kind
            if isinstance(value, Bumps):
                return Bumps(*(part(getattr(value, each.name)) for each in fields(value)))
            if isinstance(value, dict):
                return {new: value[old] for new, old in enumerate(samples) if old in value}
            if isinstance(value, tuple):
                return tuple(replace(box, sample=samples.index(box.sample)) for box in value if box.sample in samples)
            return value[samples.start : samples.stop] if isinstance(value, np.ndarray) else value

        alone = np.arange(len(samples))
        mine = {each.name: part(getattr(self, each.name)) for each in fields(self)}
        return Draws(**(mine | {"pasted_from": alone, "mixed_with": alone}))

    def source_edges(self, sample: int, patch: Sequence[int]) -> tuple[int, ...]:
        """Edges of the region that a sample's patch is taken from, in voxels; the patch's own if not moved."""
        if not self.moved[sample]:
            return tuple(patch)
        extent = np.asarray(patch, dtype=np.float64)
        if sample in self.elastic:
            # A spline stays between its control points' values.
            extent = extent + 2 * np.abs(self.elastic[sample]).reshape(len(patch), -1).max(axis=1)
        reach = np.abs(self.mapping(sample)) @ extent
        # Same parity as the patch, so that both have their centre at the same place.
        return tuple(edge + 2 * max(0, ceil((far - edge) / 2)) for edge, far in zip(patch, reach, strict=True))


def is_flat(patch: Sequence[int]) -> bool:
    """Whether a 3D patch is so thin that it is moved within its slices only ("dummy 2D")."""
    return len(patch) == 3 and max(patch) / patch[0] > ANISOTROPIC_PATCH


def draw(
    rng: np.random.Generator,
    recipe: Augmentation,
    batch_size: int,
    num_channels: int,
    patch: Sequence[int],
    mirror_axes: Sequence[int],
) -> Draws:
    """Draw a batch's augmentation.

    Notes
    -----
    Isensee et al. 2021, supplement, with the probabilities of nnU-Net v2 (2.8.1). Brightness, contrast and gamma
    fall below 1 in half of the draws, whatever the range. What nnU-Net calls the noise's variance it uses as
    standard deviation; so do we.
    """
    recipe = recipe.in_force()
    b, c, d = batch_size, num_channels, len(patch)
    matrices = np.stack([_matrix(rng, recipe, patch) for _ in range(b)])
    mirrored = np.zeros((b, d), dtype=bool)
    for axis in mirror_axes:
        mirrored[:, axis] = rng.random(b) < recipe.mirror_probability
    noise = {}
    for sample in np.flatnonzero(rng.random(b) < recipe.noise_probability):
        sigma = rng.uniform(*recipe.noise_sigma)
        noise[int(sample)] = rng.standard_normal((c, *patch), dtype=np.float32) * np.float32(sigma)
    blurred = _chosen(rng, b, c, recipe.blur_probability, recipe.blur_probability_per_channel)
    coarse = _chosen(rng, b, c, recipe.low_resolution_probability, recipe.low_resolution_probability_per_channel)
    usual = replace(
        no_draws(b, c, patch),
        matrices=matrices,
        moved=np.abs(matrices - np.eye(d)).max(axis=(1, 2)) > 0,
        mirrored=mirrored,
        noise=noise,
        blur_sigma_voxels=rng.uniform(*recipe.blur_sigma_voxels, (b, c, d)) * blurred[..., None],
        brightness=_factors(rng, b, c, recipe.brightness_probability, recipe.brightness),
        contrast=_factors(
            rng, b, c, recipe.contrast_probability, recipe.contrast, recipe.contrast_probability_per_channel
        ),
        low_resolution=np.where(coarse, rng.uniform(*recipe.low_resolution, (b, c)), 1.0),
        gamma_inverted=_factors(rng, b, c, recipe.gamma_inverted_probability, recipe.gamma),
        gamma=_factors(rng, b, c, recipe.gamma_probability, recipe.gamma),
    )
    # What is off by default comes after, so that turning it on leaves the rest as it was.
    return replace(
        usual,
        **_spatial_extras(rng, recipe, usual, patch),
        **_intensity_extras(rng, recipe, (b, c)),
        **_local_extras(rng, recipe, (b, c), patch),
        **_mixing_extras(rng, recipe, b, patch),
    )


def draw_map_changes(
    rng: np.random.Generator, recipe: Augmentation, batch_size: int, num_values: int
) -> dict[int, tuple[MapChange, ...]]:
    """Draw what is done to the maps of the previous stage, whose labels are 1 to `num_values`.

    Notes
    -----
    The second stage must not learn to copy the first one's mistakes, nor to trust it blindly: Isensee et al. 2021,
    supplement. Probabilities are those of nnU-Net v2 (2.8.1), which also goes through the labels in random order.
    """
    changes: dict[int, tuple[MapChange, ...]] = {}
    values = np.arange(1, num_values + 1)

    def chosen(per_sample: float, per_label: float) -> list[int]:
        if rng.random() >= per_sample:
            return []
        return [int(value) for value in rng.permutation(values) if rng.random() < per_label]

    for sample in range(batch_size):
        mine = []
        for value in chosen(recipe.previous_morphology_probability, recipe.previous_morphology_probability_per_label):
            low, high = recipe.previous_morphology_radius
            operation = MORPHOLOGY[rng.integers(len(MORPHOLOGY))]
            mine.append(MapChange(value, operation, int(rng.integers(low, high + 1))))
        for value in chosen(recipe.previous_removal_probability, recipe.previous_removal_probability_per_label):
            mine.append(MapChange(value, "remove", float(rng.random())))
        if mine:
            changes[sample] = tuple(mine)
    return changes


def no_draws(batch_size: int, num_channels: int, patch: Sequence[int]) -> Draws:
    """Leave everything as it is, for validation."""
    b, c, d = batch_size, num_channels, len(patch)
    ones, zeros = np.ones((b, c)), np.zeros((b, c))
    return Draws(
        matrices=np.tile(np.eye(d), (b, 1, 1)),
        moved=np.zeros(b, dtype=bool),
        axes=np.tile(np.arange(d), (b, 1)),
        mirrored=np.zeros((b, d), dtype=bool),
        noise={},
        blur_sigma_voxels=np.zeros((b, c, d)),
        brightness=ones,
        contrast=ones,
        contrast_clipped=np.ones(b, dtype=bool),
        low_resolution=ones,
        gamma_inverted=ones,
        gamma=ones,
        median_size_voxels=np.ones((b, c), dtype=np.int64),
        shift=zeros,
        sharpen=zeros,
        pasted_from=np.arange(b),
        mixed_with=np.arange(b),
    )


def _spatial_extras(
    rng: np.random.Generator, recipe: Augmentation, draws: Draws, patch: Sequence[int]
) -> dict[str, Any]:
    """Fields of what is off by default and moves voxels."""
    b = len(draws.moved)
    changes: dict[str, Any] = {}
    if recipe.quarter_turn_probability:
        changes["axes"], changes["mirrored"] = _quarter_turns(rng, recipe, draws.mirrored, patch)
    if recipe.elastic_probability:
        deformed = np.flatnonzero(rng.random(b) < recipe.elastic_probability)
        changes["elastic"] = {int(sample): _control_points(rng, recipe, patch) for sample in deformed}
        changes["moved"] = draws.moved | np.isin(np.arange(b), deformed)
    return changes


def _intensity_extras(rng: np.random.Generator, recipe: Augmentation, shape_bc: tuple[int, int]) -> dict[str, Any]:
    """Fields of what is off by default and changes intensities."""
    b, c = shape_bc
    changes: dict[str, Any] = {}
    if recipe.contrast_clip_share < 1:
        changes["contrast_clipped"] = rng.random(b) < recipe.contrast_clip_share
    if recipe.median_probability:
        chosen = _chosen(rng, b, c, recipe.median_probability, recipe.median_probability_per_channel)
        low, high = recipe.median_size_voxels
        changes["median_size_voxels"] = np.where(chosen, rng.integers(low, high + 1, (b, c)), 1)
    if recipe.shift_probability:
        chosen = _chosen(rng, b, c, recipe.shift_probability, recipe.shift_probability_per_channel)
        changes["shift"] = chosen * rng.normal(0.0, recipe.shift_sigma, (b, c))
    if recipe.sharpen_probability:
        chosen = _chosen(rng, b, c, recipe.sharpen_probability, recipe.sharpen_probability_per_channel)
        changes["sharpen"] = chosen * rng.uniform(*recipe.sharpen_strength, (b, c))
    return changes


def _local_extras(
    rng: np.random.Generator, recipe: Augmentation, shape_bc: tuple[int, int], patch: Sequence[int]
) -> dict[str, Any]:
    """Fields of what is off by default and changes parts of a channel."""
    b, c = shape_bc
    changes: dict[str, Any] = {}
    if recipe.gradient_probability:
        chosen = _chosen(rng, b, c, recipe.gradient_probability, recipe.gradient_probability_per_channel)
        sign = np.where(rng.random((b, c)) < 0.5, -1.0, 1.0)
        changes["gradient"] = _bumps(rng, patch, chosen * sign * rng.uniform(*recipe.gradient_strength, (b, c)))
    if recipe.local_gamma_probability:
        per_channel = recipe.local_gamma_probability_per_channel
        exponents = _factors(rng, b, c, recipe.local_gamma_probability, recipe.local_gamma, per_channel)
        changes["local_gamma"] = _bumps(rng, patch, exponents)
    if recipe.cutout_probability:
        chosen = _chosen(rng, b, c, recipe.cutout_probability, recipe.cutout_probability_per_channel)
        changes["cut_out"] = tuple(
            Box(int(sample), int(channel), _place(rng, patch, recipe.cutout_edges))
            for sample, channel in zip(*np.nonzero(chosen), strict=True)
            for _ in range(rng.integers(recipe.cutout_boxes[0], recipe.cutout_boxes[1] + 1))
        )
    return changes


def _mixing_extras(rng: np.random.Generator, recipe: Augmentation, b: int, patch: Sequence[int]) -> dict[str, Any]:
    """Fields of what is off by default and takes from other samples."""
    changes: dict[str, Any] = {}
    if recipe.copy_paste_probability:
        chosen = rng.random(b) < recipe.copy_paste_probability
        changes["pasted_from"] = np.where(chosen, _partners(rng, b), np.arange(b))
    if recipe.cutmix_probability:
        partners = _partners(rng, b)
        changes["cut_mixed"] = tuple(
            Box(int(sample), int(partners[sample]), _place(rng, patch, recipe.cutmix_edges))
            for sample in np.flatnonzero(rng.random(b) < recipe.cutmix_probability)
        )
    if recipe.mixup_probability and rng.random() < recipe.mixup_probability:
        changes["mixed_with"] = _partners(rng, b)
        share = float(rng.beta(recipe.mixup_alpha, recipe.mixup_alpha))
        changes["own_share"] = max(share, 1 - share)
    return changes


def _chosen(rng: np.random.Generator, b: int, c: int, per_sample: float, per_channel: float) -> NDArray[np.bool_]:
    """Samples first, then channels of the chosen samples; shape (B, C)."""
    samples = rng.random(b) < per_sample
    channels = rng.random((b, c)) < per_channel
    chosen: NDArray[np.bool_] = samples[:, None] & channels
    return chosen


def _factors(
    rng: np.random.Generator, b: int, c: int, per_sample: float, span: Range, per_channel: float = 1.0
) -> NDArray[np.float64]:
    """A factor for the chosen channels of the chosen samples, as often below 1 as above; shape (B, C)."""
    chosen = rng.random((b, 1)) < per_sample
    if per_channel < 1:
        chosen = chosen & (rng.random((b, c)) < per_channel)
    low, high = span
    below = rng.uniform(min(low, 1.0), min(high, 1.0), (b, c))
    above = rng.uniform(max(low, 1.0), max(high, 1.0), (b, c))
    pick_below = (rng.random((b, c)) < 0.5) & (low < 1)
    if high <= 1:
        pick_below[:] = True
    return np.where(chosen, np.where(pick_below, below, above), 1.0)


def _matrix(rng: np.random.Generator, recipe: Augmentation, patch: Sequence[int]) -> NDArray[np.float64]:
    """Rotation times scaling of one sample, the identity where neither is drawn."""
    d = len(patch)
    rotated = rng.random() < recipe.rotation_probability
    scaled = rng.random() < recipe.scaling_probability
    flat = is_flat(patch)
    matrix = np.eye(d)
    if rotated:
        for plane, limit in planes(recipe, patch):
            angle = radians(rng.uniform(-limit, limit))
            if recipe.rotation_probability_per_axis == 1 or rng.random() < recipe.rotation_probability_per_axis:
                matrix = matrix @ rotation(d, plane, angle)
    if scaled:
        moved_axes = slice(1, None) if flat else slice(None)
        factor: float | NDArray[np.float64] = rng.uniform(*recipe.scaling)
        if recipe.scaling_probability_per_axis and rng.random() < recipe.scaling_probability_per_axis:
            factor = rng.uniform(*recipe.scaling, d)[moved_axes]
        matrix[:, moved_axes] *= factor
    return matrix


def planes(recipe: Augmentation, patch: Sequence[int]) -> list[tuple[tuple[int, int], float]]:
    """The planes to rotate in and how far, in degrees."""
    flat = is_flat(patch)
    if len(patch) == 3 and not flat:
        return [((1, 2), recipe.rotation_degrees), ((0, 2), recipe.rotation_degrees), ((0, 1), recipe.rotation_degrees)]
    plane = (1, 2) if flat else (0, 1)
    elongated = not flat and max(patch) / min(patch) > ELONGATED_PATCH
    limit = min(ELONGATED_DEGREES, recipe.rotation_degrees_in_plane) if elongated else recipe.rotation_degrees_in_plane
    return [(plane, limit)]


def rotation(d: int, plane: tuple[int, int], angle: float) -> NDArray[np.float64]:
    """A turn in the plane of two axes, in radians, as a matrix."""
    matrix = np.eye(d)
    i, j = plane
    matrix[i, i] = matrix[j, j] = cos(angle)
    matrix[i, j], matrix[j, i] = -sin(angle), sin(angle)
    return matrix


def _quarter_turns(
    rng: np.random.Generator, recipe: Augmentation, mirrored: NDArray[np.bool_], patch: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Axes and mirroring of each sample, some turned in a plane of equal edges; flat patches within their slices."""
    b, d = mirrored.shape
    axes, mirrored = np.tile(np.arange(d), (b, 1)), mirrored.copy()
    inside = range(1 if is_flat(patch) else 0, d)
    equal = [(i, j) for i in inside for j in inside if i < j and patch[i] == patch[j]]
    if not equal:
        return axes, mirrored
    for sample in np.flatnonzero(rng.random(b) < recipe.quarter_turn_probability):
        i, j = equal[rng.integers(len(equal))]
        quarters = int(rng.integers(1, 4))
        if quarters != 2:
            axes[sample, [i, j]] = j, i
        # Mirroring comes first, along the image's own axes. Two quarters mirror both, one the one, three the other.
        mirrored[sample] = mirrored[sample, axes[sample]]
        mirrored[sample, i] ^= quarters != 3
        mirrored[sample, j] ^= quarters != 1
    return axes, mirrored


def _control_points(rng: np.random.Generator, recipe: Augmentation, patch: Sequence[int]) -> NDArray[np.float32]:
    """How far the control points of a deformation are moved; a flat patch's slices alike and within themselves."""
    flat = is_flat(patch)
    cells = recipe.elastic_cells
    points = [1 if flat and axis == 0 else cells + SPLINE_ORDER for axis in range(len(patch))]
    reach = rng.uniform(*recipe.elastic_magnitude) * np.asarray(patch) / cells
    if flat:
        reach[0] = 0
    offsets = rng.uniform(-1, 1, (len(patch), *points)) * reach.reshape(-1, *(1 for _ in points))
    return offsets.astype(np.float32)


def _bumps(rng: np.random.Generator, patch: Sequence[int], strength: NDArray[np.float64]) -> Bumps:
    """Bumps somewhere in or near the patch, from a sixth of its edges to all of them wide."""
    edges, shape = np.asarray(patch), (*strength.shape, len(patch))
    centre = rng.uniform(*BUMP_CENTRE, shape) * edges
    return Bumps(centre, np.exp(rng.uniform(log(NARROWEST_BUMP), 0.0, shape)) * edges, strength)


def _place(rng: np.random.Generator, patch: Sequence[int], shares: Range) -> tuple[slice, ...]:
    """A box that lies in the patch."""
    lengths = [max(1, round(edge * rng.uniform(*shares))) for edge in patch]
    starts = [int(rng.integers(edge - length + 1)) for edge, length in zip(patch, lengths, strict=True)]
    return tuple(slice(start, start + length) for start, length in zip(starts, lengths, strict=True))


def _partners(rng: np.random.Generator, b: int) -> NDArray[np.int64]:
    """Another sample for each; itself where there is no other."""
    offset = int(rng.integers(1, b)) if b > 1 else 0
    return (np.arange(b) + offset) % b
