"""Pictures through imageio: PNG, BMP, JPEG <-> array."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.geometry import Geometry

ALPHA_MODES = ("LA", "RGBA", "PA")
PLAIN_MODES = ("1", "L", "I", "I;16", "I;16B", "F", "RGB")


def read(file: Path, *, label: bool) -> tuple[NDArray[Any], Geometry]:
    """Read a PNG, BMP or JPEG, turned as its EXIF orientation says: labels are drawn on what a viewer shows.

    Parameters
    ----------
    file : Path
    label : bool
        A palette picture gives its index values, not its colours.

    Returns
    -------
    array_czyx : ndarray, shape (C, 1, Y, X)
        C is 1 (grey) or 3 (red, green, blue).
    geometry : Geometry

    Raises
    ------
    ValueError
        Another colour model, 16 bits a colour in a PNG, or transparency that varies.
    OSError
        The file can't be read.
    """
    import imageio.v3 as iio

    _check_depth(file)
    picture: Any  # the declared type knows only what all plugins share, not pillow's modes
    with iio.imopen(file, "r", plugin="pillow") as picture:
        mode = str(picture.metadata()["mode"])
        if mode == "P":
            # Through RGBA, so that a transparent palette entry is treated as any other transparency.
            array = picture.read(index=0, mode="P" if label else "RGBA", rotate=True)
        elif mode in ALPHA_MODES or mode in PLAIN_MODES:
            array = picture.read(index=0, rotate=True)
        else:
            raise ValueError(f"its colour model {mode} is neither grey nor RGB")
    array_cyx = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    if mode in ALPHA_MODES or (mode == "P" and not label):
        array_cyx = drop_alpha(array_cyx)
    return array_cyx[:, None], flat_geometry(array_cyx.shape[1:])


def _check_depth(file: Path) -> None:
    """Refuse a PNG with 16 bits a colour: pillow would keep eight of them without a word.

    Raises
    ------
    ValueError
        It is one.
    """
    if file.suffix.lower() == ".png":
        with file.open("rb") as png:
            header = png.read(26)
        # W3C's PNG specification, section 11.2.2: bit depth and colour type follow width and height.
        if header[24:26] in (b"\x10\x02", b"\x10\x04", b"\x10\x06"):
            raise ValueError("16 bits a colour can't be read from PNG: store it as TIFF")


def drop_alpha(array: NDArray[Any]) -> NDArray[Any]:
    """Remove the last channel, transparency, which must say the same everywhere."""
    if array[-1].size and np.ptp(array[-1]) != 0:
        raise ValueError("its alpha channel (transparency) varies, so it would be lost information")
    return array[:-1]


def flat_geometry(shape_yx: tuple[int, ...]) -> Geometry:
    """The geometry of a picture, which states no spacing."""
    return Geometry(shape=(1, shape_yx[0], shape_yx[1]), spacing_mm=(999, 1, 1), num_dimensions=2, has_spacing=False)


def write(path: Path, array_zyx: NDArray[Any]) -> None:
    """Write a label map as a PNG or BMP of grey values.

    Raises
    ------
    ValueError
        Several slices, or more than 255 labels in a BMP.
    """
    import imageio.v3 as iio

    if array_zyx.shape[0] != 1:
        raise ValueError(f"a picture can't hold {array_zyx.shape[0]} slices")
    if path.suffix.lower() == ".bmp" and array_zyx.dtype != np.uint8:
        raise ValueError("a BMP can't hold label values above 255")
    iio.imwrite(path, array_zyx[0], plugin="pillow")
