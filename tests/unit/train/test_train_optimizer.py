"""Optimizers as the recipe says, and their state over a checkpoint."""

import pytest
import torch

from autoseg.artifacts.plan import Training
from autoseg.networks.unet import build_network
from autoseg.train.optimizer import new_optimizer
from autoseg.train.state import TrainState, load_checkpoint, save_checkpoint


@pytest.fixture
def new_state(build_configuration):
    def make(recipe, seed=0):
        torch.manual_seed(seed)
        network = build_network(build_configuration((8, 8), ((1, 1), (2, 2))), 1, 2)
        return TrainState(network, new_optimizer(network, recipe), torch.amp.GradScaler("cpu", enabled=False))

    return make


def step(state, seed):
    generator = torch.Generator().manual_seed(seed)
    state.optimizer.zero_grad()
    state.network(torch.randn(1, 1, 8, 8, generator=generator)).square().mean().backward()
    state.optimizer.step()


def weights(state):
    return torch.cat([parameter.detach().flatten() for parameter in state.network.parameters()])


def test_sgd_follows_the_recipe(new_state):
    network = new_state(Training()).network
    optimizer = new_optimizer(network, Training(initial_learning_rate=0.02, momentum=0.9, weight_decay=1e-4))
    assert isinstance(optimizer, torch.optim.SGD)
    settings = optimizer.defaults
    assert (settings["lr"], settings["momentum"], settings["weight_decay"]) == (0.02, 0.9, 1e-4)
    assert settings["nesterov"] is True
    assert new_optimizer(network, Training(momentum=0.0)).defaults["nesterov"] is False


def test_adamw_follows_the_recipe(new_state):
    recipe = Training(optimizer="adamw", initial_learning_rate=3e-4, adamw_betas=(0.8, 0.99), weight_decay=0.01)
    optimizer = new_state(recipe).optimizer
    assert isinstance(optimizer, torch.optim.AdamW)
    settings = optimizer.defaults
    assert (settings["lr"], settings["betas"], settings["weight_decay"]) == (3e-4, (0.8, 0.99), 0.01)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_checkpoint_of_another_device_goes_on_here(new_state, tmp_path, name):
    recipe = Training(optimizer=name, initial_learning_rate=1e-3)
    straight = new_state(recipe)
    for number in range(4):
        step(straight, number)
    first = new_state(recipe)
    for number in range(2):
        step(first, number)
    for group in first.optimizer.param_groups:
        group["fused"] = True  # as on CUDA
    save_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "previous.pt", first, "abc")
    second = new_state(recipe, seed=1)
    load_checkpoint(tmp_path / "checkpoint.pt", second, ["abc"])
    assert {group["fused"] for group in second.optimizer.param_groups} == {None}
    for number in range(2, 4):
        step(second, number)
    assert torch.equal(weights(second), weights(straight))
