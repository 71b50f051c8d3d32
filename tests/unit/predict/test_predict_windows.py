"""Windows: every voxel covered, evenly, from end to end."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.predict.windows import gaussian_weights, mirrorings, starts, windows


@pytest.mark.parametrize(
    ("length", "edge", "step", "expected"),
    [
        (8, 8, 0.5, [0]),
        (12, 8, 0.5, [0, 4]),
        (13, 8, 0.5, [0, 2, 5]),
        (16, 8, 1.0, [0, 8]),
        (17, 8, 1.0, [0, 4, 9]),
        (10, 4, 0.25, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_starts_of_small_examples(length, edge, step, expected):
    assert starts(length, edge, step) == expected


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(0, 100), st.floats(0.01, 1.0))
def test_starts_reach_both_ends_without_gaps(edge, room, step):
    found = starts(edge + room, edge, step)
    assert found[0] == 0
    assert found[-1] == room
    distances = np.diff(found)
    assert (distances >= 0).all()
    assert (distances <= edge).all()
    # Rounded to whole voxels.
    assert (distances < edge * step + 1).all()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 7)), min_size=3, max_size=3), st.sampled_from([0.3, 0.5, 1.0])
)
def test_windows_cover_every_voxel(edges_and_room, step):
    patch = [edge for edge, _ in edges_and_room]
    shape = [edge + room for edge, room in edges_and_room]
    covered = np.zeros(shape, dtype=int)
    for place in windows(shape, patch, step):
        assert covered[place].shape == tuple(patch)
        covered[place] += 1
    assert covered.min() >= 1


def test_in_2d_each_slice_has_its_own_windows():
    places = windows((3, 8, 12), (8, 8), 0.5)
    assert len(places) == 3 * 2
    assert places[0] == (slice(0, 1), slice(0, 8), slice(0, 8))
    assert places[-1] == (slice(2, 3), slice(0, 8), slice(4, 12))


@pytest.mark.parametrize("patch", [(1,), (2, 3), (8, 9), (4, 40, 33), (160, 1, 16)])
def test_weights_are_positive_and_peak_with_10_at_the_centre(patch):
    weights = gaussian_weights(patch)
    assert weights.shape == patch
    assert weights.dtype == np.float32
    assert weights.min() > 0
    assert weights.max() == 10
    assert np.unravel_index(weights.argmax(), patch) == tuple(edge // 2 for edge in patch)
    # Representable in half precision.
    assert np.isfinite(weights.astype(np.float16)).all()
    assert weights.astype(np.float16).min() > 0


@pytest.mark.parametrize("edge", [7, 8])
def test_weights_fall_alike_on_both_sides_of_the_centre(edge):
    weights = gaussian_weights((edge, 5))
    centre = edge // 2
    for k in range(1, edge - centre):
        np.testing.assert_array_equal(weights[centre + k], weights[centre - k])
        assert (weights[centre + k] <= weights[centre + k - 1]).all()


def test_weights_are_a_gaussian_of_an_eighth_of_the_edge():
    # Sigma 2 for an edge of 16: two voxels from the centre e^-0.5 of the peak.
    line = gaussian_weights((16,))
    assert line[[8, 10, 6, 12]].tolist() == pytest.approx([10, 6.0653066, 6.0653066, 1.3533528])


def test_mirrorings_are_all_subsets_the_empty_one_first():
    assert mirrorings([]) == [()]
    assert mirrorings([0, 2]) == [(), (0,), (2,), (0, 2)]
    assert len(mirrorings([0, 1, 2])) == 8
