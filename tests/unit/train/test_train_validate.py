"""Which whole cases are predicted, and when."""

import pytest
import torch

from autoseg.artifacts.plan import Training
from autoseg.errors import DatasetError
from autoseg.train.validate import WholeCases, choose_cases, count_windows, is_due, predict_whole


def test_cases_are_spread_over_the_list():
    names = [f"case_{i}" for i in range(9)]
    assert choose_cases(names, 3) == ("case_0", "case_3", "case_6")
    assert choose_cases(names[:2], 5) == ("case_0", "case_1")
    assert choose_cases(names, 0) == choose_cases([], 3) == ()


def test_windows_are_counted():
    assert count_windows([(10, 20, 20), (4, 10, 10)], (10, 20, 10), 0.5) == 2 * 2 * 4 + 1 * 1 * 2
    assert count_windows([(3, 20, 20)], (20, 20), 0.5) == 3 * 2 * 2


def test_by_count_it_is_every_so_many_epochs():
    recipe, cases = Training(validation_every=3), WholeCases(("a",), 10**9, lambda *_: None)
    assert [epoch for epoch in range(8) if is_due(epoch, recipe, cases, 1.0, 1.0)] == [2, 5]


@pytest.mark.parametrize(("num_windows", "due"), [(14, True), (16, False)])
def test_under_a_time_budget_it_takes_a_twentieth_at_most(num_windows, due):
    # A forward pass of a third of a second for each window, against 5 % of two epochs of 50 seconds.
    recipe = Training(validation_every=2, max_hours=1.0)
    assert is_due(1, recipe, WholeCases(("a",), num_windows, lambda *_: None), 1.0, 50.0) == due


def test_a_case_that_fails_does_not_end_the_training():
    def dice(_, name):
        if name == "lost":
            raise DatasetError("a label file can't be read")
        if name == "large":
            raise MemoryError
        if name == "mistake":
            raise ZeroDivisionError
        return 0.5

    network = torch.nn.Identity()
    found = predict_whole(network, WholeCases(("lost", "large", "good"), 1, dice), lambda: False)
    assert found == {"lost": None, "large": None, "good": 0.5}
    with pytest.raises(ZeroDivisionError):
        predict_whole(network, WholeCases(("mistake",), 1, dice), lambda: False)
