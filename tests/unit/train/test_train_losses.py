"""Dice + cross-entropy, and how levels are weighted."""

import numpy as np
import pytest
import torch

from autoseg.train.losses import (
    Objective,
    at_level,
    deep_loss,
    level_weights,
    overlap_counts,
    region_masks,
)

SMOOTH = 1e-5


def by_hand(logits, target, *, batch_dice):
    """The loss in numpy, voxel by voxel where that is clearer."""
    logits = logits.astype(np.float64)
    classes = logits.shape[1]
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = exp / exp.sum(axis=1, keepdims=True)
    cross_entropy = np.mean([-np.log(p[(place[0], target[place], *place[1:])]) for place in np.ndindex(target.shape)])
    groups = [slice(None)] if batch_dice else [slice(b, b + 1) for b in range(len(logits))]
    dice = []
    for group in groups:
        for k in range(1, classes):
            truth, guess = target[group] == k, p[group, k]
            dice.append((2 * (guess * truth).sum() + SMOOTH) / (guess.sum() + truth.sum() + SMOOTH))
    return cross_entropy - np.mean(dice)


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    # The second sample has no voxel of class 2, which is what tells the two kinds of Dice apart.
    target = rng.integers(0, 3, (2, 3, 4, 5))
    target[1][target[1] == 2] = 0
    return rng.standard_normal((2, 3, 3, 4, 5)).astype(np.float32) * 2, target


@pytest.mark.parametrize("batch_dice", [True, False])
def test_the_loss_is_that_computed_by_hand(example, batch_dice):
    logits, target = example
    actual = Objective(batch_dice=batch_dice).loss(torch.from_numpy(logits), torch.from_numpy(target))
    assert float(actual) == pytest.approx(by_hand(logits, target, batch_dice=batch_dice), abs=1e-5)


def test_batch_dice_differs_from_the_mean_over_samples(example):
    logits, target = (torch.from_numpy(part) for part in example)
    pooled = Objective(batch_dice=True).loss(logits, target)
    apart = Objective(batch_dice=False).loss(logits, target)
    assert abs(float(pooled - apart)) > 1e-2
    singles = [Objective(batch_dice=True).loss(logits[i : i + 1], target[i : i + 1]) for i in range(2)]
    assert float(apart) == pytest.approx(float(sum(singles)) / 2, abs=1e-6)


