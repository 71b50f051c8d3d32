"""A trained model, loaded once, that predicts arrays and files as often as asked: what `autoseg predict` runs."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.bundle import read_bundle
from autoseg.artifacts.dataset import Case
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import foreground
from autoseg.artifacts.selection import Way, in_words
from autoseg.artifacts.stamp import case_stamp
from autoseg.datasets.layouts import group_inputs
from autoseg.datasets.load import read_input
from autoseg.errors import DatasetError, SettingError
from autoseg.images.endings import file_ending, label_ending
from autoseg.images.image import Image
from autoseg.layout import Workspace
from autoseg.networks.device import choose_device, keep_freed_memory
from autoseg.postprocess.components import check_rules
from autoseg.predict import stage
from autoseg.predict.case import Volume, finished_labels, mean_probabilities, prepare, volume_logits
from autoseg.predict.models import LoadedModel, by_configuration, load_bundle
from autoseg.predict.stage import Options
from autoseg.selected import Selected, find_selection, selected_models
from autoseg.trained import load_trained

log = logging.getLogger(__name__)


class Predictor:
    """The folds of a model, ready to predict.

    Parameters
    ----------
    model : Path
        A bundle, or a workspace with trained folds.
    configuration_name : str or None
        Of a workspace; None: as selection.json says, else 3d_fullres, else 2d.
    folds : sequence of int or None
        Whose logits are averaged; None: as selection.json says, else every fold that is there. With a configuration or
        folds given, the selection is not used, and what a bundle has of one neither.
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
        self.finish: Selected | None = None
        if self.device.type == "cpu":
            keep_freed_memory()
        if model.is_file():
            if configuration_name is not None:
                raise SettingError("a bundle holds one configuration", where=str(model), found=configuration_name)
            self.models: Sequence[LoadedModel] = load_bundle(model, folds, self.device)
            bundle = read_bundle(model)
            has_selection = bundle.decoding != "argmax" or bool(bundle.rules)
            if has_selection and folds is not None:
                log.info("folds are named: decoding and post-processing of %s are not used", model)
            elif has_selection:
                names = (self.models[0].manifest.configuration_name,)
                check_rules(bundle.rules, self.labels, where=f"{model}, rules")
                self.finish = Selected(Way(configurations=names, decoding=bundle.decoding), bundle.rules)
                log.info("as %s says: %s", model, in_words(self.finish.way, bundle.rules))
        elif (selection := find_selection(Workspace(model), configuration_name, folds)) is not None:
            self.models = selected_models(Workspace(model), selection, self.device)
            self.finish = Selected(selection.way, selection.rules)
            log.info("as %s says: %s", Workspace(model).selection, selection.words)
        else:
            self.models = load_trained(Workspace(model), configuration_name, folds, self.device)

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
        return finished_labels(*self._logits(array_czyx, spacing_mm), self.finish)

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
        return mean_probabilities(*self._logits(array_czyx, spacing_mm))

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
        for group in by_configuration(self.models):
            numbers = ", ".join(str(model.manifest.fold) for model in group)
            log.info("%d cases, %s folds %s", len(cases), group[0].manifest.configuration_name, numbers)
        stage.run(
            self.models,
            {case.name: RawVolume(case) for case in cases},
            out,
            files,
            {case.name: case_stamp(Path(), case) for case in cases},
            device_name=str(self.device) if scheduler is None else workers_device,
            options=self.options,
            scheduler=scheduler,
            finish=self.finish,
        )
        part = self.options.part
        return {case: out / files[case] for case in (part.of(files) if part else files)}

    def _logits(
        self, array_czyx: NDArray[np.floating], spacing_mm: tuple[float, float, float]
    ) -> tuple[list[LoadedModel], list[Volume], list[NDArray[np.floating]]]:
        """Of each configuration a model, the volume on its grid, and the mean logits of its folds."""
        image = _checked(array_czyx, spacing_mm, len(self.models[0].plan.channel_names))
        groups = by_configuration(self.models)
        firsts = [group[0] for group in groups]
        volumes = [prepare(image, model) for model in firsts]
        logits = []
        for group, volume in zip(groups, volumes, strict=True):
            mirror_axes, step = stage.way(group[0], self.options)
            logits.append(
                volume_logits(
                    group,
                    volume,
                    device=self.device,
                    mirror_axes=mirror_axes,
                    step=step,
                    precision=self.options.precision,
                )
            )
        return firsts, volumes, logits


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
