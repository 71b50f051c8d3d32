"""Which cases validate in which fold: dataset, plan and what the user gave -> splits.json, checked for leaks."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from autoseg.artifacts.base import digest, read, read_if_whole, set_aside, write
from autoseg.artifacts.dataset import Dataset
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.plan import Plan, Training
from autoseg.artifacts.splits import Fold, FoldCounts, Splits, SplitSource
from autoseg.datasets.balance import deal
from autoseg.datasets.split_file import folds_of_numbers, read_folds
from autoseg.errors import ArtifactError, DatasetError, SettingError, nearest
from autoseg.layout import Workspace

log = logging.getLogger(__name__)
MOST_SHOWN = 5


class TooFewError(DatasetError):
    """Fewer cases or groups than folds."""


@dataclass(frozen=True, slots=True)
class SplitWishes:
    """What the user asks of the folds when planning; None: as the plan has it.

    Attributes
    ----------
    num_folds : int or None
    stratify : bool or None
    file : Path or None
        Says the folds.
    """

    num_folds: int | None = None
    stratify: bool | None = None
    file: Path | None = None

    def applied(self, training: Training, given: Splits | None) -> Training:
        """The recipe with these wishes, or as the folds that the user gave are."""
        if given is not None:
            return msgspec.structs.replace(training, num_folds=len(given.folds), stratify=False)
        return msgspec.structs.replace(
            training,
            num_folds=training.num_folds if self.num_folds is None else self.num_folds,
            stratify=training.stratify if self.stratify is None else self.stratify,
        )


def given_splits(dataset: Dataset, workspace: Workspace, wishes: SplitWishes) -> Splits | None:
    """The folds that the user gave, by a file now or earlier, or in the dataset's list; None where there are none.

    Raises
    ------
    DatasetError
        The file can't be read, only some cases of the list have a fold, or there are fewer cases than folds.
    SettingError
        The folds leak, are of other cases, or are given while others are asked for.
    ArtifactError
        The splits.json that is there can't be read.
    """
    # Read even where another file takes its place: a damaged one may hold somebody's edits.
    old = _read(workspace)
    if wishes.file is not None:
        return _from_file(wishes.file, dataset)
    given = _given(old, dataset, workspace)
    if given is None and wishes.num_folds is not None:
        _check_enough(units_of(dataset), wishes.num_folds)
    if given is not None and (wishes.num_folds not in (None, len(given.folds)) or wishes.stratify):
        raise _asks_otherwise(given, workspace)
    return given


def find_splits(dataset: Dataset, plan: Plan, workspace: Workspace) -> Splits:
    """Read splits.json; where it is missing or made from something else make folds, which `keep_splits` writes.

    Raises
    ------
    DatasetError
        There are fewer cases or groups than folds, or only some cases of the list have a fold.
    SettingError
        The folds leak; or they are the user's own, and the cases or the number of folds are others now.
    ArtifactError
        A file can't be read, or nobody counted the voxels that a stratified split needs.
    """
    old, recipe = _read(workspace), plan.training
    given = _given(old, dataset, workspace)
    if given is not None:
        if recipe.num_folds != len(given.folds) or recipe.stratify:
            raise _asks_otherwise(given, workspace)
        return given
    units = units_of(dataset)
    if old is not None and old.inputs_sha256 == _inputs(units, recipe):
        check_splits(old, dataset, str(workspace.splits))
        return old
    return _make(dataset, units, recipe, workspace)


def keep_splits(splits: Splits, dataset: Dataset, workspace: Workspace) -> Splits:
    """Write splits.json with what its folds hold, setting another one aside; one that is there already stays.

    Returns
    -------
    Splits
        As they stand in the file.
    """
    old = _read(workspace)
    if splits == old:
        return old
    splits = msgspec.structs.replace(splits, counts=_count(splits.folds, dataset, _label_voxels(dataset, workspace)))
    if splits == old:
        return old
    if old is not None:
        kept = set_aside(workspace.splits)
        log.warning("the cases, their groups or the way to split them changed: the old folds are now %s", kept)
    write(workspace.splits, splits)
    return splits


def k_folds(case_names: Sequence[str], num_folds: int, seed: int) -> tuple[Fold, ...]:
    """Shuffled k-fold cross-validation over the sorted names.

    Raises
    ------
    DatasetError
        Fewer cases than folds.

    Notes
    -----
    The same folds as nnU-Net's (scikit-learn's KFold with shuffling, seed 12345), so that published per-case results
    compare. The first folds are one case larger where the cases don't divide evenly.
    """
    names = sorted(case_names)
    _check_enough([(name,) for name in names], num_folds)
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)
    numbers = np.empty(len(names), int)
    for fold, part in enumerate(np.array_split(order, num_folds)):
        numbers[part] = fold
    return folds_of_numbers(dict(zip(names, numbers.tolist(), strict=True)))


def units_of(dataset: Dataset) -> list[tuple[str, ...]]:
    """Names of the cases that no fold may tear apart, because they share a group or an image file; sorted."""
    images = _images(dataset)
    units: dict[str, list[str]] = {}
    first_with: dict[tuple[str, str], str] = {}
    for case in sorted(dataset.cases, key=lambda case: case.name):
        units[case.name] = [case.name]
        shared = [("image", str(file)) for file in images[case.name]]
        shared += [("group", case.group)] if case.group is not None else []
        for key in shared:
            one, other = units[case.name], units[first_with.setdefault(key, case.name)]
            if one is not other:
                other += one
                units |= dict.fromkeys(one, other)
    return sorted({tuple(sorted(unit)) for unit in units.values()})


def check_splits(splits: Splits, dataset: Dataset, where: str) -> None:
    """Hold folds that a person may have written against the cases; of cases that never validate it warns.

    Parameters
    ----------
    splits : Splits
    dataset : Dataset
    where : str
        What says the folds.

    Raises
    ------
    SettingError
        A fold has no training or no validation cases, names an unknown case or one twice, trains on a case that it is
        validated on, on another case of its group, or on its image.
    """
    groups = {case.name: case.group for case in dataset.cases}
    images = _images(dataset)
    for number, fold in enumerate(splits.folds):
        here = f"{where}, fold {number}"
        _check_names(fold.training, groups, f"{here}, training")
        _check_names(fold.validation, groups, f"{here}, validation")
        both = sorted(set(fold.training) & set(fold.validation))
        if both:
            raise SettingError(
                "a fold trains on cases that it is validated on",
                where=here,
                found=_shown(both),
                hint="take them out of training or out of validation",
            )
        training_of = {groups[name]: name for name in reversed(fold.training) if groups[name] is not None}
        seen_with = {file: name for name in reversed(fold.training) for file in images[name]}
        for name in fold.validation:
            if groups[name] in training_of:
                raise SettingError(
                    "a fold trains on a group that it is validated on",
                    where=here,
                    found=f"group {groups[name]}: {training_of[groups[name]]} trains, {name} validates",
                    hint="keep all cases of a group on one side",
                )
            file = next((file for file in images[name] if file in seen_with), None)
            if file is not None:
                raise SettingError(
                    "a fold trains on an image that it is validated on",
                    where=here,
                    found=f"{seen_with[file]}, which trains, and {name}, which validates, share {file}",
                    hint="keep both cases on one side, or take one out of the dataset",
                )
    never = sorted(set(groups) - {name for fold in splits.folds for name in fold.validation})
    if never:
        log.warning("%s: %d of %d cases never validate: %s", where, len(never), len(groups), _shown(never))


def _check_names(names: Sequence[str], known: Collection[str], where: str) -> None:
    """See that one side of a fold names cases, each once."""
    if not names:
        raise SettingError("one side of a fold has no cases", where=where, hint="name one, or take the fold out")
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        close = nearest(unknown, known)
        raise SettingError(
            "a fold names a case that the dataset has not",
            where=where,
            found=unknown,
            hint=f"did you mean {close}?" if close else "cases are called as in dataset.json",
        )
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise SettingError("a fold names a case twice", where=where, found=_shown(twice), hint="name it once")


def _read(workspace: Workspace) -> Splits | None:
    return read(workspace.splits, Splits) if workspace.splits.exists() else None


def _make(dataset: Dataset, units: list[tuple[str, ...]], recipe: Training, workspace: Workspace) -> Splits:
    """Folds by the plan's recipe."""
    num_folds, seed = recipe.num_folds, recipe.split_seed
    if num_folds < 2:
        raise SettingError(
            "a single fold can't be made: it takes a file of your own",
            where="training.num_folds",
            found=num_folds,
            hint=f"autoseg plan RAW -w {workspace.root} --num-folds 5, or --splits FILE",
        )
    _check_enough(units, num_folds)
    grouped = any(len(unit) > 1 for unit in units)
    if not grouped and not recipe.stratify:
        method = f"KFold({num_folds}, shuffle, random_state={seed}) over sorted case names"
        folds = k_folds([name for (name,) in units], num_folds, seed)
    else:
        voxels = _label_voxels(dataset, workspace) if recipe.stratify else {}
        if recipe.stratify and not voxels:
            raise ArtifactError(
                "nobody counted which labels the cases have, which a stratified split needs",
                where=str(workspace.fingerprint),
                hint=f"autoseg plan RAW -w {workspace.root} measures them",
            )
        numbers = deal(units, voxels, num_folds, seed)
        method = f"{len(units)} {'groups' if grouped else 'cases'} dealt to {num_folds} folds of like size"
        method += ", balanced by the labels present and their sizes" if recipe.stratify else ""
        folds = folds_of_numbers({name: fold for unit, fold in zip(units, numbers, strict=True) for name in unit})
    return Splits(
        inputs_sha256=_inputs(units, recipe),
        method=method,
        seed=seed,
        grouped=grouped,
        stratified=recipe.stratify,
        folds=folds,
    )


