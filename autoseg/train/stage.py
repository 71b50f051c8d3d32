"""Train one fold: reads preprocessed cases, writes the fold's folder."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from autoseg import __version__
from autoseg.artifacts.base import digest, read, write
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.labels import foreground, has_regions, ignored, values_of
from autoseg.artifacts.model import EarlierEnd, StepPeak, StepStyle, TrainedModel
from autoseg.artifacts.overlay import differences
from autoseg.artifacts.plan import Configuration, Plan, Training
from autoseg.artifacts.preprocessed import PreprocessedCase
from autoseg.artifacts.splits import Fold
from autoseg.errors import ArtifactError, SettingError
from autoseg.layout import FoldFolder
from autoseg.machine import alone, available_cpus
from autoseg.networks.cost import training_step_memory
from autoseg.networks.device import keep_freed_memory, suit, use_fast_kernels
from autoseg.networks.unet import UNet, build_network
from autoseg.train.class_weights import resolve_class_weights
from autoseg.train.distributed import ALONE, Ranks, SharedNetwork, check_beginning, check_shares, with_shared_statistics
from autoseg.train.journal import Board, ProgressBar, append_metrics, draw_progress, read_metrics, rewind_metrics
from autoseg.train.loading import Batches, BatchRecipe, make_batch
from autoseg.train.loop import Course, EpochReport, progress_of, train, train_step
from autoseg.train.losses import Objective, level_weights
from autoseg.train.measure import PeakWatch
from autoseg.train.optimizer import new_optimizer
from autoseg.train.sampling import RareClasses, TrainingCase, weigh_rare_classes
from autoseg.train.signals import stop_requested
from autoseg.train.state import TrainState, resume, save_checkpoint, save_weights
from autoseg.train.step_style import choose_step, describe_step
from autoseg.train.validate import WholeCases, choose_cases, count_windows

log = logging.getLogger(__name__)
TRAINING_STREAM, VALIDATION_STREAM = 0, 1
MOST_WORKERS = 8
MEASURED_VOXELS = 200_000
MOST_SHOWN = 5
HIGH_FOR_ADAMW = 0.003
# What a finished training may be extended in.
LENGTH = ("epochs", "max_hours", "patience")
CaseDice = Callable[[UNet, TrainedModel, str], float | None]


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
    """

    plan: Plan
    settings: tuple[str, ...]
    configuration_name: str
    fold: int
    cases: Fold
    naming: Naming
    file_values: tuple[int, ...] = ()


