"""The first stage of a cascade as an input of the second: which of its folds predicts which case, and its maps on disk.

Reads models/ and preprocessed/ of the first stage, writes preprocessed/<second stage>/previous/.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import msgspec

from autoseg.artifacts.base import digest, read_if_whole
from autoseg.artifacts.dataset import Dataset
from autoseg.artifacts.plan import Plan
from autoseg.artifacts.preprocessed import Placement, PreprocessedCase, PreviousMap
from autoseg.artifacts.splits import Fold, Splits
from autoseg.errors import ArtifactError, SettingError
from autoseg.layout import MapFiles, Workspace, folds_in
from autoseg.machine import locked, seen_soon

if TYPE_CHECKING:
    import torch

    from autoseg.networks.stored import StoredFold
    from autoseg.predict.models import LoadedModel
    from autoseg.preprocess.store import StoredMap

FORMAT = "1"  # to be raised when the same inputs would give other maps


@dataclass(frozen=True, slots=True)
class FirstStage:
    """What a second stage needs of the first.

    Attributes
    ----------
    name : str
        Its configuration.
    fold_of : dict of str to int
        By case: the fold that predicts it, which is not trained on it.
    missing : tuple of int
        Those of these folds that are not trained yet.
    """

    name: str
    fold_of: dict[str, int]
    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cascade:
    """A second stage with its first.

    Attributes
    ----------
    workspace : Workspace
    dataset : Dataset
    plan : Plan
    second : str
        Configuration of the second stage.
    first : FirstStage
    """

    workspace: Workspace
    dataset: Dataset
    plan: Plan
    second: str
    first: FirstStage


def find_first_stage(
    workspace: Workspace, plan: Plan, configuration_name: str, cases: Iterable[str], splits: Splits
) -> FirstStage | None:
    """What has to be there before the second stage is trained on some cases; None for any other configuration.

    Raises
    ------
    SettingError
        Every fold is trained on one of the cases.
    """
    from autoseg.networks.stored import finished_manifest

    name = plan.configurations[configuration_name].previous_stage
    if name is None:
        return None
    trained = {}
    for number, folder in folds_in(workspace.models(name)).items():
        manifest = finished_manifest(folder)
        if manifest is not None and manifest.cases is not None:
            trained[number] = manifest.cases
    fold_of = out_of_fold(cases, dict(enumerate(splits.folds)) | trained)
    return FirstStage(name, fold_of, tuple(sorted(set(fold_of.values()) - set(trained))))


def out_of_fold(cases: Iterable[str], folds: Mapping[int, Fold]) -> dict[str, int]:
    """The fold that predicts each case: the first that is validated on it, else the first that is not trained on it.

    Raises
    ------
    SettingError
        Every fold is trained on one of the cases.

    Notes
    -----
    On the cases it was trained on, a network makes fewer mistakes than on any other; a second stage that had learned
    from such predictions would trust the first too much. Isensee et al. 2021, online methods.
    """
    from autoseg.datasets.found import some

    fold_of = {}
    for case in sorted(set(cases)):
        unseen = [number for number, fold in folds.items() if case not in fold.training]
        fold_of[case] = min(unseen, key=lambda number: (case not in folds[number].validation, number), default=-1)
    seen = [case for case, fold in fold_of.items() if fold < 0]
    if seen:
        raise SettingError(
            "a cascade needs predictions by networks that were not trained on the case, and every fold of the first "
            "stage is trained on some cases",
            where="splits.json",
            found=some(seen),
            hint="use folds that are validated on each of the cases, or train 3d_fullres",
        )
    return fold_of


def make_maps(
    cascade: Cascade, records: Mapping[str, PreprocessedCase], *, device: "torch.device", jobs: int
) -> dict[str, "StoredMap"]:
    """Predict with the first stage each case that the second one is trained or validated on; only what is missing.

    Parameters
    ----------
    cascade : Cascade
        With no fold missing.
    records : mapping of str to PreprocessedCase
        Of the second stage.
    device : torch.device
    jobs : int
        For preprocessing.

    Returns
    -------
    dict of str to StoredMap
        By case.

    Raises
    ------
    SettingError
        The first stage was trained by another plan.
    ArtifactError
        Weights or arrays can't be read, or a map can't be written.
    """
    from autoseg.executor import case_executor, run_cases
    from autoseg.predict.models import load_model
    from autoseg.preprocess import stage
    from autoseg.preprocess.store import remove_leftovers

    tasks = _map_tasks(cascade, records)
    found = {name: _read_fresh(task) for name, task in tasks.items()}
    missing = [task for name, task in tasks.items() if found[name] is None]
    if missing:
        dataset, plan, workspace, first = cascade.dataset, cascade.plan, cascade.workspace, cascade.first
        prepared = {record.name: record for record in stage.run(dataset, plan, first.name, workspace, jobs=jobs)}
        # One at a time, for networks are large.
        model_of = lru_cache(maxsize=1)(lambda fold: load_model(workspace.fold(first.name, fold), device))

        def make(task: _MapTask) -> PreviousMap:
            with locked(task.files.lock, wait=True):
                return _read_fresh(task) or _make(
                    task, cascade, model_of(task.fold.number), prepared[task.name], device
                )

        workspace.previous_map(cascade.second, "").map.parent.mkdir(parents=True, exist_ok=True)  # for the locks
        with case_executor(1) as executor:
            made = run_cases(
                executor,
                make,
                sorted(missing, key=lambda task: task.fold.number),  # each fold is loaded once
                name_of=lambda task: task.name,
                progress=f"predict {first.name} for {cascade.second}",
                keeps=True,
            )
        found |= {record.name: record for record in made}
        remove_leftovers(task.files for task in missing)
    return _stored(tasks, found)


def find_maps(cascade: Cascade, records: Mapping[str, PreprocessedCase]) -> dict[str, "StoredMap"]:
    """The maps as another process has just made them; nothing is written.

    Raises
    ------
    ArtifactError
        One is not to be seen here.
    """
    tasks = _map_tasks(cascade, records)
    found = {name: seen_soon(partial(_read_fresh, task)) for name, task in tasks.items()}
    unseen = [tasks[name] for name, record in found.items() if record is None]
    if unseen:
        raise ArtifactError(
            "what the first process predicted with the first stage is not to be seen here",
            where=str(unseen[0].files.record),
            hint="all hosts must see the same workspace and the same dataset, with the same times of its files",
        )
    return _stored(tasks, found)


@dataclass(frozen=True, slots=True)
class _TrainedFold:
    """A fold of the first stage."""

    number: int
    stored: "StoredFold"
    mirror_axes: tuple[int, ...]
    step: float


@dataclass(frozen=True, slots=True)
class _MapTask:
    """The map of one case, and what it is made from."""

    name: str
    fold: _TrainedFold
    files: MapFiles
    placement: Placement
    inputs_sha256: str


def _map_tasks(cascade: Cascade, records: Mapping[str, PreprocessedCase]) -> dict[str, _MapTask]:
    from autoseg.datasets.load import Promises
    from autoseg.predict.stage import RULES
    from autoseg.preprocess.stage import inputs_digest

    plan, first = cascade.plan, cascade.first
    promises, cases = Promises.of(cascade.dataset), {case.name: case for case in cascade.dataset.cases}
    folds = {number: _trained_fold(cascade, number) for number in sorted(set(first.fold_of.values()))}
    tasks = {}
    for name, number in first.fold_of.items():
        fold, placement = folds[number], records[name].placement
        manifest = fold.stored.manifest
        arrays = inputs_digest(promises, cases[name], manifest.plan, manifest.configuration)
        if arrays != inputs_digest(promises, cases[name], plan, plan.configurations[first.name]):
            raise SettingError(
                "the first stage was trained on other grids, intensities or labels than the plan says now",
                where=str(fold.stored.path),
                hint=f"autoseg train {number} --configuration {first.name} --restart trains it by today's plan",
            )
        how = [
            manifest.plan.regions_class_order,
            manifest.configuration.resampling,
            manifest.configuration.spacing,
            plan.configurations[cascade.second].spacing,
            fold.mirror_axes,
            fold.step,
        ]
        tasks[name] = _MapTask(
            name,
            fold,
            cascade.workspace.previous_map(cascade.second, name),
            placement,
            digest(FORMAT, RULES, fold.stored.weights_sha256, arrays, placement, msgspec.json.encode(how)),
        )
    return tasks


def _trained_fold(cascade: Cascade, number: int) -> _TrainedFold:
    """Which fold predicts, and how: by today's plan, as validation cases are."""
    from autoseg.networks.stored import fold_at

    stored, prediction = fold_at(cascade.workspace.fold(cascade.first.name, number).root), cascade.plan.prediction
    mirror_axes = stored.manifest.configuration.mirror_axes if prediction.mirroring else ()
    return _TrainedFold(number, stored, mirror_axes, prediction.step)


