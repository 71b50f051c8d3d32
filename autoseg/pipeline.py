"""The stages in order: the table of contents of the package.

    raw folder -> dataset.json -> fingerprint.json -> plan.json -> preprocessed/ -> models/ -> predictions
                                                                              -> evaluation -> comparison

The first two steps stand in planning.py, which knows every way to a plan; what cross-validation teaches (7, 8) in
selecting.py; the others here.

Stages don't know each other; what one needs of another is passed on here. Stage modules are imported where they
are used, so that planning never waits for torch.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.artifacts.base import digest, read, read_json
from autoseg.artifacts.bundle import Bundle, read_bundle, write_bundle
from autoseg.artifacts.dataset import Case, Dataset, Repair
from autoseg.artifacts.evaluation import Evaluation
from autoseg.artifacts.labels import all_values, foreground, ignored
from autoseg.artifacts.model import Pretrained, TrainedModel
from autoseg.artifacts.overlay import overlay
from autoseg.artifacts.plan import PREFERRED, Plan
from autoseg.artifacts.preprocessed import PreprocessedCase
from autoseg.artifacts.rate_test import RateTest
from autoseg.artifacts.selection import Selection
from autoseg.artifacts.splits import Fold, Splits
from autoseg.errors import ArtifactError, SettingError, nearest
from autoseg.layout import CaseFiles, FoldFolder, Workspace

if TYPE_CHECKING:
    import torch

    from autoseg.artifacts.onnx_model import OnnxModel
    from autoseg.cascade import FirstStage
    from autoseg.evaluate.stage import CasePair
    from autoseg.networks.stored import StoredFold
    from autoseg.networks.unet import UNet
    from autoseg.predict.case import Volume
    from autoseg.predict.models import LoadedModel
    from autoseg.predict.stage import Options
    from autoseg.preprocess.store import StoredMap
    from autoseg.train.distributed import Ranks
    from autoseg.train.sampling import Readable, TrainingCase
    from autoseg.train.task import FoldTask

log = logging.getLogger(__name__)
SMALL_BYTES = 2**20


def open_workspace(workspace: Workspace, settings: Sequence[str] = ()) -> tuple[Dataset, Plan]:
    """The dataset and the plan of a workspace, with settings applied.

    Raises
    ------
    ArtifactError
        There is no plan here.
    SettingError
        A setting can't be applied, or the plan's labels are not made of the dataset's values.
    """
    if workspace.plan.exists() and not workspace.dataset.exists():
        raise ArtifactError(
            "this workspace was planned from a fingerprint alone: there are no cases in it",
            where=str(workspace.root),
            hint=f"autoseg plan RAW -w {workspace.root}",
        )
    if not workspace.plan.exists():
        raise ArtifactError(
            "this folder is not a workspace: it has no plan",
            where=str(workspace.root),
            hint="autoseg plan RAW -w DIR makes one; -w DIR names it",
        )
    plan, dataset = overlay(read(workspace.plan, Plan), settings), read(workspace.dataset, Dataset)
    if (all_values(plan.labels), ignored(plan.labels)) != (all_values(dataset.labels), ignored(dataset.labels)):
        raise SettingError(
            "the plan's labels are made of other values than the dataset's",
            where=f"{workspace.plan}, labels",
            found=plan.labels,
            allowed=f"names and regions of the values {', '.join(map(str, all_values(dataset.labels)))}",
            hint="state the labels in the dataset's description and plan again",
        )
    return dataset, plan


def choose_configuration(plan: Plan, name: str | None) -> str:
    """The configuration asked for; without one 3d_fullres, else 2d.

    Raises
    ------
    SettingError
        The plan has no such configuration.
    """
    if name is None:
        return next((known for known in PREFERRED if known in plan.configurations), next(iter(plan.configurations)))
    if name not in plan.configurations:
        close = nearest(name, plan.configurations)
        raise SettingError(
            "there is no such configuration",
            where="--configuration",
            found=name,
            allowed=", ".join(plan.configurations),
            hint=f"did you mean {close}?" if close else None,
        )
    return name


def preprocess(
    workspace: Workspace,
    dataset: Dataset,
    plan: Plan,
    configuration_name: str,
    *,
    jobs: int,
    scheduler: str | None = None,
) -> dict[str, PreprocessedCase]:
    """3: raw cases -> preprocessed/<configuration>; only what is missing or stale."""
    from autoseg.preprocess import stage

    records = stage.run(dataset, plan, configuration_name, workspace, jobs=jobs, scheduler=scheduler)
    return {record.name: record for record in records}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingWish:
    """What a user asks to be trained.

    Attributes
    ----------
    folds : sequence of int or None
        None: all.
    settings : sequence of str
        KEY=VALUE, over the plan's.
    configuration_name : str or None
        None: as `choose_configuration` has it.
    jobs : int
    restart : bool
        Throw earlier trainings of these folds away.
    extend : bool
        Train finished folds for longer.
    pretrained : Path or None
        Whose weights each fold begins with; see `find_pretrained`.
    """

    folds: Sequence[int] | None
    settings: Sequence[str] = ()
    configuration_name: str | None = None
    jobs: int
    restart: bool = False
    extend: bool = False
    pretrained: Path | None = None


def train(workspace: Workspace, wish: TrainingWish, *, device_name: str) -> dict[int, Evaluation]:
    """4 to 6: train each fold, predict its validation cases, score them.

    Returns
    -------
    dict of int to Evaluation
        By fold. Where a launcher started several processes that train each fold together, the first one predicts,
        and the others return nothing.

    Raises
    ------
    SettingError
        A fold does not exist, or every fold of a cascade's first stage is trained on one of the cases.

    Notes
    -----
    Before the second stage of a cascade, what is missing of the first one is trained with the same settings.
    """
    from autoseg.networks.device import choose_device
    from autoseg.train.distributed import joined, launched

    ranks = launched()
    device = choose_device(ranks.device_name(device_name))
    with joined(ranks, device):
        return _train(workspace, wish, device, ranks)


def _train(workspace: Workspace, wish: TrainingWish, device: "torch.device", ranks: "Ranks") -> dict[int, Evaluation]:
    """`train` on a device, by processes that know each other."""
    from autoseg.train import stage

    evaluations = {}
    before = _first_stage_wish(workspace, wish, ranks)
    if before is not None:
        _train(workspace, before, device, ranks)
    with ranks.first_ahead():
        dataset, tasks, cases = _prepare(workspace, wish, device, writes=ranks.is_first)
    plan = tasks[0].plan
    # Read when first asked for: a fold that is finished and scored needs none.
    arrays = cache(partial(training_cases, cases, plan, ranks.local_size))
    for task in tasks:
        folder = workspace.fold(task.configuration_name, task.fold)
        stage.run(
            task,
            cases.records,
            lambda names: [arrays()[name] for name in names],
            folder,
            device=device,
            jobs=max(1, wish.jobs // ranks.local_size),
            restart=wish.restart,
            extend=wish.extend,
            case_dice=partial(_case_dice, dataset, cases, device),
            ranks=ranks,
        )
        if ranks.is_first:
            evaluations[task.fold] = validate_fold(dataset, cases, task.cases.validation, folder, device, wish.jobs)
    return evaluations


def _first_stage_wish(workspace: Workspace, wish: TrainingWish, ranks: "Ranks") -> TrainingWish | None:
    """What of the first stage is to be trained before the second; None without a cascade, or where all is there."""
    from autoseg.train.earlier import find_earlier

    with ranks.first_ahead():
        _, plan = open_workspace(workspace, wish.settings)
        name = choose_configuration(plan, wish.configuration_name)
        if plan.configurations[name].previous_stage is None:
            return None
        _, _, tasks, first = _fold_tasks(workspace, wish)
        if ranks.is_first and not wish.restart:
            # Before days of work, as in `_prepare`.
            for task in tasks:
                find_earlier(task, workspace.fold(name, task.fold), extend=wish.extend)
    if first is None:
        return None
    # The first process says what all do: they may not see the same files at the same moment.
    folds = sorted(set(first.fold_of.values()))
    is_missing = ranks.as_first(*(float(fold in first.missing) for fold in folds))
    missing = [fold for fold, so in zip(folds, is_missing, strict=True) if so]
    if not missing:
        return None
    numbers = ", ".join(map(str, missing))
    log.info("%s needs %s: folds %s are trained first", name, first.name, numbers)
    return replace(wish, folds=missing, configuration_name=first.name, restart=False, extend=False, pretrained=None)


def train_side_by_side(
    workspace: Workspace, wish: TrainingWish, devices: Sequence[str], arguments: Sequence[str]
) -> tuple[dict[int, Evaluation], dict[int, str]]:
    """4 to 6 in a process for each fold, as many at a time as there are devices.

    Parameters
    ----------
    workspace : Workspace
    wish : TrainingWish
    devices : sequence of str
    arguments : sequence of str
        Of `autoseg train`, but for folds, device, jobs, and the share of the memory.

    Returns
    -------
    dict of int to Evaluation
        Of the folds that are trained and scored.
    dict of int to str
        Why the others failed.

    Raises
    ------
    SettingError
        As `train`; or several processes were launched to train one fold.
    """
    from autoseg.networks.device import choose_device
    from autoseg.train.distributed import ALONE, launched
    from autoseg.train.side_by_side import run_folds

    if launched().size > 1:
        raise SettingError(
            "folds side by side are started by a single process",
            where="--devices",
            hint="leave torchrun away, or leave --devices away to train one fold with all processes",
        )
    chosen = [choose_device(device) for device in devices]
    before = _first_stage_wish(workspace, wish, ALONE)
    if before is not None:
        settings = [f"--set={setting}" for setting in wish.settings]
        own = ["-w", str(workspace.root), "--configuration", str(before.configuration_name), *settings]
        _, failures = train_side_by_side(workspace, before, devices, own)
        if failures:
            return {}, failures
    _, tasks, _ = _prepare(workspace, wish, chosen[0])
    plan, name = tasks[0].plan, tasks[0].configuration_name
    memory = plan.training.memory_share / len(devices)

    def arguments_of(fold: int, device: str) -> list[str]:
        shared = ["--jobs", str(max(1, wish.jobs // len(devices))), "--set", f"training.memory_share={memory:g}"]
        return ["train", str(fold), *arguments, "--device", device, *shared]

    failures = run_folds([task.fold for task in tasks], devices, arguments_of)
    trained = (task.fold for task in tasks if task.fold not in failures)
    return {fold: read(workspace.fold(name, fold).evaluation, Evaluation) for fold in trained}, failures


@dataclass(frozen=True, slots=True)
class PreparedCases:
    """The preprocessed cases of a configuration.

    Attributes
    ----------
    records : dict of str to PreprocessedCase
    files : dict of str to CaseFiles
    maps : dict of str to StoredMap
        In the second stage of a cascade, what the first one predicted of each case that is asked for; else empty.
    """

    records: dict[str, PreprocessedCase]
    files: dict[str, CaseFiles]
    maps: dict[str, "StoredMap"]

    @property
    def map_sha256(self) -> dict[str, str]:
        """Of each of these maps."""
        return {name: each.sha256 for name, each in self.maps.items()}

    def volume(self, name: str) -> "PreparedVolume":
        """A case for whoever predicts it."""
        return PreparedVolume(self.files[name], self.records[name], self.maps.get(name))


def _prepare(
    workspace: Workspace, wish: TrainingWish, device: "torch.device", *, writes: bool = True
) -> tuple[Dataset, list["FoldTask"], PreparedCases]:
    """Everything before the first fold is trained: the folds are written down, and their cases preprocessed."""
    from autoseg.datasets.splits import keep_splits
    from autoseg.train.earlier import find_earlier

    dataset, splits, tasks, first = _fold_tasks(workspace, wish)
    if not wish.restart:
        # Before hours of work: the last fold may hold a training with other settings.
        for task in tasks:
            find_earlier(task, workspace.fold(task.configuration_name, task.fold), extend=wish.extend)
    if writes:
        keep_splits(splits, dataset, workspace)
    plan, name = tasks[0].plan, tasks[0].configuration_name
    cases = prepared_cases(workspace, dataset, plan, name, first, device, wish.jobs, writes=writes)
    return dataset, [replace(task, previous_sha256=cases.map_sha256) for task in tasks], cases


def prepared_cases(
    workspace: Workspace,
    dataset: Dataset,
    plan: Plan,
    name: str,
    first: "FirstStage | None",
    device: "torch.device",
    jobs: int,
    *,
    writes: bool = True,
) -> PreparedCases:
    """The cases of a configuration, preprocessed, and with what the first stage of a cascade predicts of them.

    Raises
    ------
    SettingError
        A fold of that first stage is not trained.
    """
    from autoseg.cascade import Cascade, find_maps, make_maps
    from autoseg.preprocess import stage

    if first is not None and first.missing:
        numbers = list(map(str, first.missing))
        raise SettingError(
            f"{name} learns from what {first.name} predicts, and some of its folds are not trained",
            where=str(workspace.models(first.name)),
            found=", ".join(numbers),
            hint=f"autoseg train {' '.join(numbers)} --configuration {first.name} -w {workspace.root}",
        )
    if writes:
        records = preprocess(workspace, dataset, plan, name, jobs=jobs)
    else:
        records = {record.name: record for record in stage.find(dataset, plan, name, workspace)}
    maps: dict[str, StoredMap] = {}
    if first is not None:
        cascade = Cascade(workspace, dataset, plan, name, first)
        maps = make_maps(cascade, records, device=device, jobs=jobs) if writes else find_maps(cascade, records)
    return PreparedCases(records, {case: workspace.case(name, case) for case in records}, maps)


def lr_find(workspace: Workspace, wish: TrainingWish, *, device_name: str, iterations: int) -> RateTest:
    """4, for a minute: sweep a fold's learning rate on weights that are thrown away.

    Parameters
    ----------
    workspace : Workspace
    wish : TrainingWish
        Of a single fold.
    device_name : str
    iterations : int
        Steps from the lowest rate to the highest.

    Returns
    -------
    RateTest

    Raises
    ------
    SettingError
        As `train`.
    """
    from autoseg.networks.device import choose_device
    from autoseg.train import lr_find

    # Of a training that may be there, nothing counts.
    device = choose_device(device_name)
    dataset, _, (task,), first = _fold_tasks(workspace, replace(wish, restart=True))
    name = task.configuration_name
    cases = prepared_cases(workspace, dataset, task.plan, name, first, device, wish.jobs)
    task = replace(task, previous_sha256=cases.map_sha256)
    arrays = cache(partial(training_cases, cases, task.plan, 1))
    return lr_find.run(
        task,
        cases.records,
        lambda names: [arrays()[each] for each in names],
        workspace.fold(name, task.fold),
        workspace.rate_test(name, task.fold),
        device=device,
        jobs=wish.jobs,
        iterations=iterations,
    )


def _fold_tasks(
    workspace: Workspace, wish: TrainingWish
) -> tuple[Dataset, Splits, list["FoldTask"], "FirstStage | None"]:
    """What is to be trained, as asked, and unless anew with the weights it once began with; nothing is written."""
    from autoseg.cascade import find_first_stage
    from autoseg.datasets.splits import find_splits
    from autoseg.train.task import FoldTask

    dataset, plan = open_workspace(workspace, wish.settings)
    name = choose_configuration(plan, wish.configuration_name)
    splits = find_splits(dataset, plan, workspace)
    chosen = range(len(splits.folds)) if wish.folds is None else wish.folds
    for fold in chosen:
        if fold not in range(len(splits.folds)):
            raise SettingError(
                "there is no such fold",
                found=fold,
                allowed=f"0 to {len(splits.folds) - 1}, or all",
                hint="autoseg train 0",
            )
    tasks = [
        FoldTask(
            plan=plan,
            settings=tuple(wish.settings),
            configuration_name=name,
            fold=fold,
            cases=splits.folds[fold],
            naming=dataset.naming,
            file_values=dataset.file_values,
            pretrained=_origin(workspace, plan, name, fold, splits.folds[fold], wish),
        )
        for fold in chosen
    ]
    cases = [case for task in tasks for case in (*task.cases.training, *task.cases.validation)]
    return dataset, splits, tasks, find_first_stage(workspace, plan, name, cases, splits)


def _origin(
    workspace: Workspace, plan: Plan, name: str, fold: int, cases: Fold, wish: TrainingWish
) -> "StoredFold | Pretrained | None":
    """The weights that a fold's training begins with, or began with.

    Raises
    ------
    SettingError
        They are the fold's own.
    """
    from autoseg.datasets.found import some
    from autoseg.train.pretrained import find_pretrained, recorded_in

    folder = workspace.fold(name, fold)
    if wish.pretrained is None:
        return None if wish.restart else recorded_in(folder)
    source = find_pretrained(wish.pretrained, fold, plan, name)
    if source.path.resolve() == folder.root.resolve():
        raise SettingError(
            "a fold can't begin with its own weights", where=str(folder.root), hint="copy its folder and name the copy"
        )
    if source.manifest.cases is None:
        log.warning("on which cases the pretrained weights were trained is not known: on those, scores are too good")
        return source
    seen = sorted(set(source.manifest.cases.training) & set(cases.validation))
    if seen:
        log.warning(
            "%d validation cases have the names of cases that the pretrained weights were trained on (%s): if they are "
            "the same, their scores will be too good",
            len(seen),
            some(seen),
        )
    return source


def training_cases(cases: PreparedCases, plan: Plan, num_readers: int) -> dict[str, "TrainingCase"]:
    """The cases' arrays: in memory where all fit the plan's share of it for each process, else read patch by patch."""
    from math import prod

    from autoseg.machine import available_memory_bytes
    from autoseg.preprocess.store import load_case, open_case
    from autoseg.train.sampling import TrainingCase

    # float32 for each channel, int16 for the label and for what a first stage predicted.
    voxel_bytes = 4 if cases.maps else 2
    needed = sum(prod(each.placement.shape) * (4 * each.num_channels + voxel_bytes) for each in cases.records.values())
    in_memory = needed <= plan.training.memory_share * available_memory_bytes() / num_readers
    if not in_memory:
        log.info("the cases take %.1f GB: patches are read from disk", needed / 1e9)
    get = load_case if in_memory else open_case

    def previous(name: str) -> "Readable | None":
        return cases.maps[name][:] if in_memory and name in cases.maps else cases.maps.get(name)

    return {
        name: TrainingCase(name, get(cases.files[name], record.arrays_sha256), previous(name))
        for name, record in cases.records.items()
    }


def _case_dice(
    dataset: Dataset,
    cases: PreparedCases,
    device: "torch.device",
    network: "UNet",
    manifest: TrainedModel,
    name: str,
) -> float | None:
    """Mean foreground Dice of a case on its own grid, predicted without mirroring by a network in training."""
    from autoseg.evaluate.stage import mean_dice
    from autoseg.images.image import LabelMap
    from autoseg.predict.case import label_map, mean_logits
    from autoseg.predict.models import LoadedModel

    model = LoadedModel(manifest, network, Path(), "")
    volume = cases.volume(name).read(model)
    logits = mean_logits([model], volume.image_czyx, device=device, mirror_axes=(), step=manifest.plan.prediction.step)
    case = next(case for case in dataset.cases if case.name == name)
    return mean_dice(LabelMap(label_map(logits, volume, model), volume.placement.geometry), case_pair(dataset, case))


def case_pair(dataset: Dataset, case: Case) -> "CasePair":
    """A case's reference, and the file name of its prediction."""
    from autoseg.evaluate.stage import CasePair
    from autoseg.predictor import ending_of_label

    labels = dataset.labels_in_files
    return CasePair(
        case=case.name,
        predicted=Path(case.name + ending_of_label(case)),
        reference=Path(dataset.root) / (case.label or ""),
        labels=foreground(labels),
        ignore=ignored(labels),
        tolerance_mm={},
        repair=dataset.repair,
    )


