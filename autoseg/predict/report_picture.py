"""The picture of a case's report: image, label map and measures -> one PNG with the largest sections."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from autoseg.artifacts.case_report import CaseReport, LabelReport
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import all_values
from autoseg.images.overlay import BACKGROUND, FOREGROUND, WINDOW_PERCENTILES, colours_of, draw_slice
from autoseg.predict.measure import voxels_of_slices

MOST_PANELS, MOST_COLUMNS = 6, 3
PANEL_INCHES, LONE_PANEL_INCHES = 3.3, 5.0
LEGEND_INCHES = 0.22  # of a row
MOST_PIXELS = 1024  # along an edge: more of a slice would be lost in the picture, and take minutes to outline
ALL = "all labels"


def draw_report(
    path: Path,
    image_zyx: NDArray[np.floating],
    label_zyx: NDArray[np.integer],
    labels: Mapping[str, int | tuple[int, ...]],
    report: CaseReport,
    *,
    anatomical: bool,
) -> None:
    """Write the picture.

    Parameters
    ----------
    path : Path
        The PNG to write.
    image_zyx : ndarray of float, shape (Z, Y, X)
        Any units; shown between two percentiles of the slices drawn.
    label_zyx : ndarray of int, shape (Z, Y, X)
    labels : mapping of str to int or tuple of int
        Name to value in `label_zyx`, or to the values of a region.
    report : CaseReport
        Of the same label map.
    anatomical : bool
        Whether the grid's axes are those of a body: slices are then mirrored as `upright` says, and its sides are
        written at the edges.
    """
    sections = choose_sections(voxels_of_slices(label_zyx, all_values(labels)), report.labels)
    geometry = report.geometry
    num_slices = geometry.shape[0]
    height_mm, width_mm = (n * edge for n, edge in zip(geometry.shape[1:], geometry.spacing_mm[1:], strict=True))
    columns = min(len(sections), MOST_COLUMNS)
    rows, legend_rows = -(-len(sections) // columns), -(-len(labels) // columns)
    panel_width = PANEL_INCHES if len(sections) > 1 else LONE_PANEL_INCHES
    panel_height = 0.95 * panel_width * min(max(height_mm / width_mm, 0.4), 2.5) + 0.25
    inches = rows * panel_height + legend_rows * LEGEND_INCHES + 0.85
    figure = Figure(figsize=(panel_width * columns, inches), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    # Names are taken as they are: a dollar in one begins no formula.
    figure.suptitle(report.case, y=1 - 0.1 / inches, color=FOREGROUND, fontsize=12, parse_math=False)
    step = -(-max(geometry.shape[1:]) // MOST_PIXELS)
    mirrored, sides = upright(geometry) if anatomical else ((1, 1), None)
    pixels = slice(None, None, mirrored[0] * step), slice(None, None, mirrored[1] * step)
    aspect = geometry.spacing_mm[1] / geometry.spacing_mm[2]
    shown = {z: image_zyx[z][pixels] for z in sections}
    window = np.percentile(np.stack(list(shown.values())), WINDOW_PERCENTILES)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(sections) :]:
        panel.set_axis_off()
    for panel, (z, names) in zip(panels, sections.items(), strict=False):
        draw_slice(panel, shown[z], label_zyx[z][pixels], labels, window, aspect)
        caption = _some(names) if num_slices == 1 else f"slice {z}: {_some(names)}"
        panel.set_title(caption, color=FOREGROUND, fontsize=9, parse_math=False)
        if sides is not None:
            write_sides(panel, sides)
    _write_legend(figure, labels, report, columns)
    if num_slices > 1:
        numbers = f"slices count from 0 to {num_slices - 1}"
        figure.text(0.5, 1 - 0.42 / inches, numbers, color=FOREGROUND, fontsize=8, ha="center", va="center")
    figure.subplots_adjust(
        left=0.02,
        right=0.98,
        top=1 - 0.75 / inches,
        bottom=(legend_rows * LEGEND_INCHES + 0.2) / inches,
        wspace=0.04,
        hspace=0.25 / panel_height,
    )
    figure.savefig(path, format="png", dpi=130, bbox_inches="tight", pad_inches=0.1)


def choose_sections(foreground_per_slice: NDArray[np.int64], found: Mapping[str, LabelReport]) -> dict[int, list[str]]:
    """The slices to draw, and which labels are largest there.

    Parameters
    ----------
    foreground_per_slice : ndarray of int64, shape (Z,)
        Voxels of any label.
    found : mapping of str to LabelReport

    Returns
    -------
    dict of int to list of str
        First the slice with the largest section of all labels together, then that of each by itself, six at most.
        Where nothing is found, the middle slice and no name.
    """
    if not foreground_per_slice.any():
        return {len(foreground_per_slice) // 2: []}
    sections: dict[int, list[str]] = {int(foreground_per_slice.argmax()): [ALL] if len(found) > 1 else []}
    for name, label in found.items():
        if label.largest_slice in sections:
            sections[label.largest_slice].append(name)
        elif label.largest_slice is not None and len(sections) < MOST_PANELS:
            sections[label.largest_slice] = [name]
    return sections


def upright(geometry: Geometry) -> tuple[tuple[int, int], tuple[str, str, str, str]]:
    """How slices are mirrored to look as radiologists show them, and where their edges then lie in the body.

    Returns
    -------
    steps : tuple of int
        1 or -1 along Y and X: -1 where the array runs the other way.
    sides : tuple of str
        Of the left, right, upper and lower edge, be it obliquely: R or L (right, left), A or P (anterior, posterior),
        I or S (inferior, superior). Right, else anterior, is on the left; anterior, else superior, is up.
    """
    direction = np.reshape(geometry.direction, (3, 3))
    steps, edges = [], ""
    for axis, first in ((1, "AS"), (0, "RA")):  # ITK's y, down a column, and x, along a row
        towards = direction[:, axis]
        main = int(np.abs(towards).argmax())
        ends = "RAI"[main] + "LPS"[main]
        ends = ends if towards[main] > 0 else ends[::-1]
        mirrored = ends[1] in first
        steps.append(-1 if mirrored else 1)
        edges += ends[::-1] if mirrored else ends
    return (steps[0], steps[1]), (edges[2], edges[3], edges[0], edges[1])


def words(name: str, label: LabelReport, unit: str) -> str:
    """What the legend says of a label, whose voxels are called `unit`."""
    if label.voxels == 0:
        return f"{name}: not found"
    size = f"{label.voxels:,} {unit}"
    if label.volume_ml is not None:
        size = f"{label.volume_ml:#.3g} mL" if label.volume_ml < 99.5 else f"{label.volume_ml:,.0f} mL"
    return f"{name}: {size}, {label.components} component{'s' if label.components > 1 else ''}"


def _some(names: list[str]) -> str:
    """A few of the names, and how many more there are."""
    if not names:
        return "nothing found"
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"largest of {', '.join(names[:2])}{more}"


def _write_legend(
    figure: Figure, labels: Mapping[str, int | tuple[int, ...]], report: CaseReport, columns: int
) -> None:
    unit = "pixels" if report.geometry.num_dimensions == 2 else "voxels"
    handles = [Patch(facecolor=colour) for colour in colours_of(labels).values()]
    legend = figure.legend(
        handles, [""] * len(labels), loc="lower center", ncols=columns, frameon=False, fontsize=9, labelcolor=FOREGROUND
    )
    # Afterwards, because a legend leaves out names that begin with an underscore.
    for entry, name in zip(legend.get_texts(), labels, strict=True):
        entry.set(text=words(name, report.labels[name], unit), parse_math=False)


def write_sides(panel: Axes, sides: tuple[str, str, str, str]) -> None:
    """Write at the edges of a slice where they lie in the body, as `upright` gives it."""
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
    alignments = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, (x, y), (ha, va) in zip(sides, places, alignments, strict=True):
        text = panel.text(x, y, letter, transform=panel.transAxes, ha=ha, va=va, color=FOREGROUND, fontsize=9)
        text.set_path_effects([withStroke(linewidth=2, foreground=BACKGROUND)])
