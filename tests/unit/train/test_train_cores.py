"""Threads that take a sample each: one core for every operation in them."""

import pytest
import torch
from torch.nn.functional import conv3d

from autoseg.train.cores import add_gradients


@pytest.fixture
def two_cores(one_thread):
    torch.set_num_threads(2)


@pytest.mark.usefixtures("two_cores")
def test_each_sample_has_one_core_and_the_process_keeps_its_own():
    weight = torch.ones(4, 4, 3, 3, 3, requires_grad=True)
    counts = []

    def loss_of(image):
        # The first operation of a thread is where torch looks for its number of cores.
        loss = conv3d(image, weight).mean()
        counts.append(torch.get_num_threads())
        return loss

    images = [torch.full((1, 4, 8, 8, 8), float(number)) for number in range(4)]
    losses = add_gradients([weight], images, loss_of, 2)
    assert counts == [1, 1, 1, 1]
    assert torch.get_num_threads() == 2
    assert [float(loss) for loss in losses] == [0, 108, 216, 324]
    assert float(weight.grad[0, 0, 0, 0, 0]) == sum(range(4)) / 4


@pytest.mark.usefixtures("two_cores")
def test_a_weight_without_gradient_stays_without():
    used, unused = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    add_gradients([used, unused], [1.0, 2.0], lambda factor: factor * (used * used).sum(), 2)
    assert used.grad.tolist() == [6, 6, 6]
    assert unused.grad is None
