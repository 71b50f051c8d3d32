"""How long a training step takes on a device: by doing some, on noise."""

import logging
import time
from collections.abc import Callable

import numpy as np
import torch
from msgspec.structs import replace

from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import Configuration, Plan
from autoseg.errors import is_out_of_memory
from autoseg.machine import available_memory_bytes
from autoseg.networks.cost import training_step_memory
from autoseg.networks.device import keep_freed_memory, suit, use_fast_kernels
from autoseg.networks.unet import build_network
from autoseg.train.draws import draw
from autoseg.train.loading import Batch, noise_batch
from autoseg.train.loop import Course, nothing, train_step
from autoseg.train.optimizer import new_optimizer
from autoseg.train.setup import objective_of
from autoseg.train.state import TrainState
from autoseg.train.step_style import candidates, choose_step, describe_step

log = logging.getLogger(__name__)
# So many steps, and of quick ones as many as take this long.
LEAST_STEPS, MOST_STEPS, ENOUGH_SECONDS = 4, 15, 0.3
# Of the memory that is free.
USED_SHARE = 0.9


class Stopwatch:
    """Times training steps of a plan's networks.

    Parameters
    ----------
    device : torch.device

    Notes
    -----
    How a step is computed is chosen once for 2D and once for 3D, by the first network that comes; torch.compile, which
    takes a minute for each network, is left out. Images are noise; augmentation is that of the plan.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._styles: dict[int, StepStyle] = {}
        if device.type == "cpu":
            keep_freed_memory()
        use_fast_kernels()

    def seconds(self, plan: Plan, configuration: Configuration) -> float | None:
        """Seconds of a training step; None where it does not fit the memory."""
        try:
            return self._seconds(plan, configuration)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _seconds(self, plan: Plan, configuration: Configuration) -> float | None:
        recipe = replace(plan.training, compile=False)
        channels, classes = plan.num_inputs(configuration), plan.num_classes
        style = self._styles.get(len(configuration.patch_size))
        objective = objective_of(plan, configuration, ())
        tied, num_apart = configuration.ties_samples, objective.num_apart(configuration.batch_size)
        if self.device.type == "cpu":
            # The kernel would end this process or another one.
            styles = [style] if style else candidates(self.device, samples_tied=tied, num_apart=num_apart)
            cores = torch.get_num_threads()
            needed = (training_step_memory(configuration, channels, classes, each, cores=cores) for each in styles)
            if max(memory.peak_bytes for memory in needed) > USED_SHARE * available_memory_bytes():
                return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build_network(configuration, channels, classes).to(self.device)
        batches = [_noise(plan, configuration, seed) for seed in range(LEAST_STEPS)]
        optimizer = new_optimizer(network, recipe)
        count = 0

        def step(style: StepStyle) -> float:
            nonlocal count
            count += 1
            scaler = torch.amp.GradScaler(self.device.type, enabled=style.precision == "float16")
            state = TrainState(network, optimizer, scaler)
            course = Course(configuration, objective, recipe, self.device, style, nothing, nothing, nothing)
            return train_step(state, batches[count % len(batches)], course)

        if style is None:
            style, _ = choose_step(self.device, step, samples_tied=tied, num_apart=num_apart, recipe=recipe)
            self._styles[len(configuration.patch_size)] = style
            log.info("steps are timed in %s", describe_step(style))
        suit(network, style)
        step(style)
        return _timed(lambda: step(style))


def _timed(step: Callable[[], float]) -> float:
    """The quickest of some steps: another program's burst must not decide for the whole training."""
    taken: list[float] = []
    while len(taken) < LEAST_STEPS or (sum(taken) < ENOUGH_SECONDS and len(taken) < MOST_STEPS):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _noise(plan: Plan, configuration: Configuration, seed: int) -> Batch:
    """A batch of noise, augmented as the plan says."""
    channels, patch = plan.num_inputs(configuration), configuration.patch_size
    rng, recipe = np.random.default_rng(seed), plan.training.augmentation
    draws = draw(rng, recipe, configuration.batch_size, channels, patch, configuration.mirror_axes)
    return noise_batch(draws, patch, (channels, plan.num_classes), seed)
