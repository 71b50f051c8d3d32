"""Predict cases with the mean logits of one or more folds; writes label maps and prediction.json."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from autoseg.artifacts.base import atomic_path, digest, read_if_whole, write
from autoseg.artifacts.prediction import PredictionSet
from autoseg.artifacts.preprocessed import Placement
from autoseg.errors import SettingError
from autoseg.images.endings import file_ending
from autoseg.images.io import write_label
from autoseg.layout import FoldFolder
from autoseg.predict.models import LoadedModel, check_agreement, load_model
from autoseg.predict.sliding import sliding_logits
from autoseg.transforms.chain import restore_labels, restore_probabilities

log = logging.getLogger(__name__)


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
    """
    first = models[0]
    planned = first.plan.prediction
    mirroring = planned.mirroring if options.mirroring is None else options.mirroring
    mirror_axes = first.configuration.mirror_axes if mirroring else ()
    step = planned.step if options.step is None else options.step
    record = PredictionSet(
        inputs_sha256=digest(
            *(model.weights_sha256 + model.manifest.autoseg_version for model in models),
            f"{mirror_axes} {step}",
        ),
        models=tuple(str(model.folder) for model in models),
        configuration_name=first.manifest.configuration_name,
        mirror_axes=mirror_axes,
        step=step,
        files=dict(files),
        inputs=dict(inputs),
    )
    old = _earlier(out / "prediction.json")
    done = _unchanged(old, record)
    missing = [name for name in cases if not (name in done and _is_done(out, files[name], options))]
    _remove_stale(out, [files[name] for name in missing], set(old.files.values()) if old else set())
    if old is not None and old.inputs_sha256 == record.inputs_sha256:
        # Earlier cases of the same models stay on record.
        record = msgspec.structs.replace(record, files=old.files | record.files, inputs=old.inputs | record.inputs)
    write(out / "prediction.json", record)
    if len(missing) < len(cases):
        log.info("%d of %d cases are predicted already", len(cases) - len(missing), len(cases))
    for name in tqdm(missing, desc="predict", unit="case", disable=not sys.stderr.isatty()):
        volume = cases[name]()
        logits = mean_logits(models, volume.image_czyx, device=device, mirror_axes=mirror_axes, step=step)
        target = out / files[name]
        if options.save_probabilities:
            probabilities = restore_probabilities(logits, volume.placement, first.plan, first.configuration)
            with atomic_path(probabilities_file(target)) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, probabilities=probabilities)
        labels = restore_labels(logits, volume.placement, first.plan, first.configuration)
        write_label(target, labels, volume.placement.geometry)
        log.info("%s -> %s", name, target)
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


def _earlier(path: Path) -> PredictionSet | None:
    """What stands in the folder already."""
    return read_if_whole(path, PredictionSet) if path.exists() else None


def _unchanged(old: PredictionSet | None, record: PredictionSet) -> set[str]:
    """Cases that an earlier run predicted from the same input with the same models and options."""
    if old is None or old.inputs_sha256 != record.inputs_sha256:
        return set()
    return {name for name, hashed in record.inputs.items() if old.inputs.get(name) == hashed}


def _remove_stale(out: Path, files: Sequence[str], ours: set[str]) -> None:
    """Remove what earlier models left: it must not pass for this one's work if this run is killed.

    Raises
    ------
    SettingError
        A file stands there that no prediction made: reference labels, perhaps.
    """
    foreign = [file for file in files if file not in ours and (out / file).exists()]
    if foreign:
        raise SettingError(
            "the output folder holds files of these names that autoseg did not predict",
            where=str(out),
            found=", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else ""),
            hint="choose another output folder",
        )
    for file in files:
        for stale in (out / file, probabilities_file(out / file)):
            if stale.exists():
                stale.unlink()
