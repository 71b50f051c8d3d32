"""Drawn changes applied: each does what it says, and nothing else."""

from dataclasses import replace
from math import cos, radians, sin

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch.nn import functional

from autoseg.train.augment import augment, pack
from autoseg.train.draws import no_draws
from autoseg.train.loading import values_in
from autoseg.train.rows import coarse_matrix, gaussian_matrices

PATCH = (4, 6, 8)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def sample(patch=PATCH, batch=2, channels=2):
    images = [torch.randn(channels, *patch) for _ in range(batch)]
    labels = [torch.randint(0, 3, patch, dtype=torch.int16) for _ in range(batch)]
    return images, labels


def applied(images, labels, draws, patch=PATCH, masked=(False, False), **options):
    """Images and labels after `augment`."""
    augmented = augment(packed(images, labels, draws, patch), draws, patch, masked, **options)
    return augmented.images, augmented.labels


def packed(images, labels, draws, patch=PATCH):
    """The regions as they are sent to the device."""
    images, labels = [x.numpy() for x in images], [x.numpy() for x in labels]
    return pack(images, labels, draws, patch, values_in(labels))


def factors(value, sample=0, channel=1, batch=2, channels=2):
    """A factor for one channel of one sample."""
    array = np.ones((batch, channels))
    array[sample, channel] = value
    return array


def assert_only_changed(image, images, sample=0, channel=1):
    """Every other channel and sample is as it was."""
    for b, original in enumerate(images):
        for c in range(len(original)):
            assert torch.equal(image[b, c], original[c]) == ((b, c) != (sample, channel)), (b, c)


@pytest.mark.parametrize("patch", [PATCH, (6, 5)])
def test_without_draws_patches_come_back_as_they_are(patch):
    images, labels = sample(patch)
    image, label = applied(images, labels, no_draws(2, 2, patch), patch)
    assert torch.equal(image, torch.stack(images))
    assert torch.equal(label, torch.stack(labels).long())
    assert image.dtype == torch.float32
    assert label.dtype == torch.int64


@pytest.mark.parametrize("patch", [PATCH, (6, 5)])
def test_an_identity_that_moves_is_a_crop_of_the_centre(patch):
    larger = tuple(edge + 2 for edge in patch)
    images, labels = sample(larger)
    draws = replace(no_draws(2, 2, patch), moved=np.array([True, True]))
    image, label = applied(images, labels, draws, patch)
    centre = tuple(slice(1, 1 + edge) for edge in patch)
    for b in range(2):
        torch.testing.assert_close(image[b], images[b][(slice(None), *centre)], rtol=0, atol=1e-5)
        assert torch.equal(label[b], labels[b][centre].long())


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_mirroring_flips_image_and_label_of_the_sample(axes):
    images, labels = sample()
    mirrored = np.zeros((2, 3), dtype=bool)
    mirrored[1, list(axes)] = True
    image, label = applied(images, labels, replace(no_draws(2, 2, PATCH), mirrored=mirrored))
    assert torch.equal(image[0], images[0])
    assert torch.equal(image[1], images[1].flip([axis + 1 for axis in axes]))
    assert torch.equal(label[0], labels[0].long())
    assert torch.equal(label[1], labels[1].flip(axes).long())


def turning(degrees, d, plane):
    matrix = np.eye(d)
    i, j = plane
    matrix[i, i] = matrix[j, j] = cos(radians(degrees))
    matrix[i, j], matrix[j, i] = -sin(radians(degrees)), sin(radians(degrees))
    return matrix


@pytest.mark.parametrize(
    ("patch", "plane"), [((6, 6), (0, 1)), ((3, 6, 6), (1, 2)), ((6, 4, 6), (0, 2)), ((5, 5, 3), (0, 1))]
)
@pytest.mark.parametrize(("degrees", "quarters"), [(90, -1), (-90, 1), (180, 2)])
def test_right_angles_equal_rot90(patch, plane, degrees, quarters):
    images, labels = sample(patch, batch=1)
    draws = replace(no_draws(1, 2, patch), matrices=turning(degrees, len(patch), plane)[None], moved=np.array([True]))
    image, label = applied(images, labels, draws, patch)
    expected = torch.rot90(images[0], quarters, [axis + 1 for axis in plane])
    torch.testing.assert_close(image[0], expected, rtol=0, atol=1e-4)
    assert torch.equal(label[0], torch.rot90(labels[0], quarters, plane).long())


