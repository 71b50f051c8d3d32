"""Files -> Image and LabelMap and back: what is kept, and what is refused."""

import gzip
import json
import zlib
from itertools import product

import imageio.v3 as iio
import numpy as np
import pytest
import SimpleITK
import tifffile

from autoseg.artifacts.geometry import Geometry
from autoseg.errors import ArtifactError, DatasetError
from autoseg.images.endings import file_ending, label_ending
from autoseg.images.image import LabelMap
from autoseg.images.io import read_geometry, read_image, read_label, write_label

C, S = np.cos(0.3), np.sin(0.3)
OBLIQUE = Geometry(
    shape=(3, 4, 5),
    spacing_mm=(5.0, 0.75, 0.5),
    origin_mm=(-12.5, 30.25, 7.0),
    direction=(C, -S, 0, S, C, 0, 0, 0, 1),
)
FLAT = Geometry(
    shape=(1, 4, 5), spacing_mm=(999 * 0.75, 0.75, 0.5), origin_mm=(1.0, 2.0, 0.0),
    direction=(C, -S, 0, S, C, 0, 0, 0, 1), num_dimensions=2,
)  # fmt: skip
VOLUMES = [".nii.gz", ".nii", ".nrrd", ".mha"]


def labels_for(geometry, high=2):
    return (np.arange(np.prod(geometry.shape)).reshape(geometry.shape) % (high + 1)).astype(np.int64)


def save(path, array_zyx, spacing_xyz=(1, 1, 1), **options):
    image = SimpleITK.GetImageFromArray(array_zyx, **options)
    image.SetSpacing(spacing_xyz[: image.GetDimension()])
    SimpleITK.WriteImage(image, str(path), useCompression=path.name.endswith("gz"))
    return path


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert found.num_dimensions == expected.num_dimensions
    assert found.has_spacing == expected.has_spacing
    # NIfTI keeps single precision.
    np.testing.assert_allclose(found.spacing_mm, expected.spacing_mm, rtol=1e-6)
    np.testing.assert_allclose(found.origin_mm, expected.origin_mm, atol=1e-5)
    np.testing.assert_allclose(found.direction, expected.direction, atol=1e-6)


@pytest.mark.parametrize("geometry", [OBLIQUE, FLAT], ids=["oblique", "2d"])
@pytest.mark.parametrize("ending", VOLUMES)
def test_label_and_geometry_survive_writing_and_reading(tmp_path, ending, geometry):
    path = tmp_path / f"case{ending}"
    labels = labels_for(geometry)
    write_label(path, labels, geometry)
    read = read_label(path, case="case")
    assert read.array_zyx.dtype == np.uint8
    assert np.array_equal(read.array_zyx, labels)
    assert_close(read.geometry, geometry)
    assert read_geometry([path], case="case") == read.geometry
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    # What was read is written again without the smallest change.
    write_label(tmp_path / f"again{ending}", read.array_zyx, read.geometry)
    again = read_geometry([tmp_path / f"again{ending}"], case="again")
    assert_close(again, read.geometry)
    if not ending.startswith(".nii"):
        assert again == read.geometry


def test_gipl_keeps_labels_and_spacing(tmp_path):
    geometry = Geometry(shape=(3, 4, 5), spacing_mm=(5.0, 0.75, 0.5))
    write_label(tmp_path / "a.gipl", labels_for(geometry), geometry)
    read = read_label(tmp_path / "a.gipl", case="a")
    assert np.array_equal(read.array_zyx, labels_for(geometry))
    assert read.geometry.spacing_mm == geometry.spacing_mm


