"""Checkpoints: everything comes back, and what is not one is refused."""

import pytest
import torch

from autoseg.artifacts.plan import Training
from autoseg.errors import ArtifactError
from autoseg.networks.unet import build_network
from autoseg.train.optimizer import new_optimizer
from autoseg.train.state import TrainState, load_checkpoint, save_checkpoint


@pytest.fixture
def new_state(build_configuration):
    """Callable: a state with weights of a seed."""

    def make(seed, **changes):
        torch.manual_seed(seed)
        network = build_network(build_configuration(**changes), 1, 2)
        return TrainState(network, new_optimizer(network, Training()), torch.amp.GradScaler("cpu", enabled=False))

    return make


def step(state):
    state.optimizer.zero_grad()
    x = torch.linspace(-1, 1, 512).reshape(1, 1, 8, 8, 8)
    state.network(x).square().mean().backward()
    state.optimizer.step()


def weights(state):
    return torch.cat([parameter.detach().flatten() for parameter in state.network.parameters()])


def test_what_is_saved_comes_back(new_state, tmp_path):
    saved, loaded = new_state(1), new_state(2)
    step(saved)
    saved.iteration, saved.epoch, saved.seconds, saved.losses = 17, 3, 12.5, [0.5, 0.25]
    save_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "previous.pt", saved, "abc")
    assert not torch.equal(weights(saved), weights(loaded))
    load_checkpoint(tmp_path / "checkpoint.pt", loaded, ["abc"])
    assert torch.equal(weights(saved), weights(loaded))
    assert (loaded.iteration, loaded.epoch, loaded.seconds, loaded.losses) == (17, 3, 12.5, [0.5, 0.25])
    # Momentum came along: the next step is the same too.
    step(saved)
    step(loaded)
    assert torch.equal(weights(saved), weights(loaded))


def test_the_last_two_are_kept(new_state, tmp_path):
    state = new_state(1)
    for iteration in (1, 2, 3):
        state.iteration = iteration
        save_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "previous.pt", state, "abc")
    for name, iteration in (("previous.pt", 2), ("checkpoint.pt", 3)):
        assert load_checkpoint(tmp_path / name, state, ["abc"]) == "abc"
        assert state.iteration == iteration
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.pt", "previous.pt"]


def test_a_checkpoint_of_another_training_is_refused(new_state, tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "previous.pt", new_state(1), "abc")
    with pytest.raises(ArtifactError, match="belongs to another training") as caught:
        load_checkpoint(tmp_path / "checkpoint.pt", new_state(1), ["xyz"])
    assert "--restart" in str(caught.value)


def test_a_checkpoint_of_another_network_is_refused(new_state, tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "previous.pt", new_state(1), "abc")
    with pytest.raises(ArtifactError, match="can't be read"):
        load_checkpoint(tmp_path / "checkpoint.pt", new_state(1, features_per_stage=(4, 16)), ["abc"])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut short"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"no checkpoint at all", id="text"),
        pytest.param(lambda data: data[:200] + bytes(len(data) - 400) + data[-200:], id="zeros inside"),
    ],
)
def test_a_damaged_checkpoint_is_explained(new_state, tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, tmp_path / "previous.pt", new_state(1), "abc")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtifactError, match="can't be read") as caught:
        load_checkpoint(path, new_state(1), ["abc"])
    assert str(path) in str(caught.value)
    assert "--restart" in str(caught.value)
