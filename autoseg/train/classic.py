"""The classic transforms of the batchgenerators package with the plan's probabilities and ranges, for the loader.

They take their random numbers from the global generators of numpy and Python, which are seeded for each batch and put
back afterwards.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import product
from math import ceil, radians
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.augmentation import Augmentation
from autoseg.train.draws import is_flat, planes, rotation

# Angles tried for each plane, to find out how far a patch reaches.
TRIED_ANGLES = 13


@lru_cache(maxsize=16)
def farthest_edges(recipe: Augmentation, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Edges of the region that holds a patch however it is turned and scaled, in voxels."""
    d, flat = len(patch), is_flat(patch)
    turns = [(plane, np.radians(np.linspace(-limit, limit, TRIED_ANGLES))) for plane, limit in planes(recipe, patch)]
    factors = np.full(d, max(1.0, recipe.scaling[1]))
    if flat:
        factors[0] = 1
    farthest = np.zeros(d)
    for angles in product(*(tried for _, tried in turns)):
        matrix = np.eye(d)
        for (plane, _), angle in zip(turns, angles, strict=True):
            matrix = matrix @ rotation(d, plane, angle)
        farthest = np.maximum(farthest, np.abs(matrix) @ np.asarray(patch))
    # Same parity as the patch, so that both have their centre at the same place.
    return tuple(edge + 2 * max(0, ceil((far - edge) / 2)) for edge, far in zip(patch, farthest * factors, strict=True))


def transform(
    images: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.int16]],
    recipe: Augmentation,
    patch: tuple[int, ...],
    mirror_axes: Sequence[int],
    seed: int,
    previous: Sequence[NDArray[np.int16]] = (),
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.int16]], list[NDArray[np.int16]]]:
    """Augment a batch.

    Parameters
    ----------
    images : sequence of B ndarrays of float32, shape (C, *edges)
        Regions of `farthest_edges`.
    labels : sequence of B ndarrays of int16, shape (*edges)
        -1 outside the case's mask.
    recipe : Augmentation
    patch : tuple of int
    mirror_axes : sequence of int
    seed : int
        Of all random numbers.
    previous : sequence of B or 0 ndarrays of int16, shape (*edges)
        Label maps that are moved as the labels are.

    Returns
    -------
    list of B ndarrays of float32, shape (C, *patch)
    list of B ndarrays of int16, shape (*patch)
    list of B or 0 ndarrays of int16, shape (*patch)
    """
    maps = [labels, previous] if previous else [labels]
    image_bczyx, label_bczyx = np.stack(images), np.stack([np.stack(each) for each in maps], 1).astype(np.float32)
    b, c = image_bczyx.shape[:2]
    flat = is_flat(patch)
    if flat:
        # Slices as channels are moved alike.
        image_bczyx, label_bczyx = (x.reshape(b, -1, *x.shape[3:]) for x in (image_bczyx, label_bczyx))
    with seeded(seed):
        moved = _spatial(recipe, patch)(data=image_bczyx, seg=label_bczyx)
        moved["data"] = moved["data"].reshape(b, c, *patch)
        moved["seg"] = moved["seg"].reshape(b, len(maps), *patch)
        for change in _changes(recipe, patch, mirror_axes):
            moved = change(**moved)
    moved_labels, *moved_previous = (list(each) for each in moved["seg"].swapaxes(0, 1).astype(np.int16))
    return list(moved["data"].astype(np.float32)), moved_labels, moved_previous[0] if previous else []


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, and put them back at the end."""
    states = np.random.get_state(), random.getstate()  # noqa: NPY002 - batchgenerators draws from it
    np.random.seed(seed)  # noqa: NPY002, TID251 - likewise
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(states[0])  # noqa: NPY002 - likewise
        random.setstate(states[1])


def _spatial(recipe: Augmentation, patch: tuple[int, ...]) -> Callable[..., dict[str, Any]]:
    """Rotation and scaling; within the slices of a flat patch."""
    from batchgenerators.transforms.spatial_transforms import SpatialTransform

    limits = [radians(limit) for _, limit in planes(recipe, patch)]
    angles = dict(zip(("angle_x", "angle_y", "angle_z"), ((-limit, limit) for limit in limits), strict=False))
    transform: Callable[..., dict[str, Any]] = SpatialTransform(
        patch[1:] if is_flat(patch) else patch,
        do_elastic_deform=False,
        **angles,
        scale=recipe.scaling,
        order_data=1,
        border_mode_data="constant",
        order_seg=1,
        border_cval_seg=-1,
        random_crop=False,
        p_rot_per_sample=recipe.rotation_probability,
        p_scale_per_sample=recipe.scaling_probability,
    )
    return transform


def _changes(recipe: Augmentation, patch: Sequence[int], mirror_axes: Sequence[int]) -> list[Any]:
    """What follows upon the spatial transform, in order."""
    from batchgenerators.transforms.color_transforms import (
        BrightnessMultiplicativeTransform,
        ContrastAugmentationTransform,
        GammaTransform,
    )
    from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
    from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform
    from batchgenerators.transforms.spatial_transforms import MirrorTransform

    def gamma(probability: float, *, inverted: bool) -> Any:  # noqa: ANN401 - batchgenerators is not typed
        return GammaTransform(recipe.gamma, inverted, per_channel=True, retain_stats=True, p_per_sample=probability)

    changes = [
        GaussianNoiseTransform(recipe.noise_sigma, p_per_sample=recipe.noise_probability),
        GaussianBlurTransform(
            recipe.blur_sigma_voxels,
            different_sigma_per_axis=True,
            p_per_channel=recipe.blur_probability_per_channel,
            p_per_sample=recipe.blur_probability,
        ),
        BrightnessMultiplicativeTransform(recipe.brightness, p_per_sample=recipe.brightness_probability),
        ContrastAugmentationTransform(
            recipe.contrast,
            p_per_sample=recipe.contrast_probability,
            p_per_channel=recipe.contrast_probability_per_channel,
        ),
        SimulateLowResolutionTransform(
            recipe.low_resolution,
            per_channel=True,
            p_per_channel=recipe.low_resolution_probability_per_channel,
            order_downsample=0,
            order_upsample=1,
            p_per_sample=recipe.low_resolution_probability,
            ignore_axes=(0,) if is_flat(patch) else None,
        ),
        gamma(recipe.gamma_inverted_probability, inverted=True),
        gamma(recipe.gamma_probability, inverted=False),
    ]
    if mirror_axes and recipe.mirror_probability:
        changes.append(MirrorTransform(tuple(mirror_axes)))
    return changes
