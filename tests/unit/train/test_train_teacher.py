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


def apart(p, q):
    """1 minus the Dice of two soft answers, mean over outputs, the batch as one volume."""
    over = (0, 2, 3)
    common = torch.minimum(p, q).sum(over)
    return 1 - float((2 * common / (p.sum(over) + q.sum(over))).mean())


def test_it_is_the_divergence_of_the_two_distributions_and_what_they_lack_in_overlap(logits):
    other = logits.flip(0)
    found = teacher_of(other).loss(logits, logits)
    expected = nn.functional.kl_div(logits.log_softmax(1), other.softmax(1), reduction="none").sum(1).mean()
    overlap = apart(logits.softmax(1)[:, 1:], other.softmax(1)[:, 1:])
    assert float(found) == pytest.approx(float(expected) + overlap, rel=1e-4)


def test_of_regions_it_is_that_of_each_by_itself(logits):
    other = logits.flip(0)
    found = teacher_of(other, exclusive=False).loss(logits, logits)
    p = other.sigmoid()
    entropy = nn.functional.binary_cross_entropy(p, p)
    expected = nn.functional.binary_cross_entropy_with_logits(logits, p) - entropy
    assert float(found) == pytest.approx(float(expected) + apart(logits.sigmoid(), p), rel=1e-4)


def test_a_small_structure_weighs_as_much_as_a_large_one():
    for edge in (2, 16):
        sure = torch.full((1, 3, 32, 32), -20.0)
        sure[:, 0] = 20
        theirs = sure.clone()
        theirs[:, 1, :edge, :edge], theirs[:, 0, :edge, :edge] = 20, -20
        missed = float(teacher_of(theirs).loss(theirs, sure))
        divergence = 40 * edge**2 / 32**2
        # Of two outputs one is missed, and the other is in neither.
        assert missed - divergence == pytest.approx(0.5, abs=0.01)


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
