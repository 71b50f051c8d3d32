"""A small network that imitates the mean of trained folds, so that prediction takes a fraction of the time."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from msgspec.structs import replace

from autoseg.artifacts.base import digest, read_if_whole, write
from autoseg.artifacts.dataset import Case, Dataset
from autoseg.artifacts.distillation import Distillation, Measured
from autoseg.artifacts.model import Teaching
from autoseg.artifacts.overlay import overlay
from autoseg.artifacts.plan import Configuration
from autoseg.artifacts.splits import Fold
from autoseg.artifacts.stamp import case_stamp
from autoseg.datasets.layouts import group_inputs
from autoseg.errors import SettingError
from autoseg.evaluate.pairing import references_of
from autoseg.layout import FoldFolder, Workspace
from autoseg.networks.device import choose_device
from autoseg.pipeline import PreparedCases, evaluate, open_workspace, preprocess, training_cases
from autoseg.predict import stage as prediction
from autoseg.predict.models import LoadedModel, load_models
from autoseg.predictor import RawVolume, ending_of_label
from autoseg.train import stage as training
from autoseg.train.task import FoldTask
from autoseg.train.teacher import Teacher
from autoseg.train.validate import choose_cases
from autoseg.trained import load_trained

log = logging.getLogger(__name__)
SUFFIX = "_student"
LEAST_FEATURES = 4
MOST_COMPARED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a user asks of a student.

    Attributes
    ----------
    configuration_name : str or None
        Of its teachers; None: 3d_fullres, else 2d.
    folds : sequence of int or None
        Which teachers; None: every fold that is trained.
    width : float
        Its feature maps, as a share of theirs.
    share : float
        Of the loss that is for the teachers, not for the labels.
    temperature : float
        See `Teaching`.
    settings : sequence of str
        KEY=VALUE, over the plan that the teachers were trained by.
    images, labels : Path or None
        Folders of cases that took no part in training, to compare the two on; None: cases of the dataset.
    jobs : int
    restart : bool
        Throw an earlier student away.
    """

    configuration_name: str | None = None
    folds: Sequence[int] | None = None
    width: float = 0.5
    share: float = 0.5
    temperature: float = 1.0
    settings: Sequence[str] = ()
    images: Path | None = None
    labels: Path | None = None
    jobs: int = 1
    restart: bool = False


def distill(workspace: Workspace, wish: Wish, *, device_name: str) -> Distillation:
    """Train a student on all cases, and hold it against its teachers.

    Returns
    -------
    Distillation
        Also written beside the student's fold, which `predict` and `export` take like any other.

    Raises
    ------
    SettingError
        A fold is not trained, or is the second stage of a cascade.
    """
    device = choose_device(device_name)
    teachers = load_trained(workspace, wish.configuration_name, wish.folds, device)
    dataset, _ = open_workspace(workspace)
    task = student_task(teachers, dataset, wish, device)
    # Before hours of training.
    cases = compared_cases(dataset, wish)
    folder = workspace.fold(task.configuration_name, task.fold)
    records = preprocess(workspace, dataset, teachers[0].plan, teachers[0].manifest.configuration_name, jobs=wish.jobs)
    files = {name: workspace.case(teachers[0].manifest.configuration_name, name) for name in records}
    arrays = cache(partial(training_cases, PreparedCases(records, files, {}), task.plan, 1))
    training.run(
        task,
        records,
        lambda names: [arrays()[name] for name in names],
        folder,
        device=device,
        jobs=wish.jobs,
        restart=wish.restart,
    )
    return compare_with_teachers(
        teachers,
        folder,
        cases,
        dataset,
        workspace.distillation(task.configuration_name),
        unseen=wish.images is not None,
        device=device,
        jobs=wish.jobs,
    )


def student_task(teachers: Sequence[LoadedModel], dataset: Dataset, wish: Wish, device: torch.device) -> FoldTask:
    """What the student is trained as: its teachers' plan with narrower stages, on every case.

    Raises
    ------
    SettingError
        The teachers are the second stage of a cascade, or students themselves.
    """
    first = teachers[0].manifest
    name = first.configuration_name
    if first.configuration.previous_stage or first.teaching:
        raise SettingError(
            "such a configuration can't be distilled",
            where="--configuration",
            found=f"{name}, a student" if first.teaching else f"{name}, the second stage of a cascade",
            allowed="folds that were trained from images and labels alone",
        )
    plan = overlay(first.plan, wish.settings)
    plan = replace(
        plan,
        configurations={f"{name}{SUFFIX}": narrowed(plan.configurations[name], wish.width)},
        # No case is left to validate on.
        training=replace(plan.training, validation_iterations=0, patience=None),
    )
    record = Teaching(
        paths=tuple(str(model.folder) for model in teachers),
        weights_sha256=tuple(model.weights_sha256 for model in teachers),
        share=wish.share,
        temperature=wish.temperature,
    )
    networks = [partial(model.logits, precision=model.precision(device)) for model in teachers]
    return FoldTask(
        plan=plan,
        settings=tuple(wish.settings),
        configuration_name=f"{name}{SUFFIX}",
        fold=0,
        cases=Fold(training=tuple(sorted(case.name for case in dataset.cases)), validation=()),
        naming=dataset.naming,
        file_values=dataset.file_values,
        teacher=Teacher(networks, record, exclusive=not plan.regions_class_order),
    )


