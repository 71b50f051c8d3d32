"""Gradients of samples side by side, each sample on a core of its own."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

Sample = TypeVar("Sample")


def add_gradients(
    weights: Sequence[Tensor], samples: Sequence[Sample], loss_of: Callable[[Sample], Tensor], cores: int
) -> list[Tensor]:
    """Add the gradients of samples to those of the weights, as many samples at a time as there are cores.

    Parameters
    ----------
    weights : sequence of Tensor
        That ask for gradients.
    samples : sequence
    loss_of : callable
        Loss of a sample, of shape (); called from several threads.
    cores : int
        At least one.

    Returns
    -------
    list of Tensor, shape ()
        Loss of each sample, without what gradients need.

    Notes
    -----
    A layer of one sample is little work for several cores: they wait for each other at its end, and share the maps
    through a slower cache. Which core takes which sample, and the order in which gradients are added, depend on the
    number of cores alone: the same number gives the same weights to the bit.
    """

    def add_up(first: int) -> tuple[list[Tensor], list[Tensor | None]]:
        losses: list[Tensor] = []
        total: list[Tensor | None] = []
        for sample in samples[first::cores]:
            loss = loss_of(sample)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            _add(total, gradients)
            losses.append(loss.detach())
        return losses, total

    parts = list(_threads(cores).map(add_up, range(cores)))
    gradients = [weight.grad for weight in weights]
    for _, part in parts:
        _add(gradients, part)
    for weight, gradient in zip(weights, gradients, strict=True):
        # oneDNN leaves channels last; what is added to it later expects the weight's own layout.
        weight.grad = None if gradient is None else gradient.contiguous()
    return [parts[number % cores][0][number // cores] for number in range(len(samples))]


def _add(total: list[Tensor | None], gradients: Sequence[Tensor | None]) -> None:
    """Add to each its gradient, in place where there is something to add to; None is nothing."""
    if not total:
        total += gradients
        return
    pairs = [(old, new) for old, new in zip(total, gradients, strict=True) if old is not None and new is not None]
    if pairs:
        olds, news = zip(*pairs, strict=True)
        torch._foreach_add_(olds, news)
    total[:] = [new if old is None else old for old, new in zip(total, gradients, strict=True)]


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Threads whose operations run on one core each."""
    threads = ThreadPoolExecutor(count, initializer=_use_one_core)
    all_there = Barrier(count)
    for _ in threads.map(lambda _: all_there.wait(), range(count)):
        pass
    # Each sets the number for itself, but also for MKL and for all threads that are still to come.
    torch.set_num_threads(count)
    return threads


def _use_one_core() -> None:
    # A thread's first operation sets its number to that of the process, unless it was asked for before.
    torch.get_num_threads()
    torch.set_num_threads(1)
