"""One case, in whatever process: models and a source of its volume -> files of its prediction."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.artifacts.base import atomic_path
from autoseg.artifacts.model import Precision
from autoseg.artifacts.preprocessed import Placement
from autoseg.errors import ArtifactError, AutosegError
from autoseg.images.endings import with_ending
from autoseg.images.image import Image
from autoseg.images.io import write_label
from autoseg.machine import available_memory_bytes
from autoseg.networks.device import choose_device
from autoseg.predict.models import Ensemble, LoadedModel, models_of
from autoseg.predict.report import write_report
from autoseg.predict.sliding import sliding_logits
from autoseg.transforms.chain import forward, next_stage_map, restore_labels, restore_probabilities, with_map

log = logging.getLogger(__name__)
SINGLE_BYTES = 2**29
MEMORY_SHARE = 0.25  # of what is at hand, for the logits of one case


@dataclass(frozen=True, slots=True)
class Volume:
    """A case ready for the network.

    Attributes
    ----------
    image_czyx : ndarray of float32, shape (C, Z, Y, X)
    placement : Placement
    previous : Volume or None
        The case ready for the first stage of a cascade, whose prediction is yet to be shown to the second.
    """

    image_czyx: NDArray[np.float32]
    placement: Placement
    previous: "Volume | None" = None


class Source(Protocol):
    """Where a case's volume comes from; sent to the process that predicts it."""

    @property
    def images(self) -> tuple[str, ...]:
        """Files of the image; absolute."""

    def read(self, model: LoadedModel) -> Volume:
        """The volume, on the grid of the model's network."""


@dataclass(frozen=True, slots=True)
class Task:
    """All that a worker needs to predict one case.

    Attributes
    ----------
    name : str
    source : Source
    out : Path
        Folder of the label maps; absolute.
    file : str
        Name of this one.
    ensemble : Ensemble
    mirror_axes : tuple of int
    step : float
    precision : str or None
        Of the layers; None: as `LoadedModel.precision`.
    save_probabilities : bool
    report : bool
        Also write what the label map holds, and a picture of it.
    """

    name: str
    source: Source
    out: Path
    file: str
    ensemble: Ensemble
    mirror_axes: tuple[int, ...]
    step: float
    precision: Precision | None
    save_probabilities: bool
    report: bool


def predict_case(task: Task) -> Path | AutosegError:
    """Read, predict and write one case; runs in this process or on a cluster.

    Returns
    -------
    Path or AutosegError
        A new hidden folder in `out` that holds the case's files under their final names; or why the case could
        not be read, which does not keep other cases waiting.

    Raises
    ------
    SettingError, ArtifactError
        The models can't be loaded, or the files can't be written.
    """
    volume = read_case(task)
    if isinstance(volume, AutosegError):
        return volume
    return write_case(task, volume, compute_case(task, volume))


def read_case(task: Task) -> Volume | AutosegError:
    """The case's volume, or why it could not be read."""
    try:
        return task.source.read(models_of(task.ensemble)[0])
    except AutosegError as error:
        return error


def compute_case(task: Task, volume: Volume) -> NDArray[np.floating]:
    """The mean of the models' logits, as `volume_logits`."""
    return volume_logits(
        models_of(task.ensemble),
        volume,
        device=choose_device(task.ensemble.device_name),
        precision=task.precision,
        mirror_axes=task.mirror_axes,
        step=task.step,
        folder=task.out,
    )


def write_case(task: Task, volume: Volume, logits_kzyx: NDArray[np.floating]) -> Path:
    """Write the case's files.

    Returns
    -------
    Path
        A new hidden folder in `out` that holds them under their final names.

    Raises
    ------
    ArtifactError
        They can't be written.
    DatasetError
        The image, read again for the report, can't be read any more.
    """
    models = models_of(task.ensemble)
    first, geometry = models[0], volume.placement.geometry
    try:
        folder = Path(mkdtemp(prefix=f".{task.name}.", suffix=".part", dir=task.out))
    except OSError as error:
        raise ArtifactError("the folder can't be written", where=str(task.out), found=error.strerror) from error
    try:
        target = folder / task.file
        if task.save_probabilities:
            probabilities = restore_probabilities(logits_kzyx, volume.placement, first.plan, first.configuration)
            with atomic_path(probabilities_file(target)) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, probabilities=probabilities)
        label_zyx = label_map(logits_kzyx, volume, first)
        if task.report:
            write_report(target, label_zyx, geometry, case=task.name, images=task.source.images, models=models)
        write_label(target, label_zyx, geometry)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def prepare(image: Image, model: LoadedModel) -> Volume:
    """An image on the grid of the model's network, and in a cascade on that of the first stage too."""
    prepared = forward(image, None, model.plan, model.configuration)
    previous = prepare(image, model.previous[0]) if model.previous else None
    return Volume(prepared.image_czyx, prepared.placement, previous)


