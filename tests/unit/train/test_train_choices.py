"""A contract for every loss, optimizer and schedule that a plan may name: a new name is tested as soon as it exists."""

from typing import get_args

import msgspec
import numpy as np
import pytest
import torch

from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import LOSSES_WITHOUT_ENTROPY, LossName, OptimizerName, ScheduleName, Training
from autoseg.networks.unet import build_network
from autoseg.preprocess.case import foreground_locations
from autoseg.preprocess.store import LoadedCase
from autoseg.train.loading import BatchRecipe, make_batch
from autoseg.train.loop import Course, train_step
from autoseg.train.losses import TERMS, Objective, deep_loss
from autoseg.train.optimizer import OPTIMIZERS, new_optimizer
from autoseg.train.sampling import TrainingCase
from autoseg.train.schedule import SCHEDULES, learning_rate
from autoseg.train.state import TrainState

LOSSES, OPTIMIZER_NAMES, SCHEDULE_NAMES = (get_args(names) for names in (LossName, OptimizerName, ScheduleName))
WITH_ENTROPY = [name for name in LOSSES if name not in LOSSES_WITHOUT_ENTROPY]
NESTED = ((1, 2), (2,))
IGNORE = 3
SMOOTH = 1e-5
SHAPES = [(4, 5), (3, 4, 5)]
every_loss = pytest.mark.parametrize("loss", LOSSES)
either_kind = pytest.mark.parametrize("regions", [(), NESTED], ids=["classes", "regions"])
with_and_without_ignore = pytest.mark.parametrize("ignore", [None, IGNORE], ids=["all", "ignore"])
pooled_or_not = pytest.mark.parametrize("batch_dice", [True, False], ids=["pooled", "apart"])


pytestmark = pytest.mark.usefixtures("one_thread")


