"""Components of two masks against each other: hand-drawn ones, and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from autoseg.evaluate.lesions import Lesions, match_lesions

EVERYWHERE = np.ones((3, 3, 3), bool)


def drawn(*rows):
    """A mask of one slice: # is in it."""
    return np.array([[[sign == "#" for sign in row] for row in rows]])


def most_pairs(reference, predicted, least_iou):
    """Try every way to give each predicted component one of the reference's, or none."""
    there, num_there = label(reference, EVERYWHERE)
    found, num_found = label(predicted, EVERYWHERE)

    def pairs_up(one, two):
        common = np.count_nonzero((there == one) & (found == two))
        return common > 0 and common / np.count_nonzero((there == one) | (found == two)) >= least_iou - 1e-12

    allowed = [[one for one in range(1, num_there + 1) if pairs_up(one, two)] for two in range(1, num_found + 1)]
    best = 0
    for choice in itertools.product(*([0, *each] for each in allowed)):
        taken = [one for one in choice if one]
        if len(set(taken)) == len(taken):
            best = max(best, len(taken))
    return Lesions(num_there, num_found, best)


def test_found_missed_and_made_up():
    reference = drawn("##..#", "##..#", ".....", "#....")
    predicted = drawn("##...", "#....", "...##", ".....")
    lesions = match_lesions(reference, predicted, 0.1)
    assert lesions == Lesions(n_reference_lesions=3, n_predicted_lesions=2, n_found_lesions=1)
    assert lesions.sensitivity == pytest.approx(1 / 3)
    assert lesions.precision == 0.5
    assert lesions.f1 == pytest.approx(2 / 5)


def test_the_share_is_inclusive_and_a_common_voxel_is_enough_for_none():
    reference, predicted = drawn("####......"), drawn("...#######")
    assert match_lesions(reference, predicted, 0.1).n_found_lesions == 1
    assert match_lesions(reference, predicted, 0.11).n_found_lesions == 0
    assert match_lesions(reference, predicted, 0).n_found_lesions == 1
    assert match_lesions(drawn("##.."), drawn("..##"), 0).n_found_lesions == 0


def test_a_component_that_covers_two_finds_one():
    reference, predicted = drawn("##.##"), drawn("#####")
    assert match_lesions(reference, predicted, 0.1) == Lesions(2, 1, 1)
    assert match_lesions(predicted, reference, 0.1) == Lesions(1, 2, 1)


def test_a_chain_of_overlaps_is_paired_as_often_as_can_be():
    # The middle one could be paired with either: taken by the wrong one, only two pairs are left.
    reference = drawn("####.#####")
    predicted = drawn("##.####.##")
    assert match_lesions(reference, predicted, 0) == Lesions(2, 3, 2)


def test_corners_hold_together():
    assert match_lesions(drawn("#.", ".#"), drawn("#.", ".#"), 0.5) == Lesions(1, 1, 1)


def test_nothing_in_either_and_nothing_in_one():
    empty, one = drawn("..."), drawn("#..")
    assert match_lesions(empty, empty, 0.1).f1 is None
    missed, made_up = match_lesions(one, empty, 0.1), match_lesions(empty, one, 0.1)
    for lesions in (missed, made_up):
        assert (lesions.f1, lesions.sensitivity, lesions.precision) == (0, 0, 0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        match_lesions(drawn("#."), drawn("#.."), 0.1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), least_iou=st.sampled_from([0, 0.1, 0.3, 0.6]), flat=st.booleans())
def test_it_is_what_trying_everything_finds(seed, least_iou, flat):
    rng = np.random.default_rng(seed)
    shape = (1 if flat else 3, 4, 9)
    reference = rng.random(shape) < rng.uniform(0.05, 0.4)
    predicted = np.where(rng.random(shape) < 0.7, reference, rng.random(shape) < 0.2)
    lesions = match_lesions(reference, predicted, least_iou)
    assert lesions == most_pairs(reference, predicted, least_iou)
    turned = match_lesions(predicted, reference, least_iou)
    assert (turned.n_found_lesions, turned.f1) == (lesions.n_found_lesions, lesions.f1)
