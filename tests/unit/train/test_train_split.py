"""Folds: nnU-Net's own."""

import csv
from collections import defaultdict
from pathlib import Path

import pytest
from sklearn.model_selection import KFold

from autoseg.errors import DatasetError
from autoseg.train.split import k_folds

BASELINES = Path(__file__).parents[3].parent / "shared" / "baselines" / "msd_nnunet_percase.csv"


def test_folds_are_those_of_shuffled_k_fold_over_sorted_names():
    names = [f"case_{i}" for i in range(13)]
    folds = k_folds(reversed(names), 5, 12345)
    order = sorted(names)
    expected = KFold(5, shuffle=True, random_state=12345).split(order)
    for fold, (training, validation) in zip(folds, expected, strict=True):
        assert fold.training == tuple(order[i] for i in training)
        assert fold.validation == tuple(order[i] for i in validation)


def test_each_case_validates_once_and_never_trains_there():
    names = {f"{i}" for i in range(11)}
    folds = k_folds(sorted(names), 3, 0)
    assert sorted(name for fold in folds for name in fold.validation) == sorted(names)
    for fold in folds:
        assert set(fold.training) == names - set(fold.validation)
        assert list(fold.training) == sorted(fold.training)


def test_the_seed_decides():
    names = [f"{i}" for i in range(20)]
    assert k_folds(names, 5, 1) == k_folds(names, 5, 1)
    assert k_folds(names, 5, 1) != k_folds(names, 5, 2)


def test_published_cross_validations_have_the_same_folds():
    if not BASELINES.is_file():
        pytest.skip(f"{BASELINES} is not on this machine")
    published = defaultdict(lambda: defaultdict(set))
    with BASELINES.open(newline="") as file:
        for row in csv.DictReader(file):
            published[row["task"]][int(row["fold"])].add(row["case"])
    assert len(published) == 10
    for task, folds in published.items():
        ours = k_folds(sorted(set.union(*folds.values())), 5, 12345)
        assert {number: set(fold.validation) for number, fold in enumerate(ours)} == dict(folds), task


@pytest.mark.parametrize(("count", "hint"), [(4, "training.num_folds=4"), (1, "add cases")])
def test_fewer_cases_than_folds_is_explained(count, hint):
    with pytest.raises(DatasetError, match="fewer cases than folds") as caught:
        k_folds([f"{i}" for i in range(count)], 5, 12345)
    assert f"{count} cases, 5 folds" in str(caught.value)
    assert hint in str(caught.value)


def test_as_many_cases_as_folds_is_enough():
    assert [len(fold.training) for fold in k_folds("abcde", 5, 12345)] == [4] * 5
