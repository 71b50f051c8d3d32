"""How often and where a patch is halved."""

import pytest

from autoseg.plan.topology import topology

SPACING = (2.5, 0.8, 0.8)


def test_the_worked_example_of_the_rules():
    shape = topology((56, 192, 192), SPACING)
    assert shape.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    assert shape.kernels == ((1, 3, 3), *((3, 3, 3),) * 5)
    assert shape.divisors == (8, 32, 32)
    assert shape.patch == (56, 192, 192)


def test_the_start_of_the_worked_example_is_rounded_up():
    shape = topology((119.8, 374.3, 374.3), SPACING)
    assert shape.divisors == (32, 64, 64)
    assert shape.patch == (128, 384, 384)


@pytest.mark.parametrize(("edge", "stages"), [(7, 1), (8, 2), (14, 2), (15, 3), (16, 3), (17, 3)])
def test_an_axis_is_halved_from_8_voxels_on(edge, stages):
    # 15 is halved to 8, rounded up, and once more.
    shape = topology((edge,) * 3, (1.0,) * 3)
    assert shape.strides == ((1, 1, 1), *((2, 2, 2),) * (stages - 1))
    assert shape.kernels == ((3, 3, 3),) * stages


@pytest.mark.parametrize(("edge", "divisors"), [(11, (1, 1, 1)), (12, (2, 1, 1))])
def test_a_lone_axis_is_halved_from_12_voxels_on(edge, divisors):
    assert topology((edge, 7, 7), (1.0, 1.0, 1.0)).divisors == divisors


def test_a_short_fine_axis_forbids_all_halving():
    shape = topology((11, 300, 260), (0.45, 1.0, 1.0))
    assert shape.strides == ((1, 1, 1),)
    assert shape.kernels == ((3, 3, 3),)
    assert shape.patch == (11, 300, 260)


@pytest.mark.parametrize(("coarse", "stride", "kernel"), [(2.0, (1, 2, 2), (1, 3, 3)), (1.999, (2, 2, 2), (3, 3, 3))])
def test_twice_the_finest_spacing_is_too_coarse(coarse, stride, kernel):
    shape = topology((32, 32, 32), (coarse, 1.0, 1.0))
    assert shape.strides[1] == stride
    assert shape.kernels[0] == kernel


def test_a_kernel_that_is_3_stays_3():
    # The plane is halved until it ends at 4 x 4; the long axis goes on alone and outgrows it.
    shape = topology((256, 8, 8), (1.0, 1.0, 1.0))
    assert shape.strides[-1] == (2, 1, 1)
    assert shape.kernels == ((3, 3, 3),) * len(shape.strides)


def test_pictures_have_two_axes():
    shape = topology((100, 40), (1.0, 1.0))
    assert shape.strides == ((1, 1), (2, 2), (2, 2), (2, 2), (2, 1))
    assert shape.patch == (112, 40)


@pytest.mark.parametrize("patch", [(33, 65.5, 129), (5, 100, 300), (17, 18, 19)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.0, 1.0), (0.4, 1.0, 2.1)])
def test_the_patch_grows_by_less_than_a_divisor_and_divides(patch, spacing):
    shape = topology(patch, spacing)
    for edge, wanted, divisor in zip(shape.patch, patch, shape.divisors, strict=True):
        assert edge % divisor == 0
        assert wanted <= edge < wanted + divisor
    assert len(shape.strides) == len(shape.kernels)
