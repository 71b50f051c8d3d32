"""Trained folds, loaded and held against each other."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from autoseg.artifacts.model import Precision, TrainedModel
from autoseg.artifacts.plan import Configuration, Plan
from autoseg.errors import ArtifactError, SettingError
from autoseg.layout import FoldFolder
from autoseg.machine import multiplies_bfloat16
from autoseg.networks.device import autocast, choose_device
from autoseg.networks.stored import StoredFold, finished_manifest, fold_at, folds_in_bundle, previous_in_bundle
from autoseg.networks.unet import UNet, build_network

# What folds of one ensemble have in common: the grid they predict on, what they are shown, and how.
SHARED = (
    "spacing",
    "patch_size",
    "normalization_schemes",
    "use_mask_for_norm",
    "mirror_axes",
    "resampling",
    "previous_stage",
)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A fold ready to predict.

    Attributes
    ----------
    manifest : TrainedModel
    network : UNet
    folder : Path
        Of the fold; of one in a bundle, as if the bundle were a folder.
    weights_sha256 : str
        Of the weights' file: what a prediction comes from.
    previous : tuple of LoadedModel
        In the second stage of a cascade, the folds of the first, whose mean it is shown; else empty.
    """

    manifest: TrainedModel
    network: UNet
    folder: Path
    weights_sha256: str
    previous: tuple["LoadedModel", ...] = ()

    @property
    def plan(self) -> Plan:
        """The plan it was trained by."""
        return self.manifest.plan

    @property
    def configuration(self) -> Configuration:
        """The configuration it was trained in."""
        return self.manifest.configuration

    def precision(self, device: torch.device) -> Precision:
        """Arithmetic for prediction: what the device multiplies fastest, on GPUs as trained there.

        Notes
        -----
        Not measured anew, so that the same command gives the same file twice.
        """
        if device.type == "cpu":
            return "bfloat16" if multiplies_bfloat16() else "float32"
        if torch.device(self.manifest.device).type == device.type:
            return self.manifest.step.precision
        return "float16" if device.type == "cuda" else "float32"

    def logits(self, inputs: Tensor, *, precision: Precision) -> Tensor:
        """The network's answer to patches, shape (B, C, *patch) -> (B, K, *patch), in float32."""
        with autocast(inputs.device, precision):
            outputs: Tensor = self.network(inputs)
        return outputs.float()


def load_model(folder: FoldFolder, device: torch.device) -> LoadedModel:
    """Read a finished fold.

    Raises
    ------
    SettingError
        The fold was not trained, or not to its end.
    ArtifactError
        Its weights can't be read, or don't fit its plan.
    """
    number = folder.root.name.split("_")[-1]
    if not folder.manifest.exists():
        raise SettingError("a fold is not trained", where=str(folder.root), hint=f"autoseg train {number}")
    if finished_manifest(folder) is None:
        raise SettingError(
            "a fold's training is not finished",
            where=str(folder.root),
            hint=f"autoseg train {number} goes on with it",
        )
    return _load(fold_at(folder.root), device)


def _load(fold: StoredFold, device: torch.device) -> LoadedModel:
    """A fold's network.

    Raises
    ------
    ArtifactError
        Its weights can't be read, or don't fit its plan.
    """
    plan, configuration = fold.manifest.plan, fold.manifest.configuration
    # Without memory of its own until the weights are there and fit: a record may ask for any size.
    with torch.device("meta"):
        network = build_network(configuration, plan.num_inputs(configuration), plan.num_classes)
    try:
        network.load_state_dict(fold.weights(), assign=True)
    except RuntimeError as error:
        raise ArtifactError("weights don't fit their plan", where=str(fold.path), found=str(error)) from error
    return LoadedModel(fold.manifest, network.to(device, torch.float32).eval(), fold.path, fold.weights_sha256)


def load_models(folders: Sequence[FoldFolder], device: torch.device) -> list[LoadedModel]:
    """The folds, checked to fit together."""
    models = [load_model(folder, device) for folder in folders]
    check_agreement(models)
    return models


def behind(previous: Sequence[LoadedModel], models: Sequence[LoadedModel]) -> list[LoadedModel]:
    """The models with those whose prediction they are shown.

    Raises
    ------
    SettingError
        These predict other labels, or are shown other channels.
    """
    if previous:
        check_agreement(previous)
        check_agreement([previous[0], models[0]], ())
    return [replace(model, previous=tuple(previous)) for model in models]


def load_bundle(path: Path, folds: Sequence[int] | None, device: torch.device) -> list[LoadedModel]:
    """The folds of a bundle, or some of them.

    Raises
    ------
    SettingError
        It has no such fold.
    ArtifactError
        The bundle can't be read, or is not what autoseg wrote.
    """
    there, before = folds_in_bundle(path), previous_in_bundle(path)
    unknown = sorted(set(folds or ()) - set(there))
    if unknown:
        raise SettingError(
            "a bundle has no such fold",
            where=str(path),
            found=", ".join(map(str, unknown)),
            allowed=", ".join(map(str, there)),
        )
    models = [_load(fold_at(there[fold]), device) for fold in (there if folds is None else folds)]
    check_agreement(models)
    return behind([_load(fold_at(fold), device) for fold in before.values()], models)


