"""Batches: the same whoever makes them."""

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.plan import Augmentation
from autoseg.artifacts.preprocessed import Placement, PreprocessedCase
from autoseg.errors import ArtifactError, AutosegError
from autoseg.layout import Workspace
from autoseg.preprocess.case import foreground_locations
from autoseg.preprocess.store import LoadedCase, open_case, write_case
from autoseg.train.augment import augment, pack
from autoseg.train.loading import Batches, BatchRecipe, make_batch
from autoseg.train.sampling import TrainingCase, weigh_rare_classes


@pytest.fixture
def cases(phantom):
    made = []
    for seed, shape in enumerate([(10, 12, 9), (6, 14, 12), (12, 12, 12)]):
        image, label = phantom(shape, seed)
        name = f"case_{seed}"
        made.append(TrainingCase(name, LoadedCase(image, label, foreground_locations(label, name, {"blob": 1}))))
    return made


NOWHERE = np.empty((0, 4), np.int32)
RECIPE = BatchRecipe(
    patch=(8, 8, 8),
    batch_size=3,
    num_channels=1,
    foreground_share=0.33,
    mirror_axes=(0, 1, 2),
    augmentation=Augmentation(),
    seeds=(7, 0, 0),
)
PLAIN = replace(RECIPE, augmentation=None)


def assert_equal(one, other):
    assert one.cases == other.cases
    for mine, its in ((one.images, other.images), (one.labels, other.labels)):
        for a, b in zip(mine, its, strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.draws.matrices, other.draws.matrices)
    np.testing.assert_array_equal(one.draws.mirrored, other.draws.mirrored)
    np.testing.assert_array_equal(one.draws.gamma, other.draws.gamma)
    assert one.draws.noise.keys() == other.draws.noise.keys()
    for sample, noise in one.draws.noise.items():
        np.testing.assert_array_equal(noise, other.draws.noise[sample])


def differs(one, other):
    return any(a.shape != b.shape or (a != b).any() for a, b in zip(one.images, other.images, strict=True))


def test_batches_do_not_depend_on_the_number_of_workers(cases):
    alone, shared = (Batches(cases, RECIPE, first=0, num_workers=n) for n in (0, 2))
    try:
        for number in range(4):
            here, there = next(alone), next(shared)
            assert_equal(here, there)
            assert_equal(here, make_batch(cases, RECIPE, number))
    finally:
        alone.close()
        shared.close()


def test_a_run_that_starts_later_goes_on_with_the_same_batches(cases):
    batches = Batches(cases, RECIPE, first=5, num_workers=0)
    assert_equal(next(batches), make_batch(cases, RECIPE, 5))
    assert_equal(next(batches), make_batch(cases, RECIPE, 6))


def test_batches_of_other_numbers_seeds_and_folds_differ(cases):
    batch = make_batch(cases, PLAIN, 0)
    assert differs(batch, make_batch(cases, PLAIN, 1))
    assert differs(batch, make_batch(cases, replace(PLAIN, seeds=(8, 0, 0)), 0))
    assert differs(batch, make_batch(cases, replace(PLAIN, seeds=(7, 1, 0)), 0))
    assert differs(batch, make_batch(cases, replace(PLAIN, seeds=(7, 0, 1)), 0))


def test_the_forced_samples_hold_foreground_and_every_case_gets_its_turn(cases):
    # One voxel of foreground: a patch elsewhere would nearly always miss it.
    label = np.zeros((40, 40, 40), np.int16)
    label[33, 5, 21] = 3
    lonely = TrainingCase(
        "lonely", LoadedCase(np.zeros((1, 40, 40, 40), np.float32), label, np.array([[3, 33, 5, 21]], np.int32))
    )
    batches = [make_batch([lonely], replace(PLAIN, batch_size=12), number) for number in range(5)]
    for batch in batches:
        assert all(3 in sample for sample in batch.labels[8:])
    assert sum(3 in sample for batch in batches for sample in batch.labels[:8]) < 8
    names = {name for number in range(10) for name in make_batch(cases, PLAIN, number).cases}
    assert names == {"case_0", "case_1", "case_2"}


