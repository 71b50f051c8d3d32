"""The simplest way that nothing is really better than."""

import numpy as np
import pytest

from autoseg.artifacts.selection import Way
from autoseg.ensemble.choose import all_ways, choose
from autoseg.evaluate.compare import signed_ranks

A, B = Way(configurations=("a",)), Way(configurations=("b",))
A_DICE, B_DICE = (Way(configurations=way.configurations, decoding="dice") for way in (A, B))
PAIR, PAIR_DICE = (Way(configurations=("a", "b"), decoding=decoding) for decoding in ("argmax", "dice"))


def scores(**changes):
    base = 0.7 + np.random.default_rng(0).normal(0, 0.02, 20)
    table = dict.fromkeys([A, B, A_DICE, B_DICE, PAIR, PAIR_DICE], base)
    names = {"a": A, "b": B, "a_dice": A_DICE, "b_dice": B_DICE, "pair": PAIR, "pair_dice": PAIR_DICE}
    noise = np.random.default_rng(1).normal(0, 0.002, 20)
    return {
        way: list(values) for way, values in (table | {names[k]: base + v + noise for k, v in changes.items()}).items()
    }


def test_ways_stand_from_simple_to_complex():
    assert all_ways(["a", "b"]) == [[A, B], [A_DICE, B_DICE], [PAIR], [PAIR_DICE]]
    assert all_ways(["a"]) == [[A], [A_DICE]]
    assert len(all_ways(["a", "b", "c"])[2]) == 3


def test_the_best_single_configuration_wins_where_nothing_else_helps():
    candidates, chosen = choose(all_ways(["a", "b"]), scores(b=0.01), signed_ranks)
    assert chosen == B
    assert [candidate.compared_with for candidate in candidates[:2]] == [None, None]
    assert {candidate.compared_with for candidate in candidates[2:]} == {"b, argmax"}


def test_equal_scores_keep_the_first():
    assert choose(all_ways(["a", "b"]), scores(), signed_ranks)[1] == A


def test_a_pair_that_is_really_better_wins():
    candidates, chosen = choose(all_ways(["a", "b"]), scores(pair=0.02), signed_ranks)
    assert chosen == PAIR
    pair = candidates[4]
    assert pair.difference.mean == pytest.approx(0.02, abs=0.001)
    assert pair.difference.p_wilcoxon < 0.05
    # Its decoding is compared with it, no longer with the single one.
    assert candidates[5].compared_with == "a + b, argmax"


def test_a_difference_that_may_be_chance_is_not_taken():
    table = scores()
    table[PAIR] = [value + shift for value, shift in zip(table[A], [0.2] + [-0.001] * 19, strict=True)]
    candidates, chosen = choose(all_ways(["a", "b"]), table, signed_ranks)
    assert candidates[4].difference.mean > 0
    assert chosen == A


def test_too_few_cases_choose_the_simple():
    table = {way: values[:4] for way, values in scores(pair=0.1).items()}
    candidates, chosen = choose(all_ways(["a", "b"]), table, signed_ranks)
    assert candidates[4].difference.p_wilcoxon is None
    assert chosen == A


def test_what_is_worse_is_never_taken_however_real():
    assert choose(all_ways(["a", "b"]), scores(a_dice=-0.05, b_dice=-0.05, pair=-0.05), signed_ranks)[1] == A