def _given(old: Splits | None, dataset: Dataset, workspace: Workspace) -> Splits | None:
    """The user's own folds, checked: those of a file once read, else those of the dataset's list."""
    if old is not None and old.source is not None:
        _check_same_cases(old, old.source, dataset, workspace)
    else:
        listed = _from_list(dataset)
        if listed is None or old is None or old.inputs_sha256 != listed.inputs_sha256:
            return listed
    check_splits(old, dataset, str(workspace.splits))
    return old


def _from_file(file: Path, dataset: Dataset) -> Splits:
    """The folds that a file of the user's says, checked."""
    folds, sha256 = read_folds(file, [*_names(dataset), *dataset.rejected])
    folds = tuple(_without(fold, dataset.rejected) for fold in folds)
    splits = Splits(
        inputs_sha256=digest(*_names(dataset)),
        method=f"read from {file.name}",
        grouped=any(case.group for case in dataset.cases),
        source=SplitSource(path=str(file.resolve()), sha256=sha256),
        folds=folds,
    )
    check_splits(splits, dataset, str(file))
    return splits


def _without(fold: Fold, rejected: Mapping[str, str]) -> Fold:
    training, validation = (
        tuple(name for name in names if name not in rejected) for names in (fold.training, fold.validation)
    )
    return Fold(training=training, validation=validation)


