"""Stage: out-of-fold label maps and their references -> rules, and what speaks for each."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.labels import has_regions
from autoseg.artifacts.selection import PairedTest, Rule, RuleTrial
from autoseg.executor import memory_at_hand, run_cases
from autoseg.images.image import LabelMap
from autoseg.postprocess.components import CaseComponents, Labels, measure, voxel_mm3
from autoseg.postprocess.learn import Case, learn

BYTES_PER_VOXEL = 32  # two label maps, masks, and components numbered in four bytes


class Source(Protocol):
    """Where a case's label maps come from; sent to the process that measures them."""

    def read(self) -> tuple[LabelMap, NDArray[np.integer]]:
        """The prediction, and the reference on its grid."""


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """A case as a fold predicted it that did not see it.

    Attributes
    ----------
    name : str
    fold : int
    source : Source
    labels : mapping of str to int or tuple of int
        The foreground labels, with their values in these label maps.
    ignore : int or None
        Value in the reference of what is not annotated.
    num_voxels : int
    """

    name: str
    fold: int
    source: Source
    labels: Labels
    ignore: int | None
    num_voxels: int


def run(cases: Sequence[OutOfFold], *, test: PairedTest, executor: Executor) -> tuple[list[Rule], list[RuleTrial]]:
    """Measure the components of each case, and learn from them.

    Parameters
    ----------
    cases : sequence of OutOfFold
        At least one.
    test : callable
        The difference of two lists of scores, the second minus the first.
    executor : concurrent.futures.Executor

    Returns
    -------
    list of Rule
        In the order in which they are to be applied.
    list of RuleTrial
    """
    measured = run_cases(
        executor,
        _measure,
        cases,
        name_of=lambda case: case.name,
        progress="components",
        memory=memory_at_hand(lambda case: case.num_voxels * BYTES_PER_VOXEL),
    )
    return learn(
        [Case(case.fold, found) for case, found in zip(cases, measured, strict=True)],
        test,
        by_label=not has_regions(cases[0].labels),
    )


def _measure(case: OutOfFold) -> CaseComponents:
    """Runs in a worker process."""
    predicted, truth_zyx = case.source.read()
    return measure(
        predicted.array_zyx, truth_zyx, case.labels, ignore=case.ignore, voxel_mm3=voxel_mm3(predicted.geometry)
    )
