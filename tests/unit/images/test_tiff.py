"""TIFF: axes, pyramids, and the spacing that a file or its side file states."""

import json

import numpy as np
import pytest
import tifffile

from autoseg.errors import DatasetError
from autoseg.images.io import read_geometry, read_image

VOLUME = np.random.default_rng(0).integers(0, 60000, (3, 4, 5)).astype(np.uint16)
OME = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2.0}


def save(path, array=VOLUME, **options):
    tifffile.imwrite(path, array, photometric="minisblack", **options)
    return path


def geometry_of(path):
    geometry = read_geometry([path], case="a")
    assert read_image([path], case="a").geometry == geometry
    return geometry


def refusal(path):
    found = []
    for read in (read_image, read_geometry):
        with pytest.raises(DatasetError) as caught:
            read([path], case="case7")
        assert "case7" in caught.value.where
        found.append(str(caught.value.found))
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize(
    ("unit", "mm"),
    [(None, 1e-3), ("µm", 1e-3), ("\u03bcm", 1e-3), ("nm", 1e-6), ("mm", 1), ("cm", 10), ("Å", 1e-7), ("in", 25.4)],
)
def test_ome_states_spacing_in_many_units(tmp_path, unit, mm):
    units = {f"PhysicalSize{axis}Unit": unit for axis in "XYZ" if unit}
    geometry = geometry_of(save(tmp_path / "a.ome.tif", metadata={"axes": "ZYX", **OME, **units}))
    assert geometry.has_spacing
    np.testing.assert_allclose(geometry.spacing_mm, np.multiply((2.0, 0.25, 0.5), mm))


@pytest.mark.parametrize(
    "changed",
    [{"PhysicalSizeZ": None}, {"PhysicalSizeXUnit": "pixel"}, {"PhysicalSizeY": 0}, {"PhysicalSizeYUnit": "ell"}],
)
def test_a_size_that_is_not_whole_does_not_count(tmp_path, changed):
    stated = {key: value for key, value in {**OME, **changed}.items() if value is not None}
    geometry = geometry_of(save(tmp_path / "a.ome.tif", metadata={"axes": "ZYX", **stated}))
    assert (geometry.spacing_mm, geometry.has_spacing) == ((1, 1, 1), False)


def test_a_flat_ome_image_needs_no_slice_distance(tmp_path):
    stated = {key: value for key, value in OME.items() if key != "PhysicalSizeZ"}
    geometry = geometry_of(save(tmp_path / "a.ome.tif", VOLUME[0], metadata={"axes": "YX", **stated}))
    np.testing.assert_allclose(geometry.spacing_mm, (999 * 0.5e-3, 0.25e-3, 0.5e-3))
    assert (geometry.num_dimensions, geometry.has_spacing) == (2, True)


def test_the_side_file_wins(tmp_path):
    path = save(tmp_path / "a.ome.tif", metadata={"axes": "ZYX", **OME})
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [3, 2, 1]}))
    assert geometry_of(path).spacing_mm == (3, 2, 1)


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m"])
def test_imagej_states_spacing(tmp_path, unit):
    path = save(
        tmp_path / "a.tif", imagej=True, resolution=(2.0, 4.0), metadata={"axes": "ZYX", "unit": unit, "spacing": 3.0}
    )
    np.testing.assert_allclose(geometry_of(path).spacing_mm, (3e-3, 0.25e-3, 0.5e-3))
    # ImageJ leaves a distance of 1 out.
    save(path, imagej=True, resolution=(2.0, 4.0), metadata={"axes": "ZYX", "unit": unit})
    np.testing.assert_allclose(geometry_of(path).spacing_mm, (1e-3, 0.25e-3, 0.5e-3))
    save(path, imagej=True, resolution=(2.0, 4.0), metadata={"axes": "ZYX", "unit": "pixel", "spacing": 3.0})
    assert not geometry_of(path).has_spacing


