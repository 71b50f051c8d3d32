"""TIFF through tifffile: pictures and volumes of several pages <-> array; spacing from a side file or the file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.geometry import Geometry
from autoseg.images.pictures import drop_alpha, flat_geometry
from autoseg.images.tiff_spacing import stated_spacing


def read(file: Path, case: str, *, label: bool) -> tuple[NDArray[Any], Geometry]:
    """Read a TIFF: grey or RGB picture, or a volume of several pages; of a pyramid the finest level.

    Parameters
    ----------
    file : Path
    case : str
        Spacing is looked for in ``CASE.json`` beside the file, as nnU-Net does, then in the file itself.
    label : bool
        A palette picture gives its index values, not its colours.

    Returns
    -------
    array_czyx : ndarray, shape (C, Z, Y, X)
    geometry : Geometry

    Raises
    ------
    ValueError
        Several images of different size, axes that make no volume, a time series, one of several files, varying
        transparency, or a wrong sidecar.
    OSError
        The file can't be read.
    """
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        series = _only_series(tiff)
        page = series.keyframe
        array = series.asarray()
        axes = series.axes
        has_alpha = "S" in axes and any(sample in (1, 2) for sample in page.extrasamples)
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and not label and page.colormap is not None:
            array = np.moveaxis((page.colormap >> 8).astype(np.uint8)[:, array], 0, -1)
            axes += "S"
        array_czyx, is_volume = _arrange(array, axes)
        geometry = _geometry(file, case, tiff, array_czyx.shape[1:], is_volume=is_volume)
    return (drop_alpha(array_czyx) if has_alpha else array_czyx), geometry


def read_geometry(file: Path, case: str) -> Geometry:
    """The geometry of a TIFF without its voxels; raises as `read` does."""
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        series = _only_series(tiff)
        # One byte that pretends to be the whole array: only its shape is asked.
        array_czyx, is_volume = _arrange(np.broadcast_to(np.uint8(0), series.shape), series.axes)
        return _geometry(file, case, tiff, array_czyx.shape[1:], is_volume=is_volume)


def write(path: Path, array_zyx: NDArray[Any], geometry: Geometry) -> None:
    """Write a label map as a TIFF, one page a slice."""
    import tifffile

    array = array_zyx[0] if geometry.num_dimensions == 2 else array_zyx
    tifffile.imwrite(path, array, photometric="minisblack", compression="zlib")


def spacing_record(geometry: Geometry) -> bytes:
    """The sidecar JSON that states a TIFF's spacing along (Z, Y, X) in mm."""
    return json.dumps({"spacing": list(geometry.spacing_mm)}).encode() + b"\n"


def _only_series(tiff: Any) -> Any:  # noqa: ANN401 - tifffile has no types
    """The one image in a file, in all its pages."""
    # tifffile parses the metadata to find the images; entities could blow up there.
    if tiff.is_ome and "<!DOCTYPE" in (tiff.ome_metadata or "").upper():
        raise ValueError("its OME metadata hold a document type, which they have no use for")
    if len(tiff.series) != 1:
        raise ValueError(f"it holds {len(tiff.series)} images of different kinds")
    series = tiff.series[0]
    if series.dataoffset is None and any(page is None for page in series.pages):
        raise ValueError("pages are missing: it is one of several files that make an image, and the others are gone")
    if tiff.is_ome and series.kind != "ome":
        raise ValueError("its OME metadata describe other pages than it has: it was renamed, or is a part of an image")
    if series.is_multifile:
        raise ValueError("it is one of several files that make an image: save them as one")
    if (tiff.is_ome or tiff.is_imagej) and "T" in series.axes and series.shape[series.axes.index("T")] > 1:
        raise ValueError(
            f"it is a time series (axes {series.axes}, shape {series.shape}): save an image for each time; if these "
            "are slices, say so in the file (ImageJ: Image > Properties)"
        )
    return series


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


def _geometry(
    file: Path,
    case: str,
    tiff: Any,  # noqa: ANN401 - tifffile has no types
    shape_zyx: tuple[int, ...],
    *,
    is_volume: bool,
) -> Geometry:
    sidecars = [file.with_name(f"{case}.json"), file.with_suffix(".json")]
    sidecar = next((path for path in sidecars if path.is_file()), None)
    spacing_mm = _sidecar_spacing(sidecar) if sidecar is not None else stated_spacing(tiff, is_volume=is_volume)
    if spacing_mm is None:
        if not is_volume:
            return flat_geometry(shape_zyx[1:])
        return Geometry(shape=_triple(shape_zyx), spacing_mm=(1, 1, 1), has_spacing=False)
    return Geometry(shape=_triple(shape_zyx), spacing_mm=spacing_mm, num_dimensions=3 if is_volume else 2)


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