@pytest.mark.parametrize("ending", [*VOLUMES, ".tif", ".png"])
def test_many_labels_are_written_as_uint16(tmp_path, ending):
    geometry = Geometry(shape=(1, 20, 20), spacing_mm=(999, 1, 1), num_dimensions=2, has_spacing=False)
    write_label(tmp_path / f"a{ending}", labels_for(geometry, 300), geometry)
    read = read_label(tmp_path / f"a{ending}", case="a")
    assert read.array_zyx.dtype == np.uint16
    assert np.array_equal(read.array_zyx, labels_for(geometry, 300))


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_pictures_count_in_pixels(tmp_path, ending):
    geometry = Geometry(shape=(1, 4, 5), spacing_mm=(999, 1, 1), num_dimensions=2, has_spacing=False)
    write_label(tmp_path / f"a{ending}", labels_for(geometry), geometry)
    read = read_label(tmp_path / f"a{ending}", case="a")
    assert np.array_equal(read.array_zyx, labels_for(geometry))
    assert read.geometry == geometry == read_geometry([tmp_path / f"a{ending}"], case="a")


def test_tiff_volume_takes_spacing_from_its_sidecar(tmp_path):
    geometry = Geometry(shape=(3, 4, 5), spacing_mm=(2.0, 0.5, 0.25))
    write_label(tmp_path / "a.tif", labels_for(geometry), geometry)
    assert json.loads((tmp_path / "a.json").read_text()) == {"spacing": [2.0, 0.5, 0.25]}
    read = read_label(tmp_path / "a.tif", case="a")
    assert np.array_equal(read.array_zyx, labels_for(geometry))
    assert read.geometry == geometry == read_geometry([tmp_path / "a.tif"], case="a")
    (tmp_path / "a.json").unlink()
    bare = read_label(tmp_path / "a.tif", case="a").geometry
    assert (bare.spacing_mm, bare.has_spacing, bare.num_dimensions) == ((1, 1, 1), False, 3)
    (tmp_path / "a.json").write_text('{"spacing": [0, 1, 1]}')
    with pytest.raises(DatasetError, match="impossible spacing"):
        read_label(tmp_path / "a.tif", case="a")


def test_the_sidecar_is_named_after_the_case(tmp_path):
    tifffile.imwrite(tmp_path / "a_0000.tif", np.zeros((3, 4, 5), np.uint8), photometric="minisblack")
    (tmp_path / "a.json").write_text('{"spacing": [3, 2, 1]}')
    assert read_image([tmp_path / "a_0000.tif"], case="a").geometry.spacing_mm == (3, 2, 1)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_colours_are_channels_in_the_order_red_green_blue(tmp_path, ending):
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    file = tmp_path / f"a{ending}"
    if ending == ".tif":
        tifffile.imwrite(file, colours, photometric="rgb")
    else:
        iio.imwrite(file, colours)
    image = read_image([file], case="a")
    assert image.array_czyx.dtype == np.float32
    assert np.array_equal(image.array_czyx[:, 0], np.moveaxis(colours, -1, 0))
    assert image.geometry.spacing_mm == (999, 1, 1)
    assert not image.geometry.has_spacing


def test_palette_gives_colours_for_images_and_indices_for_labels(tmp_path):
    from PIL import Image as Pillow

    picture = Pillow.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    picture.putdata([0, 1, 2, 1])
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 128, 0])
    picture.save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png", case="a").array_zyx.tolist() == [[[0, 1], [2, 1]]]
    assert read_image([tmp_path / "a.png"], case="a").array_czyx[:, 0].tolist() == [
        [[0, 255], [0, 255]],
        [[0, 0], [128, 0]],
        [[0, 0], [0, 0]],
    ]


def test_only_a_constant_alpha_channel_is_dropped(tmp_path):
    colours = np.full((4, 5, 4), 255, np.uint8)
    iio.imwrite(tmp_path / "a.png", colours)
    assert read_image([tmp_path / "a.png"], case="a").array_czyx.shape == (3, 1, 4, 5)
    colours[0, 0, 3] = 0
    iio.imwrite(tmp_path / "a.png", colours)
    with pytest.raises(DatasetError, match="alpha"):
        read_image([tmp_path / "a.png"], case="a")


