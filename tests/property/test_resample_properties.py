"""Resampling against scikit-image and numpy, and the way into the network's grid against the way back."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from skimage.transform import resize as skimage_resize

from autoseg.artifacts.fingerprint import IntensityStatistics
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.plan import Configuration, Plan, Resampling
from autoseg.images.image import Image, LabelMap
from autoseg.transforms.chain import forward, restore_labels, restore_probabilities
from autoseg.transforms.resample import nearest_indices, resize, resize_labels, resized_slabs

edges = st.integers(1, 14)
shapes = st.tuples(edges, edges, edges)
seeds = st.integers(0, 2**32 - 1)


def volume(seed, shape):
    return (np.random.default_rng(seed).standard_normal((1, *shape)) * 300 - 100).astype(np.float32)


def reference(array, shape, order):
    return skimage_resize(array, shape, order, mode="edge", anti_aliasing=False, clip=True, preserve_range=True)


@given(shapes, shapes, st.sampled_from([1, 3]), seeds)
@settings(max_examples=60, deadline=None)
def test_equals_scikit_image(old, new, order, seed):
    array = volume(seed, old)
    expected = reference(array[0].astype(np.float64), new, order)
    tolerance = 2e-5 * max(float(np.ptp(array)), 1)
    np.testing.assert_allclose(resize(array, new, order, 0, None)[0], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("old", "new"), [((70, 45, 140), (50, 90, 33)), ((33, 300, 290), (65, 330, 270)), ((40, 90, 80), (160, 31, 99))]
)
def test_long_axes_equal_scikit_image(old, new):
    # Several bands of the matrices, and several groups of slices.
    array = volume(7, old)
    expected = reference(array[0].astype(np.float64), new, 3)
    np.testing.assert_allclose(resize(array, new, 3, 0, None)[0], expected, rtol=0, atol=2e-6 * np.ptp(array))


@given(shapes, shapes, st.sampled_from([0, 1, 2]), st.sampled_from([1, 3]), seeds)
@settings(max_examples=60, deadline=None)
def test_slices_apart_equal_scikit_image_slice_by_slice(old, new, axis, order, seed):
    array = volume(seed, old)
    plane = tuple(n for a, n in enumerate(new) if a != axis)
    slices = [reference(part.astype(np.float64), plane, order) for part in np.moveaxis(array[0], axis, 0)]
    centres = old[axis] / new[axis] * (np.arange(new[axis]) + 0.5) - 0.5
    picked = map_coordinates(np.arange(old[axis]), [centres], order=0, mode="nearest")
    expected = np.moveaxis(np.stack(slices)[picked], 0, axis)
    tolerance = 2e-5 * max(float(np.ptp(array)), 1)
    np.testing.assert_allclose(resize(array, new, order, 0, axis)[0], expected, rtol=0, atol=tolerance)


@given(st.integers(1, 400), st.integers(1, 400))
@settings(max_examples=200, deadline=None)
def test_nearest_voxel_is_scipys(old, new):
    centres = old / new * (np.arange(new) + 0.5) - 0.5
    np.testing.assert_array_equal(
        nearest_indices(old, new), map_coordinates(np.arange(old), [centres], order=0, mode="nearest")
    )


def labels_by_definition(label, new, orders):
    """Section by section what the rule says, with dense maps of every label in double precision."""
    values = np.unique(label)
    maps = []
    for value in values:
        one = (label == value).astype(np.float64)
        for axis, order in enumerate(orders):
            if order == 0:
                one = np.take(one, nearest_indices(label.shape[axis], new[axis]), axis=axis)
        maps.append(reference(one, new, 1))
    nearest = label[np.ix_(*(nearest_indices(n, m) for n, m in zip(label.shape, new, strict=True)))]
    shares = np.stack(maps)
    tied = shares > shares.max(axis=0) - 1e-6
    smallest = values[np.argmax(tied, axis=0)]
    nearest_is_tied = np.take_along_axis(tied, np.searchsorted(values, nearest)[None], axis=0)[0]
    return np.where(nearest_is_tied, nearest, smallest)


@given(shapes, shapes, st.sampled_from([None, 0, 1, 2]), st.integers(1, 5), seeds)
@settings(max_examples=80, deadline=None)
def test_labels_follow_the_rule(old, new, axis, count, seed):
    label = np.random.default_rng(seed).integers(-1, count, old).astype(np.int16)
    resized = resize_labels(label, new, 1, 0, axis)
    assert resized.dtype == np.int16
    if old == new:
        assert resized is label
        return
    orders = [0 if a == axis else 1 for a in range(3)]
    np.testing.assert_array_equal(resized, labels_by_definition(label, new, orders))


def test_large_label_maps_follow_the_rule():
    # Several groups of slices; voxels in lumps, so that most borders lie between two labels.
    lumps = np.random.default_rng(3).integers(0, 6, (10, 40, 40))
    label = lumps.repeat(4, axis=0).repeat(3, axis=1).repeat(3, axis=2).astype(np.int16)
    np.testing.assert_array_equal(
        resize_labels(label, (70, 100, 150), 1, 0, None), labels_by_definition(label, (70, 100, 150), (1, 1, 1))
    )


@given(shapes, shapes, st.sampled_from([None, 0, 1, 2]), st.sampled_from([0, 1]), st.integers(1, 6), seeds)
@settings(max_examples=60, deadline=None)
def test_slabs_equal_the_whole(old, new, axis, order_z, slab, seed):
    logits = np.random.default_rng(seed).standard_normal((3, *old)).astype(np.float32)
    whole = resize(logits, new, 1, order_z, axis)
    end = 0
    for rows, block in resized_slabs(logits, new, 1, order_z, axis, slab):
        assert rows.start == end
        assert rows.stop - rows.start <= slab
        np.testing.assert_allclose(block, whole[:, rows], rtol=0, atol=5e-6)
        end = rows.stop
    assert end == new[0]


def make_plan(labels, transpose, spacing):
    backward = tuple(transpose.index(axis) for axis in range(3))
    d = len(spacing)
    configuration = Configuration(
        spacing=spacing,
        median_image_size_in_voxels=(4.0,) * d,
        patch_size=(4,) * d,
        batch_size=2,
        strides=((1,) * d, (2,) * d),
        kernel_sizes=((3,) * d,) * 2,
        features_per_stage=(32, 64),
        n_stages=2,
        n_conv_per_stage=(2, 2),
        n_conv_per_stage_decoder=(2,),
        batch_dice=False,
        normalization_schemes=("none",),
        use_mask_for_norm=(False,),
        mirror_axes=(),
        resampling=Resampling(),
        memory_proxy=0.0,
    )
    zero = IntensityStatistics(mean=0, median=0, std=1, min=0, max=1, percentile_00_5=0, percentile_99_5=1)
    return Plan(
        inputs_sha256="",
        gpu_memory_gb=8,
        channel_names=("MR",),
        labels={"background": 0} | {f"label_{value}": value for value in range(1, labels)},
        transpose_forward=transpose,
        transpose_backward=backward,
        original_median_spacing=(1.0, 1.0, 1.0),
        original_median_shape=(4.0, 4.0, 4.0),
        intensities=(zero,),
        configurations={"c": configuration},
    )


def padded_case(seed, shape, count, spacing):
    """An image with an empty margin, and labels inside it."""
    rng = np.random.default_rng(seed)
    inner = tuple(slice(int(rng.integers(0, n // 2 + 1)), int(rng.integers(n // 2 + 1, n + 1))) for n in shape)
    array = np.zeros((1, *shape), np.float32)
    array[(0, *inner)] = rng.uniform(1, 2, array[(0, *inner)].shape)
    label = np.zeros(shape, np.uint8)
    label[inner] = rng.integers(0, count, label[inner].shape)
    geometry = Geometry(shape=shape, spacing_mm=spacing, origin_mm=(1.0, 2.0, 3.0))
    return Image(array, geometry), LabelMap(label, geometry)


@pytest.mark.parametrize("transpose", list(permutations(range(3))))
@given(shapes, st.integers(2, 5), st.sampled_from([np.float16, np.float32]), seeds)
@settings(max_examples=15, deadline=None)
def test_restore_undoes_forward(transpose, shape, count, dtype, seed):
    spacing = (3.0, 1.5, 0.7)
    plan = make_plan(count, transpose, tuple(spacing[axis] for axis in transpose))
    image, label = padded_case(seed, shape, count, spacing)
    prepared = forward(image, label, plan, plan.configurations["c"])
    assert prepared.placement.geometry == image.geometry
    assert prepared.image_czyx.shape[1:] == prepared.label_zyx.shape == prepared.placement.shape
    logits = (np.maximum(prepared.label_zyx, 0) == np.arange(count)[:, None, None, None]).astype(dtype)
    restored = restore_labels(logits, prepared.placement, plan, plan.configurations["c"])
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored, label.array_zyx)
    probabilities = restore_probabilities(logits, prepared.placement, plan, plan.configurations["c"])
    np.testing.assert_array_equal(probabilities.argmax(axis=0), label.array_zyx)


@pytest.mark.parametrize("transpose", list(permutations(range(3))))
@given(shapes, seeds, st.sampled_from([(1.1, 0.9, 1.3), (4.0, 0.9, 1.3), (0.8, 1.7)]))
@settings(max_examples=15, deadline=None)
def test_labels_and_probabilities_agree_on_the_files_grid(transpose, shape, seed, target):
    plan = make_plan(4, transpose, target)
    image, label = padded_case(seed, shape, 4, (2.9, 1.0, 0.8))
    prepared = forward(image, label, plan, plan.configurations["c"])
    if len(target) == 2:
        kept = prepared.placement.crop_stop[transpose[0]] - prepared.placement.crop_start[transpose[0]]
        assert prepared.placement.shape[0] == kept
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((4, *prepared.placement.shape)) * 4).astype(np.float32)
    labels = restore_labels(logits, prepared.placement, plan, plan.configurations["c"])
    probabilities = restore_probabilities(logits, prepared.placement, plan, plan.configurations["c"])
    assert labels.shape == probabilities.shape[1:] == shape
    assert probabilities.dtype == np.float16
    chosen = np.take_along_axis(probabilities, labels[None].astype(np.intp), axis=0)[0]
    np.testing.assert_array_equal(chosen, probabilities.max(axis=0))
    np.testing.assert_allclose(probabilities.sum(axis=0, dtype=np.float32), 1, atol=3e-3)
    box = tuple(slice(*ends) for ends in zip(prepared.placement.crop_start, prepared.placement.crop_stop, strict=True))
    outside = np.ones(shape, bool)
    outside[box] = False
    assert not labels[outside].any()
    assert (probabilities[0][outside] == 1).all()
