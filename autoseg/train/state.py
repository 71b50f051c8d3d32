"""Everything that training changes, and its checkpoint."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from autoseg.artifacts.base import atomic_path
from autoseg.errors import ArtifactError
from autoseg.networks.unet import UNet
from autoseg.train.patience import Plateau

log = logging.getLogger(__name__)
# What of the state is saved as it is.
PLAIN = ("iteration", "epoch", "seconds", "losses", "skipped_steps", "failed_steps")


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
    skipped_steps : int
        Of the current epoch: they left the weights alone, because gradients were not finite.
    failed_steps : list of tuple of str
        Of the last iterations in a row that did so, the cases of each one's batch.
    plateau : Plateau
        How validation went.
    """

    network: UNet
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    iteration: int = 0
    epoch: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    skipped_steps: int = 0
    failed_steps: list[tuple[str, ...]] = field(default_factory=list)
    plateau: Plateau = field(default_factory=Plateau)


def save_checkpoint(path: Path, previous: Path, state: TrainState, inputs_sha256: str) -> None:
    """Write the state whole or not at all, and keep the one before.

    Parameters
    ----------
    path : Path
    previous : Path
        Takes what stood at `path`.
    state : TrainState
    inputs_sha256 : str
        Of the training that it belongs to.

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
        "plateau": asdict(state.plateau),
        **{name: getattr(state, name) for name in PLAIN},
    }
    with atomic_path(path) as temporary, _explained(path):
        torch.save(content, temporary)
        if path.exists():
            # A kill between the two renames leaves `previous` alone, which is then gone on from.
            path.replace(previous)


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


def resume(newest: Path, previous: Path, state: TrainState, owners: Sequence[str]) -> str | None:
    """Read the newest checkpoint that can be read into `state`.

    Parameters
    ----------
    newest, previous : Path
    state : TrainState
    owners : sequence of str
        Hashes of the trainings whose checkpoints will do.

    Returns
    -------
    str or None
        The hash of the one it belongs to; None where there is no checkpoint.

    Raises
    ------
    ArtifactError
        None can be read, or it belongs to another training.
    """
    there = [path for path in (newest, previous) if path.exists()]
    for path in there:
        try:
            return load_checkpoint(path, state, owners)
        except DamagedError:
            if path == there[-1]:
                raise
            log.warning("%s is damaged: training goes on from the one before", path)
    return None


class DamagedError(ArtifactError):
    """A checkpoint can't be read."""


def load_checkpoint(path: Path, state: TrainState, owners: Sequence[str]) -> str:
    """Read a checkpoint into `state`, and tell whose it is.

    Raises
    ------
    DamagedError
        The file can't be read as a checkpoint.
    ArtifactError
        It belongs to another training.
    """
    again = "--restart trains from the beginning"
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        owner: str = content["inputs_sha256"]
        plateau = Plateau(**content["plateau"])
        plain = {name: content[name] for name in PLAIN}
        state.network.load_state_dict(content["network"])
        for saved, present in zip(content["optimizer"]["param_groups"], state.optimizer.param_groups, strict=True):
            saved["fused"] = present["fused"]  # a matter of the device, which may be another one now
        state.optimizer.load_state_dict(content["optimizer"])
        # Empty where the loss was not scaled; the next run may be on another device.
        if content["scaler"]:
            state.scaler.load_state_dict(content["scaler"])
    except Exception as error:  # a damaged file can break in any way
        raise DamagedError("a checkpoint can't be read", where=str(path), found=str(error), hint=again) from error
    if owner not in owners:
        raise ArtifactError("a checkpoint belongs to another training", where=str(path), hint=again)
    state.plateau = plateau
    for name, value in plain.items():
        setattr(state, name, value)
    return owner
