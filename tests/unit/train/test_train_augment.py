"""Drawn changes applied: each does what it says, and nothing else."""

from dataclasses import fields, replace
from math import cos, radians, sin

import msgspec
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from autoseg.artifacts.augmentation import Augmentation
from autoseg.train import augment as module
from autoseg.train.augment import augment, pack, spline_matrix, vote
from autoseg.train.draws import SPLINE_ORDER, draw, no_draws
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


# Everything often, so that a batch of a few has it all.
OFTEN = Augmentation(
    **{
        **dict.fromkeys(
            [name for name in Augmentation.__struct_fields__ if name.endswith(("_probability", "_per_channel"))], 0.6
        ),
        "strong": True,
        "mixup_probability": 1.0,
    }
)


def drawn_batch(recipe, patch, batch, channels=2, seed=0, num_values=3):
    """A batch with regions as large as they have to be."""
    rng = np.random.default_rng(seed)
    draws = draw(rng, recipe, batch, channels, patch, range(len(patch)))
    edges = [draws.source_edges(i, patch) for i in range(batch)]
    images = [rng.standard_normal((channels, *edge), dtype=np.float32) for edge in edges]
    labels = [rng.integers(-1, num_values, edge).astype(np.int16) for edge in edges]
    return images, labels, draws


def regions_of(images, labels, draws, patch):
    return pack(images, labels, draws, patch, values_in([labels[i] for i in np.flatnonzero(draws.moved)]))


def only(draws, i):
    """What is drawn for one sample alone, but for what it takes from others."""
    one = {
        field.name: value[i : i + 1]
        for field in fields(draws)
        if isinstance(value := getattr(draws, field.name), np.ndarray)
        and field.name not in ("pasted_from", "mixed_with")
    }
    for name in ("gradient", "local_gamma"):
        bumps = getattr(draws, name)
        one[name] = replace(bumps, **{f.name: getattr(bumps, f.name)[i : i + 1] for f in fields(bumps)})
    for name in ("noise", "elastic"):
        there = getattr(draws, name)
        one[name] = {0: there[i]} if i in there else {}
    boxes = tuple(replace(box, sample=0) for box in draws.cut_out if box.sample == i)
    return replace(draws, **one, cut_out=boxes, pasted_from=np.arange(1), mixed_with=np.arange(1), own_share=1.0)


@pytest.mark.parametrize("patch", [(8, 10), (8, 8, 10), (2, 9, 9)])
def test_a_sample_is_changed_alike_alone_and_in_a_batch(patch):
    among_themselves = {"copy_paste_probability": 0.0, "cutmix_probability": 0.0, "mixup_probability": 0.0}
    moving = {"rotation_probability": 0.3, "scaling_probability": 0.2, "elastic_probability": 0.3}
    recipe = msgspec.structs.replace(OFTEN, **among_themselves, **moving)
    images, labels, draws = drawn_batch(recipe, patch, 12)
    assert 2 <= draws.moved.sum() < 12
    assert draws.elastic
    together = augment(regions_of(images, labels, draws, patch), draws, patch, (True, False))
    for i in range(12):
        mine = only(draws, i)
        alone = augment(regions_of(images[i : i + 1], labels[i : i + 1], mine, patch), mine, patch, (True, False))
        torch.testing.assert_close(together.images[i], alone.images[0], atol=1e-4, rtol=1e-4)
        assert (together.labels[i] != alone.labels[0]).float().mean() < 0.01  # ties may fall either way


@pytest.mark.parametrize("patch", [(8, 10), (8, 8, 10), (2, 9, 9)])
def test_the_same_draw_gives_the_same_twice(patch):
    images, labels, draws = drawn_batch(OFTEN, patch, 6)
    once, again = (
        augment(regions_of(images, labels, draws, patch), draws, patch, (True, False), ignore=2) for _ in range(2)
    )
    for name in ("images", "labels", "other_labels"):
        assert torch.equal(getattr(once, name), getattr(again, name))
    assert once.own_share == again.own_share < 1
    assert once.images.isfinite().all()


class Counted(TorchDispatchMode):
    """Counts what torch is asked to compute, and notes what would make the host wait for the device."""

    # Views, and what is made on the host to be sent.
    FREE = ("view", "slice", "select", "transpose", "permute", "expand", "unsqueeze", "squeeze", "detach", "alias")
    WAITING = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.names, self.largest = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if not any(free in name for free in self.FREE):
            self.names.append(name)
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel() * result.element_size())
        return result

    @property
    def waiting(self):
        return [name for name in self.names if name in self.WAITING]


@pytest.mark.parametrize("patch", [(8, 10), (8, 10, 8)])
def test_a_large_batch_takes_no_more_operations_than_a_small_one(patch):
    counts = {}
    for batch in (8, 200):
        images, labels, draws = drawn_batch(Augmentation(), patch, batch, channels=1, seed=1)
        regions = regions_of(images, labels, draws, patch)
        with Counted() as counted:
            augment(regions, draws, patch, (True,))
        assert not counted.waiting
        counts[batch] = len(counted.names)
    # A batch of 200 has a bit of everything, and about 72 of its samples are moved.
    assert counts[200] < 150
    assert counts[200] < 3 * counts[8]


