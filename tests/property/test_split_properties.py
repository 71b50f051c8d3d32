"""Folds hold for any cases, groups and labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.datasets.balance import deal
from autoseg.datasets.splits import k_folds

SEEDS = st.integers(0, 2**32 - 1)


def spread(folds, num_folds, weights):
    """Largest difference between two folds' sums."""
    return np.ptp(np.bincount(folds, weights, num_folds))


@st.composite
def single_cases(draw, labels):
    """Cases by themselves: (units, voxels of each label, folds)."""
    count = draw(st.integers(2, 40))
    voxels = {f"{i:02}": draw(labels) for i in range(count)}
    return [(name,) for name in voxels], voxels, draw(st.integers(2, min(count, 8)))


ANY_LABELS = st.fixed_dictionaries({name: st.just(0) | st.integers(0, 1000) for name in "abc"})
# One of them at most, or one inside the other: each label can then be dealt evenly.
APART = st.tuples(st.sampled_from("abcde"), st.integers(0, 1000)).map(lambda pair: dict([pair]))
NESTED = st.tuples(st.integers(0, 3), st.integers(1, 1000)).map(
    lambda pair: {name: pair[1] * (depth < pair[0]) for depth, name in enumerate("abc")}
)


@given(single_cases(ANY_LABELS), SEEDS)
def test_single_cases_are_dealt_evenly(cases, seed):
    units, voxels, num_folds = cases
    folds = deal(units, voxels, num_folds, seed)
    assert folds == deal(units, voxels, num_folds, seed)
    assert len(folds) == len(units)
    assert set(folds) == set(range(num_folds))
    assert spread(folds, num_folds, [1] * len(units)) <= 1


@given(single_cases(APART) | single_cases(NESTED), SEEDS)
@settings(max_examples=300)
def test_labels_that_can_be_dealt_evenly_are(cases, seed):
    units, voxels, num_folds = cases
    folds = deal(units, voxels, num_folds, seed)
    for label in "abcde":
        present = [voxels[name].get(label, 0) > 0 for (name,) in units]
        assert spread(folds, num_folds, present) <= 1, label


@given(st.lists(st.integers(1, 9), min_size=2, max_size=30), st.data(), SEEDS)
def test_every_fold_gets_a_group_and_sizes_differ_by_one_group_at_most(sizes, data, seed):
    num_folds = data.draw(st.integers(2, len(sizes)))
    units = [tuple(f"{number}_{i}" for i in range(size)) for number, size in enumerate(sizes)]
    voxels = data.draw(st.just({}) | st.fixed_dictionaries({name: ANY_LABELS for unit in units for name in unit}))
    folds = deal(units, voxels, num_folds, seed)
    assert folds == deal(units, voxels, num_folds, seed)
    assert set(folds) == set(range(num_folds))
    if not voxels:
        assert spread(folds, num_folds, sizes) <= max(sizes)


@given(st.integers(2, 60), st.data(), SEEDS)
def test_plain_folds_validate_each_case_once_and_never_train_on_it(count, data, seed):
    names = {f"{i}" for i in range(count)}
    folds = k_folds(names, data.draw(st.integers(2, count)), seed)
    assert sorted(name for fold in folds for name in fold.validation) == sorted(names)
    for fold in folds:
        assert set(fold.training) == names - set(fold.validation)
        assert list(fold.training) == sorted(fold.training)


@pytest.mark.parametrize("cases_of_a_patient", [1, 3])
def test_a_skewed_set_is_balanced_better_than_by_plain_folds(cases_of_a_patient):
    rng = np.random.default_rng(1)
    num_folds, shares = 5, {"organ": 0.9, "cyst": 0.3, "tumour": 0.12, "stone": 0.06}
    units = [tuple(f"{p:03}_{i}" for i in range(cases_of_a_patient)) for p in range(120)]
    voxels = {
        name: {label: int(rng.lognormal(6, 1.5)) * (rng.random() < share) for label, share in shares.items()}
        for unit in units
        for name in unit
    }
    names = list(voxels)
    dealt = np.repeat(deal(units, voxels, num_folds, 12345), cases_of_a_patient)
    plain = np.empty(len(names), int)
    for number, fold in enumerate(k_folds(names, num_folds, 12345)):
        plain[[names.index(name) for name in fold.validation]] = number
    spreads = []
    for label in shares:
        size = np.array([voxels[name][label] for name in names])
        # Of the cases that have it, and of those that have more of it than most.
        for cases in (size > 0, size > np.median(size[size > 0])):
            spreads.append([spread(folds, num_folds, cases) for folds in (dealt, plain)])
    ours, theirs = np.transpose(spreads)
    assert ours[::2].max() <= 1
    assert ours[1::2].max() <= 2 * cases_of_a_patient
    assert ours.sum() <= theirs.sum() / 2
