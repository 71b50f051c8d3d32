"""One case, in whatever process: models and a source of its volume -> files of its prediction."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.artifacts.base import atomic_path
from autoseg.artifacts.preprocessed import Placement
from autoseg.errors import ArtifactError, AutosegError
from autoseg.images.endings import file_ending
from autoseg.images.io import write_label
from autoseg.networks.device import choose_device
from autoseg.predict.models import Ensemble, LoadedModel, models_of
from autoseg.predict.sliding import sliding_logits
from autoseg.transforms.chain import restore_labels, restore_probabilities


@dataclass(frozen=True, slots=True)
class Volume:
    """A case ready for the network."""

    image_czyx: NDArray[np.float32]
    placement: Placement


class Source(Protocol):
    """Where a case's volume comes from; sent to the process that predicts it."""

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
    save_probabilities : bool
    """

    name: str
    source: Source
    out: Path
    file: str
    ensemble: Ensemble
    mirror_axes: tuple[int, ...]
    step: float
    save_probabilities: bool


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
    models = models_of(task.ensemble)
    first = models[0]
    try:
        volume = task.source.read(first)
    except AutosegError as error:
        return error
    device = choose_device(task.ensemble.device_name)
    logits = mean_logits(models, volume.image_czyx, device=device, mirror_axes=task.mirror_axes, step=task.step)
    try:
        folder = Path(mkdtemp(prefix=f".{task.name}.", suffix=".part", dir=task.out))
    except OSError as error:
        raise ArtifactError("the folder can't be written", where=str(task.out), found=error.strerror) from error
    try:
        target = folder / task.file
        if task.save_probabilities:
            probabilities = restore_probabilities(logits, volume.placement, first.plan, first.configuration)
            with atomic_path(probabilities_file(target)) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, probabilities=probabilities)
        write_label(target, label_map(logits, volume, first), volume.placement.geometry)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


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


def label_map(logits: NDArray[np.float32], volume: Volume, model: LoadedModel) -> NDArray[np.integer]:
    """Labels on the grid of the case's file, with the values of the dataset's label files, so that the two compare.

    Parameters
    ----------
    logits : ndarray of float32, shape (K, Z, Y, X)
        On the network's grid.
    volume : Volume
    model : LoadedModel

    Returns
    -------
    ndarray of unsigned integers, shape (Z, Y, X)
    """
    label_zyx = restore_labels(logits, volume.placement, model.plan, model.configuration)
    file_values = model.manifest.file_values
    if not file_values:
        return label_zyx
    written: NDArray[np.integer] = np.array(file_values, np.uint16)[label_zyx]
    return written


def probabilities_file(label_file: Path) -> Path:
    """CASE.npz beside CASE's label map."""
    ending = file_ending(label_file.name) or label_file.suffix
    return label_file.with_name(label_file.name[: -len(ending)] + ".npz")
