"""Which axes may be mirrored without swapping left and right."""

from math import cos, radians, sin

import pytest

from autoseg.artifacts.geometry import Geometry
from autoseg.plan.mirroring import left_right_axis, mirror_axes, names_sides

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
# Columns say where the file's x, y, z point; row 0 is the patient's left-right.
SAGITTAL = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # z of the file runs left-right
TURNED_Y = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)  # y of the file runs right-left


def grid(direction=IDENTITY, num_dimensions=3):
    return Geometry(shape=(4, 5, 6), spacing_mm=(1.0, 1.0, 1.0), direction=direction, num_dimensions=num_dimensions)


def turned(degrees):
    """The file's x and y turned about z."""
    c, s = cos(radians(degrees)), sin(radians(degrees))
    return (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "labels",
    [
        ["background", "left kidney"],
        ["Kidney_Right"],
        ["kidneyLeft"],
        ["LEFT-LUNG"],
        ["right2"],
        ["kidney_L", "kidney_R"],
        ["L kidney", "R kidney"],
        ["femur lt", "femur rt"],
        ["LH_v1", "RH_v1"],
        ["l", "r"],
    ],
)
def test_labels_that_tell_sides_apart(labels):
    assert names_sides(labels)


@pytest.mark.parametrize(
    "labels",
    [
        ["background", "liver", "tumour"],
        ["kidney_L"],
        ["kidney_L", "lung_R"],
        ["cleft", "bright spot", "rightful"],
        ["anterior", "posterior"],
        ["vertebra_L1", "vertebra_L2"],
        ["kidney_L_1", "kidney_R_2"],
        [],
    ],
)
def test_labels_that_do_not(labels):
    assert not names_sides(labels)


@pytest.mark.parametrize(
    ("direction", "axis"),
    [
        (IDENTITY, 2),
        (tuple(-value for value in IDENTITY), 2),
        (SAGITTAL, 0),
        (TURNED_Y, 1),
        (turned(30), 2),
        (turned(-44), 2),
        (turned(46), 1),
        (turned(170), 2),
    ],
)
def test_the_left_right_axis_follows_the_direction_cosines(direction, axis):
    assert left_right_axis(grid(direction)) == axis


def test_in_pictures_left_right_is_x():
    assert left_right_axis(grid(TURNED_Y, num_dimensions=2)) == 2


def test_without_sides_every_axis_is_mirrored():
    assert mirror_axes(["liver"], [grid()], (0, 1, 2)) == (0, 1, 2)


@pytest.mark.parametrize(
    ("directions", "transpose", "axes"),
    [
        ([IDENTITY], (0, 1, 2), (0, 1)),
        ([SAGITTAL], (0, 1, 2), (1, 2)),
        # The file's X comes first in the network's world.
        ([IDENTITY], (2, 0, 1), (1, 2)),
        ([IDENTITY], (1, 0, 2), (0, 1)),
        ([SAGITTAL], (2, 0, 1), (0, 2)),
        ([IDENTITY, SAGITTAL, IDENTITY], (0, 1, 2), (1,)),
        ([IDENTITY, SAGITTAL, TURNED_Y], (0, 1, 2), ()),
    ],
)
def test_sided_labels_leave_out_the_left_right_axis_of_every_case(directions, transpose, axes):
    assert mirror_axes(["left", "right"], [grid(d) for d in directions], transpose) == axes
