"""PNG, BMP and JPEG: every colour model that cameras and programs write."""

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image as Pillow

from autoseg.errors import DatasetError
from autoseg.images.io import read_geometry, read_image, read_label

GREY = (np.arange(20).reshape(4, 5) * 12).astype(np.uint8)
TURNED = {1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 6: np.rot90(GREY, -1), 8: np.rot90(GREY)}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_pictures_are_turned_as_viewers_turn_them(tmp_path, ending, orientation):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    Pillow.fromarray(GREY).save(tmp_path / f"a{ending}", exif=exif, quality=100)
    image = read_image([tmp_path / f"a{ending}"], case="a")
    np.testing.assert_allclose(image.array_czyx[0, 0], TURNED[orientation], atol=3 if ending == ".jpg" else 0)
    assert read_geometry([tmp_path / f"a{ending}"], case="a") == image.geometry
    if ending == ".png":
        assert np.array_equal(read_label(tmp_path / "a.png", case="a").array_zyx[0], TURNED[orientation])


def test_colours_of_a_jpeg_are_channels(tmp_path):
    colours = np.full((16, 16, 3), (250, 120, 10), np.uint8)
    iio.imwrite(tmp_path / "a.jpeg", colours, quality=100)
    array = read_image([tmp_path / "a.jpeg"], case="a").array_czyx
    np.testing.assert_allclose(array, np.moveaxis(colours, -1, 0)[:, None], atol=3)


def test_print_colours_are_refused(tmp_path):
    Pillow.fromarray(GREY).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(DatasetError, match="CMYK is neither grey nor RGB"):
        read_image([tmp_path / "a.jpg"], case="a")


@pytest.mark.parametrize("ending", [".png", ".bmp"])
def test_one_bit_is_zero_or_one(tmp_path, ending):
    Pillow.fromarray(GREY > 100).save(tmp_path / f"a{ending}")
    assert np.array_equal(read_label(tmp_path / f"a{ending}", case="a").array_zyx[0], GREY > 100)
    assert np.array_equal(read_image([tmp_path / f"a{ending}"], case="a").array_czyx[0, 0], GREY > 100)


def test_sixteen_bits_of_grey_are_kept(tmp_path):
    deep = GREY.astype(np.uint16) * 257
    Pillow.fromarray(deep).save(tmp_path / "a.png")
    assert np.array_equal(read_image([tmp_path / "a.png"], case="a").array_czyx[0, 0], deep)
    assert np.array_equal(read_label(tmp_path / "a.png", case="a").array_zyx[0], deep)


def test_grey_with_constant_transparency_and_grey_as_a_palette(tmp_path):
    Pillow.fromarray(np.stack([GREY, np.full_like(GREY, 255)], axis=-1)).save(tmp_path / "a.png")
    assert np.array_equal(read_image([tmp_path / "a.png"], case="a").array_czyx[:, 0], [GREY])
    # An 8-bit BMP always has a palette.
    Pillow.fromarray(GREY).save(tmp_path / "a.bmp")
    assert np.array_equal(read_image([tmp_path / "a.bmp"], case="a").array_czyx[:, 0], [GREY])
