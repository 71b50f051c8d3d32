"""A model that nnU-Net v2 trained: its folder and checkpoints -> weights by our names."""

import _codecs
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from autoseg import __version__
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.model import StepStyle, TrainedModel
from autoseg.artifacts.plan import Configuration, Plan
from autoseg.errors import ArtifactError, SettingError
from autoseg.networks.unet import build_network

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint_final.pth"
# What numbers of numpy, which its checkpoints log, are made of; besides tensors, nothing else is loaded.
SCALAR = np.float64().__reduce__()[0]
ALLOWED: Sequence[Any] = (
    SCALAR,
    (SCALAR, "numpy.core.multiarray.scalar"),
    (SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "bool")),
    _codecs.encode,
    torch.device,
)
# Wrappers that were around the network when it was saved.
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
# The same tensors under other names.
REPEATED = re.compile(r"\.all_modules\.|^decoder\.encoder\.")
MOST_SHOWN = 3


@dataclass(frozen=True, slots=True)
class NnunetFold:
    """A checkpoint of nnU-Net.

    Attributes
    ----------
    name : str
        Of its folder, without ``fold_``.
    configuration_name : str
    mirror_axes : tuple of int
        Along which it may be mirrored in prediction.
    weights : dict of str to Tensor
        By nnU-Net's names.
    device : str
        That it was trained on.
    """

    name: str
    configuration_name: str
    mirror_axes: tuple[int, ...]
    weights: Mapping[str, Tensor]
    device: str


def find_folds(folder: Path, wished: Sequence[str] | None) -> list[Path]:
    """Checkpoints of the folds: those asked for, or every numbered one, or that of all cases.

    Raises
    ------
    SettingError
        There are none; or the fold of all cases is asked for beside others.
    """
    finished = {path.parent.name.removeprefix("fold_"): path for path in sorted(folder.glob(f"fold_*/{CHECKPOINT}"))}
    begun = sorted({path.name.removeprefix("fold_") for path in folder.glob("fold_*")} - set(finished))
    numbered = [name for name in finished if name.isdecimal()]
    chosen = list(dict.fromkeys(wished)) if wished else numbered or list(finished)
    missing = [name for name in chosen if name not in finished]
    if missing or not chosen:
        raise SettingError(
            "a model folder of nnU-Net lacks checkpoints",
            where=", ".join(str(folder / f"fold_{name}") for name in missing) or str(folder),
            found=", ".join(f"fold_{name}" for name in finished) or f"no fold_*/{CHECKPOINT}",
            allowed="a folder such as nnUNetTrainer__nnUNetPlans__3d_fullres, whose folds are trained to the end",
        )
    if "all" in chosen and len(chosen) > 1:
        raise SettingError(
            "the fold of all cases is no part of a cross-validation",
            where="--folds",
            found=", ".join(chosen),
            allowed="numbers, or all",
        )
    if begun and not wished:
        log.warning("left out, for they have no %s: %s", CHECKPOINT, ", ".join(f"fold_{name}" for name in begun))
    return [finished[name] for name in chosen]


def read_checkpoint(path: Path) -> NnunetFold:
    """Read a checkpoint without running anything that is in it.

    Raises
    ------
    ArtifactError
        It can't be read, or is no checkpoint of nnU-Net v2.
    """
    try:
        with torch.serialization.safe_globals(list(ALLOWED)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can break in any way
        raise ArtifactError(
            "a checkpoint can't be read, or holds more than numbers",
            where=str(path),
            found=str(error).strip().partition("\n")[0],
            allowed="what nnU-Net v2 saves",
        ) from error
    try:
        weights = {WRAPPERS.sub("", name): tensor.detach() for name, tensor in content["network_weights"].items()}
        mirrored = content["inference_allowed_mirroring_axes"]
        return NnunetFold(
            name=path.parent.name.removeprefix("fold_"),
            configuration_name=content["init_args"]["configuration"],
            mirror_axes=tuple(int(axis) for axis in mirrored or ()),
            weights={name: tensor for name, tensor in weights.items() if not REPEATED.search(name)},
            device=torch.device(content["init_args"].get("device", "cuda")).type,
        )
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            "a file is no checkpoint of nnU-Net v2",
            where=str(path),
            found=f"no {error}" if isinstance(error, KeyError) else str(error),
            allowed="network_weights, init_args and inference_allowed_mirroring_axes",
        ) from error


