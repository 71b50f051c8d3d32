"""7 and 8: what cross-validation teaches -> selection.json, by which `predict` goes.

Each fold's network predicts the cases that it did not see. By these predictions the configurations, their averages and
ways to decode them are judged, and rules that tidy up components are learned from them.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.base import digest, read_if_whole, set_aside, write
from autoseg.artifacts.dataset import Dataset
from autoseg.artifacts.evaluation import Evaluation
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import foreground, ignored
from autoseg.artifacts.model import TrainedModel
from autoseg.artifacts.plan import PREFERRED, Plan
from autoseg.artifacts.selection import Selection, Way
from autoseg.errors import SettingError
from autoseg.layout import FoldFolder, Workspace, folds_in
from autoseg.pipeline import (
    PreparedVolume,
    case_pair,
    choose_configuration,
    open_workspace,
    prepared_cases,
    validate_fold,
)

if TYPE_CHECKING:
    import torch

    from autoseg.evaluate.stage import CasePair
    from autoseg.images.image import LabelMap
    from autoseg.networks.stored import StoredFold

log = logging.getLogger(__name__)
RULES = "2"  # to be raised when the same predictions would lead to another selection
LEAST_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Considered:
    """What a selection is made from.

    Attributes
    ----------
    configurations : tuple of str
        Preferred ones first.
    folds : tuple of int
        By whose validation cases is judged: trained to the end in each of them.
    predicting : dict of str to tuple of int
        By configuration, the folds that predict if it is chosen.
    left_out : tuple of str
        What else there is, and why it is not considered, or not judged.
    """

    configurations: tuple[str, ...]
    folds: tuple[int, ...]
    predicting: Mapping[str, tuple[int, ...]]
    left_out: tuple[str, ...]

    def predicting_all(self, names: Iterable[str]) -> tuple[int, ...]:
        """The folds that predict if these are chosen: those that each of them has."""
        first, *others = (self.predicting[name] for name in names)
        return tuple(fold for fold in first if all(fold in there for there in others))


@dataclass(frozen=True, slots=True)
class Validated:
    """A fold whose validation cases are predicted and scored.

    Attributes
    ----------
    folder : FoldFolder
    manifest : TrainedModel
    volumes : dict of str to PreparedVolume
        Its validation cases.
    evaluation : Evaluation
    weights_sha256 : str
    """

    folder: FoldFolder
    manifest: TrainedModel
    volumes: Mapping[str, PreparedVolume]
    evaluation: Evaluation
    weights_sha256: str


def select(
    workspace: Workspace,
    *,
    configurations: Sequence[str] = (),
    folds: Sequence[int] | None = None,
    device_name: str,
    jobs: int,
) -> Selection:
    """Judge configurations, pairs and decodings on cases that no fold has seen, and learn post-processing on these.

    Parameters
    ----------
    workspace : Workspace
    configurations : sequence of str, optional
        Empty: all with trained folds, but those with less than half as many as another.
    folds : sequence of int or None
        By which to judge, and which are to predict. None: those that all configurations have, and all that the
        chosen ones have.
    device_name : str
        Where probabilities that are missing are predicted.
    jobs : int

    Returns
    -------
    Selection
        As it stands in selection.json, which is left alone where it was made from the same weights.

    Raises
    ------
    SettingError
        What is asked for is not trained, or configurations have no fold in common, or were trained by different splits.
    """
    from autoseg.ensemble import stage as ensemble
    from autoseg.evaluate.compare import signed_ranks
    from autoseg.executor import case_executor
    from autoseg.networks.device import choose_device
    from autoseg.postprocess import stage as postprocess

    dataset, plan = open_workspace(workspace)
    considered = find_considered(workspace, plan, configurations, folds)
    for words in considered.left_out:
        log.info("left out: %s", words)
    device = choose_device(device_name)
    validated = {
        (name, fold): each
        for name in considered.configurations
        for fold, each in _validated(workspace, dataset, name, considered.folds, device, jobs).items()
    }
    _check_same_cases(validated)
    weights = _weights(workspace, considered, validated)
    inputs = digest(
        RULES,
        *(f"{name} {fold} {_hash(each)}" for (name, fold), each in validated.items()),
        *(f"{name} {fold} {sha256}" for name, each in weights.items() for fold, sha256 in each.items()),
    )
    old = read_if_whole(workspace.selection, Selection)
    if old is not None and old.inputs_sha256 == inputs:
        log.info(
            "%s is up to date, and kept with all that was changed in it; remove it to have it made anew",
            workspace.selection,
        )
        return old
    for (name, fold), each in validated.items():
        _keep_probabilities(name, fold, each, device)

    cases = _cases(dataset, considered, validated)
    with case_executor(min(jobs, len(cases))) as executor:
        candidates, way = ensemble.run(
            [
                ensemble.OutOfFold(
                    case.name,
                    case.levels,
                    case.scores,
                    plan.regions_class_order,
                    case.reference,
                    case.reference.num_voxels,
                )
                for case in cases
            ],
            considered.configurations,
            test=signed_ranks,
            executor=executor,
        )
        log.info("chosen: %s", way.words)
        labels = dataset.labels_in_files
        rules, trials = postprocess.run(
            [
                postprocess.OutOfFold(
                    case.name,
                    case.fold,
                    Predicted(way, case.labels, case.levels, plan.regions_class_order, case.reference),
                    foreground(labels),
                    ignored(labels),
                    case.reference.num_voxels,
                )
                for case in cases
            ],
            test=signed_ranks,
            executor=executor,
        )
    selection = Selection(
        configurations=way.configurations,
        decoding=way.decoding,
        folds=considered.predicting_all(way.configurations),
        rules=tuple(rules),
        num_cases=len(cases),
        judged_on=considered.folds,
        candidates=tuple(candidates),
        rule_trials=tuple(trials),
        left_out=considered.left_out,
        weights_sha256=weights,
        inputs_sha256=inputs,
    )
    if workspace.selection.exists():
        log.warning("what it was made from has changed: the old selection is now %s", set_aside(workspace.selection))
    write(workspace.selection, selection)
    return selection


def find_considered(
    workspace: Workspace, plan: Plan, configurations: Sequence[str], folds: Sequence[int] | None
) -> Considered:
    """Which configurations and folds can be compared.

    Raises
    ------
    SettingError
        What is asked for is not trained, or has no validation cases, or there is no fold that all configurations have.
    """
    asked = [_choose(workspace, plan, name) for name in dict.fromkeys(configurations)]
    finished: dict[str, list[int]] = {}
    left_out: list[str] = []
    preferred_first = dict.fromkeys((*PREFERRED, *plan.configurations))
    for name in asked or [name for name in preferred_first if name in plan.configurations]:
        there = _finished_folds(workspace, name)
        missing = [fold for fold in folds or () if fold not in there]
        if there and not missing:
            finished[name] = there
        elif asked:
            raise SettingError(
                "a configuration that was asked for is not trained",
                where=str(workspace.models(name)),
                found=f"trained to the end: {', '.join(map(str, there)) or 'no fold'}",
                hint=f"autoseg train {' '.join(map(str, missing or [0]))} --configuration {name}",
            )
        else:
            what = f"fold {', '.join(map(str, missing))} is not" if there else "no fold is"
            left_out.append(f"{name}: {what} trained to the end")
    if not asked:
        others = [name for name in workspace.trained_configurations if name not in plan.configurations]
        left_out += [f"{name}: {_why_unknown(workspace, name)}" for name in others]
        if folds is None:
            left_out += _leave_out_trials(finished)
    if not finished:
        raise SettingError(
            "there is nothing to select from",
            where=str(workspace.root / "models"),
            found="; ".join(left_out),
            hint=f"autoseg train all -w {workspace.root}",
        )
    common = sorted(set(folds or next(iter(finished.values()))).intersection(*finished.values()))
    if not common:
        raise SettingError(
            "the configurations have no fold in common",
            found="; ".join(f"{name}: {', '.join(map(str, there))}" for name, there in finished.items()),
            hint="train the same folds of each, or name some of them with --configuration",
        )
    for name, there in finished.items():
        unjudged = [fold for fold in there if fold not in common]
        if unjudged:
            why = "not asked for" if folds else "not judged, for not every configuration has it"
            left_out.append(f"{name}, fold {', '.join(map(str, unjudged))}: {why}")
    predicting = {name: tuple(common if folds else there) for name, there in finished.items()}
    return Considered(tuple(finished), tuple(common), predicting, tuple(left_out))


def _choose(workspace: Workspace, plan: Plan, name: str) -> str:
    """A configuration that is asked for.

    Raises
    ------
    SettingError
        The plan does not have it.
    """
    if name not in plan.configurations and name in workspace.trained_configurations:
        raise SettingError(
            "a configuration can't be judged",
            where=str(workspace.models(name)),
            found=_why_unknown(workspace, name),
            allowed=", ".join(plan.configurations),
            hint=f"autoseg predict --configuration {name} predicts with it",
        )
    return choose_configuration(plan, name)


def _why_unknown(workspace: Workspace, name: str) -> str:
    """Why folds are there of a configuration that the plan does not have."""
    folders = folds_in(workspace.models(name)).values()
    manifests = [read_if_whole(folder.manifest, TrainedModel) for folder in folders]
    if any(manifest is not None and manifest.teaching for manifest in manifests):
        return "a student is trained on every case: it has no validation cases"
    return "the plan has no such configuration"


def _leave_out_trials(finished: dict[str, list[int]]) -> list[str]:
    """Remove configurations of which so few folds are trained that they would cost the others most of their cases."""
    most = max(map(len, finished.values()), default=0)
    few = [name for name, there in finished.items() if len(there) < LEAST_SHARE * most]
    return [
        f"{name}: only fold {', '.join(map(str, finished.pop(name)))} trained to the end, less than half as many as of "
        "another configuration; --configuration has it judged all the same"
        for name in few
    ]


def _finished_folds(workspace: Workspace, name: str) -> list[int]:
    from autoseg.networks.stored import finished_manifest

    return [fold for fold, folder in folds_in(workspace.models(name)).items() if finished_manifest(folder) is not None]


def _weights(
    workspace: Workspace, considered: Considered, validated: Mapping[tuple[str, int], Validated]
) -> dict[str, dict[str, str]]:
    """SHA-256 of the weights of each fold that may predict, and of the first stage of a cascade, fold by fold."""
    from autoseg.networks.stored import fold_at

    wanted = {name: set(folds) for name, folds in considered.predicting.items()}
    for each in validated.values():
        first = each.manifest.configuration.previous_stage
        if first is not None:  # all of its folds predict
            wanted[first] = wanted.get(first, set()).union(_finished_folds(workspace, first))
    known = {key: each.weights_sha256 for key, each in validated.items()}
    return {
        name: {
            str(fold): known.get((name, fold)) or fold_at(workspace.fold(name, fold).root).weights_sha256
            for fold in sorted(folds)
        }
        for name, folds in wanted.items()
    }


def _validated(
    workspace: Workspace, dataset: Dataset, name: str, folds: Iterable[int], device: "torch.device", jobs: int
) -> dict[int, Validated]:
    """Folds with their predictions and scores, which `train` has left; made where they are missing or stale.

    Raises
    ------
    SettingError
        A fold does not say on which cases it was trained, or one of them is no longer there.
    """
    from autoseg.cascade import find_first_stage
    from autoseg.datasets.splits import find_splits

    stored = {fold: _stored(workspace, dataset, name, fold) for fold in folds}
    by_plan: dict[str, list[int]] = {}
    for fold, (each, _) in stored.items():
        by_plan.setdefault(digest(each.manifest.plan), []).append(fold)
    found = {}
    for same in by_plan.values():
        plan = stored[same[0]][0].manifest.plan
        names = [case for fold in same for case in stored[fold][1]]
        first = find_first_stage(workspace, plan, name, names, find_splits(dataset, plan, workspace))
        prepared = prepared_cases(workspace, dataset, plan, name, first, device, jobs)
        for fold in same:
            folder, (each, cases) = workspace.fold(name, fold), stored[fold]
            evaluation = validate_fold(dataset, prepared, cases, folder, device, jobs)
            volumes = {case: prepared.volume(case) for case in cases}
            found[fold] = Validated(folder, each.manifest, volumes, evaluation, each.weights_sha256)
    return {fold: found[fold] for fold in stored}


def _stored(workspace: Workspace, dataset: Dataset, name: str, fold: int) -> tuple["StoredFold", tuple[str, ...]]:
    """A fold, and the names of its validation cases.

    Raises
    ------
    SettingError
        It does not say on which cases it was trained, or one of them is no longer there.
    """
    from autoseg.networks.stored import fold_at

    folder = workspace.fold(name, fold)
    stored = fold_at(folder.root)
    cases = stored.manifest.cases
    unknown = sorted(set(cases.validation) - {case.name for case in dataset.cases}) if cases else None
    if cases is None or unknown:
        raise SettingError(
            "a fold's validation cases are not in the dataset",
            where=str(folder.root),
            found=", ".join(unknown) if unknown else "a model that does not say what it was trained on",
            hint=f"autoseg train {fold} --configuration {name} --restart",
        )
    return stored, tuple(cases.validation)


def _check_same_cases(validated: Mapping[tuple[str, int], Validated]) -> None:
    """Configurations are compared case by case, so each fold must have left out the same cases in all of them.

    Raises
    ------
    SettingError
        It did not.
    """
    first: dict[int, tuple[str, Validated]] = {}
    for (name, fold), each in validated.items():
        other, expected = first.setdefault(fold, (name, each))
        if each.volumes.keys() != expected.volumes.keys():
            raise SettingError(
                "a fold of two configurations has different validation cases",
                where=f"{other} and {name}, fold {fold}",
                hint="train both by the same splits.json, or name one of them with --configuration",
            )


def _hash(fold: Validated) -> str:
    """What a selection takes from a fold."""
    return digest(
        fold.weights_sha256, *fold.evaluation.hashes.values(), *(each.sha256 for each in fold.volumes.values())
    )


def _keep_probabilities(name: str, fold: int, validated: Validated, device: "torch.device") -> None:
    """Predict the validation cases again whose probabilities are missing or of other weights."""
    from autoseg.executor import SerialExecutor, run_cases
    from autoseg.images.probabilities import are_made_from, write_levels
    from autoseg.predict import stage
    from autoseg.predict.case import levels_of, mean_logits
    from autoseg.predict.models import load_models

    prediction = validated.manifest.plan.prediction
    axes = validated.manifest.configuration.mirror_axes if prediction.mirroring else ()
    made_from = {
        case: digest(stage.RULES, validated.weights_sha256, volume.sha256, f"{axes} {prediction.step}")
        for case, volume in validated.volumes.items()
    }
    missing = [case for case in made_from if not are_made_from(validated.folder.levels(case), made_from[case])]
    if not missing:
        return
    (model,) = load_models([validated.folder], device)

    def keep(case: str) -> None:
        volume = validated.volumes[case].read(model)
        logits = mean_logits(
            [model],
            volume.image_czyx,
            device=device,
            mirror_axes=axes,
            step=prediction.step,
            folder=validated.folder.root,
        )
        write_levels(validated.folder.levels(case), levels_of(logits, volume, model, made_from=made_from[case]))

    run_cases(SerialExecutor(), keep, missing, name_of=str, progress=f"probabilities of {name}, fold {fold}")


@dataclass(frozen=True, slots=True)
class Reference:
    """The truth of a case, read in the process that needs it.

    Attributes
    ----------
    pair : CasePair
    geometry : Geometry
        Of the case's image, on which predictions lie.
    file_values : tuple of int
        What is written for each of 0, 1, 2, ...; empty where it is the same.
    """

    pair: "CasePair"
    geometry: Geometry
    file_values: tuple[int, ...]

    @property
    def num_voxels(self) -> int:
        """Of the image."""
        return prod(self.geometry.shape)

    def read(self) -> "LabelMap":
        """The reference on the image's grid."""
        from autoseg.evaluate.stage import read_reference

        return read_reference(self.geometry, self.pair)[0]

    def scores(self, labels: Iterable[NDArray[np.integer]]) -> list[float]:
        """Mean foreground Dice of label maps, values as the network counts them; what is rightly absent counts as 1."""
        from autoseg.evaluate.stage import label_dice

        reference = self.read()
        return [mean_score(label_dice(reference, self.written(label), self.pair).values()) for label in labels]

    def written(self, label_zyx: NDArray[np.integer]) -> "LabelMap":
        """A label map with the values of the label files."""
        from autoseg.images.image import LabelMap

        values = np.array(self.file_values, np.uint16)[label_zyx] if self.file_values else label_zyx
        return LabelMap(values, self.geometry)