def test_the_extras_do_not_make_the_host_wait():
    images, labels, draws = drawn_batch(OFTEN, (8, 8, 8), 6)
    regions = regions_of(images, labels, draws, (8, 8, 8))
    with Counted() as counted:
        augment(regions, draws, (8, 8, 8), (True, True), ignore=2)
    assert not counted.waiting


def centred_grid(patch, turn, source):
    """A grid for `vote`, turned within the first two axes."""
    d = len(patch)
    draws = replace(no_draws(1, 1, patch), matrices=turning(turn, d, (0, 1))[None], moved=np.array([True]))
    image, label = np.zeros((1, *source), np.float32), np.zeros(source, np.int16)
    return module._grid(pack([image], [label], draws, patch, (0,)).moving[0], draws, patch)


@pytest.mark.parametrize(("patch", "source"), [((9, 9), (15, 15)), ((6, 6, 5), (10, 10, 5))])
@pytest.mark.parametrize("values", [(0,), (3,), (0, 1), (-1, 0, 2, 7), (-1, 0, *range(1, 120))])
def test_the_label_with_the_most_votes_wins(patch, source, values):
    rng = np.random.default_rng(0)
    label = torch.from_numpy(rng.choice(values, (1, *source)).astype(np.int16))
    grid = centred_grid(patch, 31, source)
    shares = torch.stack(
        [
            functional.grid_sample((label == v).double()[:, None], grid.double(), align_corners=False)[:, 0]
            for v in values
        ]
    )
    winner = vote(label, grid, values)
    assert winner.dtype == torch.int16
    mine = torch.zeros_like(shares[0])
    for value, share in zip(values, shares, strict=True):
        mine = torch.where(winner == value, share, mine)
    torch.testing.assert_close(mine, shares.max(0).values, atol=1e-5, rtol=0)


def test_memory_for_votes_does_not_grow_with_the_number_of_labels(monkeypatch):
    values = tuple(range(100))
    label = torch.from_numpy(np.random.default_rng(0).choice(values, (1, 16, 16, 16)).astype(np.int16))
    grid = centred_grid((12, 12, 12), 31, (16, 16, 16))
    at_once = vote(label, grid, values)
    limit = 5 * 4 * label.numel()
    monkeypatch.setattr(module, "VOTES_BYTES", limit)
    with Counted() as counted:
        in_parts = vote(label, grid, values)
    assert torch.equal(at_once, in_parts)
    assert counted.largest <= limit