def test_one_4d_file_holds_all_channels(tmp_path):
    array = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    save(tmp_path / "a.nii.gz", array, (0.5, 0.75, 5, 1), isVector=False)
    image = read_image([tmp_path / "a.nii.gz"], case="a")
    assert np.array_equal(image.array_czyx, array)
    assert image.geometry.spacing_mm == (5, 0.75, 0.5)
    assert image.geometry == read_geometry([tmp_path / "a.nii.gz"], case="a")


def test_a_vector_nifti_of_five_axes_holds_all_channels(tmp_path):
    """NIfTI puts vectors (intent 1007) along the fifth axis; the fourth is time and has one entry."""
    array = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    file = save(tmp_path / "a.nii", array, (0.5, 0.75, 5, 1), isVector=False)
    data = bytearray(file.read_bytes())
    data[40:56] = np.array([5, 5, 4, 3, 1, 2, 1, 1], "<i2").tobytes()
    for intent in (1007, 0):
        data[68:70] = np.array([intent], "<i2").tobytes()
        for ending, content in ((".nii", bytes(data)), (".nii.gz", gzip.compress(data))):
            file = tmp_path / f"b{ending}"
            file.write_bytes(content)
            image = read_image([file], case="b")
            assert np.array_equal(image.array_czyx, array)
            assert image.geometry == read_geometry([file], case="b")
            assert image.geometry.shape == (3, 4, 5)
    data[40:56] = np.array([5, 5, 4, 3, 2, 1, 1, 1], "<i2").tobytes()
    (tmp_path / "c.nii").write_bytes(data)
    assert np.array_equal(read_image([tmp_path / "c.nii"], case="c").array_czyx, array)


@pytest.mark.parametrize("ending", VOLUMES)
def test_a_vector_image_holds_all_channels(tmp_path, ending):
    array = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    save(tmp_path / f"a{ending}", array, isVector=True)
    image = read_image([tmp_path / f"a{ending}"], case="a")
    assert np.array_equal(image.array_czyx, np.moveaxis(array, -1, 0))


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_voxels_are_those_that_itk_reads(tmp_path, ending, dtype):
    array = np.random.default_rng(0).integers(0, 100, (3, 4, 5)).astype(dtype)
    file = save(tmp_path / f"a{ending}", array)
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))
    assert np.array_equal(read_image([file], case="a").array_czyx[0], expected.astype(np.float32))


def test_nifti_in_several_members_scaled_or_of_the_other_byte_order(tmp_path):
    array = np.random.default_rng(0).integers(-1000, 1000, (3, 4, 5)).astype(np.int16)
    data = bytearray(save(tmp_path / "a.nii", array).read_bytes())
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(data[:400]) + gzip.compress(data[400:]))
    assert np.array_equal(read_image([tmp_path / "b.nii.gz"], case="b").array_czyx[0], array)
    data[112:120] = np.array([2, -5], "<f4").tobytes()
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(data))
    assert np.array_equal(read_image([tmp_path / "c.nii.gz"], case="c").array_czyx[0], array * 2.0 - 5)


def test_channels_of_several_files_are_stacked(tmp_path):
    arrays = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    files = [save(tmp_path / f"a_{i}.nii.gz", array) for i, array in enumerate(arrays)]
    assert np.array_equal(read_image(files, case="a").array_czyx, arrays)


