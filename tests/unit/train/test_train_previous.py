"""What the first stage of a cascade predicted, on its way into the second one's input."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion

from autoseg.artifacts.augmentation import Augmentation
from autoseg.preprocess.case import foreground_locations
from autoseg.preprocess.store import LoadedCase
from autoseg.train.augment import augment, pack
from autoseg.train.draws import MORPHOLOGY, MapChange, draw_map_changes
from autoseg.train.loading import BatchRecipe, make_batch
from autoseg.train.previous import change_map, grown, one_hot, shrunk
from autoseg.train.sampling import TrainingCase

PATCH = (10, 12, 8)
LABELS = {"background": 0, "one": 1, "two": 2}
EVERYTHING = Augmentation(rotation_probability=1.0, scaling_probability=1.0, noise_probability=1.0)
UNCHANGED = {"previous_morphology_probability": 0.0, "previous_removal_probability": 0.0}


@pytest.fixture
def cases():
    """Two cases whose predicted map is their label map."""
    made = []
    for seed, shape in enumerate([(14, 16, 12), (8, 20, 20)]):
        rng = np.random.default_rng(seed)
        label = rng.integers(0, 3, (*(edge // 4 for edge in shape),)).astype(np.int16).repeat(4, 0)
        label = label.repeat(4, 1).repeat(4, 2)[: shape[0], : shape[1], : shape[2]]
        label = np.pad(label, [(0, n - m) for n, m in zip(shape, label.shape, strict=True)])
        image = rng.standard_normal((1, *shape)).astype(np.float32)
        arrays = LoadedCase(image, label, foreground_locations(label, str(seed), LABELS))
        made.append(TrainingCase(str(seed), arrays, label))
    return made


def recipe(augmentation=None, patch=PATCH, **changes):
    fields = {"batch_size": 4, "num_channels": 1, "foreground_share": 0.33, "mirror_axes": (0, 1, 2)}
    fields |= {"seeds": (1, 2, 3), "num_previous": 2} | changes
    return BatchRecipe(patch=patch, augmentation=augmentation, **fields)


def augmented(batch, patch=PATCH):
    regions = pack(
        batch.images,
        batch.labels,
        batch.draws,
        patch,
        batch.moved_values,
        batch.previous,
        num_previous=batch.num_previous,
    )
    return augment(regions, batch.draws, patch, (False,))


@pytest.mark.parametrize("radius", [1, 2, 5])
@pytest.mark.parametrize("shape", [(9, 14, 11), (17, 12)])
def test_growing_and_shrinking_by_a_ball(shape, radius):
    mask = np.random.default_rng(radius).random(shape) < 0.03
    mask[(slice(2, 8),) * mask.ndim] = True
    offsets = np.indices((2 * radius + 1,) * mask.ndim) - radius
    ball = (offsets**2).sum(axis=0) <= radius**2
    np.testing.assert_array_equal(grown(mask, radius), binary_dilation(mask, ball))
    np.testing.assert_array_equal(shrunk(mask, radius), binary_erosion(mask, ball, border_value=1))


def test_a_label_grows_over_others_and_shrinks_to_background():
    before = np.zeros((1, 9), np.int16)
    before[0, 2:6], before[0, 6:8] = 1, 2
    grow = change_map(before, [MapChange(1, "grow", 1)], 100)
    assert grow.tolist() == [[0, 1, 1, 1, 1, 1, 1, 2, 0]]
    shrink = change_map(before, [MapChange(1, "shrink", 1)], 100)
    assert shrink.tolist() == [[0, 0, 0, 1, 1, 0, 2, 2, 0]]
    opened = change_map(before, [MapChange(2, "open", 2)], 100)
    assert opened.tolist() == [[0, 0, 1, 1, 1, 1, 0, 0, 0]]
    assert before[0, 2] == 1  # the caller's array is as it was
    both = change_map(before, [MapChange(1, "grow", 1), MapChange(2, "close", 1)], 100)
    assert both.tolist() == [[0, 1, 1, 1, 1, 1, 1, 2, 2]]


def test_a_small_component_is_taken_away():
    before = np.zeros((6, 20), np.int16)
    before[:, :8], before[1:3, 10:12], before[4, 15] = 1, 1, 1
    before[0, 19] = 2
    taken = [change_map(before, [MapChange(1, "remove", pick)], 40) for pick in (0.0, 0.49, 0.5, 0.99)]
    assert [(before - after).sum() for after in taken] == [4, 4, 1, 1]
    assert all((after[:, :8] == 1).all() and after[0, 19] == 2 for after in taken)
    np.testing.assert_array_equal(change_map(before, [MapChange(1, "remove", 0.5)], 1), before)
    np.testing.assert_array_equal(change_map(before, [MapChange(3, "remove", 0.5)], 40), before)


def test_what_is_drawn_and_how_often():
    rng = np.random.default_rng(0)
    changes = draw_map_changes(rng, Augmentation(), 20_000, 3)
    grown = [c for each in changes.values() for c in each if c.operation != "remove"]
    removed = [c for each in changes.values() for c in each if c.operation == "remove"]
    assert len(grown) / 60_000 == pytest.approx(0.4 * 0.5, abs=0.01)
    assert len(removed) / 60_000 == pytest.approx(0.2 * 0.5, abs=0.01)
    assert {c.value for c in grown} == {c.value for c in removed} == {1, 2, 3}
    assert {c.operation for c in grown} == set(MORPHOLOGY)
    assert {c.amount for c in grown} == set(range(1, 9))
    assert all(0 <= c.amount < 1 for c in removed)
    firsts = [each[0].value for each in changes.values() if len({c.value for c in each}) == 3]
    assert np.bincount(firsts, minlength=4)[1:].min() > len(firsts) / 4  # in any order
    assert not draw_map_changes(rng, msgspec.structs.replace(Augmentation(), **UNCHANGED), 100, 3)


def test_channels_of_a_map():
    channels = one_hot(torch.tensor([[[0, 1], [2, -1]]], dtype=torch.int16), 2, torch.float32)
    assert channels.tolist() == [[[[0, 1], [0, 0]], [[0, 0], [1, 0]]]]


@pytest.mark.parametrize("patch", [PATCH, (12, 8)])
@pytest.mark.parametrize("backend", ["tensor", "batchgenerators"])
def test_a_map_moves_with_the_label(cases, backend, patch):
    """The map is the label map, so that it has to be that after whatever moves both."""
    augmentation = Augmentation(backend=backend, rotation_probability=1.0, scaling_probability=1.0, **UNCHANGED)
    axes = tuple(range(len(patch)))
    batch = make_batch(cases, recipe(augmentation, patch, batch_size=8, mirror_axes=axes), 0)
    made = augmented(batch, patch)
    assert made.images.shape == (8, 3, *patch)
    expected = one_hot(made.labels.to(torch.int16), 2, torch.float32)
    assert expected.sum() > 0
    np.testing.assert_array_equal(made.images[:, 1:].numpy(), expected.numpy())


def test_a_map_is_mixed_as_the_label(cases):
    mixing = {"copy_paste_probability": 0.7, "cutmix_probability": 0.7}
    made = augmented(make_batch(cases, recipe(Augmentation(**mixing, **UNCHANGED), batch_size=8), 3))
    expected = one_hot(made.labels.to(torch.int16), 2, torch.float32)
    np.testing.assert_array_equal(made.images[:, 1:].numpy(), expected.numpy())
    mixed = augmented(make_batch(cases, recipe(Augmentation(mixup_probability=1.0, **UNCHANGED), batch_size=8), 3))
    own = one_hot(mixed.labels.to(torch.int16), 2, torch.float32)
    other = one_hot(mixed.other_labels.to(torch.int16), 2, torch.float32)
    np.testing.assert_allclose(mixed.images[:, 1:], other.lerp(own, mixed.own_share), atol=1e-6)


def test_a_map_is_changed_in_training_alone_and_the_same_way_each_time(cases):
    often = Augmentation(previous_morphology_probability=1.0, previous_removal_probability=1.0)
    batch, again = (make_batch(cases, recipe(often), 5) for _ in range(2))
    assert batch.draws.map_changes
    assert batch.draws.map_changes == again.draws.map_changes
    for one, other in zip(batch.previous, again.previous, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any((one != label).any() for one, label in zip(batch.previous, batch.labels, strict=True))
    validation = make_batch(cases, recipe(), 5)
    for one, label in zip(validation.previous, validation.labels, strict=True):
        np.testing.assert_array_equal(one, label)


def test_without_a_cascade_nothing_is_drawn_for_it(cases):
    """Batches of other configurations are as they were."""
    alone = [replace(case, previous_zyx=None) for case in cases]
    batch = make_batch(alone, recipe(EVERYTHING, num_previous=0), 1)
    assert not batch.previous
    assert not batch.draws.map_changes
    never = msgspec.structs.replace(EVERYTHING, previous_morphology_probability=1.0)
    same = make_batch(alone, recipe(never, num_previous=0), 1)
    for one, other in zip(batch.images, same.images, strict=True):
        np.testing.assert_array_equal(one, other)


def test_shares_of_a_batch_hold_their_own_maps(cases):
    whole = make_batch(cases, recipe(EVERYTHING, batch_size=6), 2)
    part = make_batch(cases, recipe(EVERYTHING, batch_size=6, share=range(2, 5)), 2)
    for one, other in zip(part.previous, whole.previous[2:5], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(augmented(part).images[:, 1:], augmented(whole).images[2:5, 1:])
