"""Surface distances against hand-worked numbers, brute force and scipy."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist, directed_hausdorff

from autoseg.evaluate.surface import boundary, joint_box, surface_distances

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.9), (0.3, 2.0, 1.1)]


def brute_boundary(mask):
    """Voxel by voxel: a face neighbour is missing, or lies beyond the image."""
    axes = [axis for axis in range(3) if mask.shape[axis] > 1]
    edge = np.zeros_like(mask)
    for index in zip(*np.nonzero(mask), strict=True):
        neighbours = []
        for axis, step in itertools.product(axes, (-1, 1)):
            other = list(index)
            other[axis] += step
            within = 0 <= other[axis] < mask.shape[axis]
            neighbours.append(within and bool(mask[tuple(other)]))
        edge[index] = not (neighbours and all(neighbours))
    return edge


def brute_distances(first, second, spacing_mm):
    """All pairwise distances between boundary voxels, then the minimum of each row and column."""
    one, two = (np.argwhere(brute_boundary(mask)) * np.array(spacing_mm) for mask in (first, second))
    table = np.sqrt(((one[:, None] - two[None]) ** 2).sum(-1))
    return table.min(axis=1), table.min(axis=0)


def random_masks(rng, shape):
    """A pair of blobs of random density; sometimes with holes, touching the border, far apart."""
    density = rng.uniform(0.02, 0.95, size=2)
    box = [slice(low, low + max(1, length // 2)) for low, length in zip(rng.integers(0, 2, 3), shape, strict=True)]
    masks = [rng.random(shape) < share for share in density]
    if rng.random() < 0.5:
        inside = np.zeros(shape, bool)
        inside[tuple(box)] = True
        masks[0] &= inside
    return masks


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("shape", [(1, 9, 11), (7, 6, 8), (2, 9, 5), (5, 1, 6)])
def test_agrees_with_brute_force(shape, spacing_mm):
    rng = np.random.default_rng(hash((shape, spacing_mm)) % 2**32)
    num_compared = 0
    for _ in range(25):
        first, second = random_masks(rng, shape)
        result = surface_distances(first, second, spacing_mm)
        np.testing.assert_array_equal(boundary(first), brute_boundary(first))
        if not first.any() or not second.any():
            assert not result.defined
            continue
        there_mm, back_mm = brute_distances(first, second, spacing_mm)
        np.testing.assert_allclose(result.to_predicted_mm, there_mm, atol=1e-6)
        np.testing.assert_allclose(result.to_reference_mm, back_mm, atol=1e-6)
        assert result.hd_mm == pytest.approx(max(there_mm.max(), back_mm.max()), abs=1e-6)
        directed_95 = [np.percentile(side, 95) for side in (there_mm, back_mm)]
        assert result.hd95_mm == pytest.approx(max(directed_95), abs=1e-6)
        pooled = np.concatenate([there_mm, back_mm])
        assert result.assd_mm == pytest.approx(pooled.mean(), abs=1e-6)
        assert result.nsd(1.0) == np.mean(pooled <= 1.0 + 1e-9)
        num_compared += 1
    assert num_compared > 10


def test_agrees_with_scipy():
    rng = np.random.default_rng(3)
    first, second = rng.random((2, 9, 10, 11)) < 0.6
    cross = np.zeros((3, 3, 3), bool)
    cross[1, 1, :] = cross[1, :, 1] = cross[:, 1, 1] = True
    edges = [mask & ~binary_erosion(mask, cross, border_value=0) for mask in (first, second)]
    one, two = (np.argwhere(edge) * np.array([3.0, 1.0, 0.5]) for edge in edges)
    result = surface_distances(first, second, (3.0, 1.0, 0.5))
    np.testing.assert_array_equal(boundary(first), edges[0])
    assert result.hd_mm == pytest.approx(max(directed_hausdorff(one, two)[0], directed_hausdorff(two, one)[0]))
    np.testing.assert_allclose(result.to_predicted_mm, cdist(one, two).min(axis=1))


def test_boundary_of_a_hand_sized_block():
    block = np.zeros((5, 5, 5), bool)
    block[1:4, 1:4, 1:4] = True
    edge = boundary(block)
    assert np.count_nonzero(edge) == 26
    assert not edge[2, 2, 2]


def test_image_border_counts_as_outside():
    assert np.count_nonzero(boundary(np.ones((3, 3, 3), bool))) == 26


def test_slice_axis_of_a_picture_does_not_count():
    assert np.count_nonzero(boundary(np.ones((1, 4, 4), bool))) == 12
    assert np.count_nonzero(boundary(np.ones((1, 1, 1), bool))) == 1


def test_one_slice_of_a_volume_is_all_boundary():
    slab = np.zeros((3, 5, 5), bool)
    slab[1, 1:4, 1:4] = True
    # The crop is one slice thick, but the image is not: the middle voxel has free faces above and below.
    assert surface_distances(slab, slab, (1.0, 1.0, 1.0)).to_predicted_mm.size == 9


def test_a_hand_sized_pair():
    reference = np.zeros((1, 1, 8), bool)
    predicted = np.zeros((1, 1, 8), bool)
    reference[0, 0, 1:4] = True  # boundary at 1 and 3
    predicted[0, 0, 1:7] = True  # boundary at 1 and 6
    result = surface_distances(reference, predicted, (9.0, 9.0, 0.5))
    assert result.to_predicted_mm.tolist() == [0.0, 1.0]
    assert result.to_reference_mm.tolist() == [0.0, 1.5]
    assert (result.hd_mm, result.assd_mm) == (1.5, 2.5 / 4)
    assert result.hd95_mm == pytest.approx(0.95 * 1.5)
    assert (result.nsd(0.9), result.nsd(1.0), result.nsd(1.5)) == (0.5, 0.75, 1.0)


def test_tolerance_is_inclusive_whatever_the_rounding():
    reference, predicted = np.zeros((2, 1, 1, 5), bool)
    reference[..., 0] = predicted[..., 3] = True
    assert 3 * 0.1 > 0.3
    assert surface_distances(reference, predicted, (1.0, 1.0, 0.1)).nsd(0.3) == 1.0


def test_both_masks_empty():
    empty = np.zeros((2, 3, 4), bool)
    result = surface_distances(empty, empty, (1.0, 1.0, 1.0))
    assert (result.hd_mm, result.hd95_mm, result.assd_mm, result.nsd(1.0)) == (None, None, None, None)


@pytest.mark.parametrize("turned", [False, True])
def test_one_mask_empty(turned):
    masks = [np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)]
    result = surface_distances(*(masks[::-1] if turned else masks), (1.0, 1.0, 1.0))
    assert (result.hd_mm, result.hd95_mm, result.assd_mm) == (None, None, None)
    assert result.nsd(1e9) == 0.0


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, -1.0, 1.0), (1.0, float("nan"), 1.0)])
def test_spacing_must_be_three_positive_numbers(spacing_mm):
    mask = np.ones((2, 2, 2), bool)
    with pytest.raises(ValueError, match="spacing"):
        surface_distances(mask, mask, spacing_mm)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        surface_distances(np.zeros((1, 2, 3), bool), np.zeros((1, 3, 2), bool), (1.0, 1.0, 1.0))


def test_joint_box_holds_both():
    first, second = np.zeros((2, 4, 5, 6), bool)
    first[1, 2, 3] = second[2, 2, 5] = True
    assert joint_box(first, second) == (slice(1, 3), slice(2, 3), slice(3, 6))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.01, 100), flat=st.booleans())
def test_distances_scale_with_spacing_and_turn_with_the_masks(seed, factor, flat):
    rng = np.random.default_rng(seed)
    first, second = random_masks(rng, (1 if flat else 5, 6, 7))
    spacing_mm = tuple(rng.uniform(0.3, 4, 3))
    result = surface_distances(first, second, spacing_mm)
    scaled = surface_distances(first, second, tuple(factor * step for step in spacing_mm))
    turned = surface_distances(second, first, spacing_mm)
    np.testing.assert_allclose(scaled.to_predicted_mm, factor * result.to_predicted_mm, rtol=1e-9)
    np.testing.assert_array_equal(turned.to_predicted_mm, result.to_reference_mm)
    if result.defined:
        assert 0 <= result.assd_mm <= result.hd_mm
        assert result.hd95_mm <= result.hd_mm
        assert result.nsd(result.hd_mm) == 1.0