@pytest.mark.parametrize(("strength", "seen"), [(None, 0.025), (0.0, 0.025), (0.5, 0.156), (1.0, 0.488)])
def test_how_often_a_lesion_of_five_voxels_in_one_of_twenty_cases_is_seen(strength, seen):
    """Of the patches that are centred on foreground; the rest of a batch is cut from all cases alike."""
    cases = []
    for number in range(20):
        label = np.zeros((24, 24, 24), np.int16)
        label[3:12, 3:12, 3:12] = 1
        if number == 7:
            label[20, 20, 16:21] = 2  # too far from the organ to be in its patches
        places = foreground_locations(label, str(number), {"organ": 1, "lesion": 2})
        cases.append(TrainingCase(str(number), LoadedCase(np.zeros((1, 24, 24, 24), np.float32), label, places)))
    presence = np.array([[True, number == 7] for number in range(20)])
    rare = None if strength is None else weigh_rare_classes(presence, strength)
    recipe = replace(PLAIN, patch=(6, 6, 6), batch_size=300, foreground_share=2 / 3, rare=rare)
    batches = [make_batch(cases, recipe, number) for number in range(10)]
    forced = np.mean([(label == 2).any() for batch in batches for label in batch.labels[100:]])
    assert abs(forced - seen) <= 4 * (seen * (1 - seen) / 2000) ** 0.5
    of_the_case = np.mean([name == "7" for batch in batches for name in batch.cases[:100]])
    assert abs(of_the_case - 0.05) <= 4 * (0.05 * 0.95 / 1000) ** 0.5


