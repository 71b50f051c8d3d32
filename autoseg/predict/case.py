"""One case, in whatever process: models and a source of its volume -> files of its prediction."""

import logging
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryFile, gettempdir, mkdtemp
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.artifacts.base import atomic_path
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import Labels, foreground, in_files
from autoseg.artifacts.model import Precision
from autoseg.artifacts.preprocessed import Placement
from autoseg.errors import ArtifactError, AutosegError, DatasetError
from autoseg.images.endings import with_ending
from autoseg.images.image import Image
from autoseg.images.io import write_label
from autoseg.images.probabilities import new_levels, to_levels
from autoseg.machine import available_memory_bytes
from autoseg.networks.device import choose_device
from autoseg.predict.models import Ensemble, LoadedModel, by_configuration, models_of
from autoseg.predict.report import write_report
from autoseg.predict.sliding import ImageWithMap, Shown, sliding_logits
from autoseg.transforms.chain import (
    forward,
    next_stage_map,
    probability_slabs,
    restore_labels,
    restore_probabilities,
)

log = logging.getLogger(__name__)
SINGLE_BYTES = 2**29
COMPUTING = threading.Lock()  # threads of a process take turns with its device
MEMORY_SHARE = 0.25  # of what is at hand, for the logits of one case


@dataclass(frozen=True, slots=True)
class Volume:
    """A case ready for the network.

    Attributes
    ----------
    image_czyx : ndarray of float32, shape (C, Z, Y, X), or ImageWithMap
    placement : Placement
    previous : Volume or None
        The case ready for the first stage of a cascade, whose prediction is yet to be shown to the second.
    """

    image_czyx: Shown
    placement: Placement
    previous: "Volume | None" = None


class Source(Protocol):
    """Where a case's volume comes from; sent to the process that predicts it."""

    @property
    def images(self) -> tuple[str, ...]:
        """Files of the image; absolute."""

    def read(self, model: LoadedModel) -> Volume:
        """The volume, on the grid of the model's network."""


class Finish(Protocol):
    """How predictions become a label map, where it is not the most likely class alone; sent to where that is made."""

    @property
    def stamp(self) -> str:
        """Another one where it would give other label maps."""

    @property
    def needs_probabilities(self) -> bool:
        """False: the logits of a single configuration will do."""

    def decode(self, levels: Sequence[Any], class_order: tuple[int, ...]) -> NDArray[np.integer]:
        """Labels as the network counts them, from the probabilities that `levels_of` gives of each configuration."""

    def tidy(self, label_zyx: NDArray[np.integer], labels: Labels, geometry: Geometry) -> NDArray[np.integer]:
        """The label map, given the labels' values in it, without what is not to stay."""


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
        Of one configuration, or of several whose probabilities are averaged.
    ways : tuple of (tuple of int, float)
        Of each configuration the axes to mirror along, and the step of the windows.
    precision : str or None
        Of the layers; None: as `LoadedModel.precision`.
    save_probabilities : bool
    report : bool
        Also write what the label map holds, and a picture of it.
    finish : Finish or None
    """

    name: str
    source: Source
    out: Path
    file: str
    ensemble: Ensemble
    ways: tuple[tuple[tuple[int, ...], float], ...]
    precision: Precision | None
    save_probabilities: bool
    report: bool
    finish: Finish | None = None


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
    volumes = read_case(task)
    if isinstance(volumes, AutosegError):
        return volumes
    return write_case(task, volumes, compute_case(task, volumes))


def read_case(task: Task) -> list[Volume] | AutosegError:
    """The case's volume for each configuration, or why it could not be read."""
    try:
        return [task.source.read(group[0]) for group in by_configuration(models_of(task.ensemble))]
    except AutosegError as error:
        return error


def compute_case(task: Task, volumes: Sequence[Volume]) -> list[NDArray[np.floating]]:
    """Of each configuration the mean of its models' logits, as `volume_logits`."""
    return [
        volume_logits(
            group,
            volume,
            device=choose_device(task.ensemble.device_name),
            precision=task.precision,
            mirror_axes=mirror_axes,
            step=step,
            folder=task.out,
        )
        for group, volume, (mirror_axes, step) in zip(
            by_configuration(models_of(task.ensemble)), volumes, task.ways, strict=True
        )
    ]