def _read_fresh(task: _MapTask) -> PreviousMap | None:
    """The map's record, if it was made from the same inputs and the map is there and whole."""
    from autoseg.preprocess.store import is_whole

    found = read_if_whole(task.files.record, PreviousMap)
    if found is None or found.inputs_sha256 != task.inputs_sha256:
        return None
    return found if is_whole(task.files, found.map_sha256) else None


def _make(
    task: _MapTask, cascade: Cascade, model: "LoadedModel", prepared: PreprocessedCase, device: "torch.device"
) -> PreviousMap:
    """Predict a case, bring the prediction onto the second stage's grid, store it."""
    import numpy as np

    from autoseg.predict.case import mean_logits
    from autoseg.preprocess.case import arrays_digest
    from autoseg.preprocess.store import open_case, write_map
    from autoseg.transforms.chain import next_stage_map

    files = cascade.workspace.case(cascade.first.name, task.name)
    image = np.asarray(open_case(files, prepared.arrays_sha256).image[:], dtype=np.float32)
    logits = mean_logits(
        [model],
        image,
        device=device,
        mirror_axes=task.fold.mirror_axes,
        step=task.fold.step,
        folder=task.files.map.parent,
    )
    configuration = cascade.plan.configurations[cascade.second]
    map_zyx = next_stage_map(logits, model.plan, model.configuration, configuration, task.placement)
    record = PreviousMap(
        name=task.name,
        inputs_sha256=task.inputs_sha256,
        map_sha256=arrays_digest(map_zyx),
        configuration_name=cascade.first.name,
        fold=task.fold.number,
        weights_sha256=model.weights_sha256,
    )
    write_map(task.files, map_zyx, record, configuration.patch_size)
    return record


def _stored(tasks: Mapping[str, _MapTask], found: Mapping[str, PreviousMap | None]) -> dict[str, "StoredMap"]:
    from autoseg.preprocess.store import StoredMap

    return {
        name: StoredMap(tasks[name].files.map, record.map_sha256, tasks[name].placement.shape)
        for name, record in found.items()
        if record is not None
    }