def validate_fold(
    dataset: Dataset,
    cases: PreparedCases,
    names: Sequence[str],
    folder: FoldFolder,
    device: "torch.device",
    jobs: int,
) -> Evaluation:
    """Predict and score a fold's validation cases; they are preprocessed already."""
    from autoseg.predict import stage
    from autoseg.predict.models import load_models
    from autoseg.predictor import ending_of_label

    by_name = {case.name: case for case in dataset.cases}
    files = {name: name + ending_of_label(by_name[name]) for name in names}
    stage.run(
        load_models([folder], device),
        {name: cases.volume(name) for name in names},
        folder.validation,
        files,
        {name: cases.volume(name).sha256 for name in names},
        device_name=str(device),
        options=stage.Options(),
    )
    return evaluate(
        {name: folder.validation / files[name] for name in names},
        {name: Path(dataset.root) / (by_name[name].label or "") for name in names},
        dataset.labels_in_files,
        folder.evaluation,
        repair=dataset.repair,
        jobs=jobs,
    )


def predict(
    model: Path,
    inputs: Sequence[Path],
    out: Path,
    *,
    configuration_name: str | None = None,
    folds: Sequence[int] | None = None,
    device_name: str,
    options: "Options | None" = None,
    scheduler: str | None = None,
) -> dict[str, Path]:
    """5: new volumes -> label maps, by the mean logits of the folds.

    Parameters
    ----------
    model : Path
        A workspace, or a bundle.
    configuration_name, folds
        As for `Predictor`.
    scheduler : str, optional
        Address of a dask scheduler, whose workers then predict; `device_name` is theirs.

    Returns
    -------
    dict of str to Path
        Label map of each case.
    """
    from autoseg.predictor import Predictor

    predictor = Predictor(
        model,
        configuration_name=configuration_name,
        folds=folds,
        # With a cluster the models are only checked here.
        device_name="cpu" if scheduler else device_name,
        options=options,
    )
    return predictor.predict_files(inputs, out, scheduler=scheduler, workers_device=device_name)


