"""Means of probabilities as sums of levels."""

import numpy as np
import pytest

from autoseg.ensemble import average
from autoseg.ensemble.average import summed, summed_slabs
from autoseg.images.probabilities import WHOLE, to_levels


def test_the_sum_is_the_mean_probability():
    rng = np.random.default_rng(0)
    first, second = (rng.random((3, 4, 5, 6)) for _ in range(2))
    total = summed([to_levels(first), to_levels(second)])
    np.testing.assert_allclose(total / (2 * WHOLE), (first + second) / 2, atol=0.5 / WHOLE)


def test_one_alone_is_itself():
    levels = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
    np.testing.assert_array_equal(summed([levels]), levels)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        summed([np.zeros((2, 1, 2, 2), np.uint8), np.zeros((3, 1, 2, 2), np.uint8)])


def test_slabs_together_are_the_whole(monkeypatch):
    monkeypatch.setattr(average, "SLAB_BYTES", 2 * 2 * 3 * 20)
    parts = [np.random.default_rng(seed).integers(0, 256, (2, 7, 4, 5)).astype(np.uint8) for seed in (0, 1)]
    slabs = list(summed_slabs(parts))
    assert [rows for rows, _ in slabs] == [slice(0, 3), slice(3, 6), slice(6, 7)]
    np.testing.assert_array_equal(np.concatenate([block for _, block in slabs], axis=1), summed(parts))