def example(shape=(3, 4, 5), *, regions=(), ignore=None, seed=0):
    """Logits of a batch of 2 and a target, whose second sample lacks class 2 and has fewer voxels that count."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, (2, *shape))
    target[1][target[1] == 2] = 0
    if ignore is not None:
        target[0, 0] = ignore
        target[1, :2] = ignore
    outputs = len(regions) or 3
    return rng.standard_normal((2, outputs, *shape)).astype(np.float32) * 2, target


def objective(loss, regions=(), ignore=None, class_weights=(), *, batch_dice=False, **keys):
    return Objective(batch_dice, regions, ignore, Training(loss=loss, **keys), class_weights)


def value(it, logits, target):
    return float(it.loss(torch.as_tensor(logits), torch.as_tensor(target)))


# Each loss in float64, one voxel at a time, from its definition.


def by_hand(it, logits, target):
    recipe = it.recipe
    p, truth = outputs_by_hand(logits.astype(np.float64), target, it.regions)
    entropy = {
        "dice_ce": lambda: np.mean(list_entropies(it, p, truth, target)[0]),
        "ce": lambda: np.mean(list_entropies(it, p, truth, target)[0]),
        "dice_focal": lambda: np.mean(list_entropies(it, p, truth, target, recipe.focal_gamma)[0]),
        "dice_topk": lambda: mean_of_hardest_by_hand(*list_entropies(it, p, truth, target), recipe.topk_share),
        "dice": lambda: 0.0,
        "tversky": lambda: 0.0,
    }[it.recipe.loss]()
    weights = {"ce": None, "tversky": (recipe.tversky_alpha, recipe.tversky_beta)}.get(recipe.loss, (0.5, 0.5))
    return entropy - (overlap_by_hand(it, p, truth, target, *weights) if weights else 0.0)


def outputs_by_hand(logits, target, regions):
    if regions:
        return 1 / (1 + np.exp(-logits)), np.stack([np.isin(target, values) for values in regions], axis=1)
    exp = np.exp(logits)
    return exp / exp.sum(axis=1, keepdims=True), np.stack([target == k for k in range(logits.shape[1])], axis=1)


def list_entropies(it, p, truth, target, gamma=0.0):
    """Of every voxel that counts, and the sample it belongs to."""
    found, samples = [], []
    for b, *zyx in np.ndindex(target.shape):
        if target[(b, *zyx)] == it.ignore:
            continue
        for k in range(p.shape[1]):
            inside, chance = truth[(b, k, *zyx)], p[(b, k, *zyx)]
            if not it.regions and not inside:
                continue
            right = chance if inside else 1 - chance
            weight = it.class_weights[k] if it.class_weights and inside else 1.0
            found.append(weight * (1 - right) ** gamma * -np.log(right))
            samples.append(b)
    return np.array(found), np.array(samples)


def mean_of_hardest_by_hand(found, samples, share):
    kept = []
    for b in range(2):
        mine = sorted(found[samples == b], reverse=True)
        kept += mine[: max(1, round(share * len(mine)))]
    return np.mean(kept)


def overlap_by_hand(it, p, truth, target, alpha, beta):
    counts = target != it.ignore if it.ignore is not None else np.ones_like(target, dtype=bool)
    batches = [slice(None)] if it.batch_dice else [slice(b, b + 1) for b in range(2)]
    found = []
    for batch in batches:
        for k in range(0 if it.regions else 1, p.shape[1]):
            t, guess = truth[batch, k] & counts[batch], p[batch, k] * counts[batch]
            right, wrong, missed = (guess * t).sum(), (guess * ~t).sum(), ((1 - guess) * t).sum()
            # Dice with the smoothing as it is usually written, halved.
            found.append((right + SMOOTH / 2) / (right + alpha * wrong + beta * missed + SMOOTH / 2))
    return np.mean(found)


@every_loss
@either_kind
@with_and_without_ignore
@pooled_or_not
@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_each_loss_is_that_computed_by_hand(loss, regions, ignore, batch_dice, shape):
    logits, target = example(shape, regions=regions, ignore=ignore)
    weights = [(), (0.5, 2.0, 7.0)[: logits.shape[1]]] if loss in WITH_ENTROPY else [()]
    for class_weights in weights:
        it = objective(loss, regions, ignore, class_weights, batch_dice=batch_dice)
        assert value(it, logits, target) == pytest.approx(by_hand(it, logits, target), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "keys", "same"),
    [
        ("dice_focal", {"focal_gamma": 0.0}, "dice_ce"),
        ("dice_topk", {"topk_share": 1.0}, "dice_ce"),
        ("tversky", {"tversky_alpha": 0.5, "tversky_beta": 0.5}, "dice"),
    ],
)
@either_kind
@with_and_without_ignore
def test_at_the_end_of_its_range_a_loss_is_another(loss, keys, same, regions, ignore):
    logits, target = example(regions=regions, ignore=ignore)
    expected = value(objective(same, regions, ignore), logits, target)
    assert value(objective(loss, regions, ignore, **keys), logits, target) == pytest.approx(expected, abs=1e-6)
    assert value(objective(loss, regions, ignore), logits, target) != pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("loss", WITH_ENTROPY)
@either_kind
def test_class_weights_of_one_change_nothing(loss, regions):
    logits, target = example(regions=regions)
    expected = value(objective(loss, regions), logits, target)
    assert value(objective(loss, regions, None, (1.0, 1.0, 1.0)[: logits.shape[1]]), logits, target) == pytest.approx(
        expected, abs=1e-6
    )


@every_loss
@either_kind
@with_and_without_ignore
@pooled_or_not
def test_gradients_flow_through_every_level_of_half_precision_logits(loss, regions, ignore, batch_dice):
    logits, target = example((4, 4, 4), regions=regions, ignore=ignore)
    fine = torch.as_tensor(logits).bfloat16().requires_grad_()
    coarse = torch.as_tensor(logits[:, :, ::2, ::2, ::2]).bfloat16().requires_grad_()
    it = objective(loss, regions, ignore, batch_dice=batch_dice, topk_share=0.5)
    total = deep_loss([fine, coarse], torch.as_tensor(target), [2 / 3, 1 / 3], it)
    assert total.dtype == torch.float32
    total.backward()
    for level in (fine, coarse):
        assert level.grad.isfinite().all()
        assert (level.grad != 0).flatten(1).any(1).all()  # in each sample
    single = it.loss(fine.detach().float(), torch.as_tensor(target))
    assert float(single) == float(it.loss(fine.detach(), torch.as_tensor(target)))


@every_loss
@either_kind
@with_and_without_ignore
@pooled_or_not
def test_the_right_answer_is_the_best_one(loss, regions, ignore, batch_dice):
    logits, target = example(regions=regions, ignore=ignore)
    _, truth = outputs_by_hand(logits, target, regions)
    truth = truth if regions else truth[:, :3]
    right = np.where(truth, 40.0, -40.0).astype(np.float32)
    it = objective(loss, regions, ignore, batch_dice=batch_dice)
    best = 0.0 if loss == "ce" else -1.0
    assert value(it, right, target) == pytest.approx(best, abs=1e-4)
    half = np.where(np.arange(5) < 3, right, -right)
    wrong = -right
    assert value(it, right, target) < value(it, half, target) < value(it, wrong, target)


@every_loss
@either_kind
@pooled_or_not
def test_what_is_said_of_ignored_voxels_does_not_matter(loss, regions, batch_dice):
    logits, target = example(regions=regions, ignore=IGNORE)
    unknown = np.broadcast_to((target == IGNORE)[:, None], logits.shape).copy()
    weights = (2.0, 3.0, 4.0)[: logits.shape[1]] if loss in WITH_ENTROPY else ()
    it = objective(loss, regions, IGNORE, weights, batch_dice=batch_dice, topk_share=0.5)
    tensor = torch.as_tensor(logits).requires_grad_()
    it.loss(tensor, torch.as_tensor(target)).backward()
    assert (tensor.grad[torch.as_tensor(unknown)] == 0).all()
    for other in (50.0, -50.0):
        assert value(it, np.where(unknown, other, logits), target) == value(it, logits, target)


@every_loss
@either_kind
def test_a_batch_without_any_known_voxel_has_a_finite_loss_and_no_gradient(loss, regions):
    tensor = torch.randn(2, len(regions) or 3, 4, 4, requires_grad=True)
    it = objective(loss, regions, IGNORE)
    total = it.loss(tensor, torch.full((2, 4, 4), IGNORE))
    total.backward()
    assert float(total.detach()) == pytest.approx(0.0 if loss == "ce" else -1.0)
    assert (tensor.grad == 0).all()


@every_loss
@either_kind
@with_and_without_ignore
@pooled_or_not
def test_the_loss_of_a_batch_is_the_mean_over_samples_where_it_says_so(loss, regions, ignore, batch_dice):
    logits, target = example(regions=regions, ignore=ignore)
    it = objective(loss, regions, ignore, batch_dice=batch_dice)
    singles = [value(it, logits[b : b + 1], target[b : b + 1]) for b in range(2)]
    is_mean = value(it, logits, target) == pytest.approx(np.mean(singles), abs=1e-6)
    assert it.is_mean_over_samples == is_mean


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@either_kind
def test_certainty_leaves_the_focal_loss_finite(gamma, regions):
    _, target = example(regions=regions)
    _, truth = outputs_by_hand(np.zeros((2, 3, 3, 4, 5)), target, regions)
    for sign in (1, -1):
        logits = torch.as_tensor(np.where(truth, 90.0, -90.0).astype(np.float32) * sign).requires_grad_()
        total = objective("dice_focal", regions, focal_gamma=gamma).loss(logits, torch.as_tensor(target))
        total.backward()
        assert total.isfinite()
        assert logits.grad.isfinite().all()


def test_the_hardest_voxels_of_each_sample_count():
    # Ten voxels a sample, of which 20 % count: two. Class 1 is true everywhere.
    doubts = torch.tensor([[5.0, 1, 4, 0, 0, 0, 0, 0, 0, 0], [9.0, 8, 7, 6, 0, 0, 0, 0, 0, 0]])
    logits = torch.stack((torch.zeros(2, 10), -doubts), dim=1)
    entropies = torch.log(1 + torch.exp(doubts))
    it = objective("dice_topk", topk_share=0.2)
    dice = value(objective("dice"), logits, torch.ones(2, 10, dtype=torch.int64))
    expected = float((entropies[0, 0] + entropies[0, 2] + entropies[1, 0] + entropies[1, 1]) / 4)
    assert value(it, logits, torch.ones(2, 10, dtype=torch.int64)) == pytest.approx(expected + dice, abs=1e-6)


def test_beta_above_alpha_makes_what_is_missed_the_dearer():
    target = np.zeros((1, 8, 8), np.int64)
    target[0, 2:6, 2:6] = 1
    answers = []
    for low, high in ((3, 6), (1, 6)):  # 9 of the 16 voxels, and 25 voxels that hold them all
        guess = np.full((1, 2, 8, 8), 0.0, np.float32)
        guess[0, 1] = -40
        guess[0, 1, low:high, low:high] = 40
        answers.append(guess)
    small, large = answers
    for (alpha, beta), large_is_better in {(0.3, 0.7): True, (0.9, 0.1): False}.items():
        it = objective("tversky", tversky_alpha=alpha, tversky_beta=beta)
        assert (value(it, large, target) < value(it, small, target)) == large_is_better


# A few steps of each on a small phantom.


@pytest.fixture
def cases(phantom):
    made = []
    for seed in range(2):
        image, label = phantom((10, 12, 12), seed)
        label[label == 1] = np.where(np.arange((label == 1).sum()) % 2, 1, 2)
        places = foreground_locations(label, str(seed), {"one": 1, "two": 2})
        made.append(TrainingCase(str(seed), LoadedCase(image + (label == 2)[None], label, places)))
    return made


def losses_of_a_few_steps(configuration, cases, recipe, regions=(), class_weights=(), steps=8):
    torch.manual_seed(0)
    network = build_network(configuration, 1, len(regions) or 3)
    state = TrainState(network, new_optimizer(network, recipe), torch.amp.GradScaler("cpu", enabled=False))
    it = Objective(configuration.batch_dice, regions, None, recipe, class_weights)
    style = StepStyle(precision="float32", sample_by_sample=it.is_mean_over_samples)
    course = Course(configuration, it, recipe, torch.device("cpu"), style, print, print, print)
    batch = make_batch(cases, BatchRecipe(configuration.patch_size, 2, 1, 1.0, (), None, (0, 0, 0)), 0)
    losses = []
    for step in range(steps):
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step / steps, steps)
        losses.append(train_step(state, batch, course))
    return losses


QUICK = Training(initial_learning_rate=0.05, momentum=0.8)


@every_loss
@either_kind
def test_a_few_steps_lower_each_loss(build_configuration, cases, loss, regions):
    recipe = msgspec.structs.replace(QUICK, loss=loss)
    weights = (1.0, 2.0, 3.0)[: len(regions) or 3] if loss in WITH_ENTROPY else ()
    losses = losses_of_a_few_steps(build_configuration(), cases, recipe, regions, weights, steps=20)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-2:]) < np.mean(losses[:2]) - 0.05


@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
@pytest.mark.parametrize("schedule", SCHEDULE_NAMES)
@pytest.mark.parametrize("warmup_share", [0.0, 0.3])
def test_a_few_steps_lower_the_loss_with_each_optimizer_and_schedule(
    build_configuration, cases, optimizer, schedule, warmup_share
):
    rate = {"sgd": 0.05, "adamw": 0.01}[optimizer]
    recipe = msgspec.structs.replace(
        QUICK, optimizer=optimizer, schedule=schedule, warmup_share=warmup_share, initial_learning_rate=rate
    )
    losses = losses_of_a_few_steps(build_configuration((8, 8), ((1, 1), (2, 2))), cases, recipe, steps=10)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-2:]) < np.mean(losses[:2]) - 0.05


def test_every_name_has_its_row():
    assert set(TERMS) == set(LOSSES)
    assert set(OPTIMIZERS) == set(OPTIMIZER_NAMES)
    assert set(SCHEDULES) == set(SCHEDULE_NAMES)
    assert {name for name, terms in TERMS.items() if terms.entropy is None} == set(LOSSES_WITHOUT_ENTROPY)