@pytest.mark.parametrize(("shape", "spacing"), [((3, 4, 6), (1, 1, 1)), ((3, 4, 5), (1, 1, 1.2))])
def test_channels_on_different_grids_are_refused(tmp_path, shape, spacing):
    files = [
        save(tmp_path / "a_0.nii.gz", np.zeros((3, 4, 5), np.float32)),
        save(tmp_path / "a_1.nii.gz", np.zeros(shape, np.float32), spacing),
    ]
    with pytest.raises(DatasetError, match=r"different grids\n.*case a, channel 1"):
        read_image(files, case="a")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_no_numbers_are_counted(tmp_path, value):
    arrays = np.zeros((2, 3, 4, 5))
    arrays[1, 0, 0, :2] = value
    files = [save(tmp_path / f"a_{i}.nii.gz", array) for i, array in enumerate(arrays)]
    with pytest.raises(DatasetError, match=r"case a, channel 1\n.*2 .*of 60 voxels") as caught:
        read_image(files, case="a")
    assert ("2 NaN" in str(caught.value)) == np.isnan(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.5, "0.5 in 1 voxels"), (np.nan, "NaN"), (np.inf, "65535"), (-1.0, "0 to 65535"), (70000.0, "0 to 65535")],
)
def test_labels_that_are_no_labels_are_refused(tmp_path, value, message):
    array = np.zeros((3, 4, 5))
    array[1, 2, 3] = value
    file = save(tmp_path / "a.nii.gz", array)
    with pytest.raises(DatasetError, match=message) as caught:
        read_label(file, case="case7")
    assert "case7" in str(caught.value)


def test_whole_float_labels_are_accepted(tmp_path):
    file = save(tmp_path / "a.nii.gz", np.full((3, 4, 5), 2.0))
    assert read_label(file, case="a").array_zyx.dtype == np.uint8


def test_a_label_of_several_channels_must_agree(tmp_path):
    grey = np.repeat(np.array([[0, 1], [2, 0]], np.uint8)[..., None], 3, axis=-1)
    iio.imwrite(tmp_path / "a.png", grey)
    assert read_label(tmp_path / "a.png", case="a").array_zyx.tolist() == [[[0, 1], [2, 0]]]
    grey[0, 0, 0] = 7
    iio.imwrite(tmp_path / "a.png", grey)
    with pytest.raises(DatasetError, match="several channels"):
        read_label(tmp_path / "a.png", case="a")


# Behind the pixels of NRRD, PNG and TIFF stand checksums and tags without which nothing is lost.
@pytest.mark.parametrize(
    ("ending", "share"),
    [
        *product([".nii.gz", ".nii", ".mha", ".gipl", ".bmp"], [0, 0.01, 0.3, 0.6, 0.95, -10, -1]),
        *product([".nrrd", ".png", ".tif"], [0, 0.01, 0.3, 0.6]),
    ],
)
def test_a_file_cut_short_is_one_error_without_noise(tmp_path, capfd, ending, share):
    array = np.random.default_rng(0).integers(0, 255, (20, 30, 40)).astype(np.uint8)
    file = tmp_path / f"a{ending}"
    if ending in (".png", ".bmp", ".tif"):
        write_label(file, array[:1], Geometry(shape=(1, 30, 40), spacing_mm=(1, 1, 1), num_dimensions=2))
        (tmp_path / "a.json").unlink(missing_ok=True)
    else:
        write_label(file, array, Geometry(shape=(20, 30, 40), spacing_mm=(1, 1, 1)))
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share) if share >= 0 else share])
    for read in (lambda: read_image([file], case="case7"), lambda: read_label(file, case="case7")):
        with pytest.raises(DatasetError, match="can't be read") as caught:
            read()
        assert "case7" in str(caught.value)
        assert str(file) in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_a_changed_byte_is_noticed(tmp_path, capfd, ending):
    array = np.random.default_rng(0).integers(0, 255, (20, 30, 40)).astype(np.uint8)
    file = tmp_path / f"a{ending}"
    write_label(file, array, Geometry(shape=(20, 30, 40), spacing_mm=(1, 1, 1)))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x55
    file.write_bytes(data)
    with pytest.raises(DatasetError, match="damaged"):
        read_image([file], case="a")
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_and_an_unknown_kind_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"missing\n.*a\.nii"):
        read_image([tmp_path / "a.nii"], case="a")
    (tmp_path / "a.doc").write_bytes(b"x")
    with pytest.raises(DatasetError, match="unknown kind"):
        read_geometry([tmp_path / "a.doc"], case="a")
    (tmp_path / "a.nii").write_text("no volume at all" * 100)
    with pytest.raises(DatasetError, match="no NIfTI header"):
        read_image([tmp_path / "a.nii"], case="a")


