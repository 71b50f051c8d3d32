"""The random numbers of augmentation, drawn before anything is changed.

One generator gives all numbers of a batch, so a batch depends on its seed alone: not on the device, the number of
workers, or where a run was interrupted. Neutral values (1, 0, identity) stand for "not applied".
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil, cos, radians, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.plan import Augmentation, Range

ANISOTROPIC_PATCH = 3.0
ELONGATED_PATCH = 1.5
ELONGATED_DEGREES = 15.0


@dataclass(frozen=True, slots=True)
class Draws:
    """What happens to each sample of a batch of B with C channels and d axes.

    Attributes
    ----------
    matrices : ndarray of float64, shape (B, d, d)
        From patch to source coordinates, both measured from their centres, in voxels.
    moved : ndarray of bool, shape (B,)
        Where the matrix is not the identity.
    mirrored : ndarray of bool, shape (B, d)
    noise : dict of int to ndarray of float32, shape (C, *patch)
        Added to those samples.
    blur_sigma_voxels : ndarray of float64, shape (B, C, d)
        0: untouched.
    brightness, contrast, low_resolution, gamma_inverted, gamma : ndarray of float64, shape (B, C)
        1: untouched.
    """

    matrices: NDArray[np.float64]
    moved: NDArray[np.bool_]
    mirrored: NDArray[np.bool_]
    noise: dict[int, NDArray[np.float32]]
    blur_sigma_voxels: NDArray[np.float64]
    brightness: NDArray[np.float64]
    contrast: NDArray[np.float64]
    low_resolution: NDArray[np.float64]
    gamma_inverted: NDArray[np.float64]
    gamma: NDArray[np.float64]

    def of(self, samples: range) -> "Draws":
        """Those of some samples, which are numbered from 0 again."""

        def part(value: NDArray[Any] | dict[int, NDArray[np.float32]]) -> Any:  # noqa: ANN401 - the same kind
            if isinstance(value, dict):
                return {new: value[old] for new, old in enumerate(samples) if old in value}
            return value[samples.start : samples.stop]

        return Draws(**{field.name: part(getattr(self, field.name)) for field in fields(self)})

    def source_edges(self, sample: int, patch: Sequence[int]) -> tuple[int, ...]:
        """Edges of the region that a sample's patch is taken from, in voxels; the patch's own if not moved."""
        if not self.moved[sample]:
            return tuple(patch)
        reach = np.abs(self.matrices[sample]) @ np.asarray(patch, dtype=np.float64)
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
    return Draws(
        matrices=matrices,
        moved=np.abs(matrices - np.eye(d)).max(axis=(1, 2)) > 0,
        mirrored=mirrored,
        noise=noise,
        blur_sigma_voxels=rng.uniform(*recipe.blur_sigma_voxels, (b, c, d)) * blurred[..., None],
        brightness=_factors(rng, b, c, recipe.brightness_probability, recipe.brightness),
        contrast=_factors(rng, b, c, recipe.contrast_probability, recipe.contrast),
        low_resolution=np.where(coarse, rng.uniform(*recipe.low_resolution, (b, c)), 1.0),
        gamma_inverted=_factors(rng, b, c, recipe.gamma_inverted_probability, recipe.gamma),
        gamma=_factors(rng, b, c, recipe.gamma_probability, recipe.gamma),
    )


def no_draws(batch_size: int, num_channels: int, patch: Sequence[int]) -> Draws:
    """Leave everything as it is, for validation."""
    b, c, d = batch_size, num_channels, len(patch)
    ones = np.ones((b, c))
    return Draws(
        matrices=np.tile(np.eye(d), (b, 1, 1)),
        moved=np.zeros(b, dtype=bool),
        mirrored=np.zeros((b, d), dtype=bool),
        noise={},
        blur_sigma_voxels=np.zeros((b, c, d)),
        brightness=ones,
        contrast=ones,
        low_resolution=ones,
        gamma_inverted=ones,
        gamma=ones,
    )


def _chosen(rng: np.random.Generator, b: int, c: int, per_sample: float, per_channel: float) -> NDArray[np.bool_]:
    """Samples first, then channels of the chosen samples; shape (B, C)."""
    samples = rng.random(b) < per_sample
    channels = rng.random((b, c)) < per_channel
    chosen: NDArray[np.bool_] = samples[:, None] & channels
    return chosen


def _factors(rng: np.random.Generator, b: int, c: int, probability: float, span: Range) -> NDArray[np.float64]:
    """A factor for each channel of the chosen samples, as often below 1 as above; shape (B, C)."""
    samples = rng.random(b) < probability
    low, high = span
    below = rng.uniform(min(low, 1.0), min(high, 1.0), (b, c))
    above = rng.uniform(max(low, 1.0), max(high, 1.0), (b, c))
    pick_below = (rng.random((b, c)) < 0.5) & (low < 1)
    if high <= 1:
        pick_below[:] = True
    return np.where(samples[:, None], np.where(pick_below, below, above), 1.0)


def _matrix(rng: np.random.Generator, recipe: Augmentation, patch: Sequence[int]) -> NDArray[np.float64]:
    """Rotation times scaling of one sample, the identity where neither is drawn."""
    d = len(patch)
    rotated = rng.random() < recipe.rotation_probability
    scaled = rng.random() < recipe.scaling_probability
    flat = is_flat(patch)
    matrix = np.eye(d)
    if rotated:
        for plane, limit in _planes(recipe, patch, flat):
            matrix = matrix @ _rotation(d, plane, radians(rng.uniform(-limit, limit)))
    if scaled:
        moved_axes = slice(1, None) if flat else slice(None)
        matrix[:, moved_axes] *= rng.uniform(*recipe.scaling)
    return matrix


def _planes(recipe: Augmentation, patch: Sequence[int], flat: bool) -> list[tuple[tuple[int, int], float]]:
    """The planes to rotate in and how far, in degrees."""
    if len(patch) == 3 and not flat:
        return [((1, 2), recipe.rotation_degrees), ((0, 2), recipe.rotation_degrees), ((0, 1), recipe.rotation_degrees)]
    plane = (1, 2) if flat else (0, 1)
    elongated = not flat and max(patch) / min(patch) > ELONGATED_PATCH
    limit = min(ELONGATED_DEGREES, recipe.rotation_degrees_in_plane) if elongated else recipe.rotation_degrees_in_plane
    return [(plane, limit)]


def _rotation(d: int, plane: tuple[int, int], angle: float) -> NDArray[np.float64]:
    matrix = np.eye(d)
    i, j = plane
    matrix[i, i] = matrix[j, j] = cos(angle)
    matrix[i, j], matrix[j, i] = -sin(angle), sin(angle)
    return matrix
