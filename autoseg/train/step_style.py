"""How a training step is computed fastest on this device: by measurement."""

import time
from collections.abc import Callable, Iterable

import torch

from autoseg.artifacts.model import Precision, StepStyle
from autoseg.artifacts.plan import Training

# Rounds of timing after a warm-up and a first, and how many times slower than the best a candidate may be to stay in.
MEASURED_ROUNDS = 2
HOPELESS = 3.0


def choose_step(
    device: torch.device,
    step: Callable[[StepStyle], float],
    *,
    samples_tied: bool,
    recipe: Training,
) -> tuple[StepStyle, dict[str, float]]:
    """The fastest way to compute a training step on this device.

    Parameters
    ----------
    device : torch.device
    step : callable
        Does a training step in the style given, on throw-away weights.
    samples_tied : bool
        Whether the samples of a batch depend on each other: by batch norm, batch Dice or an ignore label.
    recipe : Training
        What of the style is fixed.

    Returns
    -------
    StepStyle
    dict of str to float
        Seconds a step of each candidate; empty where the choice is known without measuring.
    """
    styles = as_fixed(candidates(device, samples_tied=samples_tied), recipe)
    if len(styles) == 1:
        return styles[0], {}
    for style in styles:
        step(style)
    seconds = {style: _timed(step, style) for style in styles}
    # Each in turn, the best of its times: another program's burst must not decide for the whole training.
    for _ in range(MEASURED_ROUNDS):
        best = min(seconds.values())
        for style in styles:
            if seconds[style] <= HOPELESS * best:
                seconds[style] = min(seconds[style], _timed(step, style))
    fastest = min(styles, key=lambda style: seconds[style])
    return fastest, {describe_step(style): round(taken, 4) for style, taken in seconds.items()}


def candidates(device: torch.device, *, samples_tied: bool) -> list[StepStyle]:
    """The ways to compute a step that are worth trying on a device.

    Notes
    -----
    CUDA has bfloat16 units wherever it says so, else float16 with a scaled loss is what the field trains with. On
    CPUs bfloat16 is several times faster with AMX or AVX-512 BF16 and several times slower without, so it is timed.
    """
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return [StepStyle(precision="bfloat16" if bf16 else "float16")]
    if device.type != "cpu":
        return [StepStyle(precision="float32")]
    precisions: tuple[Precision, ...] = ("bfloat16", "float32")
    ways = (False,) if samples_tied else (True, False)
    return [StepStyle(precision=p, sample_by_sample=apart) for p in precisions for apart in ways]


def as_fixed(styles: Iterable[StepStyle], recipe: Training) -> list[StepStyle]:
    """The styles with what the recipe fixes, each once."""
    fixed = {
        StepStyle(
            precision=style.precision if recipe.precision == "measured" else recipe.precision,
            sample_by_sample=style.sample_by_sample if recipe.sample_by_sample is None else recipe.sample_by_sample,
        ): None
        for style in styles
    }
    return list(fixed)


def describe_step(style: StepStyle) -> str:
    """A style in words."""
    return f"{style.precision}, {'sample by sample' if style.sample_by_sample else 'whole batches'}"


def _timed(step: Callable[[StepStyle], float], style: StepStyle) -> float:
    start = time.perf_counter()
    step(style)
    return time.perf_counter() - start
