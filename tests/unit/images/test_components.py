"""Connected components, held against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.images.components import components


@settings(deadline=None)
@given(
    st.tuples(*[st.integers(1, 6)] * 3),
    st.tuples(*[st.integers(0, 2)] * 3),
    st.floats(0, 1),
    st.integers(0, 10**6),
)
def test_corners_connect_as_scipy_has_it(shape, start, density, seed):
    mask = (np.random.default_rng(seed).random(shape) < density)[tuple(slice(first, None) for first in start)]
    expected, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    numbers, volumes = components(mask)
    assert sorted(volumes) == sorted(np.bincount(expected.ravel())[1:])
    assert (numbers > 0).tolist() == mask.tolist()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("margin", [0, 1])
def test_parts_in_a_row_are_numbered_also_in_a_cut_of_a_larger_array(axis, margin):
    row = np.moveaxis(np.array([[[1, 1, 0, 1, 0, 1]]], bool), 2, axis)
    cut = np.pad(row, margin)[tuple(slice(margin, margin + edge) for edge in row.shape)]
    numbers, volumes = components(cut)
    assert numbers.ravel().tolist() == [1, 1, 0, 2, 0, 3]
    assert volumes.tolist() == [2, 1, 1]
