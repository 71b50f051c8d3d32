"""Predict cases with the mean logits of one or more folds; writes label maps and prediction.json."""

import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

import msgspec

from autoseg.artifacts.base import check_writable, digest, read_if_whole, write
from autoseg.artifacts.model import Precision
from autoseg.artifacts.prediction import PredictionSet
from autoseg.errors import ArtifactError, AutosegError, SettingError
from autoseg.executor import Progress, case_executor, case_failure, run_cases
from autoseg.images.io import sidecar
from autoseg.machine import alone, use_one_blas_thread
from autoseg.predict.case import (
    Finish,
    Source,
    Task,
    compute_case,
    predict_case,
    probabilities_file,
    read_case,
    write_case,
)
from autoseg.predict.models import LoadedModel, by_configuration, loaded
from autoseg.predict.report import REPORT_FOLDER, report_files

log = logging.getLogger(__name__)
RULES = "3"  # to be raised when the same models would give other label maps
RECORD = re.compile(r"prediction(\.\d+of\d+)?\.json")
LOCK = re.compile(r"\.prediction(\.\d+of(\d+))?\.lock")
OTHERS = "another process predicts into this folder"


@dataclass(frozen=True, slots=True)
class Part:
    """One of `total` shares of the cases, for as many processes that write into the same folder."""

    number: int  # from 1
    total: int

    def of(self, names: Iterable[str]) -> list[str]:
        """Every `total`-th name, so that neighbours, which are often of like size, are spread."""
        return sorted(names)[self.number - 1 :: self.total]

    @property
    def suffix(self) -> str:
        """For names of files that each share has of its own."""
        return f".{self.number}of{self.total}"


@dataclass(frozen=True, slots=True)
class Options:
    """How to predict.

    Attributes
    ----------
    mirroring : bool or None
        Average over every mirroring the plan allows; None: as the plan says.
    step : float or None
        Greatest distance of neighbouring windows, in patch edges; above 0, at most 1. None: as the plan says.
    precision : str or None
        Of the layers; None: as `LoadedModel.precision`.
    save_probabilities : bool
        Also write CASE.npz: `probabilities`, float16, (C, Z, Y, X) on the input's grid.
    report : bool
        Also write report/CASE.json, with what each label measures, and report/CASE.png, with the largest sections.
    part : Part or None
        Which of the cases; None: all.
    """

    mirroring: bool | None = None
    step: float | None = None
    precision: Precision | None = None
    save_probabilities: bool = False
    report: bool = False
    part: Part | None = None


