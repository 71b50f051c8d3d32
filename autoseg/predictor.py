"""A trained model, loaded once, that predicts arrays and files as often as asked: what `autoseg predict` runs."""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.artifacts.dataset import Case
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import foreground
from autoseg.artifacts.stamp import case_stamp
from autoseg.datasets.layouts import group_inputs
from autoseg.datasets.load import read_input
from autoseg.errors import DatasetError, SettingError
from autoseg.images.endings import file_ending, label_ending
from autoseg.images.image import Image
from autoseg.layout import FoldFolder, Workspace, folds_in
from autoseg.networks.device import choose_device, keep_freed_memory
from autoseg.predict import stage
from autoseg.predict.case import Volume, label_map, prepare, volume_logits
from autoseg.predict.models import LoadedModel, behind, load_bundle, load_models
from autoseg.predict.stage import Options
from autoseg.transforms.chain import restore_probabilities

log = logging.getLogger(__name__)
PREFERRED = ("3d_fullres", "2d")


class Predictor:
    """The folds of a model, ready to predict.

    Parameters
    ----------
    model : Path
        A bundle, or a workspace with trained folds.
    configuration_name : str or None
        Of a workspace; None: 3d_fullres, else 2d.
    folds : sequence of int or None
        Whose logits are averaged; None: every fold that is there.
    device_name : str
        auto, cpu, cuda, cuda:N or mps.
    options : Options
        Mirroring, step and precision; the rest is for files.

    Raises
    ------
    SettingError
        A fold is not there or not trained to its end, or the device is not present.
    ArtifactError
        A file can't be read, or is not what autoseg wrote.

    Notes
    -----
    Methods may be called from several threads: one case at a time is predicted, while others are prepared and
    brought back to their grids.

    Examples
    --------
    >>> predictor = Predictor(Path("model.zip"))  # doctest: +SKIP
    >>> label_zyx = predictor.predict(array_czyx, spacing_mm=(1.0, 0.8, 0.8))  # doctest: +SKIP
    >>> predictor.predict_files([Path("new_scans")], Path("labels"))  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Path,
        *,
        configuration_name: str | None = None,
        folds: Sequence[int] | None = None,
        device_name: str = "auto",
        options: Options | None = None,
    ) -> None:
        self.device = choose_device(device_name)
        self.options = options or Options()
        if self.device.type == "cpu":
            keep_freed_memory()
        if model.is_file():
            if configuration_name is not None:
                raise SettingError("a bundle holds one configuration", where=str(model), found=configuration_name)
            self.models: Sequence[LoadedModel] = load_bundle(model, folds, self.device)
        else:
            self.models = load_trained(Workspace(model), configuration_name, folds, self.device)
        self._computing = threading.Lock()

    @property
    def labels(self) -> Mapping[str, int | tuple[int, ...]]:
        """Names of what is predicted, and the values that stand for it in `predict`'s arrays."""
        return foreground(self.models[0].plan.labels)

    def predict(self, array_czyx: NDArray[np.floating], spacing_mm: tuple[float, float, float]) -> NDArray[np.integer]:
        """The label of each voxel.

        Parameters
        ----------
        array_czyx : ndarray of real numbers, shape (C, Z, Y, X)
            The channels the model was trained on, in their order.
        spacing_mm : tuple of float, length 3
            Along (Z, Y, X).

        Returns
        -------
        ndarray of uint8 or uint16, shape (Z, Y, X)
            With the values that the dataset's label files have.

        Raises
        ------
        DatasetError
            The array is no image for this model.
        """
        volume, logits = self._logits(array_czyx, spacing_mm)
        return label_map(logits, volume, self.models[0])

    def probabilities(
        self, array_czyx: NDArray[np.floating], spacing_mm: tuple[float, float, float]
    ) -> NDArray[np.float16]:
        """The probability of each class, background first, or of each region, in each voxel.

        Parameters
        ----------
        array_czyx, spacing_mm
            As for `predict`.

        Returns
        -------
        ndarray of float16, shape (K, Z, Y, X)

        Raises
        ------
        DatasetError
            As `predict`.
        """
        volume, logits = self._logits(array_czyx, spacing_mm)
        first = self.models[0]
        return restore_probabilities(logits, volume.placement, first.plan, first.configuration)

    def predict_files(
        self, inputs: Sequence[Path], out: Path, *, scheduler: str | None = None, workers_device: str = "auto"
    ) -> dict[str, Path]:
        """Predict files into a folder; what these models predicted there already is left as it is.

        Parameters
        ----------
        inputs : sequence of Path
            Images, or folders of images.
        out : Path
            Gets a label map a case, of the image's kind, prediction.json, and what the options ask for.
        scheduler : str or None
            Address of a dask scheduler, whose workers then predict.
        workers_device : str
            What they compute on.

        Returns
        -------
        dict of str to Path
            Label map of each case.

        Raises
        ------
        AutosegError
            A case could not be read; all others are predicted.
        SettingError
            An output would replace a file that is not autoseg's.
        """
        first = self.models[0]
        cases = group_inputs(inputs, first.manifest.naming, len(first.plan.channel_names))
        files = {case.name: case.name + ending_of_label(case) for case in cases}
        _keep_inputs(cases, out, files)
        numbers = ", ".join(str(model.manifest.fold) for model in self.models)
        log.info("%d cases, %s folds %s", len(cases), first.manifest.configuration_name, numbers)
        stage.run(
            self.models,
            {case.name: RawVolume(case) for case in cases},
            out,
            files,
            {case.name: case_stamp(Path(), case) for case in cases},
            device_name=str(self.device) if scheduler is None else workers_device,
            options=self.options,
            scheduler=scheduler,
        )
        part = self.options.part
        return {case: out / files[case] for case in (part.of(files) if part else files)}

    def _logits(
        self, array_czyx: NDArray[np.floating], spacing_mm: tuple[float, float, float]
    ) -> tuple[Volume, NDArray[np.floating]]:
        first = self.models[0]
        image = _checked(array_czyx, spacing_mm, len(first.plan.channel_names))
        volume = prepare(image, first)
        mirror_axes, step = stage.way(first, self.options)
        with self._computing:
            logits = volume_logits(
                self.models,
                volume,
                device=self.device,
                mirror_axes=mirror_axes,
                step=step,
                precision=self.options.precision,
            )
        return volume, logits


