"""The chain on cases small enough to see through."""

import numpy as np
import pytest
from msgspec.structs import replace

from autoseg.artifacts.fingerprint import IntensityStatistics
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.plan import Configuration, Plan, Resampling
from autoseg.artifacts.preprocessed import Placement
from autoseg.images.image import Image, LabelMap
from autoseg.transforms import chain
from autoseg.transforms.chain import (
    forward,
    next_stage_map,
    probability_slabs,
    restore_labels,
    restore_probabilities,
)
from autoseg.transforms.resample import resize

CT = IntensityStatistics(mean=90, median=95, std=50, min=-500, max=900, percentile_00_5=-60, percentile_99_5=220)


@pytest.fixture
def configuration():
    return Configuration(
        spacing=(1.0, 1.0, 1.0),
        median_image_size_in_voxels=(4.0, 4.0, 4.0),
        patch_size=(4, 4, 4),
        batch_size=2,
        strides=((1, 1, 1), (2, 2, 2)),
        kernel_sizes=((3, 3, 3), (3, 3, 3)),
        features_per_stage=(32, 64),
        n_stages=2,
        n_conv_per_stage=(2, 2),
        n_conv_per_stage_decoder=(2,),
        batch_dice=False,
        normalization_schemes=("zscore", "ct"),
        use_mask_for_norm=(True, False),
        mirror_axes=(),
        resampling=Resampling(),
        memory_proxy=0.0,
    )


@pytest.fixture
def plan(configuration):
    return Plan(
        inputs_sha256="",
        gpu_memory_gb=8,
        channel_names=("MR", "CT"),
        labels={"background": 0, "b": 2, "a": 1},
        transpose_forward=(2, 0, 1),
        transpose_backward=(1, 2, 0),
        original_median_spacing=(1.0, 1.0, 1.0),
        original_median_shape=(4.0, 4.0, 4.0),
        intensities=(CT, CT),
        configurations={"3d_fullres": configuration},
    )


@pytest.fixture
def case():
    geometry = Geometry(shape=(4, 5, 6), spacing_mm=(1.0, 1.0, 1.0))
    array = np.zeros((2, 4, 5, 6), np.float32)
    array[0, 1:4, 1:4, 2:5] = np.arange(27).reshape(3, 3, 3) + 1
    array[0, 1, 1, 2] = 0
    label = np.zeros((4, 5, 6), np.uint8)
    label[2, 2, 3] = 2
    return Image(array, geometry), LabelMap(label, geometry)


def test_background_outside_the_mask_is_marked(plan, configuration, case):
    prepared = forward(*case, plan, configuration)
    assert prepared.placement.crop_start == (1, 1, 2)
    assert prepared.placement.crop_stop == (4, 4, 5)
    expected = np.zeros((3, 3, 3), np.int16)
    expected[0, 0, 0] = -1
    expected[1, 1, 1] = 2
    np.testing.assert_array_equal(prepared.label_zyx, expected.transpose(2, 0, 1))


def test_labelled_voxels_count_as_inside(plan, configuration, case):
    image, label = case
    label.array_zyx[1, 1, 2] = 1
    prepared = forward(image, label, plan, configuration)
    assert abs(prepared.image_czyx[0].mean()) < 1e-6
    assert abs(prepared.image_czyx[0].std() - 1) < 1e-6


def test_normalization_happens_inside_the_mask(plan, configuration, case):
    image, _ = case
    before = image.array_czyx.copy()
    prepared = forward(image, None, plan, configuration)
    np.testing.assert_array_equal(image.array_czyx, before)
    assert prepared.label_zyx is None
    assert prepared.image_czyx.dtype == np.float32
    assert prepared.image_czyx[0, 0, 0, 0] == 0
    inside = np.delete(prepared.image_czyx[0].ravel(), 0)
    assert abs(inside.mean()) < 1e-6
    assert abs(inside.std() - 1) < 1e-6
    np.testing.assert_allclose(prepared.image_czyx[1], (0 - 90) / 50, rtol=1e-6)


@pytest.mark.parametrize("regions", [False, True])
def test_the_map_for_the_next_stage_goes_straight_to_its_grid(plan, configuration, case, regions):
    if regions:
        plan = replace(plan, labels={"background": 0, "both": (1, 2), "core": (2,)}, regions_class_order=(1, 2))
    low = replace(configuration, spacing=(1.5, 1.5, 2.0))
    image, label = case
    placement = forward(image, label, plan, configuration).placement
    shape = forward(image, label, plan, low).placement.shape
    assert (placement.shape, shape) == ((3, 3, 3), (2, 2, 2))
    logits = np.random.default_rng(0).standard_normal((plan.num_classes, *shape)).astype(np.float32)
    made = next_stage_map(logits, plan, low, configuration, placement)
    assert made.dtype == np.uint8
    there = resize(logits, placement.shape, 1, 0, None)
    expected = np.where(there[1] > 0, 2, there[0] > 0) if regions else there.argmax(axis=0)
    np.testing.assert_array_equal(made, expected)


