"""The classic transforms as a backend: seeded for each batch, and nobody else's generators touched."""

import random
from dataclasses import replace

import numpy as np
import pytest

from autoseg.artifacts.augmentation import Augmentation
from autoseg.preprocess.store import LoadedCase
from autoseg.train.classic import farthest_edges, seeded, transform
from autoseg.train.draws import draw
from autoseg.train.loading import Batches, BatchRecipe, make_batch
from autoseg.train.sampling import TrainingCase

CLASSIC = Augmentation(backend="batchgenerators")
PATCHES = [(6, 8), (8, 8, 8), (2, 10, 10)]


def case(shape=(14, 16, 15)):
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, *shape)).astype(np.float32)
    label = rng.integers(0, 3, shape).astype(np.int16)
    return TrainingCase("a", LoadedCase(image, label, np.array([[1, 7, 8, 7]], np.int32)))


def recipe(patch, augmentation=CLASSIC):
    return BatchRecipe(
        patch=patch,
        batch_size=2,
        num_channels=2,
        foreground_share=0.33,
        mirror_axes=tuple(range(len(patch))),
        augmentation=augmentation,
        seeds=(1, 0, 0),
    )


@pytest.mark.parametrize("patch", PATCHES)
def test_batches_are_patches_that_the_device_leaves_alone(patch):
    batch = make_batch([case()], recipe(patch), 0)
    for image, label in zip(batch.images, batch.labels, strict=True):
        assert (image.shape, image.dtype) == ((2, *patch), np.float32)
        assert (label.shape, label.dtype) == (patch, np.int16)
        assert set(np.unique(label)) <= {-1, 0, 1, 2}
    assert not batch.draws.moved.any()
    assert not batch.draws.mirrored.any()
    assert not batch.draws.noise


def test_batches_depend_on_their_number_alone():
    batches = Batches([case()], recipe((8, 8, 8)), first=0, num_workers=2)
    try:
        made = [next(batches) for _ in range(3)]
    finally:
        batches.close()
    np.random.seed(3)  # noqa: NPY002 - what others drew must not matter
    random.seed(3)
    for number, batch in enumerate(made):
        again = make_batch([case()], recipe((8, 8, 8)), number)
        for one, other in zip((*batch.images, *batch.labels), (*again.images, *again.labels), strict=True):
            np.testing.assert_array_equal(one, other)
    assert any((one != other).any() for one, other in zip(made[0].images, made[1].images, strict=True))


def test_the_global_generators_are_put_back():
    def following():
        return np.random.random(), random.random()  # noqa: NPY002 - the generators in question

    np.random.seed(5)  # noqa: NPY002 - likewise
    random.seed(5)
    expected = following()
    np.random.seed(5)  # noqa: NPY002 - likewise
    random.seed(5)
    with seeded(1):
        inside = following()
    assert following() == expected
    with seeded(1):
        assert following() == inside


@pytest.mark.parametrize("patch", [(6, 8), (6, 16), (8, 10, 12), (2, 10, 10)])
def test_the_region_holds_the_patch_however_it_is_turned(patch):
    farthest = farthest_edges(CLASSIC, patch)
    always = replace_probabilities(Augmentation(), rotation=1.0, scaling=1.0)
    draws = draw(np.random.default_rng(0), always, 300, 1, patch, ())
    drawn = np.array([draws.source_edges(i, patch) for i in range(300)])
    assert (drawn.max(axis=0) <= farthest).all()
    assert (np.asarray(farthest) <= drawn.max(axis=0) + 6).all()


def replace_probabilities(augmentation, *, rotation, scaling):
    return Augmentation(
        **{
            **{name: getattr(augmentation, name) for name in augmentation.__struct_fields__},
            "rotation_probability": rotation,
            "scaling_probability": scaling,
        }
    )


def test_slices_of_a_flat_patch_are_moved_alike_and_keep_their_place():
    patch = (2, 10, 10)
    rng = np.random.default_rng(0)
    off = dict.fromkeys([name for name in CLASSIC.__struct_fields__ if name.endswith("_probability")], 0.0)
    only_turned = Augmentation(backend="batchgenerators", **{**off, "rotation_probability": 1.0})
    edges = farthest_edges(only_turned, patch)
    assert edges[0] == 2
    plane = rng.standard_normal(edges[1:]).astype(np.float32)
    image = np.stack([plane, plane + 100])[None]
    label = np.stack([np.zeros(edges[1:], np.int16), np.ones(edges[1:], np.int16)])
    (image,), (label,), _ = transform([image], [label], only_turned, patch, (), 4)
    np.testing.assert_allclose(image[0, 1], image[0, 0] + 100, atol=1e-3)
    assert not np.allclose(image[0, 0], plane[2:12, 2:12], atol=0.1)
    assert (label[0] == 0).all()
    assert (label[1] == 1).all()


def test_the_backend_makes_other_images_than_ours_of_the_same_places():
    patch = (8, 8, 8)
    mine, classic = (make_batch([case()], recipe(patch, augmentation), 0) for augmentation in (None, CLASSIC))
    off = dict.fromkeys([name for name in CLASSIC.__struct_fields__ if name.endswith("_probability")], 0.0)
    nothing = make_batch([case()], recipe(patch, Augmentation(backend="batchgenerators", **off)), 0)
    for one, other in zip(mine.images, nothing.images, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert any(not np.allclose(a, b) for a, b in zip(mine.images, classic.images, strict=True))
    assert replace(recipe(patch), augmentation=None).classic is None