def export_bundle(
    workspace: Workspace, out: Path, *, configuration_name: str | None = None, folds: Sequence[int] | None = None
) -> Bundle:
    """Trained folds -> one file that predicts without the workspace.

    Parameters
    ----------
    configuration_name, folds
        As for `Predictor`, of which the bundle does the same.

    Raises
    ------
    SettingError
        A fold is not trained to its end, folds don't fit together, or two configurations are selected.
    """
    from autoseg.networks.stored import StoredFold

    models, selection = _models_to_export(workspace, configuration_name, folds)
    folds_of, previous = (
        [(each.manifest, StoredFold(each.folder, each.manifest, each.weights_sha256).content()) for each in stage]
        for stage in (models, models[0].previous)
    )
    return write_bundle(
        out,
        folds_of,
        source=workspace.root.absolute().name,
        previous=previous,
        decoding=selection.decoding if selection else "argmax",
        rules=selection.rules if selection else (),
    )


def _models_to_export(
    workspace: Workspace, configuration_name: str | None, folds: Sequence[int] | None
) -> tuple[list["LoadedModel"], Selection | None]:
    """The folds of one configuration that predict here, and the selection that says so, if one does.

    Raises
    ------
    SettingError
        As `export_bundle`.
    """
    import torch

    from autoseg.selected import find_selection, selected_models
    from autoseg.trained import load_trained

    selection = find_selection(workspace, configuration_name, folds)
    if selection is None:
        return load_trained(workspace, configuration_name, folds, torch.device("cpu")), None
    if len(selection.configurations) > 1:
        raise SettingError(
            "an export holds one configuration, and two are selected",
            where=str(workspace.selection),
            found=selection.way.words,
            hint="name one of them with --configuration; it goes without decoding and post-processing",
        )
    return selected_models(workspace, selection, torch.device("cpu")), selection