def test_regions_too_large_to_be_padded_together_are_moved_apart(monkeypatch):
    patch = (8, 8)
    always = Augmentation(rotation_probability=1.0, scaling_probability=1.0)
    images, labels, draws = drawn_batch(always, patch, 9)
    together = regions_of(images, labels, draws, patch)
    assert [len(group.samples) for group in together.moving] == [9]
    expected = augment(together, draws, patch, (False, False))
    largest = max(image.size for image in images)
    monkeypatch.setattr(module, "GROUP_BYTES", 4 * 4 * largest)
    apart = regions_of(images, labels, draws, patch)
    assert sum((group.samples for group in apart.moving), ()) == tuple(range(9))
    assert 2 <= max(len(group.samples) for group in apart.moving) < 9
    assert all(group.images.numel() <= 4 * largest for group in apart.moving)
    found = augment(apart, draws, patch, (False, False))
    torch.testing.assert_close(found.images, expected.images, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("mirrored", [(), (0,), (1, 2)])
@pytest.mark.parametrize(("quarters", "flips"), [(1, (1,)), (2, (1, 2)), (3, (2,))])
def test_quarter_turns_follow_mirroring_and_are_rot90(quarters, flips, mirrored, moved):
    patch = (4, 6, 6)
    images, labels = sample(patch, batch=1)
    axes = np.arange(3)
    if quarters != 2:
        axes[[1, 2]] = 2, 1
    flipped = np.isin(axes, mirrored)
    flipped[list(flips)] ^= True
    draws = replace(no_draws(1, 2, patch), axes=axes[None], mirrored=flipped[None], moved=np.array([moved]))
    image, label = applied(images, labels, draws, patch)
    before, before_label = images[0].flip([axis + 1 for axis in mirrored]), labels[0].flip(mirrored)
    turns = {tuple(x.flatten().tolist()) for x in (torch.rot90(before_label, k, (1, 2)) for k in (1, 2, 3))}
    assert tuple(label[0].int().flatten().tolist()) in turns
    k = next(k for k in (1, 2, 3) if torch.equal(torch.rot90(before_label, k, (1, 2)), label[0].to(torch.int16)))
    assert (k == 2) == (quarters == 2)
    torch.testing.assert_close(image[0], torch.rot90(before, k, (2, 3)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("n", "cells"), [(8, 1), (12, 3), (40, 5)])
def test_a_spline_keeps_straight_lines_straight(n, cells):
    matrix = spline_matrix(n, cells + SPLINE_ORDER)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    # Control points at -1, 0, 1, ... cells + 1, in cells.
    np.testing.assert_allclose(matrix @ np.arange(-1, cells + 2), (np.arange(n) + 0.5) / n * cells, atol=1e-5)
    assert (spline_matrix(n, 1) == 1).all()


@pytest.mark.parametrize("patch", [(8, 10), (8, 10, 9)])
def test_control_points_that_all_move_alike_shift_the_patch(patch):
    d = len(patch)
    source = tuple(edge + 4 for edge in patch)
    images, labels = sample(source, batch=2)
    offset = np.array([1.0, -2.0, 0.0][:d])
    points = np.broadcast_to(offset.reshape(-1, *(1,) * d), (d, *(5,) * d)).astype(np.float32)
    draws = replace(no_draws(2, 2, patch), elastic={1: points}, moved=np.array([True, True]))
    image, label = applied(images, labels, draws, patch)
    for i, by in enumerate((np.zeros(d), offset)):
        box = tuple(slice(2 + int(o), 2 + int(o) + edge) for o, edge in zip(by, patch, strict=True))
        torch.testing.assert_close(image[i], images[i][(slice(None), *box)], atol=1e-4, rtol=0)
        assert torch.equal(label[i], labels[i][box].long())


@pytest.mark.parametrize("patch", [(12, 14), (12, 14, 12), (2, 14, 14)])
def test_a_deformed_patch_shows_every_place_where_its_spline_says(patch):
    off = dict.fromkeys([name for name in Augmentation.__struct_fields__ if name.endswith("_probability")], 0.0)
    on = {"elastic_probability": 1.0, "elastic_magnitude": (0.3, 0.3), "rotation_probability": 1.0}
    recipe = Augmentation(**{**off, **on})
    draws = draw(np.random.default_rng(0), recipe, 2, len(patch), patch, ())
    edges = [draws.source_edges(i, patch) for i in range(2)]
    # Each channel tells where along an axis, from the centre.
    ramps = [
        np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in edge), indexing="ij")).astype(np.float32)
        for edge in edges
    ]
    image = augment(
        regions_of(ramps, [np.zeros(edge, np.int16) for edge in edges], draws, patch), draws, patch, (False,) * 3
    ).images
    for i in range(2):
        grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in patch), indexing="ij"))
        field = draws.elastic[i].astype(float)
        for axis, n in enumerate(patch):
            field = np.moveaxis(
                np.tensordot(spline_matrix(n, field.shape[axis + 1]), field, axes=(1, axis + 1)), 0, axis + 1
            )
        expected = np.tensordot(draws.mapping(i), grid + field, axes=(1, 0))
        np.testing.assert_allclose(image[i].numpy(), expected, atol=2e-3)
        assert np.abs(field).max() > 0.3
        if patch[0] == 2:
            assert not field[0].any()
            np.testing.assert_array_equal(field[:, 0], field[:, 1])


def in_double(regions):
    return replace(
        regions,
        images=regions.images.double(),
        noise=regions.noise.double(),
        moving=tuple(replace(group, images=group.images.double()) for group in regions.moving),
    )


def assert_agree(one, other):
    """Within rounding; labels but for ties."""
    spread = float(other.images.std())
    assert float((one.images.double().cpu() - other.images.double().cpu()).abs().max()) < 1e-3 * spread
    for name in ("labels", "other_labels"):
        different = getattr(one, name).cpu() != getattr(other, name).cpu()
        assert float(different.float().mean()) < 0.002


@pytest.mark.parametrize("patch", [(16, 20), (12, 16, 12)])
def test_single_and_double_precision_agree(patch):
    images, labels, draws = drawn_batch(OFTEN, patch, 6)
    single = augment(regions_of(images, labels, draws, patch), draws, patch, (True, False))
    double = augment(in_double(regions_of(images, labels, draws, patch)), draws, patch, (True, False))
    assert double.images.dtype == torch.float64
    assert_agree(single, double)


@pytest.mark.gpu
@pytest.mark.parametrize("patch", [(16, 20), (12, 16, 12)])
def test_cpu_and_gpu_agree(patch):
    images, labels, draws = drawn_batch(OFTEN, patch, 6)
    here = augment(regions_of(images, labels, draws, patch), draws, patch, (True, False), ignore=2)
    there = augment(
        pack(images, labels, draws, patch, values_in(labels), pinned=True).to(torch.device("cuda")),
        draws,
        patch,
        (True, False),
        ignore=2,
    )
    assert there.images.is_cuda
    assert_agree(there, here)