def test_labels_are_not_written_where_they_would_suffer(tmp_path):
    geometry = Geometry(shape=(1, 4, 5), spacing_mm=(999, 1, 1), num_dimensions=2, has_spacing=False)
    with pytest.raises(ArtifactError, match=r"use \.png"):
        write_label(tmp_path / "a.jpg", labels_for(geometry), geometry)
    with pytest.raises(ArtifactError, match="65535"):
        write_label(tmp_path / "a.png", np.full((1, 4, 5), 70000), geometry)
    with pytest.raises(ArtifactError, match="3 slices"):
        write_label(tmp_path / "a.png", np.zeros((3, 4, 5), int), OBLIQUE)
    with pytest.raises(ValueError, match="shape"):
        write_label(tmp_path / "a.png", np.zeros((1, 4, 4), int), geometry)
    assert list(tmp_path.iterdir()) == []


def test_endings_of_names():
    names = ["a.nii.gz", "a.OME.TIF", "a.ome.tiff", "a.tif", "p1/", "p1", ".dcm", "b.dcm"]
    assert [file_ending(name) for name in names] == [
        ".nii.gz", ".OME.TIF", ".ome.tiff", ".tif", "/", None, None, ".dcm",
    ]  # fmt: skip


def test_label_endings():
    endings = [".nii.gz", ".png", ".JPG", ".jpeg", ".bmp", ".tif", ".mhd", ".OME.tif", ".dcm", "/"]
    assert [label_ending(ending) for ending in endings] == [
        ".nii.gz", ".png", ".png", ".png", ".png", ".tif", ".mha", ".tif", ".nii.gz", ".nii.gz",
    ]  # fmt: skip


@pytest.mark.parametrize("ending", [".NII.GZ", ".NII", ".MHA", ".Nrrd"])
def test_labels_of_files_in_capitals_can_be_written(tmp_path, ending):
    file = tmp_path / f"a{label_ending(ending)}"
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_label(file, array, Geometry(shape=array.shape, spacing_mm=(1.0, 1.0, 1.0)))
    np.testing.assert_array_equal(read_label(file, case="a").array_zyx, array)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_jpeg_labels_are_refused(tmp_path):
    iio.imwrite(tmp_path / "a.jpg", np.zeros((8, 8), np.uint8))
    with pytest.raises(DatasetError, match="JPEG changes label values"):
        read_label(tmp_path / "a.jpg", case="a")


def test_sixteen_bits_a_colour_are_not_halved_in_silence(tmp_path):
    rows = b"".join(b"\x00" + np.full((4, 3), 1000, ">u2").tobytes() for _ in range(4))

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (4).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(DatasetError, match="can't be read") as caught:
        read_image([tmp_path / "a.png"], case="a")
    assert "16 bits" in caught.value.found


@pytest.mark.parametrize(("kind", "high"), [(np.uint8, 255), (np.uint16, 300)])
def test_values_of_a_label_map(kind, high):
    label = LabelMap(np.array([[[7, 0, high], [high, 3, 7]]], kind), Geometry(shape=(1, 2, 3), spacing_mm=(1, 1, 1)))
    assert label.values() == [0, 3, 7, high]


@pytest.mark.parametrize("data", ["/etc/passwd", "../b.raw", "LIST", "slice%03d.raw"])
def test_voxels_are_read_from_beside_their_header_alone(tmp_path, data):
    (tmp_path / "b.raw").write_bytes(bytes(8))
    folder = tmp_path / "a"
    folder.mkdir()
    header = f"NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = {data}\n"
    (folder / "a.mhd").write_text(header)
    nrrd = f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: {data}\n\n"
    (folder / "a.nrrd").write_text(nrrd)
    for name in ("a.mhd", "a.nrrd"):
        with pytest.raises(DatasetError, match=rf"{name}\n.*its voxels"):
            read_image([folder / name], case="a")
