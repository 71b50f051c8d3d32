"""Running means: learnt in training, used in validation, untouched by steps that are left out."""

import math

import numpy as np
import pytest
import torch

from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import Training
from autoseg.networks.unet import build_network
from autoseg.train.draws import no_draws
from autoseg.train.loading import Batch
from autoseg.train.loop import Course, step_loss, to_tensors, train, train_step
from autoseg.train.losses import Objective
from autoseg.train.optimizer import new_optimizer
from autoseg.train.state import TrainState

CPU = torch.device("cpu")
PATCH = (8, 8, 8)
RECIPE = Training(epochs=1, iterations_per_epoch=4, validation_iterations=2, initial_learning_rate=0.05, momentum=0.9)


def batch(seed, shift=0.0):
    rng = np.random.default_rng(seed)
    labels = [np.zeros(PATCH, np.int16) for _ in range(2)]
    for label in labels:
        label[2:6, 2:6, 2:6] = 1
    images = [label[None] * 2 + rng.standard_normal((1, *PATCH), np.float32) + np.float32(shift) for label in labels]
    return Batch(cases=("a", "b"), images=images, labels=labels, draws=no_draws(2, 1, PATCH))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def running(build_configuration):
    """A state and a course of a network with batch norm, and the epochs reported."""
    torch.manual_seed(0)
    configuration = build_configuration(PATCH, norm="batch")
    network = build_network(configuration, 1, 2)
    state = TrainState(network, new_optimizer(network, RECIPE), torch.amp.GradScaler("cpu", enabled=False))
    reports = []
    course = Course(
        configuration,
        Objective(batch_dice=False),
        RECIPE,
        CPU,
        StepStyle(precision="float32"),
        lambda *_: None,
        reports.append,
        lambda: None,
    )
    return state, course, reports


def buffers(state):
    return {name: buffer.clone() for name, buffer in state.network.named_buffers()}


def test_validation_goes_by_the_running_means_and_leaves_them_alone(running):
    state, course, reports = running
    # Validation images are much brighter: were they learnt from, the means would show it.
    validation = [batch(seed, shift=100.0) for seed in (8, 9)]
    train(state, course, iter([batch(seed) for seed in range(4)]), iter(validation), lambda: False)
    learnt = buffers(state)
    assert {int(value) for name, value in learnt.items() if name.endswith("num_batches_tracked")} == {4}
    state.network.eval()
    with torch.no_grad():
        tensors = [to_tensors(each, course) for each in validation]
        losses = [float(step_loss(state.network, each, course)[0]) for each in tensors]
    assert reports[0].validation_loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_step_that_is_left_out_leaves_the_running_means_alone(running):
    state, course, _ = running
    train_step(state, batch(1), course)
    before = buffers(state)
    broken = batch(2)
    broken.images[0][0, 3, 3, 3] = math.nan
    train_step(state, broken, course)
    assert len(state.failed_steps) == 1
    for name, buffer in buffers(state).items():
        assert torch.equal(buffer, before[name]), name
    train_step(state, batch(3), course)
    assert not torch.equal(
        buffers(state)["encoder.0.first.norm.running_mean"], before["encoder.0.first.norm.running_mean"]
    )
