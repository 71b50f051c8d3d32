"""How much memory a training step takes on a device: by doing one."""

import contextlib
import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import Configuration, Training
from autoseg.errors import SettingError, is_out_of_memory
from autoseg.machine import available_memory_bytes
from autoseg.networks.cost import training_step_memory
from autoseg.networks.unet import build_network
from autoseg.train.draws import no_draws
from autoseg.train.loading import noise_batch
from autoseg.train.loop import Course, nothing, train_step
from autoseg.train.losses import Objective
from autoseg.train.optimizer import new_optimizer
from autoseg.train.state import TrainState
from autoseg.train.step_style import candidates

log = logging.getLogger(__name__)
MEASURABLE = ("cpu", "cuda")
# The first step makes the optimizer's momentum, the second has it from the start.
STEPS_TO_PEAK = 2
PROCESS = Path("/proc/self")
KIB = 1024


def free_bytes(device: torch.device) -> int:
    """Memory of the device that can be taken now.

    Raises
    ------
    SettingError
        The device can't tell.
    """
    if device.type not in MEASURABLE:
        raise SettingError(
            "the memory of a training step can't be measured on this device",
            where="--device",
            found=device.type,
            allowed=", ".join(MEASURABLE),
            hint="plan without --measure",
        )
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory_bytes()


def step_bytes(
    configuration: Configuration, num_channels: int, num_classes: int, device: torch.device, limit_bytes: int
) -> tuple[int, bool]:
    """Memory of a training step on a device, in whichever of the ways to compute it takes most.

    Samples side by side are predicted and not measured: torch's profiler sees one thread.

    Parameters
    ----------
    configuration : Configuration
    num_channels, num_classes : int
        Inputs and outputs of the network.
    device : torch.device
    limit_bytes : int
        What is predicted to need more is not tried on a CPU, where the kernel would end this process or another one.

    Returns
    -------
    int
        Bytes.
    bool
        Whether they were measured; False where the step was predicted to need more than `limit_bytes`, or failed.
    """
    on_cpu = device.type == "cpu"
    num_apart = Objective(configuration.batch_dice).num_apart(configuration.batch_size)
    predicted = {
        style: training_step_memory(
            configuration,
            num_channels,
            num_classes,
            style,
            on_cpu=on_cpu,
            whole_loss=configuration.batch_dice,
            cores=torch.get_num_threads(),
        ).peak_bytes
        for style in candidates(device, samples_tied=configuration.ties_samples, num_apart=num_apart)
    }
    most = max(predicted.values())
    if on_cpu and most > limit_bytes:
        return most, False
    alone = {style: size for style, size in predicted.items() if not style.side_by_side}
    beside = max((size for style, size in predicted.items() if style.side_by_side), default=0)
    try:
        measured = measure_step(configuration, num_channels, num_classes, max(alone, key=alone.__getitem__), device)
        return max(measured, beside), True
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return max(most, limit_bytes + 1), False


def measure_step(
    configuration: Configuration, num_channels: int, num_classes: int, style: StepStyle, device: torch.device
) -> int:
    """Peak bytes of tensors in the second of two training steps on noise; the first makes the optimizer's momentum.

    Notes
    -----
    On CPUs the profiler sees what goes through torch's allocator, on CUDA torch counts itself. What the allocators hold
    back, and a driver's own share, come on top.
    """
    recipe = Training()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(configuration, num_channels, num_classes).to(device)
    scaler = torch.amp.GradScaler(device.type, enabled=style.precision == "float16")
    state = TrainState(network, new_optimizer(network, recipe), scaler)
    course = Course(
        configuration, Objective(configuration.batch_dice), recipe, device, style, nothing, nothing, nothing
    )
    draws = no_draws(configuration.batch_size, num_channels, configuration.patch_size)
    batch = noise_batch(draws, configuration.patch_size, (num_channels, num_classes), seed=0)
    train_step(state, batch, course)
    state.optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        train_step(state, batch, course)
        return int(torch.cuda.max_memory_allocated(device))
    # Weights and momentum were there before the profiler looked.
    before = 2 * sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    with _without_messages(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        train_step(state, batch, course)
    changes = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    running = np.cumsum([event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())])
    return before + int(running.max())


class PeakWatch:
    """The most memory that the first steps of a training take.

    Parameters
    ----------
    state : TrainState
        Its weights, and its momentum where the training goes on, are there already and count.
    device : torch.device

    Attributes
    ----------
    peak_bytes : int or None
        Known after two steps; None where the device can't tell.

    Notes
    -----
    On CUDA what torch's allocator gave out. On CPUs the most of this process that lay in main memory since the watch
    began, above what did then: Linux keeps this figure, and lets it be set back. What was freed before goes back to the
    system first, for steps would reuse it unseen. Not seen either is what loading takes in other processes.
    """

    def __init__(self, state: TrainState, device: torch.device) -> None:
        self.device = device
        self.peak_bytes: int | None = None
        self._steps = 0
        momentum = [each for values in state.optimizer.state.values() for each in values.values()]
        held = [*state.network.parameters(), *(each for each in momentum if isinstance(each, torch.Tensor))]
        self._held_bytes = sum(tensor.numel() * tensor.element_size() for tensor in held)
        self._before: int | None = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = int(torch.cuda.memory_allocated(device))
        elif device.type == "cpu" and _forget_peak():
            self._before = _process_bytes("VmRSS")

    def step(self) -> None:
        """Count a step that was done."""
        self._steps += 1
        if self._steps != STEPS_TO_PEAK or self._before is None:
            return
        most = (
            int(torch.cuda.max_memory_allocated(self.device)) if self.device.type == "cuda" else _process_bytes("VmHWM")
        )
        if most is not None:
            self.peak_bytes = max(0, most - self._before) + self._held_bytes


def _forget_peak() -> bool:
    """Give freed memory back and let the kernel count this process's peak anew; False where it can't."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _process_bytes(key: str) -> int | None:
    """A size from what Linux says of this process."""
    with contextlib.suppress(OSError):
        for line in (PROCESS / "status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * KIB
    return None


@contextmanager
def _without_messages() -> Iterator[None]:
    """Keep the profiler, which knows no other way, from writing to standard error."""
    with TemporaryFile() as hidden:
        shown = os.dup(2)
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(shown, 2)
            os.close(shown)
