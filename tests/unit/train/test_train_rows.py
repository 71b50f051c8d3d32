"""Changes of intensity that are off by default: each does what it says to a known image, the same each time."""

import numpy as np
import pytest
import torch
from scipy.ndimage import laplace, median_filter

from autoseg.train.draws import Bumps
from autoseg.train.rows import (
    LARGE_ROW_VOXELS,
    add_gradient,
    along_axes,
    bump,
    change_rows,
    curve_locally,
    median_along,
    sharpen,
    shift,
    smooth_by_median,
    spread,
)

PATCHES = [(6, 7), (5, 6, 7), (2, 8, 8)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def chosen(value, neutral, shape=(2, 2), at=(0, 1)):
    """A value for one channel of one sample."""
    array = np.full(shape, neutral)
    array[at] = value
    return array


def batch(patch):
    return torch.randn(2, 2, *patch)


def changed(change, image, *arguments):
    """What it makes of a copy, which is the same twice, with every channel but the second of the first sample kept."""
    once, again = image.clone(), image.clone()
    change(once, *arguments)
    change(again, *arguments)
    assert torch.equal(once, again)
    for b, c in ((0, 0), (1, 0), (1, 1)):
        assert torch.equal(once[b, c], image[b, c])
    assert not torch.equal(once[0, 1], image[0, 1])
    return once[0, 1]


@pytest.mark.parametrize("patch", PATCHES)
def test_shift_adds(patch):
    image = batch(patch)
    torch.testing.assert_close(changed(shift, image, chosen(0.7, 0.0)), image[0, 1] + 0.7)


@pytest.mark.parametrize("patch", PATCHES)
def test_contrast_that_is_not_clipped_leaves_the_old_range(patch):
    image = batch(patch)
    after = changed(spread, image, chosen(2.0, 1.0), np.array([False, True]))
    mean = image[0, 1].mean()
    torch.testing.assert_close(after, (image[0, 1] - mean) * 2 + mean)
    assert after.max() > image[0, 1].max()


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_a_median_along_a_line_is_scipys(size):
    volume = torch.randn(5, 9)
    for axis in (0, 1):
        window = [1, 1]
        window[axis] = size
        expected = median_filter(volume.numpy(), size=window, mode="nearest")
        if size % 2:
            np.testing.assert_array_equal(median_along(volume, axis, size).numpy(), expected)
        else:
            # Of an even number torch takes the lower of the two in the middle, scipy the upper one.
            upper = -median_along(-volume, axis, size)
            np.testing.assert_array_equal(upper.numpy(), expected)


def test_a_median_takes_single_voxels_away_and_keeps_edges():
    image = torch.zeros(2, 2, 6, 8)
    image[0, 1, :, 4:] = 1
    edge = image.clone()
    image[0, 1, 2, 1] = 9
    torch.testing.assert_close(changed(smooth_by_median, image, chosen(3, 1)), edge[0, 1])


def test_a_flat_patch_has_no_median_across_its_slices():
    image = batch((2, 8, 8))
    after = changed(smooth_by_median, image, chosen(3, 1))
    for z in range(2):
        alone = median_along(median_along(image[0, 1, z], 0, 3), 1, 3)
        torch.testing.assert_close(after[z], alone)


@pytest.mark.parametrize("patch", PATCHES)
def test_sharpening_takes_the_laplacian_away(patch):
    image = batch(patch)
    before = image[0, 1].numpy()
    after = changed(sharpen, image, chosen(0.5, 0.0)).numpy()
    if patch[0] == 2:
        laplacian = np.stack([laplace(slice_yx, mode="nearest") for slice_yx in before])
    else:
        laplacian = laplace(before, mode="nearest")
    np.testing.assert_allclose(after, before - 0.5 * laplacian, atol=1e-5)


def bumps(strength, patch, centre=0.5, sigma=0.3):
    edges = np.asarray(patch)
    shape = (2, 2, len(patch))
    return Bumps(np.broadcast_to(centre * edges, shape), np.broadcast_to(sigma * edges, shape), strength)


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("centre", [0.5, -0.5, 1.5])
def test_a_bump_reaches_from_zero_to_one_and_lies_where_it_was_drawn(patch, centre):
    drawn = bumps(np.ones((2, 2)), patch, centre)
    field = bump(drawn, np.array([1]), torch.zeros(1, *patch))[0]
    assert float(field.min()) == pytest.approx(0, abs=1e-6)
    assert float(field.max()) == pytest.approx(1, abs=1e-6)
    assert field.isfinite().all()
    top = np.unravel_index(int(field.argmax()), patch)
    nearest = [min(max(centre * edge, 0.5), edge - 0.5) for edge in patch]
    assert all(abs(at + 0.5 - near) <= 0.5 for at, near in zip(top, nearest, strict=True))


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("strength", [-2.0, 3.0])
def test_a_gradient_adds_its_strength_at_the_top_and_nothing_far_away(patch, strength):
    image = batch(patch)
    added = changed(add_gradient, image, bumps(chosen(strength, 0.0), patch)) - image[0, 1]
    largest = added.abs().max()
    assert float(added.flatten()[added.abs().argmax()]) == pytest.approx(strength, rel=1e-4)
    assert float(added.abs().min()) < 1e-5 * float(largest) + 1e-6


@pytest.mark.parametrize("patch", PATCHES)
def test_a_local_gamma_bends_intensities_within_their_range_most_at_the_top(patch):
    image = batch(patch)
    drawn = bumps(chosen(3.0, 1.0), patch)
    after, before = changed(curve_locally, image, drawn), image[0, 1]
    assert (after <= before + 1e-5).all()
    assert float(after.min()) >= float(before.min()) - 1e-5
    low, span = before.min(), before.max() - before.min()
    weight = bump(drawn, np.array([1]), torch.zeros(1, *patch))[0]
    share = (before - low) / span
    expected = (share * (1 - weight) + share**3 * weight) * span + low
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=0)


