"""Predict cases with the mean logits of one or more folds; writes label maps and prediction.json."""

import logging
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec

from autoseg.artifacts.base import check_writable, digest, read_if_whole, write
from autoseg.artifacts.prediction import PredictionSet
from autoseg.errors import ArtifactError, AutosegError, SettingError
from autoseg.executor import case_executor, run_cases
from autoseg.images.io import sidecar
from autoseg.machine import alone
from autoseg.predict.case import Source, Task, predict_case, probabilities_file
from autoseg.predict.models import LoadedModel, loaded

log = logging.getLogger(__name__)
RULES = "1"  # to be raised when the same models would give other label maps
RECORDS = ("prediction.json", "evaluation.json")


@dataclass(frozen=True, slots=True)
class Options:
    """How to predict.

    Attributes
    ----------
    mirroring : bool or None
        Average over every mirroring the plan allows; None: as the plan says.
    step : float or None
        Greatest distance of neighbouring windows, in patch edges; above 0, at most 1. None: as the plan says.
    save_probabilities : bool
        Also write CASE.npz: `probabilities`, float16, (C, Z, Y, X) on the input's grid.
    """

    mirroring: bool | None = None
    step: float | None = None
    save_probabilities: bool = False


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
) -> PredictionSet:
    """Predict what is missing in `out`.

    Parameters
    ----------
    models : sequence of LoadedModel
        Their logits are averaged.
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
    first = models[0]
    planned = first.plan.prediction
    mirroring = planned.mirroring if options.mirroring is None else options.mirroring
    mirror_axes = first.configuration.mirror_axes if mirroring else ()
    step = planned.step if options.step is None else options.step
    record = PredictionSet(
        inputs_sha256=digest(
            RULES, *(model.weights_sha256 for model in models), f"{mirror_axes} {step}", _writing(first)
        ),
        models=tuple(str(model.folder) for model in models),
        configuration_name=first.manifest.configuration_name,
        mirror_axes=mirror_axes,
        step=step,
        files={},
        inputs={},
    )
    check_writable(out)
    with alone(out / ".prediction.lock", "another process predicts into this folder"):
        old = read_if_whole(out / "prediction.json", PredictionSet)
        if old is not None:
            # What is there stays on record: as done where these models predicted it, else just as ours.
            same = old.inputs_sha256 == record.inputs_sha256
            record = msgspec.structs.replace(record, files=old.files, inputs=old.inputs if same else {})
        missing = [
            name for name in cases if record.inputs.get(name) != inputs[name] or not _is_done(out, files[name], options)
        ]
        _remove_leftovers(out, cases)
        _make_room(out, [files[name] for name in missing], set(record.files.values()), options)
        if len(missing) < len(cases):
            log.info("%d of %d cases are predicted already", len(cases) - len(missing), len(cases))
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
            write(out / "prediction.json", record)
            _move_in(outcome, out, task.file)
            log.info("%s -> %s", task.name, out / task.file)

        with (
            loaded(models, device_name) as ensemble,
            # One case at a time, in this process: the network already takes all of the device.
            case_executor(1, scheduler=scheduler, sees=out.absolute()) as executor,
        ):
            tasks = [
                Task(
                    name,
                    cases[name],
                    out.absolute(),
                    files[name],
                    ensemble,
                    mirror_axes,
                    step,
                    options.save_probabilities,
                )
                for name in missing
            ]
            run_cases(
                executor, predict_case, tasks, name_of=lambda task: task.name, progress="predict", keeps=True, done=keep
            )
        _remove_leftovers(out, missing)
    if unread:
        _tell(unread, len(cases))
    return record


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
        for path in sorted(folder.iterdir(), key=lambda path: path.name == file):
            path.replace(out / path.name)
        folder.rmdir()
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
    return target.exists() and (not options.save_probabilities or probabilities_file(target).exists())


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
        if beside is not None and beside.name in RECORDS:
            raise SettingError(
                "a case has the name of a record that stands beside the predictions",
                where=str(target),
                found=f"its spacing would be written to {beside.name}",
                hint="give the case another name",
            )
    foreign = []
    for target in (out / file for file in files if file not in ours):
        written = (target, sidecar(target), probabilities_file(target) if options.save_probabilities else None)
        foreign += [path.name for path in written if path is not None and path.exists()]
    if foreign:
        raise SettingError(
            "the output folder holds files of these names that autoseg did not predict",
            where=str(out),
            found=", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else ""),
            hint="choose another output folder",
        )
    for target in (out / file for file in files if file in ours):
        for path in (target, sidecar(target), probabilities_file(target)):
            if path is not None:
                path.unlink(missing_ok=True)
