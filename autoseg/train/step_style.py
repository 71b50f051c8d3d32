"""How a training step is computed fastest on this device: by measurement."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from msgspec.structs import replace

from autoseg.artifacts.model import Precision, StepStyle
from autoseg.artifacts.plan import Training
from autoseg.errors import is_out_of_memory

log = logging.getLogger(__name__)
# Rounds of timing after a warm-up and a first, and how many times slower than the best a candidate may be to stay in.
MEASURED_ROUNDS = 2
HOPELESS = 2.0


def choose_step(
    device: torch.device,
    step: Callable[[StepStyle], float],
    *,
    samples_tied: bool,
    num_apart: int,
    recipe: Training,
) -> tuple[StepStyle, dict[str, float]]:
    """The fastest way to compute a training step on this device.

    Parameters
    ----------
    device : torch.device
    step : callable
        Does a training step in the style given, on throw-away weights.
    samples_tied : bool
        Whether the samples of a batch go through the network together, for its batch norm.
    num_apart : int
        Samples of a batch whose gradients can be taken apart from each other: 1 where its loss ties them together.
    recipe : Training
        What of the style is fixed.

    Returns
    -------
    StepStyle
    dict of str to float
        Seconds a step of each candidate; empty where the choice is known without measuring.

    Notes
    -----
    Compiling takes a minute, so it is tried for the fastest of the others alone, and by itself only on CUDA: on CPUs
    the convolutions take nearly all of a step, and the compiled network was slower than the plain one.
    """
    styles = as_fixed(candidates(device, samples_tied=samples_tied, num_apart=num_apart), recipe)
    compiling = device.type == "cuda" if recipe.compile is None else recipe.compile
    if len(styles) == 1 and not compiling:
        return styles[0], {}
    seconds = _seconds(step, styles)
    fastest = min(styles, key=lambda style: seconds[style])
    if compiling:
        compiled = replace(fastest, compiled=True)
        try:
            seconds |= _seconds(step, [compiled])
        except Exception as error:  # compilers fail in any way
            if is_out_of_memory(error):
                raise
            log.warning("torch.compile failed, training goes on without it: %s", str(error).strip().partition("\n")[0])
        else:
            if recipe.compile or seconds[compiled] < seconds[fastest]:
                fastest = compiled
    return fastest, {describe_step(style): round(taken, 4) for style, taken in seconds.items()}


def _seconds(step: Callable[[StepStyle], float], styles: Sequence[StepStyle]) -> dict[StepStyle, float]:
    """What a step takes in each style."""
    for style in styles:
        step(style)
    seconds = {style: _timed(step, style) for style in styles}
    # Each in turn, the best of its times: another program's burst must not decide for the whole training.
    for _ in range(MEASURED_ROUNDS):
        best = min(seconds.values())
        for style in styles:
            if seconds[style] <= HOPELESS * best:
                seconds[style] = min(seconds[style], _timed(step, style))
    return seconds


def candidates(device: torch.device, *, samples_tied: bool, num_apart: int) -> list[StepStyle]:
    """The ways to compute a step that are worth trying on a device.

    Notes
    -----
    CUDA has bfloat16 units wherever it says so, else float16 with a scaled loss is what the field trains with. On
    CPUs bfloat16 is several times faster with AMX or AVX-512 BF16 and several times slower without, so it is timed;
    and channels come last where samples pass one by one, which oneDNN's convolutions are a quarter faster with, but
    not in whole batches, for which instance norm has no quick backward in that order.
    """
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        precision: Precision = "bfloat16" if bf16 else "float16"
        return [StepStyle(precision=precision, channels_last=last) for last in (False, True)]
    if device.type != "cpu":
        return [StepStyle(precision="float32")]
    precisions: tuple[Precision, ...] = ("bfloat16", "float32")
    whole = StepStyle(precision="float32")
    apart = replace(whole, sample_by_sample=True, channels_last=True)
    ways = [whole] if samples_tied else [apart, whole]
    if not samples_tied and 1 < torch.get_num_threads() <= num_apart:
        ways.insert(0, replace(apart, side_by_side=True))
    return [replace(way, precision=precision) for precision in precisions for way in ways]


def as_fixed(styles: Iterable[StepStyle], recipe: Training) -> list[StepStyle]:
    """The styles with what the recipe fixes, each once."""
    fixed: dict[StepStyle, None] = {}
    for style in styles:
        precision = style.precision if recipe.precision == "measured" else recipe.precision
        apart = style.sample_by_sample if recipe.sample_by_sample is None else recipe.sample_by_sample
        last = style.channels_last if apart == style.sample_by_sample else apart
        side_by_side = style.side_by_side and apart
        way = replace(style, precision=precision, sample_by_sample=apart, channels_last=last, side_by_side=side_by_side)
        fixed[way] = None
    return list(fixed)


def is_allowed(style: StepStyle, recipe: Training, *, samples_tied: bool) -> bool:
    """Whether a style may be used: it has what the recipe fixes, and keeps samples together that are tied."""
    return (
        recipe.precision in ("measured", style.precision)
        and recipe.sample_by_sample in (None, style.sample_by_sample)
        and recipe.compile in (None, style.compiled)
        and not (samples_tied and style.sample_by_sample)
    )


def describe_step(style: StepStyle) -> str:
    """A style in words."""
    ways = {
        "samples side by side": style.side_by_side,
        "sample by sample": style.sample_by_sample and not style.side_by_side,
        "whole batches": not style.sample_by_sample,
        "channels last": style.channels_last and not style.sample_by_sample,
        "compiled": style.compiled,
    }
    return ", ".join((style.precision, *(way for way, holds in ways.items() if holds)))


def _timed(step: Callable[[StepStyle], float], style: StepStyle) -> float:
    start = time.perf_counter()
    step(style)
    return time.perf_counter() - start