def run(
    models: Sequence[LoadedModel],
    cases: Mapping[str, Source],
    out: Path,
    files: Mapping[str, str],
    inputs: Mapping[str, str],
    *,
    device_name: str,
    options: Options,
    scheduler: str | None = None,
    finish: Finish | None = None,
) -> PredictionSet:
    """Predict what is missing in `out`.

    Parameters
    ----------
    models : sequence of LoadedModel
        The logits of one configuration are averaged; of several, their probabilities.
    cases : mapping of str to Source
        Each gives its case's volume.
    out : Path
        Folder for the label maps.
    files : mapping of str to str
        File name of each case's label map.
    inputs : mapping of str to str
        Hash of each case's input.
    device_name : str
        Where the models compute; on a cluster, what each worker makes of it.
    options : Options
    scheduler : str, optional
        Address of a dask scheduler, whose workers then predict; they must see the same files.
    finish : Finish, optional
        How label maps are made; needed where there are several configurations.

    Returns
    -------
    PredictionSet

    Raises
    ------
    ArtifactError
        `out` can't be written.
    SettingError
        Files of these names are there that autoseg did not predict; or another process predicts into `out`.
    AutosegError
        Cases could not be read; all others are predicted.
    """
    firsts = [group[0] for group in by_configuration(models)]
    ways = tuple(way(model, options) for model in firsts)
    previous = [model for first in firsts for model in first.previous]
    mirror_axes, step = ways[0]
    precision = options.precision
    record = PredictionSet(
        inputs_sha256=digest(
            RULES,
            *(model.weights_sha256 for model in (*models, *previous)),
            *(f"{mirror_axes} {step} {precision}" for mirror_axes, step in ways),
            *map(_writing, firsts),
            *map(_writing, previous[:1]),
            *([] if finish is None else [finish.stamp]),
        ),
        models=tuple(str(model.folder) for model in models),
        previous_models=tuple(str(model.folder) for model in previous),
        configuration_name=" + ".join(model.manifest.configuration_name for model in firsts),
        mirror_axes=mirror_axes,
        step=step,
        files={},
        inputs={},
    )
    suffix = options.part.suffix if options.part else ""
    own = f"prediction{suffix}.json"
    chosen = options.part.of(cases) if options.part else list(cases)
    check_writable(out)
    with alone(out / f".prediction{suffix}.lock", OTHERS):
        _check_others(out, options.part)
        # What is there stays on record: as done where these models predicted it, else just as ours.
        known = {
            path.name: old
            for path in sorted(out.glob("prediction*.json"))
            if RECORD.fullmatch(path.name) and (old := read_if_whole(path, PredictionSet)) is not None
        }
        same = [old for old in known.values() if old.inputs_sha256 == record.inputs_sha256]
        done = {entry for old in same for entry in old.inputs.items()}
        ours = {file for old in known.values() for file in old.files.values()}
        if (old := known.pop(own, None)) is not None:
            record = msgspec.structs.replace(record, files=old.files, inputs=old.inputs if old in same else {})
        missing = [
            name for name in chosen if (name, inputs[name]) not in done or not _is_done(out, files[name], options)
        ]
        _disown(out, known, missing)
        _remove_leftovers(out, chosen)
        _make_room(out, [files[name] for name in missing], ours, options)
        if len(missing) < len(chosen):
            log.info("%d of %d cases are predicted already", len(chosen) - len(missing), len(chosen))
        unread: dict[str, AutosegError] = {}

        def keep(task: Task, outcome: Path | AutosegError) -> None:
            nonlocal record
            if isinstance(outcome, AutosegError):
                log.warning("left out: %s", outcome)
                unread[task.name] = outcome
                return
            # On record before it has its name, or the next run would take it for somebody else's.
            record = msgspec.structs.replace(
                record,
                files={**record.files, task.name: task.file},
                inputs={**record.inputs, task.name: inputs[task.name]},
            )
            write(out / own, record)
            _move_in(outcome, out, task.file)
            log.info("%s -> %s", task.name, out / task.file)

        with loaded(models, device_name) as ensemble:
            tasks = [
                Task(
                    name=name,
                    source=cases[name],
                    out=out.absolute(),
                    file=files[name],
                    ensemble=ensemble,
                    ways=ways,
                    precision=precision,
                    save_probabilities=options.save_probabilities,
                    report=options.report,
                    finish=finish,
                )
                for name in missing
            ]
            if scheduler is None:
                _in_turns(tasks, keep)
            else:
                with case_executor(1, scheduler=scheduler, sees=out.absolute()) as executor:
                    run_cases(
                        executor,
                        predict_case,
                        tasks,
                        name_of=lambda task: task.name,
                        progress="predict",
                        keeps=True,
                        done=keep,
                    )
        _remove_leftovers(out, missing)
    if unread:
        _tell(unread, len(chosen))
    return record


def _check_others(out: Path, part: Part | None) -> None:
    """Refuse to predict beside a process that has some of the same cases; this one's lock is held already.

    Raises
    ------
    SettingError
        One predicts all, or another number of shares.
    """
    for lock in out.glob(".prediction*.lock"):
        match = LOCK.fullmatch(lock.name)
        # Shares of one whole have no case in common.
        if match and (part is None) == (match[2] is None) and (part is None or match[2] == str(part.total)):
            continue
        if match:
            with alone(lock, OTHERS):
                pass


def _disown(out: Path, records: Mapping[str, PredictionSet], missing: Sequence[str]) -> None:
    """Strike cases that are to be predicted anew from the records of other shares, which would take them for done."""
    for name, record in records.items():
        left = {case: stamp for case, stamp in record.inputs.items() if case not in missing}
        if left != record.inputs:
            write(out / name, msgspec.structs.replace(record, inputs=left))


def way(model: LoadedModel, options: Options) -> tuple[tuple[int, ...], float]:
    """Axes to mirror along and step of the windows, as asked, else as the plan says."""
    planned = model.plan.prediction
    mirroring = planned.mirroring if options.mirroring is None else options.mirroring
    step = planned.step if options.step is None else options.step
    return (model.configuration.mirror_axes if mirroring else ()), step


