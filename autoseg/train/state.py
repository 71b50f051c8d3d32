"""Everything that training changes, and its checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from autoseg.artifacts.base import atomic_path
from autoseg.errors import ArtifactError
from autoseg.networks.unet import UNet


@dataclass(slots=True)
class TrainState:
    """Weights, optimizer and how far they are.

    Attributes
    ----------
    iteration, epoch : int
        Done; the numbers of the next ones. With the seed they determine every batch to come.
    seconds : float
        Spent in training, all runs together.
    losses : list of float
        Of the iterations done in the current epoch.
    failed_steps : int
        How many of the last iterations in a row left the weights alone, because gradients were not finite.
    """

    network: UNet
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    iteration: int = 0
    epoch: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    failed_steps: int = 0


def save_checkpoint(path: Path, state: TrainState, inputs_sha256: str) -> None:
    """Write the state whole or not at all.

    Raises
    ------
    ArtifactError
        It can't be written.
    """
    content = {
        "inputs_sha256": inputs_sha256,
        "network": state.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "iteration": state.iteration,
        "epoch": state.epoch,
        "seconds": state.seconds,
        "losses": state.losses,
    }
    with atomic_path(path) as temporary, _explained(path):
        torch.save(content, temporary)


def save_weights(path: Path, network: UNet) -> None:
    """Write the weights whole or not at all.

    Raises
    ------
    ArtifactError
        They can't be written.
    """
    tensors = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    with atomic_path(path) as temporary, _explained(path):
        save_file(tensors, temporary)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what torch and safetensors make of a full disk into ours."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            "a file can't be written", where=str(path), found=str(error), hint="check the disk's free space"
        ) from error


def load_checkpoint(path: Path, state: TrainState, inputs_sha256: str) -> None:
    """Read a checkpoint into `state`.

    Raises
    ------
    ArtifactError
        The file can't be read as a checkpoint, or belongs to another training.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        owner = content["inputs_sha256"]
        state.network.load_state_dict(content["network"])
        for saved, present in zip(content["optimizer"]["param_groups"], state.optimizer.param_groups, strict=True):
            saved["fused"] = present["fused"]  # a matter of the device, which may be another one now
        state.optimizer.load_state_dict(content["optimizer"])
        # Empty where the loss was not scaled; the next run may be on another device.
        if content["scaler"]:
            state.scaler.load_state_dict(content["scaler"])
    except Exception as error:  # a damaged file can break in any way
        raise ArtifactError(
            "a checkpoint can't be read", where=str(path), found=str(error), hint="--restart trains from the beginning"
        ) from error
    if owner != inputs_sha256:
        raise ArtifactError(
            "a checkpoint belongs to another training", where=str(path), hint="--restart trains from the beginning"
        )
    state.iteration = content["iteration"]
    state.epoch = content["epoch"]
    state.seconds = content["seconds"]
    state.losses = content["losses"]
