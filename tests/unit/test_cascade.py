"""Which fold of the first stage predicts which case for the second."""

import pytest

from autoseg.artifacts.splits import Fold
from autoseg.cascade import out_of_fold
from autoseg.errors import SettingError


def fold(training, validation):
    return Fold(training=tuple(training), validation=tuple(validation))


def test_the_fold_that_is_validated_on_a_case_predicts_it():
    folds = {0: fold("cdef", "ab"), 1: fold("abef", "cd"), 2: fold("abcd", "ef")}
    assert out_of_fold("fedcba", folds) == {"a": 0, "b": 0, "c": 1, "d": 1, "e": 2, "f": 2}
    assert out_of_fold("ca", folds) == {"a": 0, "c": 1}


def test_of_several_the_first_and_else_one_that_was_not_trained_on_it():
    folds = {0: fold("cd", "ab"), 1: fold("ad", "bc"), 2: fold("ab", "c")}
    assert out_of_fold("abcd", folds) == {"a": 0, "b": 0, "c": 1, "d": 2}


def test_cases_that_every_fold_is_trained_on_are_refused():
    with pytest.raises(SettingError, match="not trained on the case") as caught:
        out_of_fold("abcd", {0: fold("abc", "d"), 1: fold("ab", "cd")})
    assert caught.value.found == "a, b"