def export_onnx(
    model: Path, out: Path, *, configuration_name: str | None = None, folds: Sequence[int] | None = None
) -> "OnnxModel":
    """Trained folds -> a folder that predicts without autoseg.

    Parameters
    ----------
    model : Path
        A bundle, or a workspace.
    out : Path
    configuration_name : str or None
        Of a workspace; None: as for `Predictor`.
    folds : sequence of int or None
        None: as for `Predictor`.

    Raises
    ------
    SettingError
        As `export_bundle`; or the folder holds something else, or a package is missing.

    Notes
    -----
    Decoding and post-processing are left out, and a warning says so.
    """
    import torch

    from autoseg.deploy import stage
    from autoseg.predict.models import load_bundle

    source: Bundle | Selection | None
    if model.is_file():
        models = load_bundle(model, folds, torch.device("cpu"))
        # As `Predictor`, which decodes and tidies up only what all folds predict.
        source = read_bundle(model) if folds is None else None
    else:
        models, source = _models_to_export(Workspace(model), configuration_name, folds)
    if source is not None:
        _warn_of_what_is_left_out(source, model if model.is_file() else Workspace(model).selection)
    return stage.run(models, out)


def _warn_of_what_is_left_out(source: Bundle | Selection, path: Path) -> None:
    """Say what of a selection, or of a bundle that holds one, an ONNX export goes without."""
    asked = {
        f"decoding ({source.decoding})": source.decoding != "argmax",
        f"post-processing (rules: {len(source.rules)})": bool(source.rules),
    }
    if any(asked.values()):
        parts = " and ".join(part for part, is_so in asked.items() if is_so)
        log.warning("left out of the export: %s, which %s asks for", parts, path)


