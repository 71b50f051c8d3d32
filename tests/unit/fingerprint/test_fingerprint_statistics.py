"""Statistics of foreground intensities, against the draws they stand for."""

import numpy as np
import pytest

from autoseg.artifacts.geometry import Geometry
from autoseg.fingerprint.case import distribution, measure
from autoseg.fingerprint.merge import merge, weighted_quantiles
from autoseg.images.image import Image, LabelMap

KEYS = ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5")


def cases(kind):
    rng = np.random.default_rng(7)
    if kind == "ct":
        return [np.rint(rng.normal(m, s, n)).astype(np.float32) for m, s, n in ((60, 20, 900), (100, 40, 30_000))]
    return [rng.gamma(2, s, n).astype(np.float32) for s, n in ((1.0, 120_000), (1.4, 5_000), (0.8, 200_000))]


@pytest.mark.parametrize("kind", ["ct", "pet"])
def test_equals_many_draws_with_replacement(kind):
    values = cases(kind)
    rng = np.random.default_rng(1)
    pooled = np.concatenate([rng.choice(case, 2_000_000) for case in values]).astype(np.float64)
    found = merge([distribution(case) for case in values])
    spread = pooled.std()
    assert found.mean == pytest.approx(pooled.mean(), abs=2e-3 * spread)
    assert found.std == pytest.approx(spread, abs=2e-3 * spread)
    low, middle, high = np.percentile(pooled, [0.5, 50, 99.5])
    assert found.median == pytest.approx(middle, abs=2e-3 * spread)
    assert found.percentile_00_5 == pytest.approx(low, abs=5e-3 * spread)
    assert found.percentile_99_5 == pytest.approx(high, abs=2e-2 * spread)
    assert found.min == min(case.min() for case in values)
    assert found.max == max(case.max() for case in values)


@pytest.mark.parametrize("kind", ["ct", "pet"])
def test_equals_repeating_each_case_to_the_same_length(kind):
    values = cases(kind)
    # What infinitely many draws tend to: each case repeated until all are equally long.
    length = np.lcm.reduce([len(case) for case in values])
    weights = np.concatenate([np.full(len(case), length // len(case), np.float64) for case in values])
    pooled = np.concatenate(values).astype(np.float64)
    mean = np.average(pooled, weights=weights)
    std = np.sqrt(np.average((pooled - mean) ** 2, weights=weights))
    found = merge([distribution(case) for case in values])
    assert found.mean == pytest.approx(mean, rel=1e-9)
    assert found.std == pytest.approx(std, rel=1e-9)
    quantiles = weighted_quantiles(pooled, weights / weights.sum(), (0.005, 0.5, 0.995))
    np.testing.assert_allclose(
        (found.percentile_00_5, found.median, found.percentile_99_5), quantiles, rtol=0, atol=1e-3 * std
    )


def test_cases_weigh_the_same_whatever_their_size():
    found = merge([distribution(np.full(2_000, 60, np.float32)), distribution(np.full(38_000, 100, np.float32))])
    assert (found.mean, found.median, found.std) == (80, 80, 20)


def test_order_of_the_cases_does_not_matter():
    parts = [distribution(case) for case in cases("pet")]
    one, other = merge(parts), merge(parts[::-1])
    for key in KEYS:
        assert getattr(one, key) == pytest.approx(getattr(other, key), rel=1e-12)


def test_few_values_are_kept_exactly():
    found = distribution(np.array([3, -1, 3, 3], np.float32))
    assert found.values.tolist() == [-1, 3]
    assert found.counts.tolist() == [1, 3]
    assert (found.mean, found.variance, found.min, found.max) == (2, 3, -1, 3)


def test_many_values_become_bins():
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    found = distribution(values, max_bins=100)
    assert len(found.values) == 100
    assert found.counts.tolist() == [1] * 100
    np.testing.assert_array_equal(found.values, np.sort(values)[50::100])
    assert found.mean == pytest.approx(values.mean(dtype=np.float64))
    assert (found.min, found.max) == (values.min(), values.max())


@pytest.mark.parametrize("digits", [0, 6])
def test_equals_counting_each_value_in_double_precision(digits):
    values = np.round(np.random.default_rng(2).normal(1000, 30, 150_000), digits).astype(np.float32)
    before = values.copy()
    found = distribution(values)
    np.testing.assert_array_equal(values, before)
    distinct, counts = np.unique(values, return_counts=True)
    if digits:
        middles = (np.arange(65_536) + 0.5) * (len(values) / 65_536)
        places = np.searchsorted(np.cumsum(counts), middles, side="right")
        distinct, counts = np.unique(distinct[places], return_counts=True)
    np.testing.assert_array_equal(found.values, distinct)
    np.testing.assert_array_equal(found.counts, counts)
    double = values.astype(np.float64)
    assert found.mean == pytest.approx(double.mean(), rel=1e-12)
    assert found.variance == pytest.approx(double.var(), rel=1e-12)


def test_a_value_that_fills_many_bins_keeps_its_weight():
    values = np.concatenate([np.zeros(5_000), np.arange(1, 5_001)]).astype(np.float32)
    found = distribution(values, max_bins=100)
    assert found.values[0] == 0
    assert found.counts[0] == 50
    assert found.counts.sum() == 100


def test_measure_crops_and_takes_every_label():
    array = np.zeros((2, 4, 5, 6), np.float32)
    array[0, 1:3, 1:3, 1:3] = np.arange(8).reshape(2, 2, 2) + 1
    array[1, 1:3, 1:3, 1:3] = -1
    label = np.zeros((4, 5, 6), np.uint8)
    label[1, 1, 1], label[2, 2, 2], label[3, 4, 5] = 1, 2, 1  # the last lies outside the crop
    geometry = Geometry(shape=(4, 5, 6), spacing_mm=(1.0, 1.0, 1.0))
    found = measure(Image(array, geometry), LabelMap(label, geometry))
    assert found.shape_after_crop == (2, 2, 2)
    assert found.intensities[0].values.tolist() == [1, 8]
    assert found.intensities[1].counts.tolist() == [2]
    assert measure(Image(array, geometry), LabelMap(label * 0, geometry)).intensities == ()
