"""Train one fold: reads preprocessed cases, writes the fold's folder."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import msgspec
import numpy as np
import torch

from autoseg import __version__
from autoseg.artifacts.base import digest, read, write
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.labels import foreground, has_regions, ignored, values_of
from autoseg.artifacts.model import Pretrained, StepStyle, TrainedModel
from autoseg.artifacts.overlay import differences
from autoseg.artifacts.plan import Configuration, Plan
from autoseg.artifacts.preprocessed import PreprocessedCase
from autoseg.artifacts.splits import Fold
from autoseg.errors import SettingError
from autoseg.layout import FoldFolder
from autoseg.machine import alone
from autoseg.networks.device import keep_freed_memory
from autoseg.networks.unet import build_network
from autoseg.train.journal import ProgressBar, append_metrics, draw_progress, read_metrics, rewind_metrics
from autoseg.train.loading import Batches, BatchRecipe, make_batch
from autoseg.train.loop import Course, EpochReport, progress_of, train, train_step
from autoseg.train.losses import Objective
from autoseg.train.pretrained import PretrainedFold, begin, other_beginning
from autoseg.train.sampling import TrainingCase
from autoseg.train.signals import stop_requested
from autoseg.train.state import TrainState, load_checkpoint, new_optimizer, save_checkpoint, save_weights
from autoseg.train.step_style import choose_step, describe_step

log = logging.getLogger(__name__)
TRAINING_STREAM, VALIDATION_STREAM = 0, 1
MOST_WORKERS = 8
MEASURED_BATCH = 2
MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class FoldTask:
    """Which fold is trained, from what.

    Attributes
    ----------
    plan : Plan
        With every setting applied.
    settings : tuple of str
        The settings, for the manifest.
    cases : Fold
    naming : Naming
    file_values : tuple of int
        As the dataset's.
    pretrained : PretrainedFold, Pretrained or None
        The weights it begins with, as asked or as an earlier run recorded; None: fresh ones.
    """

    plan: Plan
    settings: tuple[str, ...]
    configuration_name: str
    fold: int
    cases: Fold
    naming: Naming
    file_values: tuple[int, ...] = ()
    pretrained: PretrainedFold | Pretrained | None = None


def run(
    task: FoldTask,
    records: Mapping[str, PreprocessedCase],
    cases: Callable[[Sequence[str]], Sequence[TrainingCase]],
    folder: FoldFolder,
    *,
    device: torch.device,
    jobs: int,
    restart: bool = False,
) -> TrainedModel:
    """Train a fold to the end of its schedule, from wherever an earlier run left it.

    Parameters
    ----------
    task : FoldTask
    records : mapping of str to PreprocessedCase
        Of the preprocessed cases, by name.
    cases : callable
        Gives the cases of these names; called only if there is something to train.
    folder : FoldFolder
    device : torch.device
    jobs : int
        Most worker processes for loading.
    restart : bool
        Throw an earlier training of this fold away.

    Returns
    -------
    TrainedModel
        At once if the fold is finished and nothing it depends on changed.

    Raises
    ------
    SettingError
        The folder holds a training with other settings, or an unfinished one of other data; or another process
        trains this fold.
    """
    with alone(folder.lock, "another process trains this fold"):
        if restart and folder.root.exists():
            shutil.rmtree(folder.root)
        return _run(task, records, cases, folder, device, jobs)


def _run(
    task: FoldTask,
    records: Mapping[str, PreprocessedCase],
    cases: Callable[[Sequence[str]], Sequence[TrainingCase]],
    folder: FoldFolder,
    device: torch.device,
    jobs: int,
) -> TrainedModel:
    """Train a fold that no other process trains."""
    inputs = _inputs(task)
    # Of the arrays, not of the files they were made from: these may have been copied since.
    data = digest(*(records[name].arrays_sha256 for name in (*task.cases.training, *task.cases.validation)))
    earlier = find_earlier(task, folder)
    done = earlier is not None and earlier.finished and folder.weights.exists()
    if earlier is not None and earlier.data_sha256 != data:
        if not done:
            raise SettingError(
                "the data changed since this fold began to train from them",
                where=str(folder.root),
                hint="--restart trains it anew from the data as they are",
            )
        log.warning("the data changed since fold %d was trained from them; --restart trains it anew", task.fold)
    renewed = None if earlier is None else _with_todays_prediction(earlier, task)
    if renewed is not None and renewed != earlier:
        write(folder.manifest, renewed)
        earlier = renewed
    if earlier is not None and done:
        log.info("fold %d is trained: %s", task.fold, folder.root)
        return earlier
    if device.type == "cpu":
        keep_freed_memory()
    # Patches all have one size: cuDNN may search for the fastest kernels once.
    torch.backends.cudnn.benchmark = True
    configuration, recipe = task.plan.configurations[task.configuration_name], task.plan.training
    # The weights' beginning depends on the seed and the fold alone.
    torch.manual_seed(int(np.random.default_rng((recipe.seed, task.fold)).integers(2**31)))
    network = build_network(configuration, task.plan.num_inputs(configuration), task.plan.num_classes).to(device)
    if earlier is not None and folder.checkpoint.exists():
        pretrained = earlier.pretrained
    else:
        pretrained = begin(network, task.plan, task.configuration_name, task.pretrained)
    training_cases, validation_cases = cases(task.cases.training), cases(task.cases.validation)
    batches = _batch_recipes(task)
    if earlier is not None and torch.device(earlier.device).type == device.type:
        style, seconds = earlier.step, earlier.step_seconds
    else:
        style, seconds = _measure_step(task, training_cases, batches[0], device)
    manifest = TrainedModel(
        inputs_sha256=inputs,
        data_sha256=data,
        plan=task.plan,
        settings=task.settings,
        configuration_name=task.configuration_name,
        fold=task.fold,
        cases=task.cases,
        naming=task.naming,
        file_values=task.file_values,
        pretrained=pretrained,
        step=style,
        step_seconds=seconds,
        num_parameters=sum(prod(parameter.shape) for parameter in network.parameters()),
        device=str(device),
        autoseg_version=__version__,
        torch_version=str(torch.__version__),
    )
    write(folder.manifest, manifest)
    state = TrainState(
        network=network,
        optimizer=new_optimizer(network, recipe),
        scaler=torch.amp.GradScaler(device.type, enabled=style.precision == "float16"),
    )
    if earlier is not None and folder.checkpoint.exists():
        load_checkpoint(folder.checkpoint, state, inputs)
        log.info("fold %d goes on after iteration %d", task.fold, state.iteration)
    rewind_metrics(folder.metrics, state.epoch)
    _train(task, state, manifest, folder, (training_cases, validation_cases), batches, device, jobs)
    save_weights(folder.weights, network)
    rates = [record["learning_rate"] for record in read_metrics(folder.metrics)]
    manifest = msgspec.structs.replace(
        manifest,
        iterations=state.iteration,
        epochs=state.epoch,
        training_seconds=round(state.seconds, 3),
        final_learning_rate=rates[-1] if rates else None,
        finished=True,
    )
    write(folder.manifest, manifest)
    return manifest


def _train(
    task: FoldTask,
    state: TrainState,
    manifest: TrainedModel,
    folder: FoldFolder,
    cases: tuple[Sequence[TrainingCase], Sequence[TrainingCase]],
    recipes: tuple[BatchRecipe, BatchRecipe],
    device: torch.device,
    jobs: int,
) -> None:
    """Run the loop with its loaders, bar and files."""
    recipe = task.plan.training
    workers = _num_workers(cases[0], device, jobs)
    training = Batches(cases[0], recipes[0], first=state.iteration, num_workers=workers)
    validation = Batches(
        cases[1], recipes[1], first=state.epoch * recipe.validation_iterations, num_workers=min(1, workers)
    )
    bar = ProgressBar(f"{task.configuration_name} fold {task.fold}", progress_of(state, recipe, 0.0))

    def on_epoch(report: EpochReport) -> None:
        append_metrics(folder.metrics, report)
        draw_progress(folder.progress, read_metrics(folder.metrics))
        bar.epoch(report)

    course = Course(
        configuration=manifest.configuration,
        objective=_objective(task.plan, manifest.configuration),
        recipe=recipe,
        device=device,
        step=manifest.step,
        on_step=bar.step,
        on_epoch=on_epoch,
        save=lambda: save_checkpoint(folder.checkpoint, state, manifest.inputs_sha256),
    )
    try:
        with stop_requested() as stopped:
            train(state, course, training, validation, stopped)
    finally:
        bar.close()
        training.close()
        validation.close()


def _num_workers(cases: Sequence[TrainingCase], device: torch.device, jobs: int) -> int:
    """Worker processes for loading: none where cutting patches from memory is quicker than passing them over."""
    in_memory = all(isinstance(case.image_czyx, np.ndarray) for case in cases)
    if device.type == "cpu" and in_memory:
        return 0
    return max(1, min(jobs, MOST_WORKERS))


def _batch_recipes(task: FoldTask) -> tuple[BatchRecipe, BatchRecipe]:
    configuration, recipe = task.plan.configurations[task.configuration_name], task.plan.training

    def batch_recipe(stream: int) -> BatchRecipe:
        return BatchRecipe(
            patch=configuration.patch_size,
            batch_size=configuration.batch_size,
            num_channels=len(task.plan.channel_names),
            foreground_share=recipe.foreground_share,
            mirror_axes=configuration.mirror_axes,
            augmentation=recipe.augmentation if stream == TRAINING_STREAM else None,
            seeds=(recipe.seed, task.fold, stream),
        )

    return batch_recipe(TRAINING_STREAM), batch_recipe(VALIDATION_STREAM)


def _objective(plan: Plan, configuration: Configuration) -> Objective:
    """What the outputs of a plan's networks are held against."""
    named = foreground(plan.labels)
    regions = tuple(values_of(value) for value in named.values()) if has_regions(plan.labels) else ()
    return Objective(batch_dice=configuration.batch_dice, regions=regions, ignore=ignored(plan.labels))


