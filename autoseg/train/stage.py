"""Train one fold: reads preprocessed cases, writes the fold's folder."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from math import inf, prod

import msgspec
import torch

from autoseg import __version__
from autoseg.artifacts.base import write
from autoseg.artifacts.metrics import read_metrics
from autoseg.artifacts.model import StepPeak, TrainedModel
from autoseg.artifacts.plan import Training
from autoseg.artifacts.preprocessed import PreprocessedCase
from autoseg.errors import ArtifactError, SettingError
from autoseg.layout import FoldFolder
from autoseg.machine import alone, available_cpus
from autoseg.networks.cost import training_step_memory
from autoseg.networks.device import keep_freed_memory, suit, use_fast_kernels
from autoseg.networks.unet import UNet
from autoseg.train.distributed import (
    ALONE,
    Ranks,
    SharedNetwork,
    check_beginning,
    check_shares,
    check_statistics,
    with_shared_statistics,
)
from autoseg.train.earlier import (
    find_begun,
    find_earlier,
    inputs_of,
    manifest_path,
    teaching_of,
    with_todays_prediction,
)
from autoseg.train.journal import Board, ProgressBar, append_metrics, draw_progress, rewind_metrics
from autoseg.train.loading import Batches
from autoseg.train.loop import Course, EpochReport, progress_of, train
from autoseg.train.losses import level_weights
from autoseg.train.measure import PeakWatch
from autoseg.train.optimizer import new_optimizer
from autoseg.train.pretrained import begin
from autoseg.train.sampling import TrainingCase
from autoseg.train.schedule import initial_rate
from autoseg.train.setup import (
    batch_recipes,
    class_weights_of,
    look_at_rate,
    measure_step_style,
    new_network,
    num_workers,
    objective_of,
)
from autoseg.train.signals import stop_requested
from autoseg.train.state import TrainState, resume, save_checkpoint, save_weights
from autoseg.train.task import FoldTask
from autoseg.train.validate import WholeCases, choose_cases, count_windows

log = logging.getLogger(__name__)
CaseDice = Callable[[UNet, TrainedModel, str], float | None]


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
    # All that can be refused before an earlier training is thrown away.
    configuration = task.plan.configurations[task.configuration_name]
    check_shares(ranks, configuration.batch_size, task.configuration_name)
    check_statistics(ranks, configuration, device)
    fold = _Fold(task, records, folder, device, jobs, ranks)
    # What the first decides stands in the manifest, which the others read.
    lock = alone(folder.lock, "another process trains this fold") if ranks.is_first else nullcontext()
    with ranks.first_ahead() as go_on, lock:
        if restart and ranks.is_first and folder.root.exists():
            shutil.rmtree(folder.root)
        earlier = _earlier(fold, extend=extend)
        if earlier is not None and _is_done(earlier, folder):
            log.info("fold %d is trained: %s", task.fold, folder.root)
            return earlier
        state, manifest, both = _set_up(fold, earlier, cases)
        if ranks.is_first:
            write(manifest_path(earlier, folder), manifest)
        go_on()
        if earlier is not None:
            _resume(state, manifest, folder)
        check_beginning(ranks, state.iteration)
        whole_cases = None if case_dice is None else _whole_cases(task, records, manifest, case_dice)
        peak = _train(fold, state, manifest, both, whole_cases)
        return _finish(state, manifest, folder, peak) if ranks.is_first else manifest


@dataclass(frozen=True, slots=True)
class _Fold:
    """A fold, and what it is trained with."""

    task: FoldTask
    records: Mapping[str, PreprocessedCase]
    folder: FoldFolder
    device: torch.device
    jobs: int
    ranks: Ranks

    @property
    def data_sha256(self) -> str:
        """Of the arrays of all cases."""
        cases = self.task.cases
        return self.task.data_sha256(self.records, (*cases.training, *cases.validation))


def _is_done(earlier: TrainedModel, folder: FoldFolder) -> bool:
    return earlier.finished and folder.weights.exists()


def _earlier(fold: _Fold, *, extend: bool) -> TrainedModel | None:
    """The manifest of the training to go on with, as today's task would have it predict.

    Raises
    ------
    SettingError
        It can't be gone on with: other settings, or other data.
    ArtifactError
        What the first process wrote is not to be seen by this one.
    """
    task, folder = fold.task, fold.folder
    if not fold.ranks.is_first:
        return find_begun(task, folder)
    for leftover in folder.root.glob(".*.part*"):
        # A process that was killed while it wrote; whoever holds the lock writes alone here.
        leftover.unlink()
    earlier = find_earlier(task, folder, extend=extend)
    if earlier is None:
        return None
    if earlier.data_sha256 != fold.data_sha256:
        if not _is_done(earlier, folder):
            raise SettingError(
                "the data changed since this fold began to train from them",
                where=str(folder.root),
                hint="--restart trains it anew from the data as they are",
            )
        log.warning("the data changed since fold %d was trained from them; --restart trains it anew", task.fold)
    renewed = with_todays_prediction(earlier, task)
    if renewed != earlier:
        write(manifest_path(earlier, folder), renewed)
    return renewed


def _set_up(
    fold: _Fold, earlier: TrainedModel | None, cases: Callable[[Sequence[str]], Sequence[TrainingCase]]
) -> tuple[TrainState, TrainedModel, tuple[Sequence[TrainingCase], Sequence[TrainingCase]]]:
    """Network and optimizer as they begin, what is to be recorded of them, and the training and validation cases."""
    task, folder, device, recipe = fold.task, fold.folder, fold.device, fold.task.plan.training
    num_threads = _use_threads(earlier, device, fold.ranks)
    if device.type == "cpu":
        keep_freed_memory()
    look_at_rate(recipe)
    use_fast_kernels()
    network = new_network(task, device)
    goes_on = earlier is not None and any(path.exists() for path in (folder.checkpoint, folder.previous_checkpoint))
    # Where a checkpoint gives the weights, nothing is read.
    pretrained = (
        earlier.pretrained
        if earlier is not None and goes_on
        else begin(network, task.plan, task.configuration_name, task.pretrained)
    )
    network = with_shared_statistics(network, fold.ranks)
    both = cases(task.cases.training), cases(task.cases.validation)
    weights = class_weights_of(task, fold.records)
    if earlier is not None and torch.device(earlier.device).type == device.type:
        style, seconds = earlier.step, earlier.step_seconds
    else:
        recipes = batch_recipes(task, fold.records)
        style, seconds = measure_step_style(task, both[0], recipes[0], weights, device, fold.ranks)
    suit(network, style)
    manifest = TrainedModel(
        inputs_sha256=inputs_of(task),
        data_sha256=fold.data_sha256,
        plan=task.plan,
        settings=task.settings,
        configuration_name=task.configuration_name,
        fold=task.fold,
        cases=task.cases,
        naming=task.naming,
        file_values=task.file_values,
        pretrained=pretrained,
        teaching=teaching_of(task),
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
    state = TrainState(
        network=network,
        optimizer=new_optimizer(network, recipe),
        scaler=torch.amp.GradScaler(device.type, enabled=style.precision == "float16"),
    )
    return state, manifest, both


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


def _recipe(manifest: TrainedModel) -> Training:
    """The plan's; for pretrained weights at the usual rate, however short the training: a high one would undo them."""
    recipe = manifest.plan.training
    if manifest.pretrained is None:
        return recipe
    return msgspec.structs.replace(recipe, initial_learning_rate=initial_rate(recipe, inf))


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
    fold: _Fold,
    state: TrainState,
    manifest: TrainedModel,
    cases: tuple[Sequence[TrainingCase], Sequence[TrainingCase]],
    whole_cases: WholeCases | None,
) -> StepPeak | None:
    """Run the loop with its loaders, bar and files; gives the memory of its first steps."""
    task, folder, device, ranks = fold.task, fold.folder, fold.device, fold.ranks
    recipe, recipes = _recipe(manifest), batch_recipes(task, fold.records)
    if ranks.is_first:
        rewind_metrics(folder.metrics, state.epoch)
    workers = num_workers(cases[0], recipes[0], device, fold.jobs)
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
    objective = objective_of(task.plan, manifest.configuration, manifest.class_weights)
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
        ahead=device.type == "cuda",
        teacher=task.teacher,
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
    # What is predicted is a step of the whole batch in one process, without a teacher's.
    if watch.peak_bytes is None or ranks.size > 1 or task.teacher is not None:
        return None
    configuration = manifest.configuration
    predicted = training_step_memory(
        configuration,
        task.plan.num_inputs(configuration),
        task.plan.num_classes,
        manifest.step,
        on_cpu=device.type == "cpu",
        whole_loss=not objective.is_mean_over_samples,
        cores=torch.get_num_threads(),
    )
    return StepPeak(predicted_bytes=predicted.peak_bytes, measured_bytes=watch.peak_bytes)
