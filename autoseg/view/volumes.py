"""What the page shows of a case: its files -> arrays on the image's grid, window, colours, and a place to begin at."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import Labels, foreground, ignored, values_of
from autoseg.errors import DatasetError
from autoseg.evaluate.labels import name_values
from autoseg.images.endings import KINDS, file_ending
from autoseg.images.grids import compare_grids, resample_onto
from autoseg.images.image import Image
from autoseg.images.io import read_image, read_label
from autoseg.images.nifti import encode
from autoseg.images.overlay import WINDOW_PERCENTILES, colours_of
from autoseg.view.cases import ViewCase

log = logging.getLogger(__name__)

MOST_VOXELS = 2048  # along an edge: what WebGL promises of a 3D texture
MARGIN = 0.25  # of the labels' box, on each side of it
WIDER = 0.5  # of the range of labelled voxels, on each side of it: the window
IGNORED, UNNAMED = "#9aa0a6", "#ffffff"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the legend.

    Attributes
    ----------
    name : str
    colour : tuple of int
        Red, green and blue, from 0 to 255.
    dice : float or None
    """

    name: str
    colour: tuple[int, int, int]
    dice: float | None = None


class CasePage(msgspec.Struct, frozen=True, kw_only=True):
    """What the page is told of a case, beside its volumes.

    Attributes
    ----------
    name : str
    channels : tuple of str
    windows : tuple of (float, float)
        Of each channel, what is black and what is white.
    legend : tuple of Entry
        Entry i has the value i + 1 in the label volumes.
    has_reference, has_predicted : bool
    place : tuple of int
        Voxel (x, y, z) to begin at.
    is_flat : bool
        A picture: there is one plane to look at.
    is_anatomical : bool
        Whether the axes are those of a body, with sides that have names.
    notes : tuple of str
        What one should know about the files.
    """

    name: str
    channels: tuple[str, ...]
    windows: tuple[tuple[float, float], ...]
    legend: tuple[Entry, ...]
    has_reference: bool
    has_predicted: bool
    place: tuple[int, int, int]
    is_flat: bool
    is_anatomical: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A case in memory.

    Attributes
    ----------
    image : Image
    reference_zyx, predicted_zyx : ndarray of uint8 or uint16, shape (Z, Y, X), or None
        On the image's grid; the values are those of the legend.
    page : CasePage
    """

    image: Image
    reference_zyx: NDArray[np.integer] | None
    predicted_zyx: NDArray[np.integer] | None
    page: CasePage

    def image_bytes(self, channel: int) -> bytes:
        """One channel as a NIfTI file."""
        return encode(_compact(self.image.array_czyx[channel]), self.image.geometry)

    def label_bytes(self, label_zyx: NDArray[np.integer]) -> bytes:
        """One of the label maps as a NIfTI file."""
        return encode(label_zyx, self.image.geometry)


def load(case: ViewCase) -> Loaded:
    """Read a case.

    Parameters
    ----------
    case : ViewCase

    Returns
    -------
    Loaded
        Thinned out to every second voxel of an axis, or fewer, where there are more than a browser can show.

    Raises
    ------
    DatasetError
        A file can't be read, or a label map lies outside its image.
    """
    image = read_image(case.images, case=case.name)
    notes: list[str] = []
    maps = {
        title: _read_onto(path, case, image.geometry, title, notes)
        for title, path in (("reference", case.reference), ("prediction", case.predicted))
        if path is not None
    }
    labels = case.labels
    if labels is None:
        labels = {**name_values(int(value) for each in maps.values() for value in np.unique(each))}
    legend, lookup = legend_of(labels, case.dice)
    known = {title: _looked_up(each, lookup, len(legend) + 1) for title, each in maps.items()}
    if any((each > len(legend)).any() for each in known.values()):
        legend = (*legend, Entry(name="other values", colour=_rgb(UNNAMED)))
        notes.append("a label map holds values that are no label")
    image, known = _thinned(image, known, notes)
    # Of a poor prediction one would see the air around the body.
    inside_zyx = next((each > 0 for each in known.values() if each.any()), np.zeros(image.geometry.shape, bool))
    channels = len(image.array_czyx)
    names = case.channel_names if len(case.channel_names) == channels else [f"channel {i}" for i in range(channels)]
    flat = image.geometry.num_dimensions == 2 or image.geometry.shape[0] == 1
    page = CasePage(
        name=case.name,
        channels=tuple(names),
        windows=tuple(_window(each, inside_zyx) for each in image.array_czyx),
        legend=legend,
        has_reference="reference" in known,
        has_predicted="prediction" in known,
        place=_place(inside_zyx),
        is_flat=flat,
        is_anatomical=not flat and _is_anatomical(case.images[0]),
        notes=tuple(notes),
    )
    return Loaded(image, known.get("reference"), known.get("prediction"), page)


def legend_of(labels: Labels, dice: Mapping[str, float | None]) -> tuple[tuple[Entry, ...], dict[int, int]]:
    """The lines of the legend, in the colours of our pictures, and which of them each value in the files belongs to.

    Parameters
    ----------
    labels : dict of str to int or tuple of int
        Name to value in the files, or to the values of a region.
    dice : mapping of str to float or None

    Returns
    -------
    legend : tuple of Entry
    lookup : dict of int to int
        Value to the number of its line, counted from 1. Of regions that share a value the last one has it, as in
        pictures, where later ones are drawn over earlier ones.
    """
    named = foreground(labels)
    colours = colours_of(named)
    legend = [Entry(name=name, colour=_rgb(colours[name]), dice=dice.get(name)) for name in named]
    lookup = {value: line for line, values in enumerate(named.values(), start=1) for value in values_of(values)}
    ignore = ignored(labels)
    if ignore is not None:
        legend.append(Entry(name="not annotated", colour=_rgb(IGNORED)))
        lookup[ignore] = len(legend)
    return tuple(legend), lookup


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in to_rgb(colour))
    return red, green, blue


def _read_onto(path: Path, case: ViewCase, grid: Geometry, title: str, notes: list[str]) -> NDArray[np.integer]:
    """A label map on the image's grid."""
    label = read_label(path, case=case.name, grid=grid)
    compared = compare_grids(grid, label.geometry)
    if compared.level != "real":
        return label.array_zyx
    notes.append(f"the {title} lies on another grid and is shown where it lies: {compared.words}")
    try:
        return resample_onto(label, grid).array_zyx
    except ValueError as error:
        raise DatasetError(
            "a label map can't be shown on its image", where=f"case {case.name}, {path}", found=str(error)
        ) from error