@pytest.mark.parametrize(
    ("resolution", "unit", "spacing_mm"),
    [
        ((20000, 10000), "CENTIMETER", (1e-3, 0.5e-3)),
        ((508, 508), "INCH", (0.05, 0.05)),
        ((300, 300), "INCH", None),
        ((118.11, 118.11), "CENTIMETER", None),
        ((118, 118), "CENTIMETER", None),
        ((72, 72), "INCH", None),
        ((1, 1), "INCH", None),
        ((20000, 20000), "NONE", None),
    ],
)
def test_plain_resolution_counts_unless_it_is_a_printers(tmp_path, resolution, unit, spacing_mm):
    path = save(tmp_path / "a.tif", VOLUME[0], resolution=resolution, resolutionunit=unit, metadata=None)
    geometry = geometry_of(path)
    assert geometry.has_spacing == (spacing_mm is not None)
    np.testing.assert_allclose(geometry.spacing_mm[1:], spacing_mm or (1, 1))
    # There is no tag for the distance of slices.
    assert not geometry_of(
        save(path, VOLUME, resolution=resolution, resolutionunit=unit, metadata={"axes": "ZYX"})
    ).has_spacing


@pytest.mark.parametrize("ome", [True, False], ids=["ome", "imagej"])
@pytest.mark.parametrize("axes", ["CZYX", "ZCYX", "CYX", "ZYX"])
def test_channels_and_slices_are_told_apart(tmp_path, axes, ome):
    array = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 5)[-len(axes) :]).astype(np.uint16)
    path = tmp_path / ("a.ome.tif" if ome else "a.tif")
    # ImageJ's own order is ZCYX.
    if not ome and axes == "CZYX":
        axes, array = "ZCYX", array.swapaxes(0, 1)
    save(path, array, **({} if ome else {"imagej": True}), metadata={"axes": axes})
    expected = {"CZYX": array, "ZCYX": array.swapaxes(0, 1) if array.ndim == 4 else array}.get(
        axes, array[:, None] if axes == "CYX" else array[None]
    )
    assert np.array_equal(read_image([path], case="a").array_czyx, expected)


@pytest.mark.parametrize("axes", ["TZYX", "TCYX", "TYX"])
def test_a_time_series_is_refused(tmp_path, axes):
    array = np.zeros((2, 3, 4, 5)[4 - len(axes) :], np.uint16)
    assert "time series" in refusal(save(tmp_path / "a.ome.tif", array, metadata={"axes": axes}))
    assert "time series" in refusal(save(tmp_path / "a.tif", array, imagej=True, metadata={"axes": axes}))


def test_pages_without_names_are_slices(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for page in VOLUME:
            tiff.write(page, contiguous=False, metadata=None)
    image = read_image([tmp_path / "a.tif"], case="a")
    assert np.array_equal(image.array_czyx[0], VOLUME)
    assert image.geometry.num_dimensions == 3


def test_of_a_pyramid_the_finest_level_is_read(tmp_path):
    fine = np.random.default_rng(0).integers(0, 255, (3, 64, 64)).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        tiff.write(fine, subifds=1, photometric="minisblack", metadata={"axes": "ZYX", **OME})
        tiff.write(fine[:, ::2, ::2], subfiletype=1, photometric="minisblack")
    assert geometry_of(tmp_path / "a.ome.tif").shape == (3, 64, 64)
    assert np.array_equal(read_image([tmp_path / "a.ome.tif"], case="a").array_czyx[0], fine)


def test_two_images_in_one_file_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        for array in (VOLUME, VOLUME[:, ::2, ::2]):
            tiff.write(array, photometric="minisblack", metadata={"axes": "ZYX"})
    assert "2 images" in refusal(tmp_path / "a.ome.tif")


def test_entities_in_the_metadata_are_not_expanded(tmp_path):
    bomb = '<!DOCTYPE OME [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    xml = f'<?xml version="1.0" encoding="UTF-8"?>{bomb}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    save(tmp_path / "a.tif", VOLUME[0], description=f"{xml}&b;</OME>", metadata=None)
    assert "document type" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize(("first", "message"), [("a.ome.tif", "pages are missing"), ("x.ome.tif", "other pages")])
def test_a_part_of_an_image_in_several_files_is_refused(tmp_path, first, message):
    path = save(tmp_path / "a.ome.tif", metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as tiff:
        xml = tiff.ome_metadata
    start, end = xml.index("<TiffData"), xml.index("</Pixels>")
    parts = "".join(
        f'<TiffData FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{z}</UUID></TiffData>'
        for z, name in enumerate((first, "b.ome.tif", "c.ome.tif"))
    )
    xml = xml[:start] + parts + xml[end:]
    save(path, VOLUME[0], description=xml.replace(" UUID=", " Creator2="), metadata=None)
    assert message in refusal(path)