def write_case(task: Task, volumes: Sequence[Volume], logits: Sequence[NDArray[np.floating]]) -> Path | AutosegError:
    """Write the case's files.

    Returns
    -------
    Path or AutosegError
        A new hidden folder in `out` that holds them under their final names; or why the image could not be read again
        for the report.

    Raises
    ------
    ArtifactError
        They can't be written.
    """
    models = models_of(task.ensemble)
    firsts = [group[0] for group in by_configuration(models)]
    geometry = volumes[0].placement.geometry
    try:
        folder = Path(mkdtemp(prefix=f".{task.name}.", suffix=".part", dir=task.out))
    except OSError as error:
        raise ArtifactError("the folder can't be written", where=str(task.out), found=error.strerror) from error
    try:
        target = folder / task.file
        if task.save_probabilities:
            # Without a name here, so that they leave the memory once they are written.
            with atomic_path(probabilities_file(target)) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, probabilities=mean_probabilities(firsts, volumes, logits))
        label_zyx = finished_labels(firsts, volumes, logits, task.finish)
        if task.report:
            write_report(target, label_zyx, geometry, case=task.name, images=task.source.images, models=models)
        write_label(target, label_zyx, geometry)
    except DatasetError as error:
        shutil.rmtree(folder, ignore_errors=True)
        return error
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
    shown, model = volume.image_czyx, models[0]
    if volume.previous is not None and not isinstance(shown, ImageWithMap):
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
        shown = ImageWithMap(shown, predicted, model.plan.num_previous(model.configuration))
    return mean_logits(
        models, shown, device=device, mirror_axes=mirror_axes, step=step, precision=precision, folder=folder
    )


def mean_logits(
    models: Sequence[LoadedModel],
    image_czyx: Shown,
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
    image_czyx : ndarray of float32, shape (C, Z, Y, X), or ImageWithMap
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
    with COMPUTING:
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

    Raises
    ------
    ArtifactError
        The disk is full.

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
    try:
        with TemporaryFile(dir=folder) as file:
            # A disk that fills up under a mapped file kills the process without a word.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, 2 * count)
            else:
                file.truncate(2 * count)
            return np.memmap(file, np.float16, "r+", shape=shape)
    except OSError as error:
        raise ArtifactError(
            "there is no room for the logits of a case",
            where=str(folder or gettempdir()),
            found=error.strerror,
            allowed=f"{2 * count / 1e9:.1f} GB, for as long as the case is predicted",
            hint="free so much there, or choose an output folder on another disk",
        ) from error


def finished_labels(
    models: Sequence[LoadedModel],
    volumes: Sequence[Volume],
    logits: Sequence[NDArray[np.floating]],
    finish: Finish | None,
) -> NDArray[np.integer]:
    """The label map of a case, as `label_map` has it, or as `finish` makes it.

    Parameters
    ----------
    models : sequence of LoadedModel
        One of each configuration.
    volumes, logits : sequences
        Of each configuration.
    finish : Finish or None
        None only where there is a single configuration.

    Returns
    -------
    ndarray of unsigned integers, shape (Z, Y, X)
    """
    model = models[0]
    plan, file_values = model.plan, model.manifest.file_values
    if finish is None:
        return label_map(logits[0], volumes[0], model)
    if finish.needs_probabilities:
        levels = [levels_of(*each) for each in zip(logits, volumes, models, strict=True)]
        label_zyx = _written(finish.decode(levels, plan.regions_class_order), file_values)
    else:
        label_zyx = label_map(logits[0], volumes[0], model)
    return finish.tidy(label_zyx, in_files(foreground(plan.labels), file_values), volumes[0].placement.geometry)


def mean_probabilities(
    models: Sequence[LoadedModel], volumes: Sequence[Volume], logits: Sequence[NDArray[np.floating]]
) -> NDArray[np.float16]:
    """Mean over the configurations of what `restore_probabilities` gives; parameters as for `finished_labels`."""
    each = (
        restore_probabilities(one, volume.placement, model.plan, model.configuration)
        for one, volume, model in zip(logits, volumes, models, strict=True)
    )
    total = next(each)
    for other in each:
        total += other
    return total if len(models) == 1 else total / np.float16(len(models))


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
    return _written(label_zyx, model.manifest.file_values)


def _written(label_zyx: NDArray[np.integer], file_values: tuple[int, ...]) -> NDArray[np.integer]:
    """Labels with the values of the dataset's label files."""
    if not file_values:
        return label_zyx
    written: NDArray[np.integer] = np.array(file_values, np.uint16)[label_zyx]
    return written


def levels_of(logits: NDArray[np.floating], volume: Volume, model: LoadedModel, *, made_from: str = "") -> Any:  # noqa: ANN401
    """The probabilities of a case on the grid of its file, a byte for each voxel and class, compressed in memory.

    Parameters
    ----------
    logits : ndarray of float32 or float16, shape (K, Z, Y, X)
        On the network's grid.
    volume : Volume
    model : LoadedModel
    made_from : str, optional
        Hash of what they come from, if they are to be kept.

    Returns
    -------
    blosc2.NDArray of uint8, shape (K, Z, Y, X)
    """
    plan, geometry = model.plan, volume.placement.geometry
    has_background = not plan.regions_class_order
    levels = new_levels((plan.num_classes, *geometry.shape), made_from=made_from, has_background=has_background)
    for place, block in probability_slabs(logits, volume.placement, plan, model.configuration):
        levels[(slice(None), *place)] = to_levels(block)
    return levels


def probabilities_file(label_file: Path) -> Path:
    """CASE.npz beside CASE's label map."""
    return with_ending(label_file, ".npz")