def test_nothing_is_added_where_no_bumps_are_drawn():
    image = batch((4, 4))
    before = image.clone()
    add_gradient(image, None)
    curve_locally(image, None)
    assert torch.equal(image, before)


@pytest.mark.parametrize("edge", [4, LARGE_ROW_VOXELS // 4])
@pytest.mark.parametrize("rows", [[0], [1, 2], [0, 2, 3], [0, 1, 2, 3]])
def test_each_row_is_changed_by_its_own_number_wherever_it_lies(rows, edge):
    image = torch.zeros(2, 2, 4, edge)
    mask = np.zeros((2, 2), dtype=bool)
    mask.ravel()[rows] = True

    def in_place(x, numbers):
        return x.add_(torch.from_numpy(numbers + 1).view(-1, 1, 1))

    def anew(x, numbers):
        return x + torch.from_numpy(numbers + 1).view(-1, 1, 1)

    for change in (in_place, anew):
        change_rows(image, mask, change)
    expected = [2.0 * (row + 1) if row in rows else 0.0 for row in range(4)]
    assert image[:, :, 0, 0].flatten().tolist() == expected
    assert torch.equal(image.amin((2, 3)), image.amax((2, 3)))


@pytest.mark.parametrize("edges", [(3, 4), (3, 4, 5)])
def test_a_matrix_along_each_axis_is_an_einsum(edges):
    rng = np.random.default_rng(0)
    volumes = torch.from_numpy(rng.standard_normal((2, *edges), dtype=np.float32))
    each = [rng.standard_normal((2, n + 1, n), dtype=np.float32) for n in edges]
    matrices = [each[0], None, *each[2:]]
    expected = np.einsum("rij,rj...->ri...", each[0], volumes.numpy())
    if len(edges) == 3:
        expected = np.einsum("rij,rabj->rabi", each[2], expected)
    np.testing.assert_allclose(along_axes(volumes, matrices).numpy(), expected, atol=1e-5)
    shared = [matrix[0] for matrix in each]
    both = along_axes(volumes, shared)
    assert both.shape == (2, *(n + 1 for n in edges))
    torch.testing.assert_close(both[1:], along_axes(volumes[1:], [matrix[None] for matrix in shared]))
