"""Decisions and details of resampling; the numbers themselves are held against scikit-image in tests/property."""

import numpy as np
import pytest
from scipy.ndimage import zoom

from autoseg.transforms.resample import (
    nearest_indices,
    resampled_shape,
    resize,
    resize_labels,
    resize_matrix,
    separate_axis,
)


@pytest.mark.parametrize(
    ("spacing", "target", "force", "expected"),
    [
        ((4.0, 0.7, 0.7), (5.0, 0.8, 0.8), None, 0),
        ((1.0, 1.0, 1.0), (5.0, 0.8, 0.8), None, 0),
        ((0.7, 0.7, 2.2), (5.0, 0.8, 0.8), None, 2),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), None, None),  # three times is not more than three times
        ((5.0, 5.0, 1.0), (5.0, 0.8, 0.8), None, None),
        ((5.0, 0.8, 0.8), (1.0, 1.0, 1.0), False, None),
        ((1.2, 0.8, 0.8), (1.0, 1.0, 1.0), True, 0),
        ((1.0, 1.0, 1.0), (2.0, 1.0, 1.0), True, None),
    ],
)
def test_which_axis_is_apart(spacing, target, force, expected):
    assert separate_axis(spacing, target, force) == expected


def test_shape_rounds_halves_to_even():
    assert resampled_shape((5, 7, 1), (1, 1, 1), (2, 2, 9)) == (2, 4, 1)
    assert resampled_shape((75, 512, 512), (4, 0.7, 0.7), (5, 0.8, 0.8)) == (60, 448, 448)


def test_slices_copied_as_in_the_documentation():
    assert nearest_indices(75, 60)[:5].tolist() == [0, 1, 3, 4, 5]


def test_matrix_is_single_precision_of_the_double():
    matrix = resize_matrix(37, 61, 3)
    exact = np.stack([zoom(unit, 61 / 37, order=3, mode="nearest", grid_mode=True) for unit in np.eye(37)], axis=1)
    np.testing.assert_allclose(matrix, exact, rtol=6e-8, atol=1e-9)
    np.testing.assert_allclose(matrix.sum(axis=1, dtype=np.float64), 1, atol=1e-6)
    assert np.abs(matrix[matrix != 0]).min() >= 1e-9
    assert not matrix.flags.writeable
    assert resize_matrix(37, 61, 3) is matrix


def test_equal_shapes_are_untouched():
    array = np.ones((2, 3, 4, 5), np.float32)
    assert resize(array, (3, 4, 5), 3, 0, 0) is array


def test_a_spline_does_not_overshoot():
    array = np.zeros((1, 4, 12, 12), np.float32)
    array[:, :, 6:] = 1
    for axis in (None, 0):
        resized = resize(array, (4, 30, 30), 3, 0, axis)
        assert resized.min() == 0
        assert resized.max() == 1


def test_the_input_is_not_changed():
    array = np.random.default_rng(0).standard_normal((1, 6, 6, 6)).astype(np.float32)
    before = array.copy()
    for axis in (None, 0, 2):
        resize(array, (6, 9, 4), 3, 0, axis)
        resize(array, (9, 6, 6), 3, 0, axis)
    np.testing.assert_array_equal(array, before)


def test_a_tie_goes_to_the_nearest_label():
    # 4 -> 2: each new voxel lies half way between two old ones; nearest takes the upper.
    label = np.array([3, 1, 1, 3], np.int16).reshape(1, 1, 4)
    assert resize_labels(label, (1, 1, 2), 1, 0, None).ravel().tolist() == [1, 3]


def test_a_tie_without_the_nearest_goes_to_the_smallest():
    # 2x2x2 -> one voxel: each old one weighs 1/8, and the nearest is the last.
    label = np.array([[[4, 4], [4, -1]], [[-1, -1], [7, 7]]], np.int16)
    assert resize_labels(label, (1, 1, 1), 1, 0, None).ravel().tolist() == [-1]


def test_a_label_between_the_new_voxels_is_lost():
    label = np.zeros((1, 1, 9), np.int16)
    label[0, 0, 0] = 2
    assert resize_labels(label, (1, 1, 1), 1, 0, None).ravel().tolist() == [0]
