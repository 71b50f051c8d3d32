"""Validation cases predicted whole while training goes on: slower than patches, and what users mean by Dice."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod

from autoseg.artifacts.plan import Training
from autoseg.errors import AutosegError, is_out_of_memory
from autoseg.networks.unet import UNet

log = logging.getLogger(__name__)

# Of a time budget.
MOST_SHARE = 0.05
# A step is a forward and a backward pass, which takes about twice as long.
FORWARD_SHARE = 1 / 3


@dataclass(frozen=True, slots=True)
class WholeCases:
    """A few validation cases, always the same.

    Attributes
    ----------
    names : tuple of str
    num_windows : int
        In all of them together, about.
    dice : callable
        Predicts a case with the network as it is, without mirroring, and scores it: the mean Dice of its foreground
        labels, None where neither the reference nor the prediction has any.
    """

    names: tuple[str, ...]
    num_windows: int
    dice: Callable[[UNet, str], float | None]


def choose_cases(names: Sequence[str], count: int) -> tuple[str, ...]:
    """So many of the cases, spread evenly over the list: neighbours are often of one patient."""
    count = min(count, len(names))
    return tuple(names[i * len(names) // count] for i in range(count))


def count_windows(shapes_zyx: Sequence[Sequence[int]], patch: Sequence[int], step: float) -> int:
    """About how many windows cover volumes of these shapes."""
    edges = (1.0,) * (3 - len(patch)) + tuple(edge * step for edge in patch)
    return sum(prod(ceil(n / edge) for n, edge in zip(shape, edges, strict=True)) for shape in shapes_zyx)


def is_due(epoch: int, recipe: Training, cases: WholeCases, sample_seconds: float, epoch_seconds: float) -> bool:
    """Whether the cases are to be predicted after an epoch.

    Parameters
    ----------
    epoch : int
        From 0.
    recipe : Training
    cases : WholeCases
    sample_seconds, epoch_seconds : float
        What a sample of a step takes, and what the epoch took.

    Notes
    -----
    By count it is always the same epochs. Under a time budget what it takes is estimated, and it is left out where
    that is more than a twentieth of the time since the last one.
    """
    if (epoch + 1) % recipe.validation_every:
        return False
    if recipe.max_hours is None:
        return True
    needed = cases.num_windows * sample_seconds * FORWARD_SHARE
    return needed <= MOST_SHARE * recipe.validation_every * epoch_seconds


def predict_whole(network: UNet, cases: WholeCases, stopped: Callable[[], bool]) -> dict[str, float | None] | None:
    """Dice of each case; None where the user asked to stop before all were done.

    Notes
    -----
    A case that can't be read or does not fit the memory beside the training is left out: that is no reason to end it.
    """
    found: dict[str, float | None] = {}
    network.eval()
    for name in cases.names:
        if stopped():
            return None
        try:
            found[name] = cases.dice(network, name)
        except Exception as error:
            if not isinstance(error, AutosegError) and not is_out_of_memory(error):
                raise
            log.warning("no Dice of validation case %s: %s", name, error)
            found[name] = None
    return found