def manifest_of(fold: NnunetFold, plan: Plan, *, file_ending: str, number: int) -> TrainedModel:
    """The fold's manifest, as far as nnU-Net's files tell.

    Parameters
    ----------
    fold : NnunetFold
    plan : Plan
        That of the model.
    file_ending : str
        Of the dataset's files.
    number : int
        For a fold that has none.

    Raises
    ------
    ArtifactError
        The plan has no such configuration, or it is the second stage of a cascade.
    """
    name = fold.configuration_name
    if name not in plan.configurations:
        raise ArtifactError(
            "a checkpoint is of a configuration that plans.json lacks",
            where=f"fold_{fold.name}",
            found=name,
            allowed=", ".join(plan.configurations),
        )
    if plan.configurations[name].previous_stage:
        raise ArtifactError(
            "the second stage of a cascade can't be imported",
            where=f"fold_{fold.name}",
            found=name,
            allowed="2d, 3d_lowres, 3d_fullres, and others without a previous stage",
        )
    mirrored = replace(plan.configurations[name], mirror_axes=fold.mirror_axes)
    plan = replace(plan, configurations={name: mirrored})
    channels = range(len(plan.channel_names))
    return TrainedModel(
        inputs_sha256="",
        data_sha256="",
        plan=plan,
        settings=(),
        configuration_name=name,
        fold=int(fold.name) if fold.name.isdecimal() else number,
        cases=None,
        naming=Naming(
            image_suffixes=tuple(f"_{channel:04d}{file_ending}" for channel in channels), label_suffix=file_ending
        ),
        # Each kind of device has its own in prediction; on the one it was trained on, nnU-Net's.
        step=StepStyle(precision="float16" if fold.device == "cuda" else "float32"),
        step_seconds={},
        num_parameters=sum(tensor.numel() for tensor in fold.weights.values()),
        device=fold.device,
        autoseg_version=__version__,
        torch_version="",
        finished=True,
    )


def to_ours(fold: NnunetFold, configuration: Configuration, num_channels: int, num_classes: int) -> dict[str, Tensor]:
    """The weights by the names of `autoseg.networks.unet.UNet`.

    Parameters
    ----------
    fold : NnunetFold
    configuration : Configuration
        As nnU-Net's plan has it.
    num_channels, num_classes : int
        Inputs and outputs of the network.

    Returns
    -------
    dict of str to Tensor
        float32, but for batch norm's counter.

    Raises
    ------
    ArtifactError
        The network is not the one that the plan describes.
    """
    network = build_network(configuration, num_channels, num_classes).state_dict()
    names = {ours: theirs_of(ours, configuration) for ours in network}
    missing = sorted(theirs for theirs in names.values() if theirs not in fold.weights)
    foreign = sorted(set(fold.weights) - set(names.values()))
    wrong = [
        f"{theirs} of shape {tuple(fold.weights[theirs].shape)}, {tuple(network[ours].shape)} by the plan"
        for ours, theirs in names.items()
        if theirs in fold.weights and fold.weights[theirs].shape != network[ours].shape
    ]
    if missing or foreign or wrong:
        lists = (("missing", missing), ("unknown", foreign), ("other shapes", wrong))
        raise ArtifactError(
            "a checkpoint's network is not the one that plans.json describes",
            where=f"fold_{fold.name}",
            found="; ".join(f"{word}: {', '.join(some[:MOST_SHOWN])}" for word, some in lists if some),
            allowed="a plain or residual-encoder U-Net of nnU-Net v2",
        )
    return {ours: fold.weights[theirs].to(network[ours].dtype).contiguous() for ours, theirs in names.items()}


def theirs_of(name: str, configuration: Configuration) -> str:
    """The name that dynamic_network_architectures gives a tensor of ours."""
    part, _, rest = name.partition(".")
    if part == "heads":
        return f"decoder.seg_layers.{rest}"
    if part == "up":
        return f"decoder.transpconvs.{rest}"
    if part == "stem":
        return f"encoder.stem.convs.0.{_block(rest)}"
    stage, _, rest = rest.partition(".")
    if part == "decoder":
        return f"decoder.stages.{stage}.{_stacked(rest)}"
    if not configuration.residual:
        return f"encoder.stages.{stage}.0.{_stacked(rest)}"
    block, _, rest = rest.partition(".")
    # Where the block also averages over its stride, that comes first.
    pooled = block == "0" and max(configuration.strides[int(stage)]) > 1
    inner = re.sub(r"^shortcut\.0\.", f"skip.{int(pooled)}.conv.", rest)
    inner = re.sub(r"^shortcut\.1\.", f"skip.{int(pooled)}.norm.", inner)
    inner = re.sub(r"^first\.(.*)", lambda found: f"conv1.{_block(found[1])}", inner)
    inner = re.sub(r"^(convolution|norm)\.", lambda found: f"conv2.{_block(found[0])}", inner)
    return f"encoder.stages.{stage}.blocks.{block}.{inner}"


def _stacked(rest: str) -> str:
    """Of a stage of convolution blocks."""
    part, _, inner = rest.partition(".")
    if part == "first":
        return f"convs.0.{_block(inner)}"
    number, _, inner = inner.partition(".")
    return f"convs.{int(number) + 1}.{_block(inner)}"


def _block(rest: str) -> str:
    """Of a convolution block."""
    return re.sub(r"^convolution\.", "conv.", rest)