def test_slices_of_2d_are_not_resampled(plan, configuration, case):
    flat = replace(
        configuration,
        spacing=(0.5, 0.25),
        patch_size=(4, 4),
        median_image_size_in_voxels=(4.0, 4.0),
        strides=((1, 1), (2, 2)),
        kernel_sizes=((3, 3), (3, 3)),
    )
    prepared = forward(*case, plan, flat)
    assert prepared.placement.shape == (3, 6, 12)
    logits = np.zeros((3, 3, 6, 12), np.float32)
    logits[1] = 1
    restored = restore_labels(logits, prepared.placement, plan, flat)
    assert restored.shape == (4, 5, 6)
    assert (restored[1:4, 1:4, 2:5] == 1).all()
    assert restored.sum() == 27


def test_many_slabs_give_the_same(plan, configuration, case, monkeypatch):
    image, label = case
    fine = replace(configuration, spacing=(0.3, 0.4, 0.45))
    placement = forward(image, label, plan, fine).placement
    logits = np.random.default_rng(1).standard_normal((3, *placement.shape)).astype(np.float16)
    labels = restore_labels(logits, placement, plan, fine)
    probabilities = restore_probabilities(logits, placement, plan, fine)
    monkeypatch.setattr(chain, "SLAB_BYTES", 1)
    np.testing.assert_array_equal(restore_labels(logits, placement, plan, fine), labels)
    np.testing.assert_allclose(restore_probabilities(logits, placement, plan, fine), probabilities, atol=1e-3)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_slabs_of_probabilities_are_the_whole(plan, configuration, case, monkeypatch, order):
    turned = replace(plan, transpose_forward=order, transpose_backward=tuple(int(axis) for axis in np.argsort(order)))
    placement = forward(*case, turned, configuration).placement
    logits = np.random.default_rng(1).standard_normal((3, *placement.shape), dtype=np.float32)
    whole = restore_probabilities(logits, placement, turned, configuration)
    monkeypatch.setattr(chain, "SLAB_BYTES", 1)
    slabs = np.zeros(whole.shape, np.float32)
    slabs[0] = 1  # the background outside the crop
    for place, block in probability_slabs(logits, placement, turned, configuration):
        slabs[(slice(None), *place)] = block
    np.testing.assert_allclose(slabs, whole, atol=1e-3)


def test_many_labels_need_two_bytes(plan, configuration, case):
    many = replace(plan, labels={"background": 0} | {f"l{value}": value for value in range(1, 300)})
    placement = forward(*case, many, configuration).placement
    logits = np.zeros((300, *placement.shape), np.float16)
    logits[299] = 1
    labels = restore_labels(logits, placement, many, configuration)
    assert labels.dtype == np.uint16
    assert labels.max() == 299


def test_wrong_shapes_are_refused(plan, configuration, case):
    image, label = case
    with pytest.raises(ValueError, match="1 channels, the plan has 2"):
        forward(Image(image.array_czyx[:1], image.geometry), label, plan, configuration)
    with pytest.raises(ValueError, match="label of shape"):
        forward(image, LabelMap(label.array_zyx[1:], label.geometry), plan, configuration)
    placement = forward(image, label, plan, configuration).placement
    with pytest.raises(ValueError, match="logits of shape"):
        restore_labels(np.zeros((2, 3, 3, 3), np.float32), placement, plan, configuration)


def test_regions_are_written_one_over_the_other(build_plan, build_configuration):
    labels = {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "active": 3}
    configuration = build_configuration()
    plan = build_plan({"3d_fullres": configuration}, labels=labels, regions_class_order=(1, 2, 3))
    geometry = Geometry(shape=(1, 1, 6), spacing_mm=(1.0, 1.0, 1.0))
    placement = Placement(geometry=geometry, crop_start=(0, 0, 0), crop_stop=(1, 1, 5), shape=(1, 1, 5))
    whole, core, active = [-1, 2, 2, 2, -1], [-1, -1, 2, 2, 2], [-1, -1, -1, 2, -9]
    logits = np.array([whole, core, active], np.float32).reshape(3, 1, 1, 5)
    # The last voxel is core though not whole: each region is written by itself, as in nnU-Net. Outside the crop: 0.
    assert restore_labels(logits, placement, plan, configuration).ravel().tolist() == [0, 1, 2, 3, 2, 0]
    probabilities = restore_probabilities(logits, placement, plan, configuration)
    expected = 1 / (1 + np.exp(-logits.reshape(3, 5)))
    np.testing.assert_allclose(probabilities.reshape(3, 6)[:, :5], expected, atol=1e-3)
    assert (probabilities[..., 5] == 0).all()
    extreme = np.array([-1e4, 1e4, 0, 0, 0] * 3, np.float32).reshape(3, 1, 1, 5)
    assert np.isfinite(restore_probabilities(extreme, placement, plan, configuration)).all()