def test_a_turn_of_an_oblong_patch_reads_from_the_larger_source():
    patch = (4, 6)
    draws = replace(no_draws(1, 2, patch), matrices=turning(90, 2, (0, 1))[None], moved=np.array([True]))
    source = draws.source_edges(0, patch)
    assert source == (6, 6)
    images, labels = sample(source, batch=1)
    image, label = applied(images, labels, draws, patch)
    torch.testing.assert_close(image[0], torch.rot90(images[0], -1, [1, 2])[:, 1:5], rtol=0, atol=1e-4)
    assert torch.equal(label[0], torch.rot90(labels[0], -1, [0, 1])[1:5].long())


def test_a_factor_above_one_shrinks_what_is_seen():
    # A linear ramp, read twice as wide.
    ramp = torch.arange(16.0).expand(2, 16, 16).contiguous()
    draws = replace(no_draws(1, 2, (8, 8)), matrices=2 * np.eye(2)[None], moved=np.array([True]))
    assert draws.source_edges(0, (8, 8)) == (16, 16)
    image, _ = applied([ramp], [torch.zeros(16, 16, dtype=torch.int16)], draws, (8, 8))
    torch.testing.assert_close(image[0, 0, 0], torch.arange(8.0) * 2 + 0.5, rtol=0, atol=1e-4)


def test_labels_stay_labels_and_beyond_the_source_is_background():
    images, labels = sample((8, 8), batch=1)
    labels = [torch.where(labels[0] == 1, 7, labels[0])]
    draws = replace(no_draws(1, 2, (8, 8)), matrices=turning(37, 2, (0, 1))[None], moved=np.array([True]))
    image, label = applied(images, labels, draws, (8, 8))
    assert set(label.unique().tolist()) <= {0, 2, 7}
    # The corners of the patch lie outside the source here, since it was not enlarged.
    assert label[0, 0, 0] == 0
    assert image[0, 0, 0, 0] == 0


def test_noise_is_added_to_its_sample():
    images, labels = sample()
    noise = np.random.default_rng(0).standard_normal((2, *PATCH), dtype=np.float32)
    image, _ = applied(images, labels, replace(no_draws(2, 2, PATCH), noise={1: noise}))
    assert torch.equal(image[0], images[0])
    assert torch.equal(image[1], images[1] + torch.from_numpy(noise))


def test_brightness_multiplies_its_channel():
    images, labels = sample()
    image, label = applied(images, labels, replace(no_draws(2, 2, PATCH), brightness=factors(1.25)))
    torch.testing.assert_close(image[0, 1], images[0][1] * 1.25)
    assert_only_changed(image, images)
    assert torch.equal(label, torch.stack(labels).long())


@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_contrast_spreads_about_the_mean_within_the_old_range(factor):
    images, labels = sample()
    image, _ = applied(images, labels, replace(no_draws(2, 2, PATCH), contrast=factors(factor)))
    before, after = images[0][1], image[0, 1]
    expected = ((before - before.mean()) * factor + before.mean()).clamp(before.min(), before.max())
    torch.testing.assert_close(after, expected)
    assert (after.std() > before.std()) == (factor > 1)
    assert_only_changed(image, images)