def import_nnunet(folder: Path, out: Path, *, folds: Sequence[str] | None = None) -> Bundle:
    """A model that nnU-Net v2 trained -> a bundle.

    Parameters
    ----------
    folder : Path
        With plans.json, dataset.json, dataset_fingerprint.json and fold_*/checkpoint_final.pth.
    out : Path
    folds : sequence of str or None
        Numbers, or ``all``; None: every numbered fold, else that of all cases.

    Raises
    ------
    SettingError
        There is no such fold, or folds are of different configurations.
    DatasetError, ArtifactError
        A file can't be read, or asks for something that autoseg has not.
    """
    from safetensors.torch import save

    from autoseg.fingerprint.nnunet import read_fingerprint
    from autoseg.plan.nnunet import from_nnunet
    from autoseg.predict.nnunet import find_folds, manifest_of, read_checkpoint, to_ours

    files = find_folds(folder, folds)
    description = folder / "dataset.json"
    fingerprint = read_fingerprint(folder / "dataset_fingerprint.json", description)
    plan = from_nnunet(read_json(folder / "plans.json"), fingerprint, str(folder / "plans.json"))
    ending = str(read_json(description).get("file_ending", ".nii.gz"))
    models = []
    for number, file in enumerate(files):
        fold = read_checkpoint(file)
        manifest = manifest_of(fold, plan, file_ending=ending, number=number)
        network = to_ours(fold, manifest.configuration, plan.num_inputs(manifest.configuration), plan.num_classes)
        models.append((manifest, save(network)))
    ways = {(manifest.configuration_name, manifest.configuration.mirror_axes) for manifest, _ in models}
    if len(ways) > 1:
        raise SettingError(
            "folds of different configurations can't be averaged",
            where=str(folder),
            found="; ".join(f"{name}, mirrored along {axes}" for name, axes in sorted(ways)),
            hint="import them one by one with --folds",
        )
    return write_bundle(out, models, source=f"nnU-Net v2, {folder.absolute().name}")


