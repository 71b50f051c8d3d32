"""Begin from the weights of another training: where they are, whether they fit, and what is told of them."""

import logging
from pathlib import Path
from zipfile import is_zipfile

import msgspec
import torch
from torch import Tensor

from autoseg.artifacts.base import read
from autoseg.artifacts.model import Pretrained, TrainedModel
from autoseg.artifacts.overlay import differences
from autoseg.artifacts.plan import Plan
from autoseg.errors import SettingError
from autoseg.layout import FoldFolder, Workspace, folds_in
from autoseg.networks.stored import StoredFold, bundle_of, fold_at, folds_in_bundle
from autoseg.networks.unet import UNet, build_network
from autoseg.train.carry_over import (
    MOST_SHOWN,
    OUTPUT,
    Fate,
    axes_that_differ,
    carry_over,
    check_enough,
    ends_of,
    match,
    misfits,
    sums,
    table,
)

log = logging.getLogger(__name__)
# What of a configuration changes neither the network nor what it is shown.
OF_NO_CONCERN = (
    "patch_size",
    "batch_size",
    "median_image_size_in_voxels",
    "memory_proxy",
    "mirror_axes",
    "batch_dice",
    "previous_stage",
    "next_stage",
    "normalization_schemes",
    "use_mask_for_norm",
)


def find_pretrained(path: Path, fold: int, plan: Plan, configuration_name: str) -> StoredFold:
    """The fold that `--pretrained` names, held against the network that is to begin with it.

    Parameters
    ----------
    path : Path
        A fold's folder or its weights; or a folder of folds, a workspace or a bundle, of which the fold of the same
        number is taken, and of a bundle with a single fold that one.
    fold : int
        That is to be trained.
    plan : Plan
    configuration_name : str

    Raises
    ------
    SettingError
        There is no such fold, it is not finished, or its network is of another kind.
    ArtifactError
        Its files can't be read.
    """
    source = open_fold(_folder(path, fold, configuration_name))
    with torch.device("meta"):
        network = _network(plan, configuration_name)
    _state(network, plan, configuration_name, source)
    return source


def _folder(path: Path, fold: int, configuration_name: str) -> Path:
    """The folder of the fold that a path stands for."""
    here = FoldFolder(path)
    if path == FoldFolder(path.parent).weights:
        return path.parent
    if path.is_file() and is_zipfile(path):
        return _in_bundle(path, fold)
    if path.is_file():
        raise SettingError(
            "these are no pretrained weights",
            where="--pretrained",
            found=str(path),
            allowed=f"a fold's folder or the {here.weights.name} in it, a folder of folds, a workspace, or a bundle",
        )
    if here.manifest.exists():
        return path
    models = path if folds_in(path) else Workspace(path).models(configuration_name)
    folds = folds_in(models)
    if fold in folds:
        return folds[fold].root
    others = sorted(each for each in models.parent.glob("*") if folds_in(each)) if models != path else []
    found = [str(folder.root) for each in (models, *others) for folder in folds_in(each).values()]
    raise SettingError(
        f"there is no trained fold {fold} of {configuration_name} to begin with"
        if found
        else "no fold is trained here",
        where=f"--pretrained {path}",
        found=", ".join(found[:MOST_SHOWN]) or None,
        hint=f"--pretrained {found[0]} names one" if found else "name a fold's folder, which holds a manifest.json",
    )


def _in_bundle(path: Path, fold: int) -> Path:
    """The fold of this number, or the only one."""
    folds = folds_in_bundle(path)
    if fold in folds or len(folds) == 1:
        return folds.get(fold) or next(iter(folds.values()))
    raise SettingError(
        f"there is no fold {fold} in the bundle to begin with",
        where=f"--pretrained {path}",
        found=", ".join(map(str, folds)),
        hint="export a single fold, which all will begin with",
    )


def open_fold(path: Path) -> StoredFold:
    """A finished fold.

    Raises
    ------
    SettingError
        It is not finished.
    ArtifactError
        Its files can't be read.
    """
    folder = FoldFolder(path)
    if bundle_of(path) is None and not (read(folder.manifest, TrainedModel).finished and folder.weights.exists()):
        raise SettingError(
            "the pretrained fold's training is not finished",
            where=str(path),
            hint="wait for it, go on with it, or begin with another fold",
        )
    return fold_at(path)


def recorded_in(folder: FoldFolder) -> Pretrained | None:
    """What an earlier run of a fold's training began with, if there was one and it did not begin from scratch."""
    return read(folder.manifest, TrainedModel).pretrained if folder.manifest.exists() else None


def other_beginning(then: Pretrained | None, now: StoredFold | Pretrained | None) -> list[str]:
    """That a training began with other weights than it is to begin with, in words; nothing where they are the same."""
    if (then and then.weights_sha256) == (now and now.weights_sha256):
        return []
    return [f"it began {f'with the weights of {then.path}' if then else 'from scratch'}, not with those asked for"]