def volume_logits(
    models: Sequence[LoadedModel],
    volume: Volume,
    *,
    device: torch.device,
    mirror_axes: Sequence[int],
    step: float,
    precision: Precision | None = None,
    folder: Path | None = None,
) -> NDArray[np.floating]:
    """Mean of the folds' logits on the network's grid; in a cascade the first stage predicts before.

    Parameters
    ----------
    models : sequence of LoadedModel
    volume : Volume
    device, mirror_axes, step, precision, folder
        As for `mean_logits`. The first stage is mirrored along axes of its own if the second is mirrored at all.

    Returns
    -------
    ndarray of float32 or float16, shape (K, Z, Y, X)
    """
    image_czyx, model = volume.image_czyx, models[0]
    if volume.previous is not None:
        first = model.previous[0]
        logits = volume_logits(
            model.previous,
            volume.previous,
            device=device,
            mirror_axes=first.configuration.mirror_axes if mirror_axes else (),
            step=step,
            precision=precision,
            folder=folder,
        )
        predicted = next_stage_map(logits, first.plan, first.configuration, model.configuration, volume.placement)
        image_czyx = with_map(image_czyx, predicted, model.plan.num_previous(model.configuration))
    return mean_logits(
        models, image_czyx, device=device, mirror_axes=mirror_axes, step=step, precision=precision, folder=folder
    )


def mean_logits(
    models: Sequence[LoadedModel],
    image_czyx: NDArray[np.float32],
    *,
    device: torch.device,
    mirror_axes: Sequence[int],
    step: float,
    precision: Precision | None = None,
    folder: Path | None = None,
) -> NDArray[np.floating]:
    """Mean of the folds' logits on the network's grid.

    Parameters
    ----------
    models : sequence of LoadedModel
    image_czyx : ndarray of float32, shape (C, Z, Y, X)
    device : torch.device
    mirror_axes, step
        As for `sliding_logits`.
    precision : str or None
        Of the layers; None: as `LoadedModel.precision`.
    folder : Path or None
        Where logits that don't fit the memory lie meanwhile; None: the system's folder for such files.

    Returns
    -------
    ndarray of float32 or float16, shape (K, Z, Y, X)
        In half precision less the largest of each voxel where classes exclude each other, which changes neither
        labels nor probabilities.
    """
    plan = models[0].plan
    logits = _room((plan.num_classes, *image_czyx.shape[1:]), folder)
    sliding_logits(
        [partial(model.logits, precision=precision or model.precision(device)) for model in models],
        image_czyx,
        models[0].configuration.patch_size,
        device=device,
        mirror_axes=mirror_axes,
        step=step,
        keep=logits,
        exclusive=not plan.regions_class_order,
    )
    return logits


def _room(shape: tuple[int, ...], folder: Path | None) -> NDArray[np.floating]:
    """Room for logits: in single precision where they are few, else in half; in memory, else in a file without a name.

    Notes
    -----
    The precision depends on the size alone, so that the same command gives the same file on any day.
    """
    count = prod(shape)
    if 4 * count <= SINGLE_BYTES:
        return np.empty(shape, np.float32)
    if 2 * count <= MEMORY_SHARE * available_memory_bytes():
        log.info("logits of %d classes: %.1f GB of memory, in half precision", shape[0], 2 * count / 1e9)
        return np.empty(shape, np.float16)
    log.info("logits of %d classes: %.1f GB in a temporary file, in half precision", shape[0], 2 * count / 1e9)
    with TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.float16, "w+", shape=shape)


def label_map(logits_kzyx: NDArray[np.floating], volume: Volume, model: LoadedModel) -> NDArray[np.integer]:
    """Labels on the grid of the case's file, with the values of the dataset's label files, so that the two compare.

    Parameters
    ----------
    logits_kzyx : ndarray of float32 or float16, shape (K, Z, Y, X)
        On the network's grid.
    volume : Volume
    model : LoadedModel

    Returns
    -------
    ndarray of unsigned integers, shape (Z, Y, X)
    """
    label_zyx = restore_labels(logits_kzyx, volume.placement, model.plan, model.configuration)
    file_values = model.manifest.file_values
    if not file_values:
        return label_zyx
    written: NDArray[np.integer] = np.array(file_values, np.uint16)[label_zyx]
    return written


def probabilities_file(label_file: Path) -> Path:
    """CASE.npz beside CASE's label map."""
    return with_ending(label_file, ".npz")
