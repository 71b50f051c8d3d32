"""Stage: what each configuration predicted of the cases that it did not see -> candidates, and the best of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.selection import Candidate, PairedTest, Way
from autoseg.ensemble.average import SLAB_BYTES
from autoseg.ensemble.choose import all_ways, choose
from autoseg.ensemble.decode import decode
from autoseg.executor import memory_at_hand, run_cases
from autoseg.images.probabilities import read_levels

BYTES_PER_VOXEL = 16  # two label maps and what counting them takes
WORKING_BYTES = 4 * SLAB_BYTES


class Judge(Protocol):
    """Scores label maps of one case; sent to the process that makes them."""

    def scores(self, labels: Iterable[NDArray[np.integer]]) -> list[float]:
        """Mean foreground Dice of each, values as the network counts them; what is rightly absent counts as 1."""


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """A case as configurations predicted it that did not see it.

    Attributes
    ----------
    name : str
    levels : dict of str to Path
        Probabilities of each configuration.
    scores : dict of str to float
        What is known already: of each configuration by itself, decoded by argmax.
    class_order : tuple of int
        Of regions; empty where there are none.
    judge : Judge
    num_voxels : int
    """

    name: str
    levels: Mapping[str, Path]
    scores: Mapping[str, float]
    class_order: tuple[int, ...]
    judge: Judge
    num_voxels: int


def run(
    cases: Sequence[OutOfFold], configurations: Sequence[str], *, test: PairedTest, executor: Executor
) -> tuple[list[Candidate], Way]:
    """Judge each configuration, each pair, and each way to decode them.

    Parameters
    ----------
    cases : sequence of OutOfFold
    configurations : sequence of str
        On a tie the first one is preferred.
    test : callable
    executor : concurrent.futures.Executor

    Returns
    -------
    list of Candidate
    Way
        The choice.
    """
    steps = all_ways(configurations)
    others = [way for ways in steps[1:] for way in ways]
    found = run_cases(
        executor,
        _Judging(tuple(others)),
        cases,
        name_of=lambda case: case.name,
        progress="judge",
        memory=memory_at_hand(lambda case: case.num_voxels * BYTES_PER_VOXEL + WORKING_BYTES),
    )
    scores = {way: [case.scores[way.configurations[0]] for case in cases] for way in steps[0]}
    scores |= {way: [row[index] for row in found] for index, way in enumerate(others)}
    return choose(steps, scores, test)


@dataclass(frozen=True, slots=True)
class _Judging:
    """Scores every way for a case; runs in a worker process."""

    ways: tuple[Way, ...]

    def __call__(self, case: OutOfFold) -> list[float]:
        return case.judge.scores(self._labels(case))

    def _labels(self, case: OutOfFold) -> Iterator[NDArray[np.integer]]:
        for way in self.ways:
            yield decode(
                [read_levels(case.levels[name]) for name in way.configurations], way.decoding, case.class_order
            )