def _measure_step(
    task: FoldTask, cases: Sequence[TrainingCase], recipe: BatchRecipe, device: torch.device
) -> tuple[StepStyle, dict[str, float]]:
    """Time steps of a batch of 2 in each style, on weights that are thrown away."""
    plan = task.plan
    configuration = plan.configurations[task.configuration_name]
    batch = make_batch(cases, replace(recipe, batch_size=min(MEASURED_BATCH, recipe.batch_size)), 0)
    objective = _objective(plan, configuration)
    network = build_network(configuration, recipe.num_channels, plan.num_classes).to(device)
    scaler = torch.amp.GradScaler(device.type, enabled=False)

    def step(style: StepStyle) -> float:
        state = TrainState(network, new_optimizer(network, plan.training), scaler)
        course = Course(configuration, objective, plan.training, device, style, _nothing, _nothing, _nothing)
        return train_step(state, batch, course)

    style, seconds = choose_step(device, step, samples_tied=not objective.is_mean_over_samples)
    log.info("training in %s%s", describe_step(style), f"; measured, in seconds: {seconds}" if seconds else "")
    return style, seconds


def _nothing(*_: object) -> None:
    """Report nothing."""


def _inputs(task: FoldTask) -> str:
    """Hash of all that determines the weights."""
    determining = msgspec.json.encode(_determining(task.plan, task.configuration_name))
    origin = () if task.pretrained is None else (task.pretrained.weights_sha256,)
    return digest(determining, task.cases, str(task.fold), *origin)