@pytest.mark.parametrize("name", ["gamma", "gamma_inverted"])
@pytest.mark.parametrize("value", [0.7, 1.5])
def test_gamma_keeps_mean_deviation_and_order(name, value):
    images, labels = sample()
    image, _ = applied(images, labels, replace(no_draws(2, 2, PATCH), **{name: factors(value)}))
    before, after = images[0][1].flatten(), image[0, 1].flatten()
    torch.testing.assert_close(after.mean(), before.mean(), rtol=0, atol=1e-5)
    torch.testing.assert_close(after.std(), before.std(), rtol=1e-4, atol=0)
    assert torch.equal(after.argsort(), before.argsort())
    # Which end is stretched: above 1 the bright one, inverted the dark one.
    middle = after[before.argsort()[len(before) // 2]] - before[before.argsort()[len(before) // 2]]
    assert (middle < 0) == ((value > 1) == (name == "gamma"))
    assert_only_changed(image, images)


def test_gamma_leaves_a_constant_patch_alone():
    images = [torch.full((1, 4, 4), 3.0)]
    draws = replace(no_draws(1, 1, (4, 4)), gamma=np.array([[1.5]]), contrast=np.array([[1.2]]))
    image, _ = applied(images, [torch.zeros(4, 4, dtype=torch.int16)], draws, (4, 4), (False,))
    torch.testing.assert_close(image, torch.full((1, 1, 4, 4), 3.0))


def test_blur_smooths_along_each_axis_by_its_own_sigma():
    images, labels = sample()
    sigma = np.zeros((2, 2, 3))
    sigma[0, 1] = (0.5, 0.75, 1.0)
    image, _ = applied(images, labels, replace(no_draws(2, 2, PATCH), blur_sigma_voxels=sigma))
    expected = images[0][1].numpy()
    for axis in range(3):
        expected = gaussian_filter1d(expected, sigma[0, 1, axis], axis=axis, mode="mirror", truncate=4)
    np.testing.assert_allclose(image[0, 1].numpy(), expected, atol=2e-3)
    assert_only_changed(image, images)


def test_low_resolution_goes_down_to_the_nearest_and_back_linearly():
    images, labels = sample()
    image, _ = applied(images, labels, replace(no_draws(2, 2, PATCH), low_resolution=factors(0.5)))
    small = functional.interpolate(images[0][1][None, None], size=(2, 3, 4), mode="nearest-exact")
    expected = functional.interpolate(small, size=PATCH, mode="trilinear")[0, 0]
    torch.testing.assert_close(image[0, 1], expected)
    assert_only_changed(image, images)


def test_low_resolution_keeps_the_slices_of_a_flat_patch_apart():
    patch = (2, 8, 8)
    images, labels = sample(patch)
    image, _ = applied(images, labels, replace(no_draws(2, 2, patch), low_resolution=factors(0.5)), patch)
    for z in range(2):
        small = functional.interpolate(images[0][1, z][None, None], size=(4, 4), mode="nearest-exact")
        expected = functional.interpolate(small, size=(8, 8), mode="bilinear")[0, 0]
        torch.testing.assert_close(image[0, 1, z], expected)


def test_masked_channels_are_zero_outside_and_outside_is_background():
    images, labels = sample()
    labels[0][:, :2] = -1
    noise = np.ones((2, *PATCH), np.float32)
    image, label = applied(images, labels, replace(no_draws(2, 2, PATCH), noise={0: noise}), masked=(True, False))
    assert not image[0, 0, :, :2].any()
    assert torch.equal(image[0, 0, :, 2:], images[0][0, :, 2:] + 1)
    assert torch.equal(image[0, 1], images[0][1] + 1)
    assert torch.equal(image[1], images[1])
    assert not label[0, :, :2].any()
    assert int(label.min()) == 0


@pytest.mark.parametrize("n", [1, 2, 5, 16])
@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0, 3.0])
def test_a_blur_matrix_keeps_constants_and_is_scipys_filter(n, sigma):
    # Beside a wider one, whose radius must not change it.
    matrix, _ = gaussian_matrices(n, np.array([sigma, 3.5]))
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)
    line = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    expected = gaussian_filter1d(line, sigma, mode="mirror", truncate=4) if sigma else line
    np.testing.assert_allclose(matrix @ line, expected, atol=1e-3)


@pytest.mark.parametrize(("n", "m"), [(8, 4), (9, 5), (7, 7), (6, 1), (16, 11)])
def test_a_coarse_matrix_is_torchs_interpolation_there_and_back(n, m):
    line = torch.randn(1, 1, n)
    small = functional.interpolate(line, size=m, mode="nearest-exact")
    expected = functional.interpolate(small, size=n, mode="linear")[0, 0]
    torch.testing.assert_close(torch.from_numpy(coarse_matrix(n, m)) @ line[0, 0], expected)


def test_changes_do_not_reach_the_sources_of_other_samples():
    images, labels = sample()
    kept = [x.clone() for x in images], [x.clone() for x in labels]
    draws = replace(no_draws(2, 2, PATCH), brightness=factors(2.0), mirrored=np.ones((2, 3), dtype=bool))
    applied(images, labels, draws, masked=(True, True))
    for now, before in zip((*images, *labels), (*kept[0], *kept[1]), strict=True):
        assert torch.equal(now, before)