def _from_list(dataset: Dataset) -> Splits | None:
    """The folds that the dataset's list says, checked; None where it says none."""
    numbers = {case.name: case.fold for case in dataset.cases if case.fold is not None}
    if not numbers:
        return None
    where = f"the list of {dataset.root}"
    without = next((case.name for case in dataset.cases if case.fold is None), None)
    if without is not None:
        raise DatasetError(
            "some cases of the list have a fold and some have none",
            where=f"{where}, case {without}",
            found=f"{len(numbers)} of {len(dataset.cases)} cases have one",
            hint="give every case its fold, or none",
        )
    splits = Splits(
        inputs_sha256=digest(*(f"{name}: {number}" for name, number in sorted(numbers.items()))),
        method="the folds of the dataset's list",
        grouped=any(case.group for case in dataset.cases),
        folds=folds_of_numbers(numbers, where),
    )
    check_splits(splits, dataset, where)
    return splits


def _inputs(units: Sequence[Sequence[str]], recipe: Training) -> str:
    """Hash of what folds are made from, but for the sizes of labels: folds stay when labels are corrected."""
    together = ["\n".join(unit) for unit in units if len(unit) > 1]
    stratified = ["stratified"] if recipe.stratify else []
    names = sorted(name for unit in units for name in unit)
    return digest(*names, str(recipe.num_folds), str(recipe.split_seed), *stratified, *together)