def _with_todays_prediction(earlier: TrainedModel, task: FoldTask) -> TrainedModel:
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
    for key in ("memory_share", "checkpoint_minutes", "stratify"):
        del recipe[key]
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


def find_earlier(task: FoldTask, folder: FoldFolder) -> TrainedModel | None:
    """The manifest of an earlier run with the same settings, if there is one.

    Raises
    ------
    SettingError
        There is one with other settings: hours of work that must not be lost by a typing slip.
    """
    if not folder.manifest.exists():
        return None
    earlier = read(folder.manifest, TrainedModel)
    if earlier.inputs_sha256 != _inputs(task):
        then, now = (_determining(plan, task.configuration_name) for plan in (earlier.plan, task.plan))
        changed = differences(then, now)
        if earlier.cases != task.cases:
            changed.insert(0, "the fold's cases changed")
        changed = [*other_beginning(earlier.pretrained, task.pretrained), *changed]
        raise SettingError(
            "this fold was trained with other settings, cases or a changed plan",
            where=str(folder.root),
            found="; ".join((f"settings then: {' '.join(earlier.settings) or 'none'}", *changed[:MOST_SHOWN])),
            hint="use the same settings to go on, or --restart to throw that training away",
        )
    return earlier


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Everything for steps like those of a training, on weights that are thrown away.

    Attributes
    ----------
    pretrained : Pretrained or None
        What the weights began with; None: fresh ones.
    """

    state: TrainState
    course: Course
    batches: Batches
    pretrained: Pretrained | None


def rehearse(
    task: FoldTask,
    cases: Sequence[TrainingCase],
    style: StepStyle | None,
    on_step: Callable[[float, float], None],
    *,
    device: torch.device,
    jobs: int,
) -> Rehearsal:
    """A fold's training as it is when it begins: the same weights, batches and steps; nothing is written.

    Parameters
    ----------
    task : FoldTask
    cases : sequence of TrainingCase
        To train on.
    style : StepStyle or None
        None: the fastest is measured.
    on_step : callable
        Called after each step with the share done and the loss.
    device : torch.device
    jobs : int
        Most worker processes for loading.
    """
    if device.type == "cpu":
        keep_freed_memory()
    torch.backends.cudnn.benchmark = True
    plan, recipe = task.plan, task.plan.training
    configuration = plan.configurations[task.configuration_name]
    torch.manual_seed(int(np.random.default_rng((recipe.seed, task.fold)).integers(2**31)))
    network = build_network(configuration, plan.num_inputs(configuration), plan.num_classes).to(device)
    pretrained = begin(network, plan, task.configuration_name, task.pretrained)
    batches = _batch_recipes(task)[0]
    if style is None:
        style, _ = _measure_step(task, cases, batches, device)
    return Rehearsal(
        state=TrainState(
            network=network,
            optimizer=new_optimizer(network, recipe),
            scaler=torch.amp.GradScaler(device.type, enabled=style.precision == "float16"),
        ),
        course=Course(
            configuration=configuration,
            objective=_objective(plan, configuration),
            recipe=recipe,
            device=device,
            step=style,
            on_step=on_step,
            on_epoch=_nothing,
            save=_nothing,
        ),
        batches=Batches(cases, batches, first=0, num_workers=_num_workers(cases, device, jobs)),
        pretrained=pretrained,
    )