def mean_score(dice: Iterable[float | None]) -> float:
    """Mean Dice of a case's labels; 1 for a label that is rightly absent, so that removing a false alarm counts."""
    return fmean(1.0 if value is None else value for value in dice)


@dataclass(frozen=True, slots=True)
class Predicted:
    """A case's label map by some way, and its reference.

    Attributes
    ----------
    way : Way
    labels : dict of str to Path
        Label map of each configuration.
    levels : dict of str to Path
        Probabilities.
    class_order : tuple of int
    reference : Reference
    """

    way: Way
    labels: Mapping[str, Path]
    levels: Mapping[str, Path]
    class_order: tuple[int, ...]
    reference: Reference

    def read(self) -> tuple["LabelMap", NDArray[np.integer]]:
        """The prediction, and the reference on its grid."""
        from autoseg.ensemble.decode import decode
        from autoseg.images.io import read_label
        from autoseg.images.probabilities import read_levels

        names = self.way.configurations
        if len(names) == 1 and self.way.decoding == "argmax":
            predicted = read_label(self.labels[names[0]], case=self.reference.pair.case, grid=self.reference.geometry)
        else:
            levels = [read_levels(self.levels[name]) for name in names]
            predicted = self.reference.written(decode(levels, self.way.decoding, self.class_order))
        return predicted, self.reference.read().array_zyx


@dataclass(frozen=True, slots=True)
class _Case:
    """A case as every configuration predicted it that did not see it."""

    name: str
    fold: int
    labels: Mapping[str, Path]
    levels: Mapping[str, Path]
    scores: Mapping[str, float]
    reference: Reference


def _cases(dataset: Dataset, considered: Considered, validated: Mapping[tuple[str, int], Validated]) -> list[_Case]:
    """The validation cases of all folds."""
    by_name = {case.name: case for case in dataset.cases}
    cases = []
    for fold in considered.folds:
        by_configuration = {name: validated[name, fold] for name in considered.configurations}
        first = by_configuration[considered.configurations[0]]
        for case, volume in first.volumes.items():
            pair = case_pair(dataset, by_name[case])
            cases.append(
                _Case(
                    case,
                    fold,
                    {name: each.folder.validation / pair.predicted for name, each in by_configuration.items()},
                    {name: each.folder.levels(case) for name, each in by_configuration.items()},
                    {
                        name: mean_score(scores.dice for scores in each.evaluation.cases[case].values())
                        for name, each in by_configuration.items()
                    },
                    Reference(pair, volume.record.placement.geometry, dataset.file_values),
                )
            )
    return cases
