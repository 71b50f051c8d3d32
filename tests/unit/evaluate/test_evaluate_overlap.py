"""Overlap metrics against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from autoseg.evaluate.overlap import Overlap, label_overlaps, overlap


def test_a_hand_sized_pair():
    reference = np.array([[[1, 1, 1, 0], [0, 0, 0, 0]]], dtype=bool)
    predicted = np.array([[[0, 1, 1, 1], [1, 0, 0, 0]]], dtype=bool)
    counts = overlap(reference, predicted)
    assert counts == Overlap(n_reference_voxels=3, n_predicted_voxels=4, n_common_voxels=2)
    assert (counts.dice, counts.iou, counts.sensitivity, counts.precision) == (4 / 7, 2 / 5, 2 / 3, 2 / 4)


def test_equal_masks_are_perfect():
    mask = np.array([[[True, False]]])
    counts = overlap(mask, mask)
    assert (counts.dice, counts.iou, counts.sensitivity, counts.precision) == (1, 1, 1, 1)


def test_both_masks_empty_leaves_all_undefined():
    counts = Overlap(0, 0, 0)
    assert (counts.dice, counts.iou, counts.sensitivity, counts.precision) == (None, None, None, None)


@pytest.mark.parametrize(("n_reference", "n_predicted"), [(5, 0), (0, 5)])
def test_one_mask_empty_scores_zero_throughout(n_reference, n_predicted):
    counts = Overlap(n_reference, n_predicted, 0)
    assert (counts.dice, counts.iou, counts.sensitivity, counts.precision) == (0, 0, 0, 0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        overlap(np.zeros((1, 2, 3), bool), np.zeros((1, 3, 2), bool))


@given(st.data())
def test_dice_and_iou_are_symmetric_and_agree_with_each_other(data):
    shape = data.draw(array_shapes(min_dims=3, max_dims=3, max_side=5))
    first, second = (data.draw(arrays(bool, shape)) for _ in range(2))
    there, back = overlap(first, second), overlap(second, first)
    assert (there.dice, there.iou) == (back.dice, back.iou)
    assert (there.sensitivity, there.precision) == (back.precision, back.sensitivity)
    if there.dice is not None:
        assert 0 <= there.iou <= there.dice <= 1
        assert there.iou == pytest.approx(there.dice / (2 - there.dice))


def test_all_labels_in_one_pass_are_each_by_itself():
    rng = np.random.default_rng(0)
    reference, predicted = (rng.choice([0, 1, 3, 7, 9], (4, 5, 6)).astype(np.uint16) for _ in range(2))
    labels = {"a": 1, "b": 3, "both": (1, 3), "absent": 5, "c": 7}
    found = label_overlaps(reference, predicted, labels)
    assert list(found) == list(labels)
    for name, value in labels.items():
        values = value if isinstance(value, tuple) else (value,)
        assert found[name] == overlap(np.isin(reference, values), np.isin(predicted, values))
    with pytest.raises(ValueError, match="differ in shape"):
        label_overlaps(reference, predicted[1:], labels)
