"""Rules are learned where they help cases that they were not learned on, and nowhere else."""

import numpy as np
import pytest

from autoseg.artifacts.selection import Rule
from autoseg.evaluate.compare import signed_ranks
from autoseg.postprocess.components import apply_rules, measure
from autoseg.postprocess.learn import Case, case_dice, learn, propose

LABELS = {"a": 1, "b": 2}


def make(number, spoil, labels=LABELS):
    """A case with two organs, and what the prediction makes of them."""
    rng = np.random.default_rng(number)
    truth = np.zeros((12, 20, 20), np.uint8)
    truth[3:9, 2 : 8 + int(rng.integers(0, 2)), 2:9] = 1
    truth[3:9, 2:9, 12 : 17 + int(rng.integers(0, 2))] = 2
    return Case(number % 3, measure(spoil(truth.copy(), rng), truth, labels, voxel_mm3=2.0))


def speckle(value):
    """False components of a label, far from all."""

    def spoil(found, rng):
        y, x = rng.integers(13, 18, 2)
        found[2 : 4 + int(rng.integers(0, 2)), y : y + 2, x : x + 2] = value
        return found

    return spoil


def test_false_components_of_a_label_are_removed():
    cases = [make(number, lambda found, rng: speckle(1)(found, rng)) for number in range(12)]
    rules, trials = learn(cases, signed_ranks)
    assert [trial.label for trial in trials] == [None, "a", "b"]
    # Both kinds of rule do; the whole foreground comes first, and then nothing is left to be done.
    assert trials[0].accepted
    assert trials[0].dice_after == pytest.approx(1.0)
    assert trials[0].difference.p_wilcoxon < 0.05
    assert [rule.label for rule in rules] == [None]
    assert trials[1].rule is None
    # Of rules that all do, one that never removes everything is taken.
    assert rules[0].keep == "min_share"


def test_a_rule_for_one_label_alone():
    def attached(found, rng):
        # Touches b, so that as foreground it is no component of its own.
        found[3:5, 9, 12:15] = 1
        return found

    rules, trials = learn([make(number, attached) for number in range(12)], signed_ranks)
    assert not trials[0].accepted
    assert [rule.label for rule in rules] == ["a"]
    assert trials[1].why.startswith("better")
    assert trials[1].difference.num_higher == 12


def test_without_errors_there_are_no_rules():
    rules, trials = learn([make(number, lambda found, rng: found) for number in range(9)], signed_ranks)
    assert rules == []
    assert all(trial.rule is None and not trial.accepted for trial in trials)


def test_what_helps_a_few_cases_alone_may_be_chance():
    cases = [make(n, speckle(1) if n in (0, 4, 8) else lambda found, rng: found) for n in range(12)]
    rules, trials = learn(cases, signed_ranks)
    assert rules == []
    assert trials[0].rule is not None
    assert 0 < trials[0].difference.num_higher <= 3
    assert trials[0].why == "the difference may be chance"


def test_what_helps_one_fold_and_harms_another_is_not_taken():
    def torn(found, rng):
        found[:, 4:6, 2:12] = 0  # organ a falls into two true pieces
        return found

    cases = [make(n, speckle(1) if n % 3 == 0 else torn) for n in range(12)]
    rules, _ = learn(cases, signed_ranks)
    assert Rule(label="a", keep="largest") not in rules


def test_a_loss_of_another_label_forbids_a_rule_for_all():
    def spoil(found, rng):
        found[3:9, 2:9, 12:18] = 0
        found[5, 5, 15] = 2  # all that is left of b
        return speckle(1)(found, rng)

    cases = [make(number, spoil) for number in range(12)]
    trial = learn(cases, signed_ranks)[1][0]
    assert not trial.accepted or trial.rule.keep != "largest"


def test_removing_a_false_alarm_counts():
    def case(number):
        truth, found = np.zeros((4, 9, 9), np.uint8), np.zeros((4, 9, 9), np.uint8)
        truth[1:3, 1:6, 1:6] = number % 2
        found[1:3, 1:6, 1:6] = number % 2
        found[1, 7 + number % 2, 7] = 1
        return Case(number % 3, measure(found, truth, {"a": 1}, voxel_mm3=1.0))

    rules, trials = learn([case(number) for number in range(16)], signed_ranks)
    assert rules[0].keep == "min_volume_mm3"
    assert trials[0].dice_after == 1.0


def test_of_regions_only_the_whole_foreground_is_tidied_up():
    cases = [make(n, speckle(1), {"whole": (1, 2), "core": (2,)}) for n in range(12)]
    _, trials = learn(cases, signed_ranks, by_label=False)
    assert [trial.label for trial in trials] == [None]


def test_proposals_are_few_and_sorted_by_what_they_do():
    proposed = propose([make(number, speckle(1)) for number in range(6)], "a")
    assert {rule.keep for rule in proposed} == {"largest", "min_volume_mm3", "min_share"}
    assert proposed[3] == Rule(label="a", keep="largest")
    volumes = [rule.threshold for rule in proposed[4:]]
    assert volumes == sorted(volumes)
    assert Rule(label="a", keep="min_share", threshold=0.333) in proposed
    assert len(set(proposed)) == len(proposed) <= 9


def test_a_label_rule_goes_by_what_the_foreground_rule_leaves():
    found, truth = np.zeros((3, 5, 12), np.uint8), np.zeros((3, 5, 12), np.uint8)
    found[1, 1, 1:4], found[1, 1, 4:8] = 1, 2  # the largest foreground
    found[1, 3, 1:6] = 1  # the largest a, which the foreground rule removes
    found[1, 1, 8] = 1
    truth[1, 1, 1:4] = 1
    measured = measure(found, truth, LABELS, voxel_mm3=1.0)
    whole, own = Rule(keep="largest"), Rule(label="a", keep="largest")
    assert case_dice(measured, "a", own, whole) == {"a": 1.0}
    after = apply_rules(found, [whole, own], LABELS, 1.0)
    assert (after == 1).sum() == 3
