"""Predict cases with the mean logits of one or more folds; writes label maps and prediction.json."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.artifacts.base import atomic_path, check_writable, digest, read_if_whole, write
from autoseg.artifacts.prediction import PredictionSet
from autoseg.artifacts.preprocessed import Placement
from autoseg.errors import AutosegError, SettingError
from autoseg.executor import case_executor, run_cases
from autoseg.images.endings import file_ending
from autoseg.images.io import sidecar, write_label
from autoseg.layout import FoldFolder
from autoseg.predict.models import LoadedModel, check_agreement, load_model
from autoseg.predict.sliding import sliding_logits
from autoseg.transforms.chain import restore_labels, restore_probabilities

log = logging.getLogger(__name__)
RULES = "1"  # to be raised when the same models would give other label maps


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


@dataclass(frozen=True, slots=True)
class Volume:
    """A case ready for the network."""

    image_czyx: NDArray[np.float32]
    placement: Placement


def load_models(folders: Sequence[FoldFolder], device: torch.device) -> list[LoadedModel]:
    """The folds, checked to fit together."""
    models = [load_model(folder, device) for folder in folders]
    check_agreement(models)
    return models


def run(
    models: Sequence[LoadedModel],
    cases: Mapping[str, Callable[[], Volume]],
    out: Path,
    files: Mapping[str, str],
    inputs: Mapping[str, str],
    *,
    device: torch.device,
    options: Options,
) -> PredictionSet:
    """Predict what is missing in `out`.

    Parameters
    ----------
    models : sequence of LoadedModel
        Their logits are averaged.
    cases : mapping of str to callable
        Each gives its case's volume when called.
    out : Path
        Folder for the label maps.
    files : mapping of str to str
        File name of each case's label map.
    inputs : mapping of str to str
        Hash of each case's input.
    device : torch.device
    options : Options

    Returns
    -------
    PredictionSet

    Raises
    ------
    ArtifactError
        `out` can't be written.
    SettingError
        Files of these names are there that autoseg did not predict.
    AutosegError
        Cases could not be read; all others are predicted.
    """
    first = models[0]
    planned = first.plan.prediction
    mirroring = planned.mirroring if options.mirroring is None else options.mirroring
    mirror_axes = first.configuration.mirror_axes if mirroring else ()
    step = planned.step if options.step is None else options.step
    record = PredictionSet(
        inputs_sha256=digest(RULES, *(model.weights_sha256 for model in models), f"{mirror_axes} {step}"),
        models=tuple(str(model.folder) for model in models),
        configuration_name=first.manifest.configuration_name,
        mirror_axes=mirror_axes,
        step=step,
        files={},
        inputs={},
    )
    check_writable(out)
    old = read_if_whole(out / "prediction.json", PredictionSet)
    if old is not None:
        # What is there stays on record: as done where these models predicted it, else just as ours.
        same = old.inputs_sha256 == record.inputs_sha256
        record = msgspec.structs.replace(record, files=old.files, inputs=old.inputs if same else {})
    missing = [
        name for name in cases if record.inputs.get(name) != inputs[name] or not _is_done(out, files[name], options)
    ]
    _make_room(out, [files[name] for name in missing], set(record.files.values()), options)
    if len(missing) < len(cases):
        log.info("%d of %d cases are predicted already", len(cases) - len(missing), len(cases))
    unread: dict[str, AutosegError] = {}

    def predict_case(name: str) -> None:
        nonlocal record
        try:
            volume = cases[name]()
        except AutosegError as error:
            log.warning("left out: %s", error)
            unread[name] = error
            return
        logits = mean_logits(models, volume.image_czyx, device=device, mirror_axes=mirror_axes, step=step)
        # On record before it is written, or the next run would take it for somebody else's.
        record = msgspec.structs.replace(
            record, files={**record.files, name: files[name]}, inputs={**record.inputs, name: inputs[name]}
        )
        write(out / "prediction.json", record)
        target = out / files[name]
        if options.save_probabilities:
            probabilities = restore_probabilities(logits, volume.placement, first.plan, first.configuration)
            with atomic_path(probabilities_file(target)) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, probabilities=probabilities)
        # Last, because its presence says that the case is done.
        labels = restore_labels(logits, volume.placement, first.plan, first.configuration)
        write_label(target, labels, volume.placement.geometry)
        log.info("%s -> %s", name, target)

    # One case at a time, in this process: the network already takes all of the device.
    with case_executor(1) as executor:
        run_cases(executor, predict_case, missing, name_of=str, progress="predict", keeps=True)
    if unread:
        _tell(unread, len(cases))
    return record


@torch.inference_mode()
def mean_logits(
    models: Sequence[LoadedModel],
    image_czyx: NDArray[np.float32],
    *,
    device: torch.device,
    mirror_axes: Sequence[int],
    step: float,
) -> NDArray[np.float32]:
    """Mean of the folds' logits on the network's grid, float32, shape (K, Z, Y, X)."""
    total: torch.Tensor | None = None
    for model in models:
        logits = sliding_logits(
            model.network,
            image_czyx,
            model.plan.num_classes,
            model.configuration.patch_size,
            device=device,
            precision=model.precision(device),
            mirror_axes=mirror_axes,
            step=step,
        )
        total = logits if total is None else total.add_(logits)
    if total is None:
        message = "no models"
        raise ValueError(message)
    mean: NDArray[np.float32] = total.div_(len(models)).numpy()
    return mean


def probabilities_file(label_file: Path) -> Path:
    """CASE.npz beside CASE's label map."""
    ending = file_ending(label_file.name) or label_file.suffix
    return label_file.with_name(label_file.name[: -len(ending)] + ".npz")


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
        A file stands there that no prediction made: reference labels, perhaps.
    """
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