def test_a_patch_is_what_lies_in_the_case(cases):
    # Each voxel of the image tells where it is.
    z, y, x = np.indices((10, 11, 12))
    image = (10_000 * z + 100 * y + x).astype(np.float32)[None]
    case = TrainingCase("a", LoadedCase(image, (image[0] % 7).astype(np.int16), NOWHERE))
    batch = make_batch([case], replace(PLAIN, patch=(4, 4, 4)), 3)
    for patch, label in zip(batch.images, batch.labels, strict=True):
        corner = int(patch[0, 0, 0, 0])
        at = (corner // 10_000, corner // 100 % 100, corner % 100)
        box = tuple(slice(a, a + 4) for a in at)
        np.testing.assert_array_equal(patch, image[(slice(None), *box)])
        np.testing.assert_array_equal(label, case.label_zyx[box])


def test_a_moved_sample_reads_more_around_the_same_centre():
    z, y, x = np.indices((40, 40, 40))
    image = np.stack((z, y, x)).astype(np.float32)
    case = TrainingCase("a", LoadedCase(image, np.ones((40, 40, 40), np.int16), np.array([[1, 20, 18, 22]], np.int32)))
    recipe = replace(
        RECIPE,
        patch=(8, 8, 8),
        foreground_share=1.0,
        augmentation=Augmentation(rotation_probability=1.0, scaling_probability=1.0, scaling=(1.2, 1.4)),
    )
    batch = make_batch([case], recipe, 0)
    for i, (region, label) in enumerate(zip(batch.images, batch.labels, strict=True)):
        edges = batch.draws.source_edges(i, recipe.patch)
        assert region.shape[1:] == label.shape == edges
        assert max(edges) > 8
        # A patch of 8 centred on voxel v covers v - 4 to v + 3: its centre is v - 0.5.
        centre = region.reshape(3, -1).mean(axis=1)
        np.testing.assert_allclose(centre, [19.5, 17.5, 21.5])


def test_outside_the_case_is_zero_with_the_label_outside():
    case = TrainingCase("a", LoadedCase(np.ones((1, 4, 20, 20), np.float32), np.zeros((4, 20, 20), np.int16), NOWHERE))
    batch = make_batch([case], PLAIN, 0)
    for image, label in zip(batch.images, batch.labels, strict=True):
        assert (image[0, 2:6] == 1).all()
        assert (label[2:6] == 0).all()
        for margin in (slice(0, 2), slice(6, 8)):
            assert not image[0, margin].any()
            assert (label[margin] == -1).all()


def test_in_2d_patches_are_slices(cases):
    batch = make_batch(cases, replace(PLAIN, patch=(8, 8)), 0)
    assert [image.shape for image in batch.images] == [(1, 8, 8)] * 3
    assert [label.shape for label in batch.labels] == [(8, 8)] * 3
    assert batch.draws.matrices.shape == (3, 2, 2)


def test_cases_on_disk_give_the_same_batches(cases, tmp_path):
    stored = []
    for case in cases:
        shape = case.label_zyx.shape
        placement = Placement(
            geometry=Geometry(shape=shape, spacing_mm=(1.0, 1.0, 1.0)),
            crop_start=(0, 0, 0),
            crop_stop=shape,
            shape=shape,
        )
        record = PreprocessedCase(
            name=case.name,
            inputs_sha256="",
            arrays_sha256="",
            placement=placement,
            num_channels=1,
            foreground_voxels={},
        )
        files = Workspace(tmp_path).case("3d_fullres", case.name)
        write_case(files, case.image_czyx, case.label_zyx, case.locations, record, (8, 8, 8))
        stored.append(TrainingCase(case.name, open_case(files)))
    for number in range(5):
        assert_equal(make_batch(cases, RECIPE, number), make_batch(stored, RECIPE, number))


class Breaking:
    """An image that can't be read: `how` says what happens."""

    shape = (1, 12, 12, 12)

    def __init__(self, how):
        self.how = how

    def __getitem__(self, key):
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ArtifactError("a preprocessed case can't be read", where="case_0.image.b2nd")


def next_of_broken(how, num_workers):
    case = TrainingCase("case_0", LoadedCase(Breaking(how), np.zeros((12, 12, 12), np.int16), NOWHERE))
    batches = Batches([case], PLAIN, first=0, num_workers=num_workers)
    try:
        return next(batches)
    finally:
        batches.close()


# batchgenerators' own thread ends with an exception too.
ITS_THREAD = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def test_a_case_that_can_not_be_read_is_explained():
    with pytest.raises(ArtifactError, match="can't be read") as caught:
        next_of_broken("damaged", 0)
    assert caught.value.where == "case_0.image.b2nd"


@ITS_THREAD
@pytest.mark.parametrize("how", ["damaged", "killed"])
def test_a_worker_that_ends_ends_the_run_within_seconds(how):
    start = time.monotonic()
    with pytest.raises(AutosegError):
        next_of_broken(how, 2)
    assert time.monotonic() - start < 20


def augmented(batch, recipe):
    regions = pack(batch.images, batch.labels, batch.draws, recipe.patch, batch.moved_values)
    made = augment(regions, batch.draws, recipe.patch, (False,), None)
    return made if batch.kept is None else made.of(batch.kept)


@pytest.mark.parametrize(
    "augmentation",
    [
        None,
        Augmentation(),
        Augmentation(strong=True, elastic_probability=1.0, cutout_probability=1.0),
        Augmentation(mixup_probability=1.0),
        Augmentation(cutmix_probability=1.0, copy_paste_probability=1.0),
        Augmentation(backend="batchgenerators"),
    ],
    ids=["none", "default", "strong", "mixup", "cutmix and copy-paste", "batchgenerators"],
)
@pytest.mark.parametrize(("patch", "axes"), [((8, 8, 8), (0, 1, 2)), ((8, 8), (0, 1))], ids=["3d", "2d"])
def test_shares_of_a_batch_are_its_parts(cases, patch, axes, augmentation):
    recipe = replace(RECIPE, patch=patch, mirror_axes=axes, augmentation=augmentation)
    for number in range(3):
        whole = augmented(make_batch(cases, recipe, number), recipe)
        for share in (range(1), range(1, 3)):
            batch = make_batch(cases, replace(recipe, share=share), number)
            part, expected = augmented(batch, recipe), whole.of(share)
            torch.testing.assert_close(part.images, expected.images)
            assert torch.equal(part.labels, expected.labels)
            assert part.own_share == expected.own_share
            assert (part.other_labels is None) == (expected.other_labels is None)
            assert part.other_labels is None or torch.equal(part.other_labels, expected.other_labels)
            # The others are read where they are mixed in, and only there.
            assert len(batch.images) == (len(share) if batch.kept is None else recipe.batch_size)