def _in_turns(tasks: Sequence[Task], keep: Callable[[Task, Path | AutosegError], None]) -> None:
    """Predict in this thread, while one other reads the next case, and another writes the last one.

    Raises
    ------
    AutosegError
        A case failed; those begun before it are kept.
    """
    use_one_blas_thread()
    report = Progress("predict", len(tasks))
    written: tuple[Task, Future[Path | AutosegError]] | None = None

    def finish() -> None:
        nonlocal written
        if written is not None:
            (task, future), written = written, None
            with _named(task):
                outcome = future.result()
            keep(task, outcome)
            report.step()

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead = [reader.submit(read_case, task) for task in tasks[:1]]
        try:
            for task, following in zip_longest(tasks, tasks[1:]):
                with _named(task):
                    volumes = ahead.pop().result()
                    if following is not None:
                        ahead.append(reader.submit(read_case, following))
                    logits = None if isinstance(volumes, AutosegError) else compute_case(task, volumes)
                finish()
                if isinstance(volumes, AutosegError):
                    keep(task, volumes)
                    report.step()
                elif logits is not None:
                    written = task, writer.submit(write_case, task, volumes, logits)
                del volumes, logits
        finally:
            finish()
            report.close()


@contextmanager
def _named(task: Task) -> Iterator[None]:
    """Name the case in errors that nobody foresaw."""
    try:
        yield
    except Exception as error:
        failure = case_failure(error, task.name)
        if failure is error:
            raise
        raise failure from error


def _writing(model: LoadedModel) -> bytes:
    """What, beside the weights, decides how logits become a label map."""
    plan = model.plan
    return msgspec.json.encode(
        [
            list(plan.labels.items()),
            plan.regions_class_order,
            model.manifest.file_values,
            model.configuration.resampling,
        ]
    )


def _move_in(folder: Path, out: Path, file: str) -> None:
    """Give a case's files their names; the label map last, because its presence says that the case is done."""
    try:
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path == folder / file):
            target = out / path.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
        shutil.rmtree(folder)
    except OSError as error:
        raise ArtifactError("a file can't be written", where=str(out / file), found=error.strerror) from error


def _remove_leftovers(out: Path, cases: Iterable[str]) -> None:
    """Remove what processes that were killed left of these cases."""
    names = set(cases)
    for path in list(out.iterdir()):
        match = re.fullmatch(r"\.(.+)\.\w+\.part", path.name)
        if match and match[1] in names:
            shutil.rmtree(path, ignore_errors=True)


def _is_done(out: Path, file: str, options: Options) -> bool:
    target = out / file
    return target.exists() and all(path.exists() for path in _extras(target, options))


def _extras(target: Path, options: Options) -> tuple[Path, ...]:
    """What is written of a case beside its label map because the user asked for it."""
    return (
        *((probabilities_file(target),) if options.save_probabilities else ()),
        *(report_files(target) if options.report else ()),
    )


def _tell(unread: Mapping[str, AutosegError], total: int) -> NoReturn:
    """Raise for the cases that could not be read, once the others are predicted.

    Raises
    ------
    AutosegError
        The case's own error where there is just one.
    """
    errors = list(unread.values())
    if len(errors) == 1:
        raise errors[0]
    raise AutosegError(
        f"{len(errors)} of {total} cases could not be read; the others are predicted",
        where=", ".join(unread),
        found="; ".join(dict.fromkeys(error.what for error in errors)),
        hint="mend these files and give the same command again: it predicts what is missing",
    )


def _make_room(out: Path, files: Sequence[str], ours: set[str], options: Options) -> None:
    """Remove what earlier models left: it must not pass for this one's work if this run is killed.

    Raises
    ------
    SettingError
        A file stands there that no prediction made: reference labels, perhaps; or a case would replace a record.
    """
    for target in (out / file for file in files):
        beside = sidecar(target)
        if beside is not None and (RECORD.fullmatch(beside.name) or beside.name == "evaluation.json"):
            raise SettingError(
                "a case has the name of a record that stands beside the predictions",
                where=str(target),
                found=f"its spacing would be written to {beside.name}",
                hint="give the case another name",
            )
    reports = out / REPORT_FOLDER
    foreign = [REPORT_FOLDER] if files and options.report and reports.exists() and not reports.is_dir() else []
    for target in (out / file for file in files if file not in ours):
        written = (target, sidecar(target), *_extras(target, options))
        foreign += [str(path.relative_to(out)) for path in written if path is not None and path.exists()]
    if foreign:
        raise SettingError(
            "the output folder holds files of these names that autoseg did not predict",
            where=str(out),
            found=", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else ""),
            hint="choose another output folder",
        )
    for target in (out / file for file in files if file in ours):
        for path in (target, sidecar(target), *_extras(target, Options(save_probabilities=True, report=True))):
            # A file that is called as the reports' folder has nothing in it.
            if path is not None and path.exists():
                path.unlink()
