"""What the predictor without autoseg does by itself is what autoseg does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_fill_holes

from autoseg.deploy import onnx_predictor as theirs
from autoseg.transforms import crop, normalize, resample

LENGTHS = st.integers(1, 70)
SHAPES = st.tuples(*[st.integers(1, 9)] * 3)
SPACINGS = st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 2.0, 3.5])] * 3)
SEEDS = st.integers(0, 2**32 - 1)


def noise(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(LENGTHS, LENGTHS, st.sampled_from([1, 2, 3]))
@settings(deadline=None)
def test_spline_matrices(n_in, n_out, order):
    expected = resample.resize_matrix(n_in, n_out, order)
    np.testing.assert_allclose(theirs.resize_matrix(n_in, n_out, order), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize(("n_in", "n_out"), [(200, 513), (513, 200)])
def test_large_spline_matrices(n_in, n_out):
    expected = resample.resize_matrix(n_in, n_out, 3)
    np.testing.assert_allclose(theirs.resize_matrix(n_in, n_out, 3), expected, rtol=0, atol=2e-7)


@given(LENGTHS, LENGTHS)
@settings(deadline=None)
def test_nearest_slices(n_in, n_out):
    assert np.array_equal(theirs.resize_matrix(n_in, n_out, 0).argmax(axis=1), resample.nearest_indices(n_in, n_out))


@given(SEEDS, SHAPES, SHAPES, st.integers(0, 3), st.integers(0, 3), st.sampled_from([None, 0, 1, 2]))
@settings(deadline=None)
def test_volumes_are_resized_alike(seed, shape, wanted, order, order_z, apart):
    array = noise(seed, shape)
    expected = resample.resize(array[None], wanted, order, order_z, apart)[0]
    np.testing.assert_allclose(theirs.resize(array, wanted, order, order_z, apart), expected, rtol=0, atol=1e-5)


@given(SEEDS, SHAPES, SHAPES, st.tuples(*[st.integers(0, 1)] * 3), st.integers(1, 4))
@settings(deadline=None)
def test_logits_are_resized_alike(seed, shape, wanted, orders, slices):
    logits = noise(seed, (3, *shape))
    largest = max(wanted[1] * wanted[2], shape[1] * shape[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "SLAB_BYTES", 12 * largest * slices)
        parts = list(theirs.resized_slabs(logits, wanted, orders))
    assert [row for rows, _ in parts for row in range(wanted[0])[rows]] == list(range(wanted[0]))
    expected = resample._spline(logits, wanted, orders)
    np.testing.assert_allclose(np.concatenate([block for _, block in parts], axis=1), expected, rtol=0, atol=1e-5)


@given(SPACINGS, SPACINGS, SHAPES, st.sampled_from([None, True, False]))
@settings(deadline=None)
def test_grids(spacing, target, shape, force):
    assert theirs.separate_axis(spacing, target, force) == resample.separate_axis(spacing, target, force)
    assert theirs.resampled_shape(shape, spacing, target) == resample.resampled_shape(shape, spacing, target)


@given(SEEDS, SHAPES, st.floats(0.05, 0.95))
@settings(deadline=None)
def test_crops_and_masks(seed, shape, share):
    rng = np.random.default_rng(seed)
    array = (noise(seed, (2, *shape)) * (rng.random((2, *shape)) < share)).astype(np.float32)
    box, mask = crop.nonzero_box(array)
    assert theirs.nonzero_box(array) == (box.start, box.stop)
    cropped = (array[(slice(None), *box.slices)] != 0).any(axis=0)
    assert np.array_equal(theirs.filled(cropped), np.ones(box.shape, bool) if mask is None else mask)
    assert np.array_equal(theirs.filled(cropped), binary_fill_holes(cropped))


@pytest.mark.parametrize("scheme", ["ct", "zscore", "rescale_to_0_1", "rgb_to_0_1", "none"])
@pytest.mark.parametrize("masked", [True, False])
def test_intensities(scheme, masked, build_plan):
    statistics = build_plan().intensities[0]
    said = {name: getattr(statistics, name) for name in ("mean", "std", "percentile_00_5", "percentile_99_5")}
    ours, other = (noise(1, (5, 6, 7)) * 10 + 3 for _ in range(2))
    inside = noise(2, ours.shape) > 0 if masked else None
    normalize.normalize(ours, scheme, statistics, inside)
    theirs.normalize(other, scheme, said, inside)
    np.testing.assert_allclose(other, ours, rtol=1e-6, atol=1e-6)