@dataclass(frozen=True, slots=True)
class RawVolume:
    """A case to be prepared as the model's training cases were; for the process that predicts it."""

    case: Case

    @property
    def images(self) -> tuple[str, ...]:
        """Files of the image; absolute."""
        return self.case.images

    def read(self, model: LoadedModel) -> Volume:
        """The volume on the grid of the model's network."""
        return prepare(read_input(self.case, len(model.plan.channel_names)), model)


def load_trained(
    workspace: Workspace, configuration: str | None, folds: Sequence[int] | None, device: torch.device
) -> list[LoadedModel]:
    """The folds asked for, as `trained_folds`; in a cascade with every trained fold of the first stage.

    Raises
    ------
    SettingError
        None is trained, one is not trained to its end, or they don't fit together.
    ArtifactError
        A file can't be read.
    """
    models = load_models(trained_folds(workspace, configuration, folds), device)
    before = models[0].configuration.previous_stage
    if before is None:
        return models
    return behind(load_models(trained_folds(workspace, before, None), device), models)


def trained_folds(workspace: Workspace, configuration: str | None, folds: Sequence[int] | None) -> list[FoldFolder]:
    """The folds asked for, or every trained one; a model folder needs no plan beside it.

    Raises
    ------
    SettingError
        None is trained.
    """
    names = (configuration,) if configuration else PREFERRED
    for name in names:
        trained = [folder for folder in folds_in(workspace.models(name)).values() if folder.weights.exists()]
        if trained:
            return trained if folds is None else [workspace.fold(name, fold) for fold in folds]
    raise SettingError(
        "no fold is trained yet",
        where=str(workspace.root / "models"),
        found=configuration,
        hint=f"autoseg train 0 -w {workspace.root}{f' --configuration {configuration}' if configuration else ''}",
    )


def ending_of_label(case: Case) -> str:
    """Ending of a case's predicted label map: that of its image, or of what labels are kept in beside it."""
    return label_ending(file_ending(case.images[0]) or ".nii.gz")


def _checked(array_czyx: NDArray[np.floating], spacing_mm: tuple[float, float, float], num_channels: int) -> Image:
    """The array as an image.

    Raises
    ------
    DatasetError
        It is none for the model.
    """
    array = np.asarray(array_czyx)
    spacing = tuple(float(edge) for edge in spacing_mm)
    for is_so, fault, found, allowed in (
        (array.ndim != 4 or array.size == 0, "an array has the wrong shape", array.shape, "(C, Z, Y, X)"),
        (array.dtype.kind not in "fiu", "an array holds no numbers", array.dtype, "real numbers"),
        (array.ndim == 4 and len(array) != num_channels, "an array has the wrong number of channels",
         f"{len(array) if array.ndim else 0} channels", f"{num_channels} channels"),
        (len(spacing) != 3 or not all(isfinite(edge) and edge > 0 for edge in spacing), "a spacing is none",
         spacing, "three numbers above 0, along (Z, Y, X), in mm"),
    ):  # fmt: skip
        if is_so:
            raise DatasetError(fault, found=str(found), allowed=allowed)
    single = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(single).all():
        raise DatasetError("an array holds values that are not finite", allowed="finite numbers in single precision")
    z, y, x = array.shape[1:]
    a, b, c = spacing
    return Image(single, Geometry(shape=(z, y, x), spacing_mm=(a, b, c)))


def _keep_inputs(cases: Sequence[Case], out: Path, files: Mapping[str, str]) -> None:
    """Refuse to write a label map over an image.

    Raises
    ------
    SettingError
        An output would replace an input.
    """
    inputs = {Path(image).resolve() for case in cases for image in case.images}
    for file in files.values():
        if (out / file).resolve() in inputs:
            raise SettingError(
                "a prediction would replace its image", where=str(out / file), hint="choose another output folder"
            )
