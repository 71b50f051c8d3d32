"""What a student loses for answering otherwise than its teachers."""

import pytest
import torch
from torch import nn

from autoseg.artifacts.model import Teaching
from autoseg.train.teacher import Teacher


def teacher_of(*answers, share=0.5, temperature=1.0, exclusive=True):
    record = Teaching(paths=("a",), weights_sha256=("0",), share=share, temperature=temperature)
    return Teacher([lambda images, answer=answer: answer for answer in answers], record, exclusive)


@pytest.fixture
def logits():
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_who_answers_alike_loses_nothing(logits, exclusive, temperature):
    teacher = teacher_of(logits, temperature=temperature, exclusive=exclusive)
    assert float(teacher.loss(logits, logits)) == pytest.approx(0, abs=1e-5)
    assert float(teacher.loss(logits, logits.flip(1))) > 0.1


def test_it_is_the_divergence_of_the_two_distributions(logits):
    other = logits.flip(0)
    found = teacher_of(other).loss(logits, logits)
    expected = nn.functional.kl_div(logits.log_softmax(1), other.softmax(1), reduction="none").sum(1).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_of_regions_it_is_that_of_each_by_itself(logits):
    other = logits.flip(0)
    found = teacher_of(other, exclusive=False).loss(logits, logits)
    p = other.sigmoid()
    entropy = nn.functional.binary_cross_entropy(p, p)
    expected = nn.functional.binary_cross_entropy_with_logits(logits, p) - entropy
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_several_teachers_answer_with_the_mean_of_their_logits(logits):
    both = teacher_of(logits + 1, logits - 1)
    assert float(both.loss(logits, logits)) == pytest.approx(0, abs=1e-6)


def test_only_the_student_learns(logits):
    network = nn.Conv2d(3, 3, 1)
    record = Teaching(paths=("a",), weights_sha256=("0",), share=0.5, temperature=2.0)
    student = logits.clone().requires_grad_()
    Teacher([network], record, exclusive=True).loss(logits, student).backward()
    assert student.grad is not None
    assert network.weight.grad is None


def test_the_temperature_leaves_the_size_of_the_gradient_alone(logits):
    sizes = []
    for temperature in (1.0, 8.0):
        student = (logits / 100).clone().requires_grad_()
        teacher_of(logits.flip(0) / 100, temperature=temperature).loss(logits, student).backward()
        sizes.append(float(student.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
