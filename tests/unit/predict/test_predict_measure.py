"""What a label map holds, on volumes small enough to count by hand."""

import numpy as np
import pytest
import SimpleITK

from autoseg.artifacts.case_report import LabelReport
from autoseg.artifacts.geometry import Geometry
from autoseg.predict.measure import measure_labels, voxel_volume_mm3

SHAPE = (4, 5, 6)
SPACING_MM = (5.0, 2.0, 1.0)  # a voxel of 10 mm3, a pixel of 2 mm2


def volume(*voxels):
    """A label map with these voxels set: (z, y, x, value)."""
    label = np.zeros(SHAPE, np.uint8)
    for *place, value in voxels:
        label[tuple(place)] = value
    return label


def grid(**changes):
    return Geometry(**{"shape": SHAPE, "spacing_mm": SPACING_MM, **changes})


def test_a_label_on_anisotropic_voxels():
    # Three voxels in slice 1, one in slice 2; (1, 0, 0) touches (1, 1, 1) by an edge only, (2, 4, 5) nothing.
    label = volume((1, 0, 0, 3), (1, 1, 1, 3), (1, 1, 2, 3), (2, 4, 5, 3))
    assert measure_labels(label, grid(origin_mm=(100.0, 10.0, -7.0)), {"thing": 3}) == {
        "thing": LabelReport(
            voxels=4,
            volume_ml=0.04,
            components=2,
            centroid_zyx=(1.25, 1.5, 2.0),
            centroid_mm=(102.0, 13.0, -0.75),
            first_slice=1,
            last_slice=2,
            largest_slice=1,
            largest_area_mm2=6.0,
        )
    }


def test_voxels_that_touch_by_a_corner_are_one_part():
    label = volume((0, 0, 0, 1), (1, 1, 1, 1), (3, 3, 3, 1))
    assert measure_labels(label, grid(), {"thing": 1})["thing"].components == 2


def test_the_first_of_equal_sections_is_the_largest():
    label = volume((1, 0, 0, 1), (3, 0, 0, 1))
    report = measure_labels(label, grid(), {"thing": 1})["thing"]
    assert (report.first_slice, report.last_slice, report.largest_slice) == (1, 3, 1)


@pytest.mark.parametrize("tilt", [0.0, 0.3, np.pi / 2])
def test_the_centroid_of_an_oblique_volume_lies_where_itk_says(tilt):
    # Turned about ITK's x, then mirrored along its y.
    cos, sin = np.cos(tilt), np.sin(tilt)
    geometry = grid(origin_mm=(-3.0, 40.0, 8.0), direction=(1, 0, 0, 0, -cos, -sin, 0, -sin, cos))
    label = volume((0, 1, 2, 1), (2, 3, 4, 1))
    image = SimpleITK.GetImageFromArray(label)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    places = [image.TransformIndexToPhysicalPoint(index) for index in ((2, 1, 0), (4, 3, 2))]
    report = measure_labels(label, geometry, {"thing": 1})["thing"]
    assert report.centroid_mm == pytest.approx(np.mean(places, axis=0))
    # By hand: the mean voxel (x, y, z) is (3, 2, 1), that is (3, 4, 5) mm before turning.
    assert report.centroid_mm == pytest.approx((0, 40 - 4 * cos - 5 * sin, 8 - 4 * sin + 5 * cos))


def test_an_absent_label_has_no_place():
    assert measure_labels(volume((0, 0, 0, 1)), grid(), {"there": 1, "absent": 2, "beyond": 200})["absent"] == (
        LabelReport(voxels=0, volume_ml=0.0, components=0)
    )


def test_a_region_counts_all_its_values_and_regions_share_voxels():
    label = volume((0, 0, 0, 128), (0, 0, 1, 255), (2, 0, 1, 255))
    whole, core = measure_labels(label, grid(), {"whole": (128, 255), "core": (255,)}).values()
    assert (whole.voxels, whole.components, whole.largest_slice, whole.largest_area_mm2) == (3, 2, 0, 4.0)
    assert (core.voxels, core.components, core.largest_slice, core.largest_area_mm2) == (2, 2, 0, 2.0)
    assert whole.centroid_zyx == pytest.approx((2 / 3, 0, 2 / 3))


def test_a_picture_without_spacing_counts_pixels_alone():
    label = np.zeros((1, 4, 4), np.uint8)
    label[0, [0, 1, 3], [0, 1, 0]] = 1
    geometry = Geometry(shape=label.shape, spacing_mm=(999, 1, 1), num_dimensions=2, has_spacing=False)
    assert measure_labels(label, geometry, {"cell": 1})["cell"] == LabelReport(
        voxels=3,
        volume_ml=None,
        components=2,
        centroid_zyx=pytest.approx((0, 4 / 3, 1 / 3)),
        first_slice=0,
        last_slice=0,
        largest_slice=0,
    )


def test_a_flat_image_with_spacing_has_an_area_but_no_volume():
    label = np.ones((1, 2, 3), np.uint8)
    geometry = Geometry(shape=label.shape, spacing_mm=(999 * 0.5, 0.5, 0.2), num_dimensions=2)
    report = measure_labels(label, geometry, {"cell": 1})["cell"]
    assert (report.volume_ml, voxel_volume_mm3(geometry)) == (None, None)
    assert report.largest_area_mm2 == pytest.approx(0.6)
    assert report.centroid_mm == pytest.approx((0.2, 0.25, 0))


def test_another_grid_is_refused():
    with pytest.raises(ValueError, match="on a grid of"):
        measure_labels(np.zeros((1, 2, 3), np.uint8), grid(), {"thing": 1})


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_parts_in_a_row_are_counted(axis):
    label = np.moveaxis(np.array([[[1, 0, 1, 0, 1]]], np.uint8), 2, axis)
    geometry = Geometry(shape=label.shape, spacing_mm=SPACING_MM)
    assert measure_labels(label, geometry, {"thing": 1})["thing"].components == 3
