"""Learning-rate range test: a fold's task -> losses over rising rates, and the rate that they suggest."""

import logging
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg import __version__
from autoseg.artifacts.base import atomic_path, digest, read_if_whole, write
from autoseg.artifacts.model import StepStyle, TrainedModel
from autoseg.artifacts.preprocessed import PreprocessedCase
from autoseg.artifacts.rate_test import RatePoint, RateTest
from autoseg.errors import AutosegError
from autoseg.layout import FoldFolder
from autoseg.train.journal import ProgressBar
from autoseg.train.loading import Batches
from autoseg.train.loop import Course, train_step
from autoseg.train.rehearsal import rehearse
from autoseg.train.sampling import TrainingCase
from autoseg.train.state import TrainState
from autoseg.train.step_style import is_allowed
from autoseg.train.task import FoldTask

log = logging.getLogger(__name__)
FIRST_RATE, LAST_RATE = 1e-5, 1.0
# Of the smoothing, in powers of ten of the rate; where these are few steps, in steps.
BANDWIDTH, LEAST_BANDWIDTH_STEPS = 0.2, 2.0
# A median over so many losses forgives a single odd batch.
MEDIAN_OF = 5
# How far above its beginning the loss must rise for the sweep to end, at least.
LEAST_RISE = 0.5
# The least fall that is no accident, in standard deviations of single losses.
LEAST_FALL = 2.0
ROUNDING = 1e-6
# Share of the fall that may be missing in the valley.
VALLEY = 0.1


def run(
    task: FoldTask,
    records: Mapping[str, PreprocessedCase],
    cases: Callable[[Sequence[str]], Sequence[TrainingCase]],
    folder: FoldFolder,
    out: Path,
    *,
    device: torch.device,
    jobs: int,
    iterations: int,
) -> RateTest:
    """Sweep the learning rate over a fold's own batches, by its own steps, from the weights that it would begin with.

    Parameters
    ----------
    task : FoldTask
    records : mapping of str to PreprocessedCase
    cases : callable
        Gives the cases of these names; called only if there is something to do.
    folder : FoldFolder
        Of the fold; only read.
    out : Path
        The JSON file; the picture is written beside it.
    device : torch.device
    jobs : int
        Most worker processes for loading.
    iterations : int
        Steps from the first rate to the last.

    Returns
    -------
    RateTest
        At once if there is one of the same.

    Raises
    ------
    AutosegError
        The loss is no number from the beginning.
    """
    plan, name = task.plan, task.configuration_name
    origin = "" if task.pretrained is None else task.pretrained.weights_sha256
    inputs = digest(plan, name, task.cases, str(task.fold), origin, str(iterations))
    data = task.data_sha256(records, task.cases.training)
    picture = out.with_suffix(".png")
    earlier = read_if_whole(out, RateTest)
    if earlier is not None and picture.exists() and (earlier.inputs_sha256, earlier.data_sha256) == (inputs, data):
        log.info("the test is done: %s", out)
        return earlier
    rates = sweep_rates(iterations)
    bar = ProgressBar(f"{name} fold {task.fold}", 0.0)
    try:
        made = rehearse(
            task,
            records,
            cases(task.cases.training),
            _known_style(folder, earlier, task, device),
            bar.step,
            device=device,
            jobs=jobs,
        )
        try:
            points, ended_early = sweep(made.state, made.course, made.batches, rates)
        finally:
            made.batches.close()
    finally:
        bar.close()
    if not points:
        raise AutosegError(
            "the loss is no number before any step is taken",
            where=f"fold {task.fold}",
            hint="autoseg check looks for images with values that are none",
        )
    swept, losses = [rate for rate, _ in points], [loss for _, loss in points]
    test = RateTest(
        inputs_sha256=inputs,
        data_sha256=data,
        configuration_name=task.configuration_name,
        fold=task.fold,
        settings=task.settings,
        seed=task.plan.training.seed,
        pretrained=made.pretrained,
        step=made.course.step,
        device=str(device),
        iterations=iterations,
        points=tuple(
            RatePoint(learning_rate=rate, loss=loss, smoothed=float(level))
            for rate, loss, level in zip(swept, losses, smooth(swept, losses), strict=True)
        ),
        exploded=ended_early,
        proposed_rate=propose(swept, losses),
        autoseg_version=__version__,
        torch_version=str(torch.__version__),
    )
    draw(picture, test)
    write(out, test)
    return test


def _known_style(
    folder: FoldFolder, earlier: RateTest | None, task: FoldTask, device: torch.device
) -> StepStyle | None:
    """How the fold's training computes a step, or an earlier test, if that is allowed: the same numbers each time."""
    training = read_if_whole(folder.manifest, TrainedModel)
    tied = task.plan.configurations[task.configuration_name].ties_samples
    for known in (training, earlier):
        if (
            known is not None
            and torch.device(known.device).type == device.type
            and is_allowed(known.step, task.plan.training, samples_tied=tied)
        ):
            return known.step
    return None


def sweep_rates(iterations: int) -> list[float]:
    """Rates from the first to the last, each the same factor above the one before."""
    return [float(rate) for rate in np.geomspace(FIRST_RATE, LAST_RATE, iterations)]


