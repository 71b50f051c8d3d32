"""One scheme at a time, on numbers that can be checked by hand."""

import numpy as np
import pytest

from autoseg.artifacts.fingerprint import IntensityStatistics
from autoseg.transforms.normalize import normalize

CT = IntensityStatistics(mean=90, median=95, std=50, min=-500, max=900, percentile_00_5=-60, percentile_99_5=220)


def normalized(values, scheme, inside=None, intensities=CT):
    array = np.array(values, np.float32).reshape(1, 1, -1)
    normalize(array, scheme, intensities, None if inside is None else np.array(inside).reshape(1, 1, -1))
    return array.ravel()


def test_ct_as_in_the_documentation():
    np.testing.assert_allclose(normalized([1000, 100, -1000], "ct"), [2.6, 0.2, -3.0], rtol=1e-6)


def test_zscore():
    np.testing.assert_allclose(normalized([1, 2, 3, 6], "zscore"), np.array([-2, -1, 0, 3]) / np.sqrt(3.5), rtol=1e-6)


def test_zscore_inside_a_mask_leaves_the_rest_alone():
    found = normalized([7, 1, 3, 0], "zscore", [False, True, True, False])
    np.testing.assert_allclose(found, [7, -1, 1, 0])


def test_zscore_of_large_numbers_keeps_its_precision():
    values = np.random.default_rng(0).normal(1e5, 1, (40, 50, 60)).astype(np.float32)
    expected = (values.astype(np.float64) - values.mean(dtype=np.float64)) / values.std(dtype=np.float64)
    normalize(values, "zscore", CT)
    np.testing.assert_allclose(values, expected, atol=1e-2)
    assert abs(values.std(dtype=np.float64) - 1) < 1e-4


@pytest.mark.parametrize("scheme", ["ct", "zscore", "rescale_to_0_1"])
def test_a_constant_stays_finite(scheme):
    flat = IntensityStatistics(mean=5, median=5, std=0, min=5, max=5, percentile_00_5=5, percentile_99_5=5)
    assert (normalized([5, 5, 5], scheme, intensities=flat) == 0).all()


def test_an_empty_mask_changes_nothing():
    assert (normalized([1, 2], "zscore", [False, False]) == [1, 2]).all()


def test_the_other_schemes():
    np.testing.assert_allclose(normalized([-1, 1, 3], "rescale_to_0_1"), [0, 0.5, 1])
    np.testing.assert_allclose(normalized([0, 51, 255], "rgb_to_0_1"), [0, 0.2, 1])
    np.testing.assert_allclose(normalized([0, 51, 255], "none"), [0, 51, 255])
