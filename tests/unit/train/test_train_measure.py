"""The watch over a training's first steps sees what they take, and nothing of before."""

import mmap

import numpy as np
import pytest
import torch

from autoseg.artifacts.plan import Training
from autoseg.networks.unet import build_network
from autoseg.train import measure
from autoseg.train.measure import PeakWatch
from autoseg.train.optimizer import new_optimizer
from autoseg.train.state import TrainState

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture
def state(build_configuration):
    network = build_network(build_configuration(), 1, 2)
    return TrainState(network, new_optimizer(network, Training()), torch.amp.GradScaler("cpu", enabled=False))


def take(mebibytes):
    """Touch memory and give it back to the system, past the allocator, which might keep it."""
    with mmap.mmap(-1, mebibytes * MIB) as memory:
        np.frombuffer(memory, np.uint8).fill(1)


def test_the_peak_of_two_steps_counts_and_what_was_before_and_comes_later_does_not(state):
    np.ones(300 * MIB, np.uint8)
    watch = PeakWatch(state, CPU)
    take(100)
    watch.step()
    assert watch.peak_bytes is None
    take(150)
    watch.step()
    found = watch.peak_bytes
    assert 145 * MIB < found < 165 * MIB
    take(250)
    watch.step()
    assert watch.peak_bytes == found


def test_weights_and_momentum_that_are_there_count(state):
    weights = 4 * sum(parameter.numel() for parameter in state.network.parameters())

    def held():
        watch = PeakWatch(state, CPU)
        watch.step()
        watch.step()
        return watch.peak_bytes

    assert weights <= held() < weights + 8 * MIB
    state.network(torch.randn(2, 1, 8, 8, 8)).mean().backward()
    for parameter in state.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    assert held() >= 2 * weights


def test_without_the_kernels_word_there_is_no_peak(state, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "PROCESS", tmp_path / "none")
    watch = PeakWatch(state, CPU)
    watch.step()
    watch.step()
    assert watch.peak_bytes is None