def _looked_up(label_zyx: NDArray[np.integer], lookup: Mapping[int, int], other: int) -> NDArray[np.integer]:
    """The values of the legend for those of the files; `other` for what the legend doesn't have."""
    table = np.full(int(label_zyx.max()) + 1, other, np.uint8 if other < 256 else np.uint16)
    table[0] = 0
    for value, line in lookup.items():
        if value < len(table):
            table[value] = line
    return np.asarray(table[label_zyx])


def _thinned(
    image: Image, maps: dict[str, NDArray[np.integer]], notes: list[str]
) -> tuple[Image, dict[str, NDArray[np.integer]]]:
    """Every n-th voxel of axes that are too long."""
    geometry = image.geometry
    z, y, x = (-(-edge // MOST_VOXELS) for edge in geometry.shape)
    if z == y == x == 1:
        return image, maps
    pick = (slice(None, None, z), slice(None, None, y), slice(None, None, x))
    array = image.array_czyx[(slice(None), *pick)]
    notes.append(f"shown is every n-th voxel, for n = {z}, {y}, {x} along (Z, Y, X): a browser can't show more")
    spacing_mm = tuple(step * edge for step, edge in zip((z, y, x), geometry.spacing_mm, strict=True))
    smaller = msgspec.structs.replace(geometry, shape=array.shape[1:], spacing_mm=spacing_mm)
    return Image(array, smaller), {title: each[pick] for title, each in maps.items()}


def _box(inside_zyx: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The labels' box and some of what is around it; all where there are none."""
    if not inside_zyx.any():
        return (slice(None),) * 3
    box = []
    for axis, edge in enumerate(inside_zyx.shape):
        there = np.flatnonzero(inside_zyx.any(axis=tuple({0, 1, 2} - {axis})))
        first, last = int(there[0]), int(there[-1]) + 1
        margin = int(np.ceil(MARGIN * (last - first)))
        box.append(slice(max(0, first - margin), min(edge, last + margin)))
    return tuple(box)


def _window(array_zyx: NDArray[np.float32], inside_zyx: NDArray[np.bool_]) -> tuple[float, float]:
    """What is black and what is white: around the values of labelled voxels, as far as their surroundings go."""
    low, high = _range(array_zyx[_box(inside_zyx)])
    if inside_zyx.any():
        inner_low, inner_high = _range(array_zyx[inside_zyx])
        wider = WIDER * (inner_high - inner_low)
        low, high = max(low, inner_low - wider), min(high, inner_high + wider)
    return (low, high) if high > low else (low, low + 1.0)


def _range(voxels: NDArray[np.float32]) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(voxels, WINDOW_PERCENTILES))
    return low, high


def _place(inside_zyx: NDArray[np.bool_]) -> tuple[int, int, int]:
    """The labelled voxel nearest to the middle of the largest section, as (x, y, z); the middle where there is none."""
    if not inside_zyx.any():
        z, y, x = (edge // 2 for edge in inside_zyx.shape)
        return x, y, z
    z = int(inside_zyx.sum(axis=(1, 2)).argmax())
    places_yx = np.argwhere(inside_zyx[z])
    nearest_one = ((places_yx - places_yx.mean(axis=0)) ** 2).sum(axis=1).argmin()
    y, x = (int(each) for each in places_yx[nearest_one])
    return x, y, z


def _compact(array_zyx: NDArray[np.float32]) -> NDArray[np.integer] | NDArray[np.float32]:
    """As int16, which is half to send, where no value is lost by it."""
    if array_zyx.min() < -(2**15) or array_zyx.max() >= 2**15:
        return array_zyx
    whole = array_zyx.astype(np.int16)
    return whole if np.array_equal(whole, array_zyx) else array_zyx


def _is_anatomical(file: Path) -> bool:
    """Not a microscope's stack, whose file says nothing of a body; a folder of slices is DICOM."""
    return KINDS.get((file_ending(file.name) or ".dcm").lower()) in ("volume", "dicom")