def test_the_background_has_no_dice():
    # All background, and sure of it: cross-entropy 0; foreground Dice of nothing with nothing is 1.
    logits = torch.tensor([40.0, -40.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
    loss = Objective(batch_dice=False).loss(logits, torch.zeros(1, 4, 4, dtype=torch.int64))
    assert float(loss) == pytest.approx(-1.0, abs=1e-5)


@pytest.mark.parametrize("batch_dice", [True, False])
def test_a_sure_and_right_answer_has_the_lowest_loss(batch_dice):
    target = torch.tensor([[[0, 1], [2, 1]]])
    sure = 50.0 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    assert float(Objective(batch_dice=batch_dice).loss(sure, target)) == pytest.approx(-1.0, abs=1e-5)


def test_half_precision_logits_are_summed_in_single():
    torch.manual_seed(0)
    logits, target = torch.randn(1, 2, 40, 40, 40), torch.randint(0, 2, (1, 40, 40, 40))
    half = Objective(batch_dice=True).loss(logits.bfloat16(), target)
    assert half.dtype == torch.float32
    same = Objective(batch_dice=True).loss(logits.bfloat16().float(), target)
    assert float(half) == float(same)


@pytest.mark.parametrize(
    ("levels", "weights"),
    [(1, [1.0]), (2, [1.0]), (3, [2 / 3, 1 / 3]), (4, [4 / 7, 2 / 7, 1 / 7])],
)
def test_level_weights_halve_and_leave_the_coarsest_out(levels, weights):
    assert level_weights(levels) == pytest.approx(weights)


@pytest.mark.parametrize("levels", range(1, 8))
def test_level_weights_sum_to_one(levels):
    weights = level_weights(levels)
    assert len(weights) == max(1, levels - 1)
    assert sum(weights) == pytest.approx(1.0)


def test_the_target_of_a_coarse_level_is_that_of_the_voxel_nearest_its_centre():
    target = torch.arange(12).reshape(1, 12)
    # Centres 1, 4, 7, 10 are voxels; with 2 and 4 to one, centres fall between two, and the upper one counts.
    assert at_level(target, torch.zeros(1, 1, 4)).tolist() == [[1, 4, 7, 10]]
    assert at_level(target, torch.zeros(1, 1, 6)).tolist() == [[1, 3, 5, 7, 9, 11]]
    assert at_level(target, torch.zeros(1, 1, 3)).tolist() == [[2, 6, 10]]
    assert at_level(target, torch.zeros(1, 1, 12)) is target


def test_each_axis_of_the_target_shrinks_by_itself():
    target = torch.arange(2 * 4 * 8).reshape(1, 2, 4, 8)
    small = at_level(target, torch.zeros(1, 3, 2, 2, 2))
    assert torch.equal(small, target[:, :, 1::2, 2::4])


def test_the_deep_loss_is_the_weighted_sum_over_levels():
    torch.manual_seed(0)
    target = torch.randint(0, 3, (2, 8, 8))
    levels = [torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4)]
    parts = [
        float(Objective(batch_dice=True).loss(levels[0], target)),
        float(Objective(batch_dice=True).loss(levels[1], target[:, 1::2, 1::2])),
    ]
    actual = deep_loss(levels, target, [0.75, 0.25], Objective(batch_dice=True))
    assert float(actual) == pytest.approx(0.75 * parts[0] + 0.25 * parts[1], abs=1e-6)


def test_overlap_counts_of_a_small_example():
    target = torch.tensor([[0, 1, 1, 2, 2, 2]])
    predicted = torch.tensor([[1, 1, 0, 2, 2, 0]])
    logits = torch.nn.functional.one_hot(predicted, 4).movedim(-1, 1).float()
    # Hits 1, 2, 0; sizes 2+2, 2+3, 0+0 for classes 1, 2, 3.
    assert overlap_counts(logits, target, Objective(batch_dice=True)).tolist() == [[1.0, 2.0, 0.0], [4.0, 5.0, 0.0]]


NESTED = ((1, 2), (2,))


def regions_by_hand(logits, target, known, *, batch_dice):
    """Binary cross-entropy and Dice of nested regions in numpy, over the known voxels alone."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    truth = np.stack([np.isin(target, values) for values in NESTED], axis=1)
    counts = np.broadcast_to(known[:, None], p.shape)
    entropies = -np.where(truth, np.log(p), np.log(1 - p))
    groups = [slice(None)] if batch_dice else [slice(b, b + 1) for b in range(len(logits))]
    dice = []
    for group in groups:
        for k in range(len(NESTED)):
            t, guess = truth[group, k] & known[group], p[group, k] * known[group]
            dice.append((2 * (guess * t).sum() + SMOOTH) / (guess.sum() + t.sum() + SMOOTH))
    return entropies[counts].mean() - np.mean(dice)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("ignore", [None, 3])
def test_the_loss_of_regions_is_that_computed_by_hand(example, batch_dice, ignore):
    logits, target = example
    target[0, 0] = 3 if ignore else 0
    objective = Objective(batch_dice=batch_dice, regions=NESTED, ignore=ignore)
    actual = objective.loss(torch.from_numpy(logits[:, :2]), torch.from_numpy(target))
    expected = regions_by_hand(logits[:, :2], target, target != 3, batch_dice=batch_dice)
    assert float(actual) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("regions", [(), NESTED])
@pytest.mark.parametrize("batch_dice", [True, False])
def test_what_the_network_says_of_ignored_voxels_does_not_matter(example, regions, batch_dice):
    logits, target = (torch.from_numpy(part) for part in example)
    logits, target = logits[:, :2] if regions else logits, target.clone()
    target[:, 1] = 3
    objective = Objective(batch_dice=batch_dice, regions=regions, ignore=3)
    logits = logits.clone().requires_grad_()
    loss = objective.loss(logits, target)
    loss.backward()
    assert (logits.grad[:, :, 1] == 0).all()
    assert (logits.grad[:, :, 0] != 0).any()
    other = logits.detach().clone()
    other[:, :, 1] = 7
    assert float(objective.loss(other, target)) == pytest.approx(float(loss.detach()), abs=1e-6)


def test_without_ignored_voxels_an_ignore_label_changes_nothing(example):
    logits, target = (torch.from_numpy(part) for part in example)
    with_label = Objective(batch_dice=False, ignore=3).loss(logits, target)
    assert float(with_label) == pytest.approx(float(Objective(batch_dice=False).loss(logits, target)), abs=1e-6)


@pytest.mark.parametrize("regions", [(), NESTED])
def test_a_batch_without_any_annotated_voxel_has_a_finite_loss_and_no_gradient(regions):
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    loss = Objective(batch_dice=False, regions=regions, ignore=2).loss(logits, torch.full((2, 4, 4), 2))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-1.0)  # Dice of nothing with nothing
    assert (logits.grad == 0).all()


def test_region_masks_overlap():
    target = torch.tensor([[0, 1, 2, 3]])
    assert region_masks(target, NESTED).tolist() == [[[False, True, True, False], [False, False, True, False]]]


def test_overlap_counts_of_regions_leave_ignored_voxels_out():
    target = torch.tensor([[0, 1, 1, 2, 2, 3]])
    whole, inner = [1.0, 1, -1, 1, 1, 1], [-1.0, -1, 1, 1, -1, 1]
    counts = overlap_counts(torch.tensor([[whole, inner]]), target, Objective(False, NESTED, 3))
    # whole: truth 4, predicted 4, common 3; inner: truth 2, predicted 2, common 1.
    assert counts.tolist() == [[3.0, 1.0], [8.0, 4.0]]


def test_overlap_counts_of_classes_leave_ignored_voxels_out():
    target = torch.tensor([[0, 1, 1, 2]])
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 1, 0, 1]]), 2).movedim(-1, 1).float()
    assert overlap_counts(logits, target, Objective(False, ignore=2)).tolist() == [[1.0], [4.0]]


def test_samples_are_tied_by_batch_dice_and_by_an_ignore_label():
    assert Objective(batch_dice=False).is_mean_over_samples
    assert not Objective(batch_dice=True).is_mean_over_samples
    assert not Objective(batch_dice=False, ignore=3).is_mean_over_samples
