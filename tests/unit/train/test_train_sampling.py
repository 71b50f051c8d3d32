"""Where patches are taken, and the voxels there."""

import numpy as np
import pytest

from autoseg.train.sampling import choose_corner, forced_foreground, read_region, weigh_rare_classes

NOWHERE = np.empty((0, 4), np.int32)


@pytest.mark.parametrize(
    ("batch", "share", "forced"), [(2, 0.33, 1), (12, 0.33, 4), (7, 0.33, 2), (1, 0.33, 0), (4, 0.0, 0), (4, 1.0, 4)]
)
def test_how_many_samples_are_forced(batch, share, forced):
    # 7: round(4.69) = 5 are free; 1: round(0.67) = 1 is.
    assert forced_foreground(batch, share).tolist() == [False] * (batch - forced) + [True] * forced


@pytest.mark.parametrize("shape", [(10, 12, 14), (4, 5, 6)])
@pytest.mark.parametrize("patch", [(4, 5, 6), (1, 5, 3)])
def test_free_corners_stay_in_bounds_and_reach_both_ends(shape, patch):
    rng = np.random.default_rng(0)
    corners = np.array([choose_corner(rng, shape, patch, NOWHERE, foreground=False) for _ in range(500)])
    assert corners.min(axis=0).tolist() == [0, 0, 0]
    assert corners.max(axis=0).tolist() == [n - edge for n, edge in zip(shape, patch, strict=True)]


def test_a_volume_smaller_than_the_patch_lies_in_its_middle():
    rng = np.random.default_rng(0)
    for _ in range(20):
        corner = choose_corner(rng, (4, 5, 30), (8, 8, 8), NOWHERE, foreground=False)
        assert corner[:2] == (-2, -1)
        assert 0 <= corner[2] <= 22


