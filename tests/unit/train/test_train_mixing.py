"""Augmentation by boxes and by other samples: what it does to known images, in 2D and 3D."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from autoseg.train.augment import Augmented, augment, pack
from autoseg.train.draws import Box, no_draws

PATCHES = [(6, 8), (4, 6, 8), (2, 8, 8)]
CHANNELS = 2


def batch(patch, labels=None):
    """Three samples, whose voxels tell from which they are, and blobs of labels."""
    rng = np.random.default_rng(0)
    images = [(10 * (i + 1) + rng.uniform(size=(CHANNELS, *patch))).astype(np.float32) for i in range(3)]
    if labels is None:
        labels = [rng.integers(0, 3, patch).astype(np.int16) for _ in range(3)]
    return images, labels


def applied(images, labels, patch, ignore=None, masked=(False, False), **changes):
    """`augment`, twice."""
    draws = replace(no_draws(3, CHANNELS, patch), **changes)
    once, again = (augment(pack(images, labels, draws, patch, ()), draws, patch, masked, ignore) for _ in range(2))
    assert torch.equal(once.images, again.images)
    assert torch.equal(once.labels, again.labels)
    return once


def stacked(images, labels):
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)).long()


def box_in(patch):
    return tuple(slice(1, max(2, edge // 2)) for edge in patch)


@pytest.mark.parametrize("patch", PATCHES)
def test_cutout_replaces_a_box_of_a_channel_by_its_mean(patch):
    images, labels = batch(patch)
    place = box_in(patch)
    augmented = applied(images, labels, patch, cut_out=(Box(1, 0, place),))
    expected, label = stacked(images, labels)
    expected[1, 0][place] = expected[1, 0][place].mean()
    assert torch.equal(augmented.images, expected)
    assert torch.equal(augmented.labels, label)


@pytest.mark.parametrize("patch", PATCHES)
def test_cutmix_takes_a_box_and_its_labels_from_the_batch_as_it_was(patch):
    images, labels = batch(patch)
    place = box_in(patch)
    # In a circle: what is taken must not have been replaced before.
    boxes = tuple(Box(i, (i + 1) % 3, place) for i in range(3))
    augmented = applied(images, labels, patch, cut_mixed=boxes)
    before, label = stacked(images, labels)
    expected, expected_label = before.clone(), label.clone()
    for i in range(3):
        expected[(i, slice(None), *place)] = before[((i + 1) % 3, slice(None), *place)]
        expected_label[(i, *place)] = label[((i + 1) % 3, *place)]
    assert torch.equal(augmented.images, expected)
    assert torch.equal(augmented.labels, expected_label)


@pytest.mark.parametrize("patch", PATCHES)
def test_copy_paste_lays_foreground_over_a_sample(patch):
    images, labels = batch(patch)
    augmented = applied(images, labels, patch, pasted_from=np.array([1, 1, 0]))
    before, label = stacked(images, labels)
    for to, source in ((0, 1), (2, 0)):
        foreground = label[source] > 0
        assert torch.equal(augmented.images[to], torch.where(foreground, before[source], before[to]))
        assert torch.equal(augmented.labels[to], torch.where(foreground, label[source], label[to]))
    assert torch.equal(augmented.images[1], before[1])


def test_copy_paste_leaves_what_is_not_annotated_or_outside_where_it_is():
    patch = (2, 4)
    images, _ = batch(patch)
    labels = [np.zeros(patch, np.int16) for _ in range(3)]
    labels[1][:] = [[1, 2, 9, -1], [0, 0, 9, 1]]
    augmented = applied(images, labels, patch, ignore=9, pasted_from=np.array([1, 1, 2]))
    assert augmented.labels[0].tolist() == [[1, 2, 0, 0], [0, 0, 0, 1]]
    taken = augmented.images[0, 0] > 20
    assert taken.tolist() == [[True, True, False, False], [False, False, False, True]]


def test_what_is_pasted_outside_the_mask_is_inside_now():
    patch = (2, 4)
    images, _ = batch(patch)
    labels = [np.full(patch, -1, np.int16), np.zeros(patch, np.int16), np.zeros(patch, np.int16)]
    labels[1][0, :2] = 2
    augmented = applied(images, labels, patch, masked=(True, True), pasted_from=np.array([1, 1, 2]))
    assert (augmented.images[0, 0, 0, :2] > 20).all()
    assert not augmented.images[0, 0, 1].any()
    assert augmented.labels[0].tolist() == [[2, 2, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("patch", PATCHES)
def test_mixup_averages_images_and_keeps_both_labels(patch):
    images, labels = batch(patch)
    augmented = applied(images, labels, patch, mixed_with=np.array([2, 0, 1]), own_share=0.7)
    before, label = stacked(images, labels)
    torch.testing.assert_close(augmented.images, 0.7 * before + 0.3 * before[[2, 0, 1]])
    assert torch.equal(augmented.labels, label)
    assert torch.equal(augmented.other_labels, label[[2, 0, 1]])
    assert augmented.own_share == 0.7


def test_without_mixup_there_are_no_other_labels():
    images, labels = batch((4, 4))
    augmented = applied(images, labels, (4, 4))
    assert augmented.other_labels is None
    assert augmented.own_share == 1


def test_the_parts_of_a_batch_are_its_samples():
    images, labels = batch((4, 4))
    whole = applied(images, labels, (4, 4), mixed_with=np.array([1, 2, 0]), own_share=0.6)
    parts = whole.chunk(3)
    assert len(parts) == 3
    for i, part in enumerate(parts):
        assert torch.equal(part.images, whole.images[i : i + 1])
        assert torch.equal(part.labels, whole.labels[i : i + 1])
        assert torch.equal(part.other_labels, whole.other_labels[i : i + 1])
        assert part.own_share == 0.6
    assert Augmented(whole.images, whole.labels).chunk(3)[0].other_labels is None