def sweep(
    state: TrainState, course: Course, batches: Batches, rates: Sequence[float]
) -> tuple[list[tuple[float, float]], bool]:
    """Take a step at each rate, until the loss explodes.

    Parameters
    ----------
    state : TrainState
        Changed in place, to be thrown away.
    course : Course
        Told of each step.
    batches : Batches
    rates : sequence of float

    Returns
    -------
    points : list of (float, float)
        Rate of a step, and loss of the batch after it.
    exploded : bool
    """
    losses: list[float] = []
    ended = False
    # The last step is taken for the loss before it.
    for rate in (*rates, rates[-1]):
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        loss = train_step(state, next(batches), course)
        if not isfinite(loss):
            ended = True
            break
        losses.append(loss)
        course.on_step(len(losses) / (len(rates) + 1), loss)
        if exploded(losses):
            ended = True
            break
    return list(zip(rates, losses[1:], strict=False)), ended


def exploded(losses: Sequence[float]) -> bool:
    """Whether losses rose above where they began by as much as they had fallen before, and by no less than 0.5.

    Notes
    -----
    Measured by medians of five. A multiple of the lowest loss, as others have it, says nothing here: with Dice in it,
    the loss goes through zero.
    """
    if len(losses) < 3 * MEDIAN_OF:
        return False
    middle = running_median(losses)
    start = float(np.median(losses[:MEDIAN_OF]))
    return float(np.median(losses[-MEDIAN_OF:])) > start + max(LEAST_RISE, start - float(middle.min()))


def running_median(values: Sequence[float]) -> NDArray[np.float64]:
    """Median of each value and its neighbours, two to each side; fewer at the ends, as many to the left as right."""
    n, reach = len(values), MEDIAN_OF // 2
    widths = [min(reach, i, n - 1 - i) for i in range(n)]
    return np.array([np.median(values[i - width : i + width + 1]) for i, width in enumerate(widths)])


def smooth(rates: Sequence[float], losses: Sequence[float]) -> NDArray[np.float64]:
    """Losses without most of their noise: lines fitted by least squares around each rate, after a running median.

    Parameters
    ----------
    rates, losses : sequence of float, length N

    Returns
    -------
    ndarray of float64, shape (N,)

    Notes
    -----
    Weights are Gaussian in the logarithm of the rate. As both sides count, nothing is shifted towards higher rates, as
    by a mean over past losses; as lines are fitted, neither are the ends.
    """
    x, y = np.log10(rates), running_median(losses)
    away = x[None, :] - x[:, None]
    step = (x[-1] - x[0]) / max(1, len(x) - 1)
    weight = np.exp(-0.5 * (away / max(BANDWIDTH, LEAST_BANDWIDTH_STEPS * step)) ** 2)
    s0, s1, s2 = (np.sum(weight * away**power, axis=1) for power in (0, 1, 2))
    t0, t1 = (np.sum(weight * away**power * y, axis=1) for power in (0, 1))
    determinant = s0 * s2 - s1**2
    # A single point has no slope.
    has_slope = determinant > 0
    level: NDArray[np.float64] = np.where(has_slope, (s2 * t0 - s1 * t1) / np.where(has_slope, determinant, 1), t0 / s0)
    return level


def noise_of(losses: Sequence[float]) -> float:
    """Standard deviation of single losses, from the steps between neighbours, of which a slope makes up little."""
    return 1.4826 * float(np.median(np.abs(np.diff(losses)))) / 2**0.5


def propose(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate in the middle of the valley between the loss's fall and its rise.

    Parameters
    ----------
    rates, losses : sequence of float, length N
        Rates ascending; the loss behind a step of each.

    Returns
    -------
    float or None
        Two digits; None where the loss did not fall by more than its noise.

    Notes
    -----
    The valley is where at least nine tenths of the fall are done; its middle, on the scale of logarithms, is where the
    loss is lowest, but does not wander along a flat bottom as the lowest point does with noise.

    Smith 2017 lets the rate swing up to where the curve stops getting better. A schedule that begins at its highest
    rate and comes down to zero is the same case. The tenth of it that others take is for rates that stay.

    With momentum m the sweep sees both less and more than a training at one rate. Less, as after t steps the velocity
    is only 1 - m^t of what it comes to: 0.45 after 60 steps with 0.99. More, as the velocity that one rate gathered is
    then multiplied by the next ones, so the loss rises before a training at such a rate would fail. In practice the
    second outweighs the first (see docs/how-to/learning-rate.md): the proposal is cautious.
    """
    if len(losses) < MEDIAN_OF:
        return None
    level = smooth(rates, losses)
    bottom = int(level.argmin())
    top = float(level[: bottom + 1].max())
    fall = top - float(level[bottom])
    if fall <= LEAST_FALL * noise_of(losses) + ROUNDING:
        return None
    above = np.flatnonzero(level > level[bottom] + VALLEY * fall)
    left = int(above[above < bottom].max()) + 1
    right = int(above[above > bottom].min(initial=len(level))) - 1
    return float(f"{(rates[left] * rates[right]) ** 0.5:.1e}")


def draw(path: Path, test: RateTest) -> None:
    """The curve as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rates = [point.learning_rate for point in test.points]
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(rates, [point.loss for point in test.points], ".", color="tab:gray", label="batches")
    axes.plot(rates, [point.smoothed for point in test.points], color="tab:blue", label="smoothed")
    if test.proposed_rate is not None:
        axes.axvline(test.proposed_rate, color="tab:green", label=f"proposed: {test.proposed_rate:g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss after a step")
    axes.set_title(f"{test.configuration_name} fold {test.fold}")
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