def begin(
    network: UNet, plan: Plan, configuration_name: str, source: StoredFold | Pretrained | None
) -> Pretrained | None:
    """Give a network the weights that its training begins with.

    Parameters
    ----------
    network : UNet
        Fresh; changed in place.
    plan : Plan
    configuration_name : str
    source : StoredFold, Pretrained or None
        As asked, or as recorded by an earlier run that left no checkpoint.

    Returns
    -------
    Pretrained or None
        For the manifest; None where the training begins from scratch.

    Raises
    ------
    SettingError
        The weights that were recorded are gone, or others stand in their place.
    """
    if source is None:
        return None
    if isinstance(source, Pretrained):
        source = _again(source)
    state, told, fates = _state(network, plan, configuration_name, source)
    network.load_state_dict(state)
    log.info("begins with the weights of %s", source.path)
    for line in (
        *table(told, ends_of(plan, configuration_name)),
        *(f"left fresh: {each}" for each in misfits(fates)),
        *(f"unlike the pretrained network: {each}" for each in _unlike(source.manifest, plan, configuration_name)),
    ):
        log.info("%s", line)
    return told


def _again(recorded: Pretrained) -> StoredFold:
    """What an earlier run began with."""
    path = Path(recorded.path)
    source = open_fold(path) if FoldFolder(path).manifest.exists() or bundle_of(path) else None
    if source is None or source.weights_sha256 != recorded.weights_sha256:
        raise SettingError(
            "the weights that this training began with are gone, or others stand in their place",
            where=recorded.path,
            found=source and source.weights_sha256,
            allowed=recorded.weights_sha256,
            hint="--pretrained says where they are now; --restart begins anew",
        )
    return source


def _network(plan: Plan, configuration_name: str, *, channels: int = 0, outputs: int = 0) -> UNet:
    """The plan's network, with so many channels and outputs more."""
    configuration = plan.configurations[configuration_name]
    return build_network(configuration, plan.num_inputs(configuration) + channels, plan.num_classes + outputs)


def _state(
    network: UNet, plan: Plan, configuration_name: str, source: StoredFold
) -> tuple[dict[str, Tensor], Pretrained, list[Fate]]:
    """What a network begins with, and what is to be told of it."""
    _check_dimensions(source.manifest, plan, configuration_name)
    old = source.weights()
    with torch.device("meta"):
        more_channels, more_outputs = (
            _network(plan, configuration_name, **{end: 1}) for end in ("channels", "outputs")
        )
    ends, old_ends = (
        ends_of(plan, configuration_name),
        ends_of(source.manifest.plan, source.manifest.configuration_name),
    )
    # On no device at all where it is only to be seen what fits.
    device = "meta" if next(network.parameters()).is_meta else "cpu"
    state, fates = carry_over(
        {name: tensor.to(device) for name, tensor in old.items()},
        {name: tensor.to(device) for name, tensor in network.state_dict().items()},
        old_ends,
        ends,
        axes_that_differ(_shapes(network), _shapes(more_channels)),
        axes_that_differ(_shapes(network), _shapes(more_outputs)),
    )
    check_enough(fates, str(source.path))
    channels, outputs = match(ends.channels, old_ends.channels), match(ends.outputs, old_ends.outputs)
    carried = ends.regions == old_ends.regions and any(f.part == OUTPUT and f.outcome != "fresh" for f in fates)
    told = Pretrained(
        path=str(source.path.resolve()),
        weights_sha256=source.weights_sha256,
        channels=tuple(None if place is None else old_ends.channels[place] for place in channels),
        outputs=tuple(None if place is None or not carried else old_ends.outputs[place] for place in outputs),
        parts=sums(fates),
    )
    return state, told, fates


def _shapes(network: UNet) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _check_dimensions(manifest: TrainedModel, plan: Plan, configuration_name: str) -> None:
    """Refuse weights of flat kernels for volumes, or the other way round.

    Raises
    ------
    SettingError
        They are.
    """
    there, here = (len(c.patch_size) for c in (manifest.configuration, plan.configurations[configuration_name]))
    if there != here:
        raise SettingError(
            f"the pretrained network is {there}D, the one to be trained is {here}D",
            where="--pretrained",
            found=f"{manifest.configuration_name} for {configuration_name}",
            hint=f"--configuration chooses a {there}D network, or begin with a {here}D one",
        )


def _unlike(manifest: TrainedModel, plan: Plan, configuration_name: str) -> list[str]:
    """In what the networks, or what they are shown, differ."""
    sides = ((manifest.plan, manifest.configuration_name), (plan, configuration_name))
    shared = set(manifest.plan.channel_names) & set(plan.channel_names)
    seen = []
    for each, name in sides:
        configuration = each.configurations[name]
        tree = msgspec.to_builtins(configuration)
        kept = {key: value for key, value in tree.items() if key not in OF_NO_CONCERN}
        schemes = dict(zip(each.channel_names, configuration.normalization_schemes, strict=True))
        kept["normalization"] = {channel: scheme for channel, scheme in schemes.items() if channel in shared}
        seen.append({**kept, "transpose_forward": each.transpose_forward})
    return differences(*seen)
