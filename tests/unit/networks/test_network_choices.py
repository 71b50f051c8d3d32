"""Every combination of norm, attention, deep supervision and encoder is a network that trains and predicts."""

from itertools import product
from typing import get_args

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file
from torch.nn import functional

from autoseg.artifacts.overlay import overlay
from autoseg.artifacts.plan import Attention, Norm, Training
from autoseg.errors import SettingError
from autoseg.networks.blocks import (
    ATTENTIONS,
    NORMS,
    GroupNorm,
    SpatialChannelExcitation,
    SqueezeExcitation,
    num_groups,
)
from autoseg.networks.device import autocast, channels_last
from autoseg.networks.unet import build_network
from autoseg.train.losses import Objective, deep_loss, level_weights
from autoseg.train.optimizer import new_optimizer
from autoseg.train.state import TrainState, load_checkpoint, save_checkpoint, save_weights

CPU = torch.device("cpu")
SHAPES = {"2D": ((16, 8), ((1, 1), (2, 2), (2, 2))), "3D": ((8, 8, 4), ((1, 1, 1), (2, 2, 1), (2, 2, 2)))}
COMBINATIONS = list(product(SHAPES, (False, True), get_args(Norm), get_args(Attention), (True, False)))


def identify(combination):
    shape, residual, norm, attention, deep = combination
    return f"{shape}-{'residual' if residual else 'plain'}-{norm}-{attention}-{'deep' if deep else 'finest'}"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


# The number of heads has little to do with the precision: of one head in float32 the long run is enough.
RUNS = [
    pytest.param(
        each,
        precision,
        id=f"{identify(each)}-{precision}",
        marks=() if each[-1] or precision == "bfloat16" else pytest.mark.long,
    )
    for each in COMBINATIONS
    for precision in ("float32", "bfloat16")
]


@pytest.fixture
def configuration(request, build_configuration):
    """Tiny, of one combination; its fields are dimensions, residual, norm, attention, deep supervision."""
    shape, residual, norm, attention, deep_supervision = request.param
    patch, strides = SHAPES[shape]
    encoder = {"n_conv_per_stage": None, "n_blocks_per_stage": (1, 2, 1)} if residual else {}
    made = build_configuration(patch, strides, features_per_stage=(4, 8, 12), **encoder)
    return replace(made, norm=norm, attention=attention, deep_supervision=deep_supervision)


def example(configuration):
    """A batch whose label can be seen in its image."""
    label = torch.zeros(2, *configuration.patch_size, dtype=torch.int64)
    label[:, 2:6, 1:5] = 1
    return label[:, None] * 2 + 0.3 * torch.randn(2, 1, *configuration.patch_size), label


def loss_of(network, image, label, precision):
    weights = level_weights(len(network.heads))
    with autocast(CPU, precision):
        levels = network.deep_logits(image, len(weights))
    return deep_loss(levels, label, weights, Objective(batch_dice=False))