@dataclass(frozen=True, slots=True)
class PreparedVolume:
    """A case that is preprocessed already; for the process that predicts it."""

    files: CaseFiles
    record: PreprocessedCase
    previous: "StoredMap | None" = None

    @property
    def images(self) -> tuple[str, ...]:
        """None: of validation cases nobody asks for pictures."""
        return ()

    @property
    def sha256(self) -> str:
        """Of all that a prediction depends on."""
        previous = () if self.previous is None else (self.previous.sha256,)
        return digest(self.record.arrays_sha256, self.record.placement, *previous)

    def read(self, model: "LoadedModel") -> "Volume":
        """The stored volume."""
        import numpy as np

        from autoseg.predict.case import Volume
        from autoseg.predict.sliding import ImageWithMap
        from autoseg.preprocess.store import open_case

        stored = open_case(self.files, self.record.arrays_sha256).image
        image = np.asarray(stored[:], dtype=np.float32)
        if self.previous is None:
            return Volume(image, self.record.placement)
        shown = ImageWithMap(image, self.previous[:], model.plan.num_previous(model.configuration))
        return Volume(shown, self.record.placement)


def evaluate(
    predicted: Mapping[str, Path],
    reference: Mapping[str, Path],
    labels: Mapping[str, int | tuple[int, ...]] | None,
    out: Path,
    *,
    tolerance_mm: float = 1.0,
    lesion_iou: float | None = None,
    repair: Repair | None = None,
    jobs: int,
) -> Evaluation:
    """6: label maps and their references -> evaluation.json."""
    from autoseg.evaluate import stage
    from autoseg.executor import case_executor

    # Starting workers takes longer than scoring a few small cases.
    few = sum(file.stat().st_size for file in reference.values() if file.exists()) < SMALL_BYTES
    with case_executor(1 if few else min(jobs, len(reference))) as executor:
        return stage.run(
            predicted,
            reference,
            labels,
            out,
            tolerance_mm=tolerance_mm,
            lesion_iou=lesion_iou,
            repair=repair,
            executor=executor,
        )
