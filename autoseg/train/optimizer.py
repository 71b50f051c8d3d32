"""The optimizers a recipe may name."""

from collections.abc import Callable
from math import inf

import torch
from torch import nn

from autoseg.artifacts.plan import OptimizerName, Training
from autoseg.train.schedule import initial_rate


def new_optimizer(network: nn.Module, recipe: Training) -> torch.optim.Optimizer:
    """The recipe's optimizer over all weights of a network, without a step done.

    Notes
    -----
    On CUDA one kernel updates many tensors at once; elsewhere torch chooses.
    """
    on_cuda = all(parameter.is_cuda for parameter in network.parameters())
    return OPTIMIZERS[recipe.optimizer](network, recipe, True if on_cuda else None)


def _sgd(network: nn.Module, recipe: Training, fused: bool | None) -> torch.optim.Optimizer:
    """With Nesterov momentum; the weight decay is part of the gradient."""
    return torch.optim.SGD(
        network.parameters(),
        lr=initial_rate(recipe, inf),
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=fused,
    )


def _adamw(network: nn.Module, recipe: Training, fused: bool | None) -> torch.optim.Optimizer:
    """Loshchilov and Hutter 2019: the weight decay is apart from the gradient, and follows the rate."""
    return torch.optim.AdamW(
        network.parameters(),
        lr=initial_rate(recipe, inf),
        betas=recipe.adamw_betas,
        weight_decay=recipe.weight_decay,
        fused=fused,
    )


OPTIMIZERS: dict[OptimizerName, Callable[[nn.Module, Training, bool | None], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}
