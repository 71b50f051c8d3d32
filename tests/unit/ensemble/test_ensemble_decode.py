"""Labels from probabilities: argmax as the network's, and sets of high expected Dice."""

from itertools import product

import numpy as np
import pytest

from autoseg.ensemble.decode import decode, dice_thresholds, histogram
from autoseg.images.probabilities import WHOLE, to_levels


def softmax(shape, seed, sharpness=3.0):
    logits = np.random.default_rng(seed).standard_normal(shape) * sharpness
    exp = np.exp(logits - logits.max(axis=0))
    return exp / exp.sum(axis=0)


def levels_of(*probabilities):
    """Levels of one foreground class along X, with the background as the rest."""
    p = np.array(probabilities)[None, None]
    return to_levels(np.stack([1 - p, p]))


def test_argmax_is_the_most_likely_class():
    probabilities = softmax((4, 5, 6, 7), 0)
    levels = to_levels(probabilities)
    clear = np.sort(levels, axis=0)[-1] > np.sort(levels, axis=0)[-2]
    np.testing.assert_array_equal(decode([levels], "argmax")[clear], probabilities.argmax(axis=0)[clear])


def test_argmax_of_two_is_that_of_the_mean():
    first, second = levels_of(0.9, 0.4, 0.2), levels_of(0.2, 0.7, 0.7)
    assert decode([first, second], "argmax").ravel().tolist() == [1, 1, 0]


def test_a_tie_goes_to_the_smallest_value():
    levels = np.full((3, 1, 1, 1), 85, np.uint8)
    assert decode([levels], "argmax").item() == 0


def test_regions_are_written_one_over_the_other():
    levels = np.array([200, 200, 10], np.uint8).reshape(1, 1, 1, 3)
    inner = np.array([200, 10, 200], np.uint8).reshape(1, 1, 1, 3)
    assert decode([np.concatenate([levels, inner])], "argmax", (1, 2)).ravel().tolist() == [2, 1, 2]
    assert decode([np.concatenate([levels, inner])], "dice", (1, 2)).ravel().tolist() == [2, 1, 2]


def test_dice_takes_voxels_that_argmax_leaves_out():
    levels = levels_of(0.4, 0.4, 0.4, 0.4, 0.0, 0.0)
    assert decode([levels], "argmax").sum() == 0
    assert decode([levels], "dice").ravel().tolist() == [1, 1, 1, 1, 0, 0]


def test_what_is_most_likely_absent_stays_absent():
    assert decode([levels_of(0.2, 0.02, 0.0)], "dice").sum() == 0
    assert decode([levels_of(0.0, 0.0, 0.0)], "dice").sum() == 0


def test_the_chosen_set_has_the_highest_ratio_of_all_sets():
    rng = np.random.default_rng(3)
    for _ in range(20):
        p = to_levels(rng.random(6) ** 2).astype(float) / WHOLE
        chosen = decode([levels_of(*p)], "dice").ravel().astype(bool)
        ratios = {
            subset: 2 * p[list(subset)].sum() / (len(subset) + p.sum())
            for subset in (tuple(np.flatnonzero(bits)) for bits in product([0, 1], repeat=6))
        }
        best = max(ratios.values())
        if np.prod(1 - p) > best:
            assert not chosen.any()
        else:
            assert ratios[tuple(np.flatnonzero(chosen))] == pytest.approx(best)
            # What theory says of the threshold: half the ratio.
            assert (p[chosen] >= best / 2 - 1 / WHOLE).all()
            assert (p[~chosen] <= best / 2 + 1 / WHOLE).all()


def test_overlaps_go_to_the_class_furthest_above_its_threshold():
    # Class 2 is unlikely everywhere, and so has the lower threshold: it wins where both could be.
    p1, p2 = np.array([0.9, 0.9, 0.5, 0.0]), np.array([0.0, 0.0, 0.45, 0.3])
    levels = to_levels(np.stack([1 - p1 - p2, p1, p2])[:, None, None])
    assert decode([levels], "dice").ravel().tolist() == [1, 1, 2, 2]


def test_thresholds_do_not_depend_on_slabs():
    levels = to_levels(softmax((3, 6, 5, 4), 1)).astype(np.uint16)
    whole = histogram([levels], WHOLE)
    np.testing.assert_array_equal(whole, histogram([levels[:, :2], levels[:, 2:]], WHOLE))
    assert whole.sum(axis=1).tolist() == [120, 120, 120]
    assert dice_thresholds(whole).shape == (3,)
