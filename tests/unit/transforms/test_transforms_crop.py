"""The box of non-zero voxels."""

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes

from autoseg.transforms import crop
from autoseg.transforms.crop import Box, cropped_box, nonzero_box, uncrop


def zeros(*shape):
    return np.zeros(shape, np.float32)


def test_box_holds_what_any_channel_shows():
    array = zeros(2, 5, 6, 7)
    array[0, 1, 2, 3] = -4
    array[1, 3, 2, 5] = 1e-30
    box, mask = nonzero_box(array)
    assert box == Box((1, 2, 3), (4, 3, 6))
    assert box.shape == (3, 1, 3) == mask.shape
    assert mask.sum() == 2


def test_closed_holes_belong_to_the_mask():
    array = zeros(1, 7, 7, 7)
    array[0, 1:6, 1:6, 1:6] = 1
    array[0, 2:5, 2:5, 2:5] = 0
    assert nonzero_box(array) == (Box((1, 1, 1), (6, 6, 6)), None)


def test_a_hole_open_to_one_side_stays():
    array = zeros(1, 5, 5, 5)
    array[0] = 1
    array[0, 2:, 2, 2] = 0
    _, mask = nonzero_box(array)
    np.testing.assert_array_equal(mask, array[0] != 0)


def test_nothing_is_filled_in_a_single_slice():
    array = zeros(1, 1, 5, 5)
    array[0, 0] = 1
    array[0, 0, 2, 2] = 0
    box, mask = nonzero_box(array)
    assert box.shape == (1, 5, 5)
    assert not mask[0, 2, 2]


def test_an_empty_image_is_kept_whole():
    box, mask = nonzero_box(zeros(1, 3, 4, 5))
    assert box == Box((0, 0, 0), (3, 4, 5))
    assert not mask.any()


def test_a_full_image_needs_no_mask():
    assert nonzero_box(zeros(1, 3, 4, 5) - 1024) == (Box((0, 0, 0), (3, 4, 5)), None)


def test_uncrop_puts_back():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) + 1
    box = Box((1, 0, 2), (3, 3, 6))
    whole = uncrop(array, box, (4, 3, 7))
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole[box.slices], array)
    assert whole.sum() == array.sum()
    assert uncrop(array[None], box, (4, 3, 7), fill=9)[0, 0, 0, 0] == 9


@pytest.mark.parametrize("share", [0.001, 0.02, 0.06])
def test_sparse_holes_are_filled_as_scipy_does(share):
    rng = np.random.default_rng(0)
    array = (rng.random((1, 20, 40, 40)) > share).astype(np.float32)
    array[0, 3:9, 10, 10:14] = 0  # a pocket
    array[0, 12:, 20, 20] = 0  # a tunnel to a face
    _, mask = nonzero_box(array)
    expected = binary_fill_holes(array[0] != 0)
    assert not expected.all()
    np.testing.assert_array_equal(mask, expected)


def test_box_alone_is_the_same():
    rng = np.random.default_rng(1)
    for share in (0.5, 0.02, 0.002):
        array = (rng.random((2, 6, 7, 8)) < share).astype(np.float32)
        assert cropped_box(array) == nonzero_box(array)[0]


def test_a_long_tunnel_is_open(monkeypatch):
    volume = np.ones((1, 20, 30, 40), np.float32)
    volume[0, 10, 15, 1:] = 0
    volume[0, 5, 5, 5] = 0
    _, expected = nonzero_box(volume)
    monkeypatch.setattr(crop, "MOST_ROUNDS", 3)
    _, found = nonzero_box(volume)
    np.testing.assert_array_equal(found, expected)
    assert not found[10, 15, 20]
    assert found[5, 5, 5]
