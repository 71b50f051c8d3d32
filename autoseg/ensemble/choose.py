"""Which way from folds to labels is the best: scores case by case -> candidates, and the one that is chosen."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean

import msgspec

from autoseg.artifacts.selection import Candidate, Decoding, PairedTest, Way

SIMPLEST_FIRST: tuple[tuple[int, Decoding], ...] = ((1, "argmax"), (1, "dice"), (2, "argmax"), (2, "dice"))


def all_ways(configurations: Sequence[str]) -> list[list[Way]]:
    """Every way, in steps from simple to complex: one configuration, its decoding, two, their decoding."""
    return [
        [Way(configurations=names, decoding=decoding) for names in combinations(configurations, number)]
        for number, decoding in SIMPLEST_FIRST
        if number <= len(configurations)
    ]


def choose(
    steps: Sequence[Sequence[Way]], scores: Mapping[Way, Sequence[float]], test: PairedTest
) -> tuple[list[Candidate], Way]:
    """Judge every way and choose one.

    Parameters
    ----------
    steps : sequence of sequence of Way
        From simple to complex, as `all_ways` gives them.
    scores : mapping of Way to sequence of float
        Mean foreground Dice of each case, the cases in one order.
    test : callable
        The difference of two lists of scores, the second minus the first.

    Returns
    -------
    list of Candidate
        In the order of `steps`; each is compared with what was chosen before its step.
    Way
        The choice.

    Notes
    -----
    Within a step, where nothing is simpler than anything else, the highest mean wins, and on a tie the first. It
    replaces the choice of the steps before only where it is really better: its mean is higher, and the test says that
    this is not by chance.
    """
    candidates: list[Candidate] = []
    current = steps[0][0]
    for number, ways in enumerate(steps):
        judged = [_judge(way, scores, current if number else None, test) for way in ways]
        candidates += judged
        best = max(judged, key=lambda candidate: candidate.mean_dice)
        if best.difference is None or best.difference.is_real_gain:
            current = ways[judged.index(best)]
    return candidates, current


def _judge(way: Way, scores: Mapping[Way, Sequence[float]], current: Way | None, test: PairedTest) -> Candidate:
    candidate = Candidate(configurations=way.configurations, decoding=way.decoding, mean_dice=fmean(scores[way]))
    if current is None:
        return candidate
    return msgspec.structs.replace(
        candidate,
        compared_with=current.words,
        difference=test(scores[current], scores[way]),
    )
