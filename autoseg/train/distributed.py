"""One fold trained by several processes: who they are, and what they tell each other.

A launcher (torchrun) starts the processes, the ranks, and says who is who in environment variables, which are read
here alone. Each rank makes its share of every batch; the losses and gradients of the shares add up to those of the
whole batch, so that the weights are those that one process would have trained. The first rank alone writes files.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from os import environ  # noqa: TID251 - a launcher can tell a process its rank in no other way
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from autoseg.artifacts.plan import Configuration
from autoseg.errors import ArtifactError, AutosegError, SettingError
from autoseg.machine import available_cpus
from autoseg.networks.unet import UNet

# The others wait while the first prepares cases, which takes hours for some datasets. A rank that died is noticed by
# its closed connections and by the launcher, not by waiting.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes that train one fold together, as one of them sees it; by default there is no other.

    Attributes
    ----------
    rank, size : int
        This process, from 0, and how many there are.
    local_rank, local_size : int
        The same on this host.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and talks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of so many samples are this process's; shares differ by at most one."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the processes, whose gradient in each is that of its own part.

        Notes
        -----
        Every process computes the whole loss from such sums, and takes its gradient with regard to its own part. The
        gradient of the whole batch is then the sum of theirs.
        """
        if self.size == 1:
            return value
        total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
        return total

    def mean(self, value: Tensor, weight: float) -> Tensor:
        """The mean of the processes' means, weighted by how many values each of them is of."""
        if self.size == 1:
            return value
        sums = self.sum(torch.stack((value * weight, value.new_tensor(weight))))
        return sums[0] / sums[1]

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag))) > 0)

    def as_first(self, *values: float) -> list[float]:
        """What the first process says these numbers are."""
        if self.size == 1:
            return list(values)
        said = torch.tensor(values, dtype=torch.float64)
        distributed.broadcast(said, 0)
        return [float(value) for value in said]

    def wait(self) -> None:
        """Go on when all processes are here."""
        self.any(False)

    @contextmanager
    def first_ahead(self) -> Iterator[Callable[[], None]]:
        """Let the others begin this block when the first has left it, or says so.

        Yields
        ------
        callable
            Says so.

        Raises
        ------
        AutosegError
            Here, where the first failed before.
        """
        if not self.is_first:
            (failed,) = self.as_first(0.0)
            if failed:
                raise AutosegError("the first process failed", hint="its own message says why")
            yield lambda: None
            return
        told = False

        def tell(failed: bool = False) -> None:
            nonlocal told
            if not told:
                told = True
                self.as_first(float(failed))

        try:
            yield tell
        except BaseException:
            tell(failed=True)
            raise
        tell()

    def device_name(self, name: str) -> str:
        """The device that this process takes where `--device` says `name`.

        Raises
        ------
        SettingError
            All processes of this host would take the same GPU, or there is none for this one.
        """
        if self.size == 1 or name == "cpu":
            return name
        gpus = torch.cuda.device_count()
        if name == "auto" and not gpus:
            return "cpu"
        if name in ("auto", "cuda") and self.local_rank < gpus:
            return f"cuda:{self.local_rank}"
        if name.startswith("cuda:") and self.local_size == 1:
            return name
        raise SettingError(
            "there is no device for each process",
            where="--device",
            found=f"{name} for {self.local_size} processes on this host, which has {gpus} GPUs",
            allowed="auto, cuda, cpu",
            hint="start as many processes as there are GPUs (--nproc-per-node)",
        )


ALONE = Ranks()


class _Sum(torch.autograd.Function):
    """All-reduced forwards, let through backwards."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:  # noqa: ANN401 - as torch has it
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return gradient


def launched() -> Ranks:
    """Who this process is, by the variables of torchrun; alone where there are none.

    Raises
    ------
    SettingError
        They are no numbers.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    said = {name: environ[name] for name in names if name in environ}
    if "RANK" not in said or "WORLD_SIZE" not in said:
        return ALONE
    try:
        rank, size = int(said["RANK"]), int(said["WORLD_SIZE"])
        local = int(said.get("LOCAL_RANK", 0)), int(said.get("LOCAL_WORLD_SIZE", 1))
    except ValueError as error:
        raise SettingError(
            "the launcher's variables are no numbers", found=said, hint="start with torchrun, or unset them"
        ) from error
    return Ranks(rank, size, *local) if size > 1 else ALONE


@contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Connect the processes for as long as this lasts; nothing where there is a single one.

    Raises
    ------
    SettingError
        The device is of a kind whose processes can't talk.
    AutosegError
        Another process ended.
    """
    if ranks.size == 1:
        yield
        return
    if device.type not in ("cpu", "cuda"):
        raise SettingError(
            "several processes can't train on this kind of device",
            where="--device",
            found=device.type,
            allowed="cpu, cuda",
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        # torchrun leaves one thread to each process.
        torch.set_num_threads(max(1, available_cpus() // ranks.local_size))
    if not ranks.is_first:
        logging.getLogger("autoseg").setLevel(logging.WARNING)
    # Numbers that steer the loop are exchanged on the CPU in either case.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise AutosegError(
            "the connection to another process of this training was lost",
            where=f"rank {ranks.rank} of {ranks.size}",
            found=str(error).splitlines()[0],
            hint="its own message says why; the same command goes on from the last checkpoint",
        ) from error
    finally:
        distributed.destroy_process_group()


class SharedNetwork:
    """A network whose gradients are added over the processes while they are computed.

    Parameters
    ----------
    network : UNet
        On its device; it takes the first process's weights.
    device : torch.device
    num_levels : int
        How many levels `deep_logits` will be asked for.
    """

    def __init__(self, network: UNet, device: torch.device, num_levels: int) -> None:
        self._module = DistributedDataParallel(
            _DeepLogits(network),
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            # The heads of levels without a loss get no gradient.
            find_unused_parameters=len(network.heads) > num_levels,
        )

    def deep_logits(self, x: Tensor, num_levels: int) -> list[Tensor]:
        """As the network's."""
        levels: list[Tensor] = self._module(x, num_levels)
        return levels

    def adding(self, now: bool) -> AbstractContextManager[None]:
        """Whether gradients are added over the processes, or kept to be added with later ones."""
        return nullcontext() if now else self._module.no_sync()


class _DeepLogits(nn.Module):
    """`deep_logits` as the forward pass, which is what DDP knows."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, num_levels: int) -> list[Tensor]:
        return self.network.deep_logits(x, num_levels)


def with_shared_statistics(network: UNet, ranks: Ranks) -> UNet:
    """Let batch norm see the batch of all processes, on GPUs."""
    if ranks.size == 1 or not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return network
    shared: UNet = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return shared


def check_shares(ranks: Ranks, batch_size: int, configuration_name: str) -> None:
    """Refuse more processes than there are samples in a batch.

    Raises
    ------
    SettingError
        There are.
    """
    if ranks.size > batch_size:
        raise SettingError(
            "there are more processes than samples in a batch",
            found=f"{ranks.size} processes",
            allowed=f"1 to {batch_size}",
            hint=f"start fewer, or plan larger batches (--set configurations.{configuration_name}.batch_size=N)",
        )


def check_statistics(ranks: Ranks, configuration: Configuration, device: torch.device) -> None:
    """Refuse batch norm where it can't see the batch of all processes.

    Raises
    ------
    SettingError
        It can't on this device.
    """
    if ranks.size > 1 and configuration.norm == "batch" and device.type != "cuda":
        raise SettingError(
            "batch norm over several processes needs GPUs",
            found=f"{ranks.size} processes on {device.type}",
            hint="train in one process, or plan another norm",
        )


def check_beginning(ranks: Ranks, iteration: int) -> None:
    """See to it that all processes go on from the same checkpoint.

    Raises
    ------
    ArtifactError
        This one read another one than the first.
    """
    (first,) = ranks.as_first(iteration)
    if first != iteration:
        raise ArtifactError(
            "the processes of this training read different checkpoints",
            found=f"iteration {iteration} here, {first:.0f} in the first process",
            hint="all hosts must see the same workspace",
        )