@pytest.mark.parametrize(
    ("shape", "patch"), [((20, 24, 28), (8, 9, 10)), ((6, 30, 5), (8, 9, 10)), ((7, 9, 9), (1, 4, 16))]
)
def test_the_foreground_voxel_lies_in_the_patch(shape, patch):
    rng = np.random.default_rng(1)
    for _ in range(300):
        voxel = np.array([int(rng.integers(n)) for n in shape])
        locations = np.array([[1, *voxel]], np.int32)
        corner = np.array(choose_corner(rng, shape, patch, locations, foreground=True))
        assert (corner <= voxel).all()
        assert (voxel < corner + patch).all()
        missing = np.maximum(0, np.array(patch) - shape)
        assert (corner >= -(missing // 2)).all()


def test_the_patch_is_centred_on_the_voxel_but_not_below_the_lower_end():
    rng = np.random.default_rng(0)
    locations = np.array([[1, 2, 10, 19]], np.int32)
    # Below: clamped to 0. Within: centred. Above: into the padding, as in nnU-Net.
    assert choose_corner(rng, (20, 20, 20), (8, 8, 8), locations, foreground=True) == (0, 6, 15)


def test_classes_are_drawn_equally_often_however_rare():
    rng = np.random.default_rng(0)
    locations = np.array([[1, 5, 5, 5]] * 990 + [[2, 15, 15, 15]] * 10, np.int32)
    corners = [choose_corner(rng, (20, 20, 20), (1, 1, 1), locations, foreground=True) for _ in range(1000)]
    rare = corners.count((15, 15, 15))
    assert rare + corners.count((5, 5, 5)) == 1000
    assert abs(rare - 500) <= 4 * 250**0.5


def test_without_foreground_a_forced_patch_may_lie_anywhere():
    rng = np.random.default_rng(0)
    corners = {choose_corner(rng, (9, 9, 9), (8, 8, 8), NOWHERE, foreground=True) for _ in range(100)}
    assert corners == {(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)}


def test_classes_of_a_case_are_drawn_by_their_weights():
    rng = np.random.default_rng(0)
    locations = np.array([[1, 5, 5, 5]] * 990 + [[3, 15, 15, 15]] * 10, np.int32)
    weights = np.array([1.0, 50.0, 4.0])  # the case has no voxel of class 2
    corners = [
        choose_corner(rng, (20, 20, 20), (1, 1, 1), locations, foreground=True, class_weights=weights)
        for _ in range(1000)
    ]
    rare = corners.count((15, 15, 15))
    assert rare + corners.count((5, 5, 5)) == 1000
    assert abs(rare - 800) <= 4 * 160**0.5


# Twenty cases with an organ; one of them has a lesion too.
ONE_IN_TWENTY = np.array([[True, case == 7] for case in range(20)])


@pytest.mark.parametrize(("strength", "factor"), [(0.0, 1.0), (0.5, 20**0.5), (1.0, 20.0)])
def test_a_class_weighs_by_how_few_cases_have_it_and_a_case_as_its_weightiest_class(strength, factor):
    rare = weigh_rare_classes(ONE_IN_TWENTY, strength)
    assert rare.class_weights == pytest.approx([1.0, factor])
    expected = [factor / (19 + factor) if case == 7 else 1 / (19 + factor) for case in range(20)]
    assert rare.case_probabilities == pytest.approx(expected)


def test_classes_that_no_case_has_and_cases_without_any_weigh_one():
    rare = weigh_rare_classes(np.array([[True, False], [False, False]]), 1.0)
    assert rare.class_weights == pytest.approx([2.0, 1.0])
    assert rare.case_probabilities == pytest.approx([2 / 3, 1 / 3])


SPARSE = np.array([[0, 3, 3, 3]] * 5 + [[1, 5, 5, 5]] * 5 + [[2, 7, 7, 7]] * 5, np.int32)


def test_in_sparsely_annotated_cases_a_free_patch_is_centred_on_an_annotated_voxel():
    rng = np.random.default_rng(0)
    free = {choose_corner(rng, (9, 9, 9), (1, 1, 1), SPARSE, foreground=False) for _ in range(50)}
    assert free == {(3, 3, 3)}


def test_in_sparsely_annotated_cases_a_forced_patch_is_centred_on_foreground():
    rng = np.random.default_rng(0)
    forced = {choose_corner(rng, (9, 9, 9), (1, 1, 1), SPARSE, foreground=True) for _ in range(50)}
    assert forced == {(5, 5, 5), (7, 7, 7)}


def test_without_foreground_a_forced_patch_is_centred_on_an_annotated_voxel():
    rng = np.random.default_rng(0)
    forced = {choose_corner(rng, (9, 9, 9), (1, 1, 1), SPARSE[:5], foreground=True) for _ in range(50)}
    assert forced == {(3, 3, 3)}


@pytest.fixture
def volume():
    return np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)


def test_a_region_inside_is_a_copy(volume):
    region = read_region(volume, (1, 1, 2), (2, 2, 3), 0)
    np.testing.assert_array_equal(region, volume[:, 1:3, 1:3, 2:5])
    region[:] = 0
    assert volume.any(axis=(1, 2, 3)).all()
    assert volume[0, 1, 1, 2] != 0


@pytest.mark.parametrize(
    ("start", "edges"),
    [
        ((-1, 0, 0), (2, 4, 5)),
        ((0, 2, 3), (3, 4, 6)),
        ((-2, -3, -1), (9, 9, 9)),
        ((2, 3, 4), (1, 1, 1)),
        ((3, 4, 5), (2, 2, 2)),
        ((-4, 0, 0), (2, 2, 2)),
    ],
)
def test_outside_the_volume_is_filled(volume, start, edges):
    padded = np.pad(volume, ((0, 0), *[(10, 10)] * 3), constant_values=-7)
    expected = padded[(slice(None), *(slice(10 + at, 10 + at + edge) for at, edge in zip(start, edges, strict=True)))]
    region = read_region(volume, start, edges, -7)
    np.testing.assert_array_equal(region, expected)
    assert region.dtype == volume.dtype


def test_label_maps_have_no_channels(volume):
    region = read_region(volume[0], (-1, 0, 0), (2, 4, 5), -1)
    assert region.shape == (2, 4, 5)
    assert (region[0] == -1).all()
    np.testing.assert_array_equal(region[1], volume[0, 0])
