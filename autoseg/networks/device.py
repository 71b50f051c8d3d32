"""The device that computes: which, in what arithmetic and memory layout, and glibc's allocator on CPUs."""

import ctypes
import sys

import torch
from torch import Tensor

from autoseg.artifacts.model import Precision, StepStyle
from autoseg.errors import SettingError
from autoseg.networks.unet import UNet

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def choose_device(name: str) -> torch.device:
    """The device of a `--device` option: auto, cpu, cuda, cuda:N or mps.

    Raises
    ------
    SettingError
        The name is unknown, or there is no such device here.
    """
    allowed = "auto, cpu, cuda, cuda:N, mps"
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingError("there is no such device", where="--device", found=name, allowed=allowed) from error
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise SettingError(
            "the device is not present", where="--device", found=name, allowed=allowed, hint="--device cpu"
        )
    return device


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks instead of giving each back to the kernel.

    Notes
    -----
    Feature maps lie above glibc's mmap threshold: each is mapped afresh, faulted in page by page and unmapped again,
    at every layer of every step. Keeping them was measured at 1.3 times the training speed on a CPU. Elsewhere than
    on glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is None:
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(M_TOP_PAD, 1 << 26)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Autocast for the network's layers; off in float32."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "float32")


def channels_last(image: Tensor) -> Tensor:
    """The same tensor with channels last in memory, which oneDNN's convolutions need not copy into their own layout."""
    return image.to(memory_format=torch.channels_last if image.ndim == 4 else torch.channels_last_3d)


def use_fast_kernels() -> None:
    """Let CUDA multiply float32 in TF32, and search for the fastest convolutions once, since patches have one size.

    Notes
    -----
    TF32 keeps 10 bits of the mantissa, more than bfloat16's 7, in which layers compute anyway where it is there.
    """
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def suit(network: UNet, style: StepStyle) -> None:
    """Lay a network's weights out, and compile its training pass, as a style of step asks."""
    for weight in network.parameters():
        # On CPUs oneDNN has an order of its own for weights, whatever theirs is.
        if style.channels_last and weight.ndim > 3 and weight.device.type != "cpu":
            weight.data = channels_last(weight.data)
    if style.compiled:
        network.deep_logits = torch.compile(network.deep_logits, dynamic=False)  # type: ignore[method-assign]
