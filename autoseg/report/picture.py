"""A case on the slice where prediction and reference differ most: arrays -> PNG."""

from collections.abc import Mapping
from io import BytesIO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from autoseg.artifacts.geometry import Geometry
from autoseg.images.overlay import BACKGROUND, WINDOW_PERCENTILES, colours_of, draw_slice, outline
from autoseg.predict.report_picture import upright, write_sides
from autoseg.report.worst_part import Picture

PANEL_INCHES, DPI = 2.4, 150
MARGIN_SHARE, LEAST_MARGIN = 0.6, 12  # of the labelled box, and in voxels: what lies around tells where one is
MOST_PIXELS = 512


def draw_case(
    image_zyx: NDArray[np.floating],
    reference_zyx: NDArray[np.integer],
    predicted_zyx: NDArray[np.integer],
    labels: Mapping[str, int | tuple[int, ...]],
    geometry: Geometry,
    *,
    anatomical: bool,
) -> Picture:
    """Draw the image, and beside it both outlines.

    Parameters
    ----------
    image_zyx : ndarray of float, shape (Z, Y, X)
        Any units.
    reference_zyx, predicted_zyx : ndarray of int, shape (Z, Y, X)
    labels : mapping of str to int or tuple of int
        Name to the value in the maps, or to the values of a region.
    geometry : Geometry
        Of all three.
    anatomical : bool
        Whether the grid's axes are those of a body.
    """
    z = choose_slice(reference_zyx, predicted_zyx)
    box = crop_box((reference_zyx[z] > 0) | (predicted_zyx[z] > 0))
    steps, sides = upright(geometry) if anatomical else ((1, 1), None)
    coarser = -(-max(axis.stop - axis.start for axis in box) // MOST_PIXELS)

    pixels = slice(None, None, steps[0] * coarser), slice(None, None, steps[1] * coarser)

    image_yx, reference_yx = image_zyx[z][box][pixels], reference_zyx[z][box][pixels]
    predicted_yx = predicted_zyx[z][box][pixels]
    window = np.percentile(image_yx, WINDOW_PERCENTILES)
    aspect = geometry.spacing_mm[1] / geometry.spacing_mm[2]
    height = PANEL_INCHES * min(max(image_yx.shape[0] * aspect / image_yx.shape[1], 0.5), 1.6)
    size = (2 * PANEL_INCHES + 0.05, height)
    figure = Figure(figsize=size, facecolor=BACKGROUND, dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    plain, outlined = figure.subplots(1, 2)
    for panel in (plain, outlined):
        draw_slice(panel, image_yx, None, labels, window, aspect)
        if sides is not None:
            write_sides(panel, sides)
    outline(outlined, reference_yx, labels, width=1.5)
    outline(outlined, predicted_yx, labels, style="dashed", width=1.5)
    figure.subplots_adjust(left=0, right=1, top=1, bottom=0, wspace=0.02)
    stream = BytesIO()
    figure.savefig(stream, format="png")
    width_px, height_px = canvas.get_width_height()
    place = f"Slice {z} of 0 to {len(image_zyx) - 1}" if len(image_zyx) > 1 else "The picture"
    words = f"{place}; {differing(reference_zyx[z], predicted_zyx[z], labels)}"
    return Picture(stream.getvalue(), width_px, height_px, words, colours_of(labels))


def choose_slice(reference_zyx: NDArray[np.integer], predicted_zyx: NDArray[np.integer]) -> int:
    """Where most voxels differ; where none does, the slice with the largest section of the reference."""
    differs = np.array([np.count_nonzero(one != two) for one, two in zip(reference_zyx, predicted_zyx, strict=True)])
    if not differs.any():
        differs = np.array([np.count_nonzero(one) for one in reference_zyx])
    return int(differs.argmax())


def crop_box(labelled_yx: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The part of a slice around what is labelled; all of it where nothing is."""
    if not labelled_yx.any():
        return slice(0, labelled_yx.shape[0]), slice(0, labelled_yx.shape[1])
    spans = []
    for axis in (1, 0):
        places = np.flatnonzero(labelled_yx.any(axis=axis))
        spans.append((int(places[0]), int(places[-1]) + 1))
    margin = max(LEAST_MARGIN, int(MARGIN_SHARE * max(stop - start for start, stop in spans)))
    rows, columns = (
        slice(max(0, start - margin), min(edge, stop + margin))
        for (start, stop), edge in zip(spans, labelled_yx.shape, strict=True)
    )
    return rows, columns


def differing(
    reference_yx: NDArray[np.integer], predicted_yx: NDArray[np.integer], labels: Mapping[str, int | tuple[int, ...]]
) -> str:
    """What a slice shows, for those who can't see it."""
    told = []
    for name, value in labels.items():
        truth, answer = np.isin(reference_yx, value), np.isin(predicted_yx, value)
        if truth.any() or answer.any():
            missed, too_many = np.count_nonzero(truth & ~answer), np.count_nonzero(answer & ~truth)
            told.append(f"{name}: {missed} voxels missed, {too_many} too many")
    return "; ".join(told) or "no label here"