@pytest.mark.parametrize(("configuration", "precision"), RUNS, indirect=["configuration"])
def test_it_trains_and_comes_back_from_its_file(configuration, precision, tmp_path):
    network = build_network(configuration, 1, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    image, label = example(configuration)
    assert len(network.heads) == (2 if configuration.deep_supervision else 1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = loss_of(network, image, label, precision)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05
    used = {name: parameter for name, parameter in network.named_parameters() if parameter.grad is not None}
    # The coarsest of several heads has no weight in the loss.
    unused = {"heads.0.weight", "heads.0.bias"} if configuration.deep_supervision else set()
    assert {name for name, _ in network.named_parameters()} - set(used) == unused
    for name, parameter in used.items():
        assert parameter.grad.isfinite().all(), name
        # What a convolution adds to all voxels alike is taken away again by a norm of single channels.
        assert parameter.grad.any() or "convolution.bias" in name, name

    network.eval()
    with torch.inference_mode(), autocast(CPU, precision):
        logits = network(image)
        assert logits.shape == (2, 2, *configuration.patch_size)
        assert torch.equal(network(image), logits)
    save_weights(tmp_path / "weights.safetensors", network)
    again = build_network(configuration, 1, 2)
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    again.eval()
    with torch.inference_mode(), autocast(CPU, precision):
        assert torch.equal(again(image), logits)


@pytest.mark.parametrize("configuration", [each for each in COMBINATIONS if each[-1]], indirect=True, ids=identify)
def test_samples_are_apart_unless_the_configuration_says_they_are_tied(configuration):
    network = build_network(configuration, 1, 2).train()
    image, label = example(configuration)
    other = torch.stack((image[0], image[1] * 3 + 1))
    logits = network(image)
    assert torch.allclose(logits[0], network(other)[0], atol=1e-5) != configuration.ties_samples
    if not configuration.ties_samples:
        # One after the other, in another layout, they give the gradients of the batch.
        loss_of(network, image, label, "float32").backward()
        whole = [parameter.grad for parameter in network.parameters()]
        network.zero_grad()
        for sample in (slice(0, 1), slice(1, 2)):
            (loss_of(network, channels_last(image[sample]), label[sample], "float32") / 2).backward()
        for ours, parameter in zip(whole, network.parameters(), strict=True):
            if ours is not None:
                torch.testing.assert_close(parameter.grad, ours, rtol=1e-3, atol=1e-4)
    network.eval()
    torch.testing.assert_close(network(image)[0], network(other)[0], rtol=1e-4, atol=1e-4)


def test_every_choice_has_its_module():
    assert set(NORMS) == set(get_args(Norm))
    assert set(ATTENTIONS) == set(get_args(Attention))


@pytest.mark.parametrize(("channels", "groups"), [(320, 8), (32, 8), (12, 6), (7, 7), (11, 1), (4, 4), (1, 1)])
def test_groups_divide_the_channels(channels, groups):
    assert num_groups(channels) == groups


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_group_norm_equals_torchs_in_either_layout(groups):
    ours, theirs = GroupNorm(groups, 6), torch.nn.GroupNorm(groups, 6)
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2)
        ours.bias.uniform_(-1, 1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 3, 4, 5) * 2 + 1
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(channels_last(x)), theirs(x))


def test_group_norm_of_a_single_value_is_its_shift():
    norm = GroupNorm(3, 3)
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(norm(torch.randn(1, 3, 1, 1)).flatten(), norm.bias)


@pytest.mark.parametrize("edges", [(5, 6), (3, 4, 5)])
def test_attention_is_as_published(edges):
    x = torch.randn(2, 6, *edges)
    block = SpatialChannelExcitation(6, len(edges))
    channel: SqueezeExcitation = block.channel
    means = x.mean(tuple(range(2, x.ndim)))
    gate = torch.sigmoid(channel.excite(functional.leaky_relu(channel.squeeze(means), 0.01)))
    gate = gate.reshape(2, 6, *(1,) * len(edges))
    torch.testing.assert_close(channel(x), x * gate)
    convolve = functional.conv2d if len(edges) == 2 else functional.conv3d
    with torch.no_grad():
        block.voxel.bias.fill_(0.3)
    by_voxel = torch.sigmoid(convolve(x, block.voxel.weight, block.voxel.bias))
    assert by_voxel.shape == (2, 1, *edges)
    torch.testing.assert_close(block(x), x * gate + x * by_voxel)


def test_a_checkpoint_holds_running_means(build_configuration, tmp_path):
    def state():
        network = build_network(build_configuration(norm="batch"), 1, 2)
        return TrainState(network, new_optimizer(network, Training()), torch.amp.GradScaler("cpu", enabled=False))

    saved, loaded = state(), state()
    saved.network(torch.randn(2, 1, 8, 8, 8) + 3)
    save_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "previous.pt", saved, "abc")
    load_checkpoint(tmp_path / "checkpoint.pt", loaded, ["abc"])
    buffers = dict(loaded.network.named_buffers())
    assert {name.rpartition(".")[2] for name in buffers} == {"running_mean", "running_var", "num_batches_tracked"}
    for name, buffer in saved.network.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    assert buffers["encoder.0.first.norm.running_mean"].any()


def test_choices_can_be_set(build_plan):
    settings = ("norm=group", "attention=scse", "deep_supervision=false")
    made = overlay(build_plan(), [f"configurations.3d_fullres.{each}" for each in settings])
    chosen = made.configurations["3d_fullres"]
    assert (chosen.norm, chosen.attention, chosen.deep_supervision) == ("group", "scse", False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [(("norm=weight",), "weight"), (("attention=cbam",), "cbam"), (("norm=batch", "batch_size=1"), "2 or more")],
)
def test_what_can_not_be_is_refused(build_plan, settings, message):
    with pytest.raises(SettingError, match=message):
        overlay(build_plan(), [f"configurations.3d_fullres.{each}" for each in settings])
