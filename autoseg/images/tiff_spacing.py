"""What a TIFF itself says about the size of its pixels: OME-XML, ImageJ's lines, or plain resolution tags -> mm.

A size counts only where it is whole: all axes that the image has, each a positive number in a unit of length.
"""

import math
from typing import Any
from xml.etree import ElementTree

# µ is written as the micro sign and as the Greek letter.
UNITS_MM = {
    "m": 1e3,
    "cm": 10.0,
    "mm": 1.0,
    "\u00b5m": 1e-3,
    "\u03bcm": 1e-3,
    "um": 1e-3,
    "micron": 1e-3,
    "microns": 1e-3,
    "nm": 1e-6,
    "pm": 1e-9,
    "\u00c5": 1e-7,
    "\u212b": 1e-7,
    "in": 25.4,
    "inch": 25.4,
}
WORDS = {"meter": "m", "centimeter": "cm", "millimeter": "mm", "micrometer": "um", "nanometer": "nm"}
RESOLUTION_UNITS_MM = {2: 25.4, 3: 10.0}  # TIFF 6.0, tag 296
# What programs write for a screen or a printer, in dots an inch; such a picture was not measured.
DEFAULT_DPI = (1, 72, 96, 100, 150, 200, 300, 600, 1200)
DEFAULT_TOLERANCE = 5e-3  # relative: 118 dots a cm are 299.7 an inch
FLAT_SPACING = 999  # of a picture along z, in multiples of its pixels, as ITK's 2D files get

Spacing = tuple[float, float, float]


def stated_spacing(tiff: Any, *, is_volume: bool) -> Spacing | None:  # noqa: ANN401 - tifffile has no types
    """The size of a voxel as a TIFF states it.

    Parameters
    ----------
    tiff : tifffile.TiffFile
        Open.
    is_volume : bool
        Whether the image has slices, whose distance must be stated too.

    Returns
    -------
    tuple of float, or None
        Along (Z, Y, X) in mm; None where the file doesn't say, or not for all axes.

    Notes
    -----
    OME: ome-xsd 2016-06, Pixels. ImageJ writes the distance of slices only where it is not 1 (ij.io.FileSaver).
    Plain TIFFs have no tag for the distance of slices, so they count for pictures alone.
    """
    if tiff.is_ome:
        z, y, x = _ome(tiff.ome_metadata)
    elif tiff.is_imagej:
        z, y, x = _imagej(tiff.imagej_metadata or {}, tiff.pages.first)
    else:
        z, y, x = _resolution(tiff.pages.first)
    if not is_volume:
        z = FLAT_SPACING * max(y, x)
    return (z, y, x) if all(0 < edge < math.inf for edge in (z, y, x)) else None


def _ome(xml: str) -> Spacing:
    # The caller has refused document types, and with them all entities.
    root = ElementTree.fromstring(xml.strip("\0"))  # noqa: S314
    pixels = next((element for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"), None)
    stated = pixels.attrib if pixels is not None else {}
    z, y, x = (
        _number(stated.get(f"PhysicalSize{axis}")) * _unit_mm(stated.get(f"PhysicalSize{axis}Unit", "\u00b5m"))
        for axis in "ZYX"
    )
    return z, y, x


def _imagej(stated: dict[str, Any], page: Any) -> Spacing:  # noqa: ANN401 - tifffile has no types
    unit_mm = _unit_mm(str(stated.get("unit", "")).replace("\\u00B5", "\u00b5"))
    y, x = (unit_mm * size for size in _pixel_sizes(page))
    return unit_mm * _number(stated.get("spacing", 1)), y, x


def _resolution(page: Any) -> Spacing:  # noqa: ANN401 - tifffile has no types
    unit_mm = RESOLUTION_UNITS_MM.get(int(page.resolutionunit), math.nan)
    y, x = (unit_mm * size for size in _pixel_sizes(page))
    if any(math.isclose(x * dpi, 25.4, rel_tol=DEFAULT_TOLERANCE) for dpi in DEFAULT_DPI):
        return math.nan, math.nan, math.nan
    return math.nan, y, x


def _pixel_sizes(page: Any) -> tuple[float, float]:  # noqa: ANN401 - tifffile has no types
    """Height and width of a pixel, in the file's unit; NaN where a tag is missing."""
    sizes = []
    for name in ("YResolution", "XResolution"):
        pixels, units = page.tags[name].value if name in page.tags else (0, 1)
        sizes.append(units / pixels if pixels else math.nan)
    return sizes[0], sizes[1]


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return math.nan


def _unit_mm(name: str) -> float:
    """Length of a unit; NaN for pixels and what nobody knows."""
    name = name.strip()
    return UNITS_MM.get(WORDS.get(name.lower(), name), math.nan)
