"""Pictures through imageio: PNG, BMP, JPEG <-> array; and TIFF through tifffile."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.geometry import Geometry

ALPHA_MODES = ("LA", "RGBA", "PA")
PLAIN_MODES = ("1", "L", "I", "I;16", "I;16B", "F", "RGB")


def read(file: Path, *, label: bool) -> tuple[NDArray[Any], Geometry]:
    """Read a PNG, BMP or JPEG.

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
            array = picture.read(index=0, mode="P" if label else "RGBA")
        elif mode in ALPHA_MODES or mode in PLAIN_MODES:
            array = picture.read(index=0)
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


def read_tiff(file: Path, case: str, *, label: bool) -> tuple[NDArray[Any], Geometry]:
    """Read a TIFF: grey or RGB picture, or a volume of several pages.

    Parameters
    ----------
    file : Path
    case : str
        Spacing is looked for in ``CASE.json`` beside the file, as nnU-Net does.
    label : bool
        A palette picture gives its index values, not its colours.

    Returns
    -------
    array_czyx : ndarray, shape (C, Z, Y, X)
    geometry : Geometry

    Raises
    ------
    ValueError
        Several images of different size, axes that make no volume, varying transparency, or a wrong sidecar.
    OSError
        The file can't be read.
    """
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        if len(tiff.series) != 1:
            raise ValueError(f"it holds {len(tiff.series)} images of different kinds")
        series = tiff.series[0]
        page = series.keyframe
        array = series.asarray()
        axes = series.axes
        has_alpha = "S" in axes and any(sample in (1, 2) for sample in page.extrasamples)
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and not label and page.colormap is not None:
            array = np.moveaxis((page.colormap >> 8).astype(np.uint8)[:, array], 0, -1)
            axes += "S"
    array_czyx, is_volume = _arrange(array, axes)
    if has_alpha:
        array_czyx = drop_alpha(array_czyx)
    return array_czyx, _tiff_geometry(file, case, array_czyx.shape[1:], is_volume=is_volume)


def read_tiff_geometry(file: Path, case: str) -> Geometry:
    """The geometry of a TIFF without its voxels; raises as `read_tiff` does."""
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        series = tiff.series[0]
        # One byte that pretends to be the whole array: only its shape is asked.
        array_czyx, is_volume = _arrange(np.broadcast_to(np.uint8(0), series.shape), series.axes)
    return _tiff_geometry(file, case, array_czyx.shape[1:], is_volume=is_volume)


def write_tiff(path: Path, array_zyx: NDArray[Any], geometry: Geometry) -> None:
    """Write a label map as a TIFF, one page a slice."""
    import tifffile

    array = array_zyx[0] if geometry.num_dimensions == 2 else array_zyx
    tifffile.imwrite(path, array, photometric="minisblack", compression="zlib")


def spacing_record(geometry: Geometry) -> bytes:
    """The sidecar JSON that states a TIFF's spacing along (Z, Y, X) in mm."""
    return json.dumps({"spacing": list(geometry.spacing_mm)}).encode() + b"\n"


def _arrange(array: NDArray[Any], axes: str) -> tuple[NDArray[Any], bool]:
    """Bring a TIFF's axes into the order (C, Z, Y, X); also tell whether there is a slice axis."""
    kept = [i for i, axis in enumerate(axes) if axis in "YX" or array.shape[i] > 1]
    order = "".join(axes[i] for i in kept)
    array = array.reshape([array.shape[i] for i in kept])
    channel = [i for i, axis in enumerate(order) if axis in "SC"]
    slices = [i for i, axis in enumerate(order) if axis not in "SCYX"]
    if len(channel) > 1 or len(slices) > 1 or "Y" not in order or "X" not in order:
        raise ValueError(f"its axes {axes} with shape {array.shape} make no volume")
    array = array.transpose([*channel, *slices, order.index("Y"), order.index("X")])
    if not slices:
        array = np.expand_dims(array, -3)
    return (array if channel else array[None]), bool(slices)


def _tiff_geometry(file: Path, case: str, shape_zyx: tuple[int, ...], *, is_volume: bool) -> Geometry:
    sidecars = [file.with_name(f"{case}.json"), file.with_suffix(".json")]
    sidecar = next((path for path in sidecars if path.is_file()), None)
    if sidecar is None:
        if not is_volume:
            return flat_geometry(shape_zyx[1:])
        return Geometry(shape=_triple(shape_zyx), spacing_mm=(1, 1, 1), has_spacing=False)
    return Geometry(
        shape=_triple(shape_zyx),
        spacing_mm=_sidecar_spacing(sidecar),
        num_dimensions=3 if is_volume else 2,
    )


def _triple(shape_zyx: tuple[int, ...]) -> tuple[int, int, int]:
    return shape_zyx[0], shape_zyx[1], shape_zyx[2]


def _sidecar_spacing(sidecar: Path) -> tuple[float, float, float]:
    try:
        z, y, x = (float(value) for value in json.loads(sidecar.read_bytes())["spacing"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{sidecar.name} beside it should hold {{"spacing": [z, y, x]}} in mm') from error
    if not all(0 < value < np.inf for value in (z, y, x)):
        raise ValueError(f"{sidecar.name} beside it states an impossible spacing {[z, y, x]}")
    return z, y, x