def narrowed(configuration: Configuration, width: float) -> Configuration:
    """The configuration with this share of its feature maps, at least a few."""
    features = tuple(max(LEAST_FEATURES, round(count * width)) for count in configuration.features_per_stage)
    return replace(configuration, features_per_stage=features, next_stage=None)


def compare_with_teachers(
    teachers: Sequence[LoadedModel],
    folder: FoldFolder,
    cases: Sequence[Case],
    dataset: Dataset,
    out: Path,
    *,
    unseen: bool,
    device: torch.device,
    jobs: int,
) -> Distillation:
    """Predict the same cases with both; at once where that was done before."""
    students = load_models([folder], device)
    teaching = students[0].manifest.teaching
    if teaching is None:
        raise SettingError("a fold is no student", where=str(folder.root))
    stamps = {case.name: case_stamp(Path(), case) for case in cases}
    ways = [prediction.way(models[0], prediction.Options()) for models in (teachers, students)]
    weights = [model.weights_sha256 for model in (*teachers, *students)]
    inputs = digest(
        prediction.RULES,
        *weights,
        *(f"{name} {stamp}" for name, stamp in sorted(stamps.items())),
        f"{unseen} {device} {ways} {dataset.repair}",
    )
    earlier = read_if_whole(out, Distillation)
    if earlier is not None and earlier.inputs_sha256 == inputs:
        return earlier
    with TemporaryDirectory(dir=out.parent, prefix=".compared.") as temporary:
        measured = [
            _measure(models, cases, stamps, dataset, Path(temporary) / side, device, jobs)
            for side, models in (("teacher", teachers), ("student", students))
        ]
    result = Distillation(
        inputs_sha256=inputs,
        configuration_name=students[0].manifest.configuration_name,
        teaching=teaching,
        cases=tuple(sorted(stamps)),
        unseen=unseen,
        device=str(device),
        num_threads=torch.get_num_threads(),
        teacher=measured[0],
        student=measured[1],
    )
    write(out, result)
    return result


def compared_cases(dataset: Dataset, wish: Wish) -> list[Case]:
    """Cases to compare on, with absolute paths.

    Raises
    ------
    SettingError
        One of two folders is missing.
    DatasetError
        Their files don't belong together.
    """
    if (wish.images is None) != (wish.labels is None):
        raise SettingError("cases to compare on need both --images and --labels")
    if wish.images is None or wish.labels is None:
        chosen = set(choose_cases(sorted(case.name for case in dataset.cases), MOST_COMPARED))
        root = Path(dataset.root).absolute()
        return [
            replace(
                case, images=tuple(str(root / image) for image in case.images), label=str(root / (case.label or ""))
            )
            for case in dataset.cases
            if case.name in chosen
        ]
    cases = group_inputs([wish.images], dataset.naming, len(dataset.channel_names))
    labels = references_of([case.name for case in cases], wish.labels)
    return [replace(case, label=str(labels[case.name].absolute())) for case in cases]


def _measure(
    models: Sequence[LoadedModel],
    cases: Sequence[Case],
    stamps: Mapping[str, str],
    dataset: Dataset,
    out: Path,
    device: torch.device,
    jobs: int,
) -> Measured:
    """Predict the cases into a new folder, and score them."""
    files = {case.name: case.name + ending_of_label(case) for case in cases}
    sources = {case.name: RawVolume(case) for case in cases}
    options = prediction.Options()
    # The first pass of a network builds what later ones reuse.
    first = cases[0].name
    prediction.run(
        models, {first: sources[first]}, out / "first", files, stamps, device_name=str(device), options=options
    )
    start = time.perf_counter()
    prediction.run(models, sources, out / "all", files, stamps, device_name=str(device), options=options)
    seconds = time.perf_counter() - start
    evaluation = evaluate(
        {name: out / "all" / file for name, file in files.items()},
        {case.name: Path(case.label or "") for case in cases},
        dataset.labels_in_files,
        out / "evaluation.json",
        repair=dataset.repair,
        jobs=jobs,
    )
    return Measured(
        seconds=seconds,
        num_parameters=sum(model.manifest.num_parameters for model in models),
        dice=evaluation.summary.mean.dice,
        dice_per_label={name: scores.dice for name, scores in evaluation.summary.labels.items()},
    )
