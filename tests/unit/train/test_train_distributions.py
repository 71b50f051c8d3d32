"""Augmentation beside batchgenerators' transforms: the same distributions, with seeds fixed.

Each change is made to the same small image many times, by both; a figure that tells how strong it was is compared by
the two-sample Kolmogorov-Smirnov test.
"""

import random
from math import sqrt

import numpy as np
import pytest
from batchgenerators.transforms.color_transforms import (
    BrightnessMultiplicativeTransform,
    ContrastAugmentationTransform,
    GammaTransform,
)
from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform
from batchgenerators.transforms.spatial_transforms import MirrorTransform, SpatialTransform
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp

from autoseg.artifacts.augmentation import Augmentation
from autoseg.train.augment import augment, pack
from autoseg.train.draws import draw
from autoseg.train.loading import values_in

NUM_SAMPLES = 1000
PATCH = (12, 14)
OFF = dict.fromkeys([name for name in Augmentation.__struct_fields__ if name.endswith("_probability")], 0.0)


@pytest.fixture(autouse=True)
def seeds():
    # batchgenerators draws from both.
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)


@pytest.fixture(scope="module")
def image():
    """Smooth structures and a little noise; two channels."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.standard_normal((2, *PATCH)), (0, 1.5, 1.5))
    return (smooth / smooth.std() + 0.1 * rng.standard_normal((2, *PATCH))).astype(np.float32)


def ours(image, patch=PATCH, mirror=(), num=NUM_SAMPLES, **recipe):
    """Copies of the image, or of the middle of a larger one, changed by us; shape (N, C, *patch)."""
    draws = draw(np.random.default_rng(1), Augmentation(**{**OFF, **recipe}), num, len(image), patch, mirror)
    regions = []
    for i in range(num):
        edges = draws.source_edges(i, patch)
        starts = [(wide - edge) // 2 for wide, edge in zip(image.shape[1:], edges, strict=True)]
        regions.append(image[(slice(None), *(slice(s, s + e) for s, e in zip(starts, edges, strict=True)))])
    labels = [np.zeros(region.shape[1:], np.int16) for region in regions]
    packed = pack(regions, labels, draws, patch, values_in(labels))
    return augment(packed, draws, patch, (False,) * len(image)).images.numpy()


def theirs(image, transform, num=NUM_SAMPLES):
    """Copies of the image, changed by batchgenerators."""
    return transform(data=np.stack([image] * num))["data"]


def assert_alike(one, other):
    """The same distribution, as far as so many samples can tell, and not that of a point."""
    one, other = (np.ravel(values).astype(float) for values in (one, other))
    assert np.std(one) > 0
    assert ks_2samp(one, other).pvalue > 0.01
    assert np.mean(one) == pytest.approx(np.mean(other), abs=4 * np.std(other) / sqrt(len(other) / 2))
    assert np.std(one) == pytest.approx(np.std(other), rel=0.25)


def spread(images):
    return images.std(axis=(2, 3))


def test_noise(image):
    mine = ours(image, noise_probability=1.0) - image
    other = theirs(image, GaussianNoiseTransform((0, 0.1))) - image
    assert_alike(spread(mine).mean(axis=1), spread(other).mean(axis=1))
    # Gaussian: no heavier tails than theirs.
    strong = spread(mine)[:, 0] > 0.05
    whitened = (mine / spread(mine)[..., None, None])[strong]
    assert (whitened**4).mean() == pytest.approx(3, abs=0.1)
    # All channels of a sample are equally noisy.
    np.testing.assert_allclose(spread(mine)[:, 0], spread(mine)[:, 1], rtol=0.4)


def test_blur(image):
    mine = ours(image, blur_probability=1.0, blur_probability_per_channel=1.0)
    other = theirs(image, GaussianBlurTransform((0.5, 1.0), different_sigma_per_axis=True))
    # Away from the ends, where theirs is reflected with the last voxel repeated and ours without.
    mine, other = (x[..., 4:-4, 4:-4] for x in (mine, other))
    for channel in (0, 1):
        assert_alike(spread(mine)[:, channel], spread(other)[:, channel])


def test_brightness(image):
    mine = ours(image, brightness_probability=1.0)
    other = theirs(image, BrightnessMultiplicativeTransform((0.75, 1.25)))
    for channel in (0, 1):
        assert_alike(mine[:, channel, 3, 3] / image[channel, 3, 3], other[:, channel, 3, 3] / image[channel, 3, 3])


@pytest.mark.parametrize("clip", [True, False])
def test_contrast(image, clip):
    mine = ours(image, contrast_probability=1.0, contrast=(0.6, 1.5), contrast_clip_share=float(clip))
    other = theirs(image, ContrastAugmentationTransform((0.6, 1.5), preserve_range=clip))
    for channel in (0, 1):
        assert_alike(spread(mine)[:, channel], spread(other)[:, channel])
    assert (mine.max(axis=(0, 2, 3)) > image.max(axis=(1, 2)) + 1e-3).all() != clip


def test_low_resolution(image):
    mine = ours(image, low_resolution_probability=1.0, low_resolution_probability_per_channel=1.0)
    other = theirs(image, SimulateLowResolutionTransform((0.5, 1), True, order_downsample=0, order_upsample=1))
    for channel in (0, 1):
        # There are but few coarse grids, which give the same to seven digits.
        one, another = (np.round(spread(x)[:, channel], 5) for x in (mine, other))
        assert set(one) == set(another)
        assert_alike(one, another)


@pytest.mark.parametrize("inverted", [False, True])
def test_gamma(image, inverted):
    name = "gamma_inverted_probability" if inverted else "gamma_probability"
    mine = ours(image, **{name: 1.0})
    other = theirs(image, GammaTransform((0.7, 1.5), inverted, per_channel=True, retain_stats=True))
    for channel in (0, 1):
        assert_alike(np.median(mine[:, channel], axis=(1, 2)), np.median(other[:, channel], axis=(1, 2)))


def ramps(edges):
    """A channel for each axis, that tells where along it a voxel lies from the centre."""
    return np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in edges), indexing="ij")).astype(np.float32)


def matrices(moved_ramps):
    """What moved the ramps, from differences at the centre of the patch."""
    d = moved_ramps.shape[1]
    centre = tuple(n // 2 for n in moved_ramps.shape[2:])
    columns = []
    for axis in range(d):
        before = tuple(at - (axis == other) for other, at in enumerate(centre))
        columns.append(moved_ramps[(..., *centre)] - moved_ramps[(..., *before)])
    return np.stack(columns, axis=-1)


def angles_degrees(moved):
    """How far each sample was turned."""
    d = moved.shape[1]
    factor = np.linalg.det(moved) ** (1 / d)
    trace = np.trace(moved, axis1=1, axis2=2) / factor
    return np.degrees(np.arccos(np.clip((trace - (d - 2)) / 2, -1, 1)))


@pytest.mark.parametrize(("patch", "limit"), [((6, 6), 180.0), ((4, 10), 15.0), ((4, 4, 4), 30.0)])
def test_rotation(patch, limit):
    source = ramps([24] * len(patch))
    mine = matrices(ours(source, patch, rotation_probability=1.0))
    radians = np.radians(limit)
    names = ("angle_x", "angle_y", "angle_z")
    angles = dict.fromkeys(names, (-radians, radians))
    transform = SpatialTransform(
        patch, do_elastic_deform=False, do_scale=False, **angles, order_data=1, random_crop=False
    )
    other = matrices(theirs(source, transform))
    assert_alike(angles_degrees(mine), angles_degrees(other))
    if len(patch) == 3:
        # About each axis too: the parts that change sign.
        for i, j in ((0, 1), (0, 2), (1, 2)):
            skew = [(each[:, i, j] - each[:, j, i]) / 2 for each in (mine, other)]
            assert ks_2samp(*skew).pvalue > 0.01
    else:
        assert angles_degrees(mine).max() <= limit + 0.1


def test_scaling():
    source = ramps([24, 24])
    mine = matrices(ours(source, (6, 6), scaling_probability=1.0, scaling=(1.0, 1.4)))
    transform = SpatialTransform(
        (6, 6), do_elastic_deform=False, do_rotation=False, scale=(1.0, 1.4), order_data=1, random_crop=False
    )
    other = matrices(theirs(source, transform))
    assert_alike(mine[:, 0, 0], other[:, 0, 0])
    np.testing.assert_allclose(mine[:, 0, 0], mine[:, 1, 1], atol=1e-4)


def test_mirroring():
    source = ramps(PATCH)
    mine, other = ours(source, mirror=(0, 1), mirror_probability=0.5), theirs(source, MirrorTransform((0, 1)))
    for flipped in (mine, other):
        for axis in (0, 1):
            share = (flipped[:, axis, 0, 0] > 0).mean()
            assert abs(share - 0.5) < 4 * 0.5 / sqrt(NUM_SAMPLES)
    both = np.sort(np.unique(mine.reshape(NUM_SAMPLES, -1), axis=0), axis=0)
    np.testing.assert_array_equal(both, np.sort(np.unique(other.reshape(NUM_SAMPLES, -1), axis=0), axis=0))


def test_the_whole_recipe(image):
    """Of six figures of each sample, none tells the recipes apart; scaling is drawn otherwise there, and left out."""
    from autoseg.train.classic import farthest_edges, transform

    recipe = Augmentation(backend="batchgenerators", scaling_probability=0.0)
    edges = farthest_edges(recipe, PATCH)
    rng = np.random.default_rng(3)
    source = gaussian_filter(rng.standard_normal((1, 40, 40)), (0, 1.5, 1.5)).astype(np.float32)
    source /= source.std()
    start = [(40 - edge) // 2 for edge in edges]
    region = source[:, start[0] : start[0] + edges[0], start[1] : start[1] + edges[1]]
    num = 1000
    classic, *_ = transform([region] * num, [np.zeros(edges, np.int16)] * num, recipe, PATCH, (0, 1), 5)
    usual = {name: getattr(Augmentation(), name) for name in OFF}
    mine = ours(source, PATCH, (0, 1), num, **{**usual, "scaling_probability": 0.0})
    for figures in (
        lambda x: x.mean(axis=(1, 2, 3)),
        lambda x: x.std(axis=(1, 2, 3)),
        lambda x: x.min(axis=(1, 2, 3)),
        lambda x: x.max(axis=(1, 2, 3)),
        lambda x: np.abs(np.diff(x, axis=-1)).mean(axis=(1, 2, 3)),
        lambda x: x[:, 0, 3, 4],
    ):
        # Many samples are only mirrored, and equal but for rounding.
        one, other = (np.round(figures(each), 4) for each in (mine, np.stack(classic)))
        assert ks_2samp(one, other).pvalue > 0.01


def test_a_wrong_range_would_be_seen(image):
    mine = ours(image, blur_probability=1.0, blur_probability_per_channel=1.0, blur_sigma_voxels=(0.6, 1.1))
    other = theirs(image, GaussianBlurTransform((0.5, 1.0), different_sigma_per_axis=True))
    assert ks_2samp(spread(mine)[:, 0], spread(other)[:, 0]).pvalue < 1e-6
