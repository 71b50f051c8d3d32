"""Target spacing, axis order, and the median size in the network's world."""

import numpy as np
import pytest

from autoseg.plan.configurations import target_grid
from autoseg.plan.spacing import axis_order, target_spacing


def along_z(thicknesses, shape=(20, 100, 100)):
    """Cases with 1 mm pixels and these slice thicknesses."""
    return (
        np.array([[z, 1.0, 1.0] for z in thicknesses]),
        np.array([shape] * len(thicknesses), dtype=np.float64),
    )


def test_the_median_of_each_axis_is_the_target():
    spacings = np.array([[1.0, 2.0, 3.0], [1.5, 2.0, 3.0], [2.0, 2.5, 9.0]])
    shapes = np.full((3, 3), 100.0)
    assert target_spacing(spacings, shapes).tolist() == [1.5, 2.0, 3.0]


def test_an_even_number_of_cases_gives_the_mean_of_the_middle_two():
    assert target_spacing(*along_z([1.0, 2.0])).tolist() == [1.5, 1.0, 1.0]


def test_few_thick_slices_take_the_10th_percentile():
    # Linear between the sorted values: 2 + 0.4 * (6 - 2).
    np.testing.assert_allclose(target_spacing(*along_z([2.0, 6.0, 6.0, 6.0, 6.0])), [3.6, 1.0, 1.0], rtol=1e-12)


def test_the_10th_percentile_never_gets_finer_than_the_plane():
    np.testing.assert_allclose(target_spacing(*along_z([0.5, 0.5, 6.0, 6.0, 6.0])), [1.00001, 1.0, 1.0], rtol=1e-12)


@pytest.mark.parametrize(("thickness", "expected"), [(3.0, 3.0), (3.0001, 1.00001)])
def test_thick_means_more_than_three_times_the_pixels(thickness, expected):
    spacings, shapes = along_z([0.5, 0.5, thickness, thickness, thickness])
    assert target_spacing(spacings, shapes)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("slices", "expected"), [(20, 6.0), (19, 3.6)])
def test_few_means_less_than_a_third_of_the_shorter_edge(slices, expected):
    spacings, shapes = along_z([2.0, 6.0, 6.0, 6.0, 6.0], shape=(slices, 60, 90))
    assert target_spacing(spacings, shapes)[0] == pytest.approx(expected, abs=1e-12)


def test_the_thick_axis_may_be_any():
    spacings, shapes = along_z([2.0, 6.0, 6.0, 6.0, 6.0])
    turned = target_spacing(spacings[:, [1, 2, 0]], shapes[:, [1, 2, 0]])
    np.testing.assert_allclose(turned, [1.0, 1.0, 3.6], rtol=1e-12)


@pytest.mark.parametrize(
    ("spacing", "forward", "backward"),
    [
        ((5.0, 1.0, 1.0), (0, 1, 2), (0, 1, 2)),
        ((1.0, 5.0, 2.0), (1, 0, 2), (1, 0, 2)),
        ((1.0, 2.0, 5.0), (2, 0, 1), (1, 2, 0)),
        ((1.0, 1.0, 1.0), (0, 1, 2), (0, 1, 2)),
        ((1.0, 2.0, 2.0), (1, 0, 2), (1, 0, 2)),
    ],
)
def test_the_coarsest_axis_comes_first(spacing, forward, backward):
    assert axis_order(spacing) == (forward, backward)


def test_cases_are_resampled_before_the_median_is_taken():
    # 10 voxels of 1 mm and 20 of 2 mm, at 1.5 mm: 6.67 -> 7 and 26.67 -> 27.
    grid = target_grid([(1.0,) * 3, (2.0,) * 3], [(10,) * 3, (20,) * 3])
    assert grid.spacing == (1.5, 1.5, 1.5)
    assert grid.median_size == (17.0, 17.0, 17.0)
    assert grid.original_shape == (15.0, 15.0, 15.0)


def test_a_median_size_may_end_in_a_half():
    grid = target_grid([(1.0,) * 3] * 2, [(7, 8, 9), (10, 8, 10)])
    assert grid.median_size == (8.5, 8.0, 9.5)
    assert grid.original_shape == (8.0, 8.0, 10.0)


def test_everything_is_in_the_transposed_order():
    grid = target_grid([(1.0, 2.0, 5.0)], [(30, 20, 10)])
    assert grid.forward == (2, 0, 1)
    assert grid.spacing == (5.0, 1.0, 2.0)
    assert grid.median_size == (10.0, 30.0, 20.0)
    assert grid.original_spacing == (5.0, 1.0, 2.0)
    assert grid.original_shape == (10.0, 30.0, 20.0)


def test_a_spacing_that_is_given_is_used_as_it_is():
    grid = target_grid([(1.0, 2.0, 5.0)], [(30, 20, 10)], spacing=(4.0, 2.0, 2.5))
    assert grid.forward == (0, 1, 2)
    assert grid.spacing == (4.0, 2.0, 2.5)
    assert grid.median_size == (8.0, 20.0, 20.0)


def test_the_axis_order_can_be_kept():
    grid = target_grid([(1.0, 2.0, 5.0)], [(30, 20, 10)], transpose=False)
    assert grid.forward == grid.backward == (0, 1, 2)
    assert grid.spacing == (1.0, 2.0, 5.0)