def run(
    task: FoldTask,
    records: Mapping[str, PreprocessedCase],
    cases: Callable[[Sequence[str]], Sequence[TrainingCase]],
    folder: FoldFolder,
    *,
    device: torch.device,
    jobs: int,
    restart: bool = False,
    extend: bool = False,
    case_dice: CaseDice | None = None,
    ranks: Ranks = ALONE,
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
    extend : bool
        Go on with a finished one whose settings were the same but for a shorter length.
    case_dice : callable, optional
        Mean foreground Dice of a validation case, predicted whole by a network that is being trained as the manifest
        says.
    ranks : Ranks
        The processes that train this fold together; only the first writes.

    Returns
    -------
    TrainedModel
        At once if the fold is finished and nothing it depends on changed.

    Raises
    ------
    SettingError
        The folder holds a training with other settings, or an unfinished one of other data; or another process
        trains this fold; or there are more processes than samples in a batch.
    ArtifactError
        A checkpoint can't be read, or there is none to extend from.
    """
    check_shares(ranks, task.plan.configurations[task.configuration_name].batch_size, task.configuration_name)
    # What the first decides stands in the manifest, which the others read.
    lock = alone(folder.lock, "another process trains this fold") if ranks.is_first else nullcontext()
    with ranks.first_ahead() as go_on, lock:
        if restart and ranks.is_first and folder.root.exists():
            shutil.rmtree(folder.root)
        return _run(task, records, cases, folder, device, jobs, ranks, go_on, extend=extend, case_dice=case_dice)


def _run(
    task: FoldTask,
    records: Mapping[str, PreprocessedCase],
    cases: Callable[[Sequence[str]], Sequence[TrainingCase]],
    folder: FoldFolder,
    device: torch.device,
    jobs: int,
    ranks: Ranks,
    go_on: Callable[[], None],
    *,
    extend: bool,
    case_dice: CaseDice | None,
) -> TrainedModel:
    """Train a fold that no other process trains."""
    for leftover in folder.root.glob(".*.part*"):
        # A process that was killed while it wrote; whoever holds the lock is alone here.
        leftover.unlink()
    inputs = _inputs(task)
    # Of the arrays, not of the files they were made from: these may have been copied since.
    data = digest(*(records[name].arrays_sha256 for name in (*task.cases.training, *task.cases.validation)))
    earlier = find_earlier(task, folder, extend=extend)
    path = _manifest_path(earlier, folder)
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
        write(path, renewed)
        earlier = renewed
    if earlier is not None and done:
        log.info("fold %d is trained: %s", task.fold, folder.root)
        return earlier
    num_threads = _use_threads(earlier, device, ranks)
    if device.type == "cpu":
        keep_freed_memory()
    configuration, recipe = task.plan.configurations[task.configuration_name], task.plan.training
    _look_at_rate(recipe)
    use_fast_kernels()
    # The weights' beginning depends on the seed and the fold alone.
    torch.manual_seed(int(np.random.default_rng((recipe.seed, task.fold)).integers(2**31)))
    network = build_network(configuration, task.plan.num_inputs(configuration), task.plan.num_classes).to(device)
    network = with_shared_statistics(network, ranks, device)
    training_cases, validation_cases = cases(task.cases.training), cases(task.cases.validation)
    batches = _batch_recipes(task, records)
    weights = _class_weights(task, records)
    if earlier is not None and torch.device(earlier.device).type == device.type:
        style, seconds = earlier.step, earlier.step_seconds
    else:
        style, seconds = _measure_step(task, training_cases, batches[0], weights, device)
    suit(network, style)
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
        step=style,
        step_seconds=seconds,
        class_weights=weights,
        num_parameters=sum(prod(parameter.shape) for parameter in network.parameters()),
        device=str(device),
        num_threads=num_threads,
        extended=() if earlier is None else earlier.extended,
        autoseg_version=__version__,
        torch_version=str(torch.__version__),
    )
    if ranks.is_first:
        write(path, manifest)
    go_on()
    state = TrainState(
        network=network,
        optimizer=new_optimizer(network, recipe),
        scaler=torch.amp.GradScaler(device.type, enabled=style.precision == "float16"),
    )
    if earlier is not None:
        _resume(state, manifest, folder)
    check_beginning(ranks, state.iteration)
    whole_cases = None if case_dice is None else _whole_cases(task, records, manifest, case_dice)
    both = (training_cases, validation_cases)
    peak = _train(task, state, manifest, folder, both, batches, device, jobs, whole_cases, ranks)
    return _finish(state, manifest, folder, peak) if ranks.is_first else manifest


def _look_at_rate(recipe: Training) -> None:
    if recipe.optimizer == "adamw" and recipe.initial_learning_rate > HIGH_FOR_ADAMW:
        log.warning(
            "training.initial_learning_rate is %g: high for adamw, which is mostly used with 0.0001 to 0.001",
            recipe.initial_learning_rate,
        )


def _finish(state: TrainState, manifest: TrainedModel, folder: FoldFolder, peak: StepPeak | None) -> TrainedModel:
    """Write the weights, and that they are final."""
    save_weights(folder.weights, state.network)
    rates = [record["learning_rate"] for record in read_metrics(folder.metrics)]
    manifest = msgspec.structs.replace(
        manifest,
        step_peak=peak,
        iterations=state.iteration,
        epochs=state.epoch,
        training_seconds=round(state.seconds, 3),
        final_learning_rate=rates[-1] if rates else None,
        finished=True,
    )
    write(folder.manifest, manifest)
    folder.extension.unlink(missing_ok=True)
    return manifest


def _manifest_path(earlier: TrainedModel | None, folder: FoldFolder) -> Path:
    """Where a training keeps its manifest: while it is extended, manifest.json stays that of the finished one."""
    extending = earlier is not None and earlier.extended and not earlier.finished
    return folder.extension if extending else folder.manifest


def _use_threads(earlier: TrainedModel | None, device: torch.device, ranks: Ranks) -> int | None:
    """As many threads as the training began with, where sums depend on it; how many there are then."""
    if ranks.size > 1:
        return earlier.num_threads if earlier is not None else None
    wished = None if earlier is None or device.type != "cpu" else earlier.num_threads
    if wished is not None and wished != torch.get_num_threads():
        if wished <= available_cpus():
            torch.set_num_threads(wished)
        else:
            log.warning(
                "this fold began with %d threads, for which there are too few CPUs here: "
                "its weights will differ in their last digits from those of an undisturbed training",
                wished,
            )
    return torch.get_num_threads()


def _resume(state: TrainState, manifest: TrainedModel, folder: FoldFolder) -> None:
    """Read the newest checkpoint there is into `state`.

    Raises
    ------
    ArtifactError
        It can't be read, or there is none to extend from.
    """
    before = [end.inputs_sha256 for end in manifest.extended[-1:]]
    owner = resume(folder.checkpoint, folder.previous_checkpoint, state, [manifest.inputs_sha256, *before])
    if owner is None and before:
        raise ArtifactError(
            "a training can't be extended without its checkpoint",
            where=str(folder.checkpoint),
            hint="--restart trains from the beginning",
        )
    if owner in before:
        state.plateau = replace(state.plateau, best=None, waited=0, annealing=None)
        log.info("fold %d is extended, from iteration %d on", manifest.fold, state.iteration)
    elif owner is not None:
        log.info("fold %d goes on after iteration %d", manifest.fold, state.iteration)


def _whole_cases(
    task: FoldTask, records: Mapping[str, PreprocessedCase], manifest: TrainedModel, case_dice: CaseDice
) -> WholeCases | None:
    """The validation cases to be predicted whole now and then."""
    names = choose_cases(task.cases.validation, task.plan.training.validation_cases)
    if not names:
        return None
    shapes = [records[name].placement.shape for name in names]
    return WholeCases(
        names=names,
        num_windows=count_windows(shapes, manifest.configuration.patch_size, task.plan.prediction.step),
        dice=lambda network, name: case_dice(network, manifest, name),
    )


def _train(
    task: FoldTask,
    state: TrainState,
    manifest: TrainedModel,
    folder: FoldFolder,
    cases: tuple[Sequence[TrainingCase], Sequence[TrainingCase]],
    recipes: tuple[BatchRecipe, BatchRecipe],
    device: torch.device,
    jobs: int,
    whole_cases: WholeCases | None,
    ranks: Ranks,
) -> StepPeak | None:
    """Run the loop with its loaders, bar and files; gives the memory of its first steps."""
    recipe = task.plan.training
    if ranks.is_first:
        rewind_metrics(folder.metrics, state.epoch)
    workers = _num_workers(cases[0], recipes[0], device, jobs)
    share = ranks.share(manifest.configuration.batch_size)
    training = Batches(cases[0], replace(recipes[0], share=share), first=state.iteration, num_workers=workers)
    validation = Batches(
        cases[1],
        replace(recipes[1], share=share),
        first=state.epoch * recipe.validation_iterations,
        num_workers=min(1, workers),
    )
    title = f"{task.configuration_name} fold {task.fold}"
    bar = ProgressBar(title, progress_of(state, recipe, 0.0), shown=ranks.is_first)
    board = Board(folder.tensorboard, read_metrics(folder.metrics)) if ranks.is_first else None
    objective = _objective(task.plan, manifest.configuration, manifest.class_weights)
    if not (manifest.step.sample_by_sample and objective.is_mean_over_samples):
        objective = replace(objective, ranks=ranks)
    num_levels = len(level_weights(len(state.network.heads)))

    def on_epoch(report: EpochReport) -> None:
        if board is None:
            return
        append_metrics(folder.metrics, report)
        draw_progress(folder.progress, read_metrics(folder.metrics))
        board.add(asdict(report))
        bar.epoch(report)

    def save() -> None:
        if ranks.is_first:
            save_checkpoint(folder.checkpoint, folder.previous_checkpoint, state, manifest.inputs_sha256)

    watch = PeakWatch(state, device)

    def on_step(progress: float, loss: float) -> None:
        watch.step()
        bar.step(progress, loss)

    course = Course(
        configuration=manifest.configuration,
        objective=objective,
        recipe=recipe,
        device=device,
        step=manifest.step,
        on_step=on_step,
        on_epoch=on_epoch,
        save=save,
        whole_cases=whole_cases,
        ranks=ranks,
        shared=SharedNetwork(state.network, device, num_levels) if ranks.size > 1 else None,
    )
    try:
        with stop_requested() as stopped:
            train(state, course, training, validation, stopped)
    finally:
        bar.close()
        if board is not None:
            board.close()
        training.close()
        validation.close()
    # What is predicted is a step of the whole batch in one process.
    if watch.peak_bytes is None or ranks.size > 1:
        return None
    configuration = manifest.configuration
    predicted = training_step_memory(
        configuration,
        task.plan.num_inputs(configuration),
        task.plan.num_classes,
        manifest.step,
        on_cpu=device.type == "cpu",
    )
    return StepPeak(predicted_bytes=predicted.peak_bytes, measured_bytes=watch.peak_bytes)


def _num_workers(cases: Sequence[TrainingCase], recipe: BatchRecipe, device: torch.device, jobs: int) -> int:
    """Worker processes for loading: none where cutting patches from memory is quicker than passing them over."""
    in_memory = all(isinstance(case.image_czyx, np.ndarray) for case in cases)
    if device.type == "cpu" and in_memory and recipe.classic is None:
        return 0
    return max(1, min(jobs, MOST_WORKERS))


def _class_weights(task: FoldTask, records: Mapping[str, PreprocessedCase]) -> tuple[float, ...]:
    training = [records[name] for name in task.cases.training]
    return resolve_class_weights(task.plan.training.class_weights, training, task.plan.labels)


def _batch_recipes(task: FoldTask, records: Mapping[str, PreprocessedCase]) -> tuple[BatchRecipe, BatchRecipe]:
    configuration, recipe = task.plan.configurations[task.configuration_name], task.plan.training

    def batch_recipe(stream: int, names: Sequence[str]) -> BatchRecipe:
        return BatchRecipe(
            patch=configuration.patch_size,
            batch_size=configuration.batch_size,
            num_channels=len(task.plan.channel_names),
            foreground_share=recipe.foreground_share,
            mirror_axes=configuration.mirror_axes,
            augmentation=recipe.augmentation if stream == TRAINING_STREAM else None,
            seeds=(recipe.seed, task.fold, stream),
            rare=_rare_classes(task.plan, [records[name] for name in names]),
        )

    training, validation = task.cases.training, task.cases.validation
    return batch_recipe(TRAINING_STREAM, training), batch_recipe(VALIDATION_STREAM, validation)


def _rare_classes(plan: Plan, records: Sequence[PreprocessedCase]) -> RareClasses | None:
    """What is preferred among these cases; None where the recipe prefers nothing."""
    strength, names = plan.training.rare_class_sampling, list(foreground(plan.labels))
    if strength == 0 or not names:
        return None
    presence = np.array([[record.foreground_voxels[name] > 0 for name in names] for record in records])
    return weigh_rare_classes(presence, strength)


def _objective(plan: Plan, configuration: Configuration, class_weights: tuple[float, ...]) -> Objective:
    """What the outputs of a plan's networks are held against."""
    named = foreground(plan.labels)
    regions = tuple(values_of(value) for value in named.values()) if has_regions(plan.labels) else ()
    return Objective(configuration.batch_dice, regions, ignored(plan.labels), plan.training, class_weights)


def _measure_step(
    task: FoldTask,
    cases: Sequence[TrainingCase],
    recipe: BatchRecipe,
    class_weights: tuple[float, ...],
    device: torch.device,
) -> tuple[StepStyle, dict[str, float]]:
    """Time steps of a small batch in each style, on weights that are thrown away.

    Raises
    ------
    SettingError
        Samples are to pass one after the other, though the loss ties them together.
    """
    plan = task.plan
    configuration = plan.configurations[task.configuration_name]
    batch = make_batch(cases, replace(recipe, batch_size=_measured_batch(configuration)), 0)
    objective = _objective(plan, configuration, class_weights)
    if plan.training.sample_by_sample and configuration.ties_samples:
        raise SettingError(
            "samples can't pass one after the other",
            where="training.sample_by_sample",
            found="norm batch, which ties the samples of a batch together",
            allowed="false or null",
        )
    scaler = torch.amp.GradScaler(device.type, enabled=False)

    @cache
    def network_in(layout: tuple[bool, bool]) -> UNet:
        network = build_network(configuration, recipe.num_channels, plan.num_classes).to(device)
        suit(network, StepStyle(precision="float32", channels_last=layout[0], compiled=layout[1]))
        return network

    def step(style: StepStyle) -> float:
        network = network_in((style.channels_last, style.compiled))
        state = TrainState(network, new_optimizer(network, plan.training), scaler)
        course = Course(configuration, objective, plan.training, device, style, _nothing, _nothing, _nothing)
        return train_step(state, batch, course)

    style, seconds = choose_step(device, step, samples_tied=configuration.ties_samples, recipe=plan.training)
    log.info("training in %s%s", describe_step(style), f"; measured, in seconds: {seconds}" if seconds else "")
    return style, seconds


def _measured_batch(configuration: Configuration) -> int:
    """As many samples as make a step whose parts weigh as in training, and no more: 2, or more of small ones."""
    return min(configuration.batch_size, max(2, round(MEASURED_VOXELS / prod(configuration.patch_size))))


def _nothing(*_: object) -> None:
    """Report nothing."""


def _inputs(task: FoldTask) -> str:
    """Hash of all that determines the weights."""
    determining = msgspec.json.encode(_determining(task.plan, task.configuration_name))
    return digest(determining, task.cases, str(task.fold))


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
    for key in ("memory_share", "checkpoint_minutes", "validation_cases", "validation_every", "stratify"):
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


def find_earlier(task: FoldTask, folder: FoldFolder, *, extend: bool = False) -> TrainedModel | None:
    """The manifest of an earlier run with the same settings, if there is one; to be extended, as it is to be.

    Raises
    ------
    SettingError
        There is one with other settings: hours of work that must not be lost by a typing slip. Or there is none that
        can be extended.
    """
    inputs = _inputs(task)
    found = [read(path, TrainedModel) for path in (folder.extension, folder.manifest) if path.exists()]
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
    longer = ", --extend to train a finished one for longer" if earlier.finished else ""
    raise SettingError(
        "this fold was trained with other settings, cases or a changed plan",
        where=str(folder.root),
        found="; ".join((f"settings then: {' '.join(earlier.settings) or 'none'}", *changed[:MOST_SHOWN])),
        hint=f"use the same settings to go on{longer}, or --restart to throw that training away",
    )


def _extended(found: Sequence[TrainedModel], task: FoldTask, folder: FoldFolder) -> TrainedModel:
    """The manifest of a finished training, as it is while it is extended.

    Raises
    ------
    SettingError
        There is none, it is being extended already, or it differs in more than its length.
    """
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
    if _inputs(replace(task, plan=same_length)) != earlier.inputs_sha256:
        determining = (_determining(plan, task.configuration_name) for plan in (earlier.plan, same_length))
        raise SettingError(
            "a training can be extended in its length alone",
            where=str(folder.root),
            found="; ".join(differences(*determining)[:MOST_SHOWN]) or "the fold's cases changed",
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
        inputs_sha256=_inputs(task),
        plan=task.plan,
        settings=task.settings,
        extended=(*earlier.extended, end),
        finished=False,
    )
