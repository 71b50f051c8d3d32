"""Getting the most out of the device: precision by measurement, and glibc's allocator on CPUs."""

import ctypes
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from autoseg.artifacts.model import Precision, StepStyle
from autoseg.errors import SettingError

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Rounds of timing after a first, and how many times slower than the best a candidate may be to stay in.
MEASURED_ROUNDS = 3
HOPELESS = 3.0
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


def choose_step(
    device: torch.device, step: Callable[[StepStyle], float], *, batch_dice: bool
) -> tuple[StepStyle, dict[str, float]]:
    """The fastest way to compute a training step on this device.

    Parameters
    ----------
    device : torch.device
    step : callable
        Does a training step in the style given, on throw-away weights.
    batch_dice : bool
        Whether the loss ties the samples of a batch together.

    Returns
    -------
    StepStyle
    dict of str to float
        Seconds a step of each candidate; empty where the choice is known without measuring.

    Notes
    -----
    CUDA has bfloat16 units wherever it says so, else float16 with a scaled loss is what the field trains with. On
    CPUs bfloat16 is several times faster with AMX or AVX-512 BF16 and several times slower without, so it is timed.
    """
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return StepStyle(precision="bfloat16" if bf16 else "float16"), {}
    if device.type != "cpu":
        return StepStyle(precision="float32"), {}
    precisions: tuple[Precision, ...] = ("bfloat16", "float32")
    ways = (False,) if batch_dice else (True, False)
    styles = [StepStyle(precision=p, sample_by_sample=apart) for p in precisions for apart in ways]
    seconds = {style: _timed(step, style) for style in styles}
    # Each in turn, the best of its times: another program's burst must not decide for the whole training.
    for _ in range(MEASURED_ROUNDS):
        best = min(seconds.values())
        for style in styles:
            if seconds[style] <= HOPELESS * best:
                seconds[style] = min(seconds[style], _timed(step, style))
    fastest = min(styles, key=lambda style: seconds[style])
    return fastest, {describe_step(style): round(taken, 4) for style, taken in seconds.items()}


def describe_step(style: StepStyle) -> str:
    """A style in words."""
    return f"{style.precision}, {'sample by sample' if style.sample_by_sample else 'whole batches'}"


def _timed(step: Callable[[StepStyle], float], style: StepStyle) -> float:
    start = time.perf_counter()
    step(style)
    return time.perf_counter() - start
