"""Waiting for a better validation."""

import pytest

from autoseg.train.patience import Plateau, annealing, follow


def test_a_plateau_follows_the_smoothed_dice():
    plateau = Plateau()
    for dice, smoothed, waited in ((0.5, 0.5, 0), (0.7, 0.52, 0), (0.42, 0.51, 1), (None, 0.51, 2), (0.7, 0.529, 0)):
        plateau = follow(plateau, dice)
        assert plateau.smoothed == pytest.approx(smoothed)
        assert plateau.waited == waited
    assert plateau.best == plateau.smoothed


def test_the_same_dice_again_is_no_gain():
    plateau = Plateau()
    for _ in range(5):
        plateau = follow(plateau, 0.1 + 0.2)
    assert plateau.waited == 4


@pytest.mark.parametrize(
    ("done", "planned", "end"),
    [
        pytest.param(80, 1000, 100, id="a quarter of what was done"),
        pytest.param(90, 1000, 120, id="up to the end of an epoch"),
        pytest.param(10, 1000, 20, id="at least one epoch"),
        pytest.param(990, 1000, 1000, id="not beyond the plan"),
    ],
)
def test_the_last_stretch(done, planned, end):
    assert annealing(done, planned, 0.3, 10) == (done, end, 0.3)