def together(groups: Sequence[Sequence[LoadedModel]]) -> list[LoadedModel]:
    """The folds of several configurations, whose probabilities are averaged; one configuration after the other.

    Raises
    ------
    SettingError
        Folds or configurations don't fit together.
    """
    first = groups[0][0]
    for other, *_ in groups[1:]:
        if _meaning(first) != _meaning(other):
            raise SettingError(
                "configurations whose channels or labels differ can't be averaged",
                where=f"{first.folder} and {other.folder}",
                hint="train both by one plan",
            )
    return [model for group in groups for model in group]


def _meaning(model: LoadedModel) -> tuple[object, ...]:
    """What a model is shown, and what its outputs stand for."""
    plan = model.plan
    return plan.channel_names, list(plan.labels.items()), plan.regions_class_order, model.manifest.file_values


def by_configuration(models: Sequence[LoadedModel]) -> list[list[LoadedModel]]:
    """The models of each configuration, whose logits are averaged, in the order of the first of each."""
    groups: dict[str, list[LoadedModel]] = {}
    for model in models:
        groups.setdefault(model.manifest.configuration_name, []).append(model)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Which models predict, in words that another process understands.

    Attributes
    ----------
    folders : tuple of Path
        Absolute.
    weights_sha256 : tuple of str
        Of their weights.
    device_name : str
        Where they are to compute, as in `choose_device`.
    previous : Ensemble or None
        In the second stage of a cascade, the first.
    """

    folders: tuple[Path, ...]
    weights_sha256: tuple[str, ...]
    device_name: str
    previous: "Ensemble | None" = None


def _ensemble(models: Sequence[LoadedModel], device_name: str) -> Ensemble:
    # A plan has one cascade at most.
    previous = next((model.previous for model in models if model.previous), ())
    return Ensemble(
        tuple(model.folder.absolute() for model in models),
        tuple(model.weights_sha256 for model in models),
        device_name,
        _ensemble(previous, device_name) if previous else None,
    )


_loaded: dict[Ensemble, Sequence[LoadedModel]] = {}  # at most one, for networks are large
_users: Counter[Ensemble] = Counter()  # blocks that hold them; threads may share an ensemble
_loading = threading.Lock()


@contextmanager
def loaded(models: Sequence[LoadedModel], device_name: str) -> Iterator[Ensemble]:
    """Let `models_of` find models that this process has loaded, for as long as the block lasts."""
    ensemble = _ensemble(models, device_name)
    try:
        with _loading:
            _loaded[ensemble] = models
            _users[ensemble] += 1
        yield ensemble
    finally:
        with _loading:
            _users[ensemble] -= 1
            if not _users[ensemble]:
                del _users[ensemble]
                _loaded.pop(ensemble, None)


def models_of(ensemble: Ensemble) -> Sequence[LoadedModel]:
    """The models of an ensemble; a process loads them once.

    Raises
    ------
    SettingError
        A fold was trained anew since the prediction began.
    """
    with _loading:
        if ensemble not in _loaded:
            _loaded.clear()
            _loaded[ensemble] = _as_recorded(ensemble)
        return _loaded[ensemble]


def _as_recorded(ensemble: Ensemble) -> list[LoadedModel]:
    device = choose_device(ensemble.device_name)
    models = [_load(fold_at(folder), device) for folder in ensemble.folders]
    for model, expected in zip(models, ensemble.weights_sha256, strict=True):
        if model.weights_sha256 != expected:
            raise SettingError("a fold's weights are not those that the prediction began with", where=str(model.folder))
    if ensemble.previous is None:
        return models
    previous = _as_recorded(ensemble.previous)
    return [behind(previous, [model])[0] if model.configuration.previous_stage else model for model in models]


def check_agreement(models: Sequence[LoadedModel], shared: Sequence[str] = SHARED) -> None:
    """Folds averaged together must work on the same grid with the same classes.

    Parameters
    ----------
    models : sequence of LoadedModel
    shared : sequence of str
        What their configurations have in common; nothing in the stages of a cascade.

    Raises
    ------
    SettingError
        They don't.
    """
    first = models[0]
    for other in models[1:]:
        # How a fold was trained, with which batches for instance, is its own affair.
        same = (
            all(getattr(other.configuration, key) == getattr(first.configuration, key) for key in shared)
            and other.plan.labels == first.plan.labels
            and other.manifest.file_values == first.manifest.file_values
            and other.plan.channel_names == first.plan.channel_names
            and other.plan.intensities == first.plan.intensities
            and other.plan.transpose_forward == first.plan.transpose_forward
        )
        if not same:
            raise SettingError(
                "folds of different plans can't be averaged" if shared else "the stages of a cascade differ in plan",
                where=f"{first.folder} and {other.folder}",
                hint="name folds of one plan with --folds" if shared else "train one of them anew, with --restart",
            )