def _label_voxels(dataset: Dataset, workspace: Workspace) -> Mapping[str, Mapping[str, int]]:
    """Voxels of each label of each case, as the workspace's fingerprint has them; empty where it has not all."""
    fingerprint = read_if_whole(workspace.fingerprint, Fingerprint)
    measured = {} if fingerprint is None else {case.name: case.label_voxels for case in fingerprint.cases}
    names = _names(dataset)
    return {name: measured[name] for name in names} if all(measured.get(name) for name in names) else {}


def _count(
    folds: Sequence[Fold], dataset: Dataset, label_voxels: Mapping[str, Mapping[str, int]]
) -> tuple[FoldCounts, ...]:
    """What each fold is validated on."""
    group_of = {case.name: ("group", case.group) if case.group else ("case", case.name) for case in dataset.cases}
    counts = []
    for fold in folds:
        measured = [label_voxels[name] for name in fold.validation if name in label_voxels]
        labels = {
            label: sum(voxels.get(label, 0) > 0 for voxels in measured) for label in sorted(set().union(*measured))
        }
        groups = {group_of[name] for name in fold.validation}
        counts.append(FoldCounts(cases=len(fold.validation), groups=len(groups), labels=labels))
    return tuple(counts)


def _images(dataset: Dataset) -> dict[str, list[Path]]:
    """Image files of each case, links followed; without one that all cases share, an atlas, which tells nothing."""
    root = Path(dataset.root)
    images = {case.name: [(root / file).resolve() for file in case.images] for case in dataset.cases}
    of_all = set.intersection(*map(set, images.values()))
    return {name: [file for file in files if file not in of_all] for name, files in images.items()}


def _names(dataset: Dataset) -> list[str]:
    return sorted(case.name for case in dataset.cases)


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(names[:MOST_SHOWN]) + more


def _check_enough(units: Sequence[Sequence[str]], num_folds: int) -> None:
    """See that every fold can have a unit."""
    if len(units) >= num_folds:
        return
    cases = sum(len(unit) for unit in units)
    what, of = ("cases", "") if cases == len(units) else ("groups", f" of {cases} cases")
    raise TooFewError(
        f"there are fewer {what} than folds",
        found=f"{len(units)} {what}{of}, {num_folds} folds",
        hint=f"autoseg plan RAW --num-folds {len(units)}, or --set training.num_folds={len(units)}"
        if len(units) >= 2
        else f"add {what}",
    )


def _check_same_cases(splits: Splits, source: SplitSource, dataset: Dataset, workspace: Workspace) -> None:
    """See that the cases are those for which the user gave folds."""
    if splits.inputs_sha256 != digest(*_names(dataset)):
        raise SettingError(
            "the cases changed since the folds were read from your file",
            where=str(workspace.splits),
            found=f"folds read from {source.path}",
            hint=f"autoseg plan RAW -w {workspace.root} --splits FILE reads folds of the cases as they are; "
            "or remove splits.json, to have folds made",
        )


def _asks_otherwise(given: Splits, workspace: Workspace) -> SettingError:
    """The error for settings that contradict the user's own folds."""
    if given.source is None:
        hint = "leave num_folds and stratify as the plan has them, or take the folds out of the list"
    else:
        hint = (
            f"autoseg plan RAW -w {workspace.root} --splits FILE reads others; or remove splits.json, to have some made"
        )
    return SettingError(
        "the folds are given, and others are asked for",
        where="num_folds, stratify" if given.source is None else str(workspace.splits),
        found=f"{len(given.folds)} folds: {given.method}",
        hint=hint,
    )
