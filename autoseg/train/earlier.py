"""Whether a fold's earlier training can be gone on with: settings, cases and beginning held against today's."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from autoseg.artifacts.base import digest, read
from autoseg.artifacts.labels import has_regions
from autoseg.artifacts.model import EarlierEnd, Teaching, TrainedModel
from autoseg.artifacts.overlay import differences
from autoseg.artifacts.plan import Plan
from autoseg.errors import ArtifactError, SettingError
from autoseg.layout import FoldFolder
from autoseg.machine import seen_soon
from autoseg.train.pretrained import other_beginning
from autoseg.train.task import FoldTask

MOST_SHOWN = 5
# What a finished training may be extended in.
LENGTH = ("epochs", "max_hours", "patience")


def inputs_of(task: FoldTask) -> str:
    """Hash of all that determines the weights."""
    determining = msgspec.json.encode(_determining(task.plan, task.configuration_name))
    origin = () if task.pretrained is None else (task.pretrained.weights_sha256,)
    taught = () if task.teacher is None else task.teacher.record.identity
    return digest(determining, task.cases, str(task.fold), *origin, *taught)


def teaching_of(task: FoldTask) -> Teaching | None:
    """Whom the task imitates."""
    return None if task.teacher is None else task.teacher.record


def with_todays_prediction(earlier: TrainedModel, task: FoldTask) -> TrainedModel:
    """The manifest with how to predict and what to write, which are no part of training and may change at any time."""
    plan = msgspec.structs.replace(
        earlier.plan, prediction=task.plan.prediction, regions_class_order=task.plan.regions_class_order
    )
    same = (plan, earlier.naming, earlier.file_values) == (earlier.plan, task.naming, task.file_values)
    return msgspec.structs.replace(
        earlier,
        plan=plan,
        settings=earlier.settings if same else task.settings,
        naming=task.naming,
        file_values=task.file_values,
    )


def _determining(plan: Plan, configuration_name: str) -> dict[str, Any]:
    """What of a plan determines the weights; where arrays are kept and how often they are saved does not."""
    configuration = plan.configurations[configuration_name]
    recipe = msgspec.to_builtins(plan.training)
    # What came of `stratify` are the fold's cases, which count by themselves.
    for key in ("memory_share", "checkpoint_minutes", "validation_cases", "validation_every", "stratify"):
        del recipe[key]
    if configuration.previous_stage is None:
        augmentation = recipe["augmentation"]
        recipe["augmentation"] = {key: augmentation[key] for key in augmentation if not key.startswith("previous_")}
    schemes = zip(plan.channel_names, plan.intensities, configuration.normalization_schemes, strict=True)
    return {
        "configurations": {configuration_name: msgspec.to_builtins(configuration)},
        "training": recipe,
        "intensities": {name: msgspec.to_builtins(k) for name, k, scheme in schemes if scheme == "ct"},
        "transpose_forward": plan.transpose_forward,
        "channel_names": plan.channel_names,
        # The order of regions is that of the outputs. What is written for each is a matter of prediction.
        "labels": plan.labels if has_regions(plan.labels) else dict(sorted(plan.labels.items())),
    }


def manifest_path(earlier: TrainedModel | None, folder: FoldFolder) -> Path:
    """Where a training keeps its manifest: while it is extended, manifest.json stays that of the finished one."""
    extending = earlier is not None and earlier.extended and not earlier.finished
    return folder.extension if extending else folder.manifest


def find_earlier(task: FoldTask, folder: FoldFolder, *, extend: bool = False) -> TrainedModel | None:
    """The manifest of an earlier run with the same settings, if there is one; to be extended, as it is to be.

    Raises
    ------
    SettingError
        There is one with other settings: hours of work that must not be lost by a typing slip. Or there is none that
        can be extended.
    """
    inputs = inputs_of(task)
    found = [read(path, TrainedModel) for path in (folder.extension, folder.manifest) if path.exists()]
    if len(found) > 1 and found[0].inputs_sha256 == found[1].inputs_sha256:
        # Killed after the extended training was finished, before the file of what it began as was taken away.
        found = found[1:]
    for earlier in found:
        if earlier.inputs_sha256 == inputs:
            return earlier
    if extend:
        return _extended(found, task, folder)
    if not found:
        return None
    earlier = found[0]
    then, now = (_determining(plan, task.configuration_name) for plan in (earlier.plan, task.plan))
    changed = differences(then, now)
    if earlier.cases != task.cases:
        changed.insert(0, "the fold's cases changed")
    taught = [None if record is None else record.identity for record in (earlier.teaching, teaching_of(task))]
    if taught[0] != taught[1]:
        changed.insert(0, "the teacher's folds, or how much they count, changed")
    changed = [*other_beginning(earlier.pretrained, task.pretrained), *changed]
    longer = ", --extend to train a finished one for longer" if earlier.finished else ""
    raise SettingError(
        "this fold was trained with other settings, cases or a changed plan",
        where=str(folder.root),
        found="; ".join((f"settings then: {' '.join(earlier.settings) or 'none'}", *changed[:MOST_SHOWN])),
        hint=f"use the same settings to go on{longer}, or --restart to throw that training away",
    )


def find_begun(task: FoldTask, folder: FoldFolder) -> TrainedModel:
    """The manifest that the first of several processes has just written, for the others to go by.

    Raises
    ------
    ArtifactError
        It is not to be seen here.
    """
    inputs = inputs_of(task)

    def look() -> TrainedModel | None:
        found = [read(path, TrainedModel) for path in (folder.manifest, folder.extension) if path.exists()]
        return next((begun for begun in found if begun.inputs_sha256 == inputs), None)

    begun = seen_soon(look)
    if begun is None:
        raise ArtifactError(
            "what the first process wrote is not to be seen here",
            where=str(folder.manifest),
            found="a training with other settings" if folder.manifest.exists() else "nothing",
            hint="all hosts must see the same workspace, and be given the same command",
        )
    return begun


def _extended(found: Sequence[TrainedModel], task: FoldTask, folder: FoldFolder) -> TrainedModel:
    """The manifest of a finished training, as it is while it is extended.

    Raises
    ------
    SettingError
        There is none, it is being extended already, or it differs in more than its length.
    """
    if found and found[0].extended and not found[0].finished:
        raise SettingError(
            "this training is being extended to another length already",
            where=str(folder.root),
            found=" ".join(found[0].settings),
            hint="go on with these settings until it is finished, and extend it then",
        )
    if not found or not found[0].finished:
        raise SettingError(
            "there is no finished training to extend",
            where=str(folder.root),
            found="another one that is not finished" if found else None,
            hint="--extend goes on with a finished training; leave it out to begin one, and to go on with the settings "
            "that it began with",
        )
    earlier = found[0]
    recipe = task.plan.training
    as_before = {name: getattr(earlier.plan.training, name) for name in LENGTH}
    same_length = msgspec.structs.replace(task.plan, training=msgspec.structs.replace(recipe, **as_before))
    if inputs_of(replace(task, plan=same_length)) != earlier.inputs_sha256:
        determining = (_determining(plan, task.configuration_name) for plan in (earlier.plan, same_length))
        changed = [*other_beginning(earlier.pretrained, task.pretrained), *differences(*determining)]
        raise SettingError(
            "a training can be extended in its length alone",
            where=str(folder.root),
            found="; ".join(changed[:MOST_SHOWN]) or "the fold's cases changed",
            allowed=", ".join(f"training.{name}" for name in LENGTH),
        )
    planned = recipe.epochs * recipe.iterations_per_epoch
    longer = 3600 * recipe.max_hours > earlier.training_seconds if recipe.max_hours else planned > earlier.iterations
    if not longer:
        raise SettingError(
            "the training is as long already",
            where=str(folder.root),
            found=f"{earlier.iterations} iterations, {earlier.training_seconds / 3600:.3g} hours",
            hint="give a greater --epochs or --max-hours: it counts from the beginning of the training",
        )
    end = EarlierEnd(
        inputs_sha256=earlier.inputs_sha256,
        iterations=earlier.iterations,
        epochs=earlier.epochs,
        training_seconds=earlier.training_seconds,
    )
    return msgspec.structs.replace(
        earlier,
        inputs_sha256=inputs_of(task),
        plan=task.plan,
        settings=task.settings,
        extended=(*earlier.extended, end),
        finished=False,
    )
