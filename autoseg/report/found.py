"""What there is in a workspace to tell of: records, as far as they are there."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from autoseg.artifacts.comparison import Comparisons
from autoseg.artifacts.dataset import Dataset
from autoseg.artifacts.distillation import Distillation
from autoseg.artifacts.evaluation import Evaluation
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.model import TrainedModel
from autoseg.artifacts.plan import PREFERRED, Plan
from autoseg.artifacts.selection import Selection
from autoseg.artifacts.splits import Splits
from autoseg.artifacts.standing import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFold:
    """One fold of a configuration.

    Attributes
    ----------
    number : int
    manifest : TrainedModel or None
    evaluation : Evaluation or None
        Of its validation cases.
    metrics : list of dict
        One an epoch, as metrics.jsonl has them.
    weights_sha256 : str or None
        Of weights.safetensors as it is now.
    being_extended : bool
    """

    number: int
    manifest: TrainedModel | None = None
    evaluation: Evaluation | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    weights_sha256: str | None = None
    being_extended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All that a page is made of, but pictures.

    Attributes
    ----------
    name : str
        Of the workspace's folder.
    root : str
        The folder as the user named it.
    dataset, fingerprint, plan, splits, selection, comparison : record or None
    explanation : str or None
        plan.md.
    folds : mapping of str to tuple of FoundFold
        By configuration.
    distillations : mapping of str to Distillation
        By the student's configuration.
    file_sha256 : mapping of str to str
        Of the files that all else was made from, by name.
    notes : tuple of str
        What is stale, damaged or not there.
    """

    name: str
    root: str
    dataset: Dataset | None = None
    fingerprint: Fingerprint | None = None
    plan: Plan | None = None
    splits: Splits | None = None
    selection: Selection | None = None
    comparison: Comparisons | Standing | None = None
    explanation: str | None = None
    folds: Mapping[str, tuple[FoundFold, ...]] = field(default_factory=dict)
    distillations: Mapping[str, Distillation] = field(default_factory=dict)
    file_sha256: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def validations(self) -> dict[str, dict[int, Evaluation]]:
        """The scores of each configuration's folds; the configuration that the page is mainly about comes first."""
        scored = {
            name: {
                fold.number: fold.evaluation for fold in folds if fold.evaluation is not None and fold.evaluation.cases
            }
            for name, folds in self.folds.items()
        }
        there = [name for name, evaluations in scored.items() if evaluations]
        selected = self.selection.configurations if self.selection else ()

        def place(name: str) -> tuple[bool, int, float]:
            """What is selected first, then what is preferred; of several the better one."""
            preferred = PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)
            dice = [each.summary.mean.dice or 0.0 for each in scored[name].values()]
            return name not in selected, 0 if name in selected else preferred, -fmean(dice)

        order = sorted(there, key=place)
        return {name: scored[name] for name in order}

    @property
    def manifests(self) -> Iterator[TrainedModel]:
        """Of every fold that has one."""
        return (fold.manifest for folds in self.folds.values() for fold in folds if fold.manifest is not None)

    @property
    def groups(self) -> dict[str, Hashable]:
        """The group (the patient) of each case that has one."""
        cases = self.dataset.cases if self.dataset else ()
        return {case.name: case.group for case in cases if case.group is not None}


def alike(evaluations: Mapping[int, Evaluation]) -> dict[int, Evaluation]:
    """Those that scored the labels of the first, in its unit: others can't be averaged with it."""
    first = next(iter(evaluations.values()))
    return {
        number: each
        for number, each in evaluations.items()
        if (each.labels, each.unit, each.ignore) == (first.labels, first.unit, first.ignore)
    }
