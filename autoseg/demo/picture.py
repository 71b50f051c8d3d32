"""Draws a segmentation beside its reference: arrays of one case -> one PNG."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from autoseg.artifacts.labels import foreground
from autoseg.images.overlay import BACKGROUND, FOREGROUND, WINDOW_PERCENTILES, colours_of, draw_slice

NUM_SLICES = 4
PANEL_INCHES = 2.5


def overlay_picture(
    path: Path,
    image_zyx: NDArray[np.floating],
    reference_zyx: NDArray[np.integer],
    predicted_zyx: NDArray[np.integer],
    label_names: Mapping[str, int | tuple[int, ...]],
    title: str,
) -> None:
    """Write a picture of a few slices: the image, the reference and the prediction below each other.

    Parameters
    ----------
    path : Path
        The PNG to write; its folder is made if missing.
    image_zyx : ndarray of float, shape (Z, Y, X)
        Any units; shown between its 0.5th and 99.5th percentile.
    reference_zyx, predicted_zyx : ndarray of int, shape (Z, Y, X)
        Label maps on the image's grid.
    label_names : mapping of str to int
        Name to value; the value 0 and regions are not drawn.
    title : str
        Stands above the picture.
    """
    labels = {name: value for name, value in foreground(label_names).items() if isinstance(value, int)}
    slices = _choose_slices(reference_zyx, predicted_zyx, list(labels.values()))
    window = np.percentile(image_zyx, WINDOW_PERCENTILES)

    height, width = image_zyx.shape[1:]
    panel_height = PANEL_INCHES * min(max(height / width, 0.4), 2.5)
    figure = Figure(figsize=(PANEL_INCHES * len(slices) + 0.5, 3 * panel_height + 0.95), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=FOREGROUND, fontsize=13)
    axes = figure.subplots(3, len(slices), squeeze=False)
    rows = (("image", None), ("reference", reference_zyx), ("prediction", predicted_zyx))
    for row, (row_name, label_zyx) in zip(axes, rows, strict=True):
        row[0].set_ylabel(row_name, color=FOREGROUND, fontsize=11)
        for panel, z in zip(row, slices, strict=True):
            draw_slice(panel, image_zyx[z], None if label_zyx is None else label_zyx[z], labels, window)
    for panel, z in zip(axes[0], slices, strict=True):
        panel.set_title(f"slice {z + 1} of {len(image_zyx)}", color=FOREGROUND, fontsize=9)
    if labels:
        patches = [Patch(facecolor=colour, label=name) for name, colour in colours_of(labels).items()]
        figure.legend(
            handles=patches, loc="lower center", ncols=min(len(patches), 6), frameon=False, labelcolor=FOREGROUND
        )
    num_legend_rows = -(-len(labels) // 6)
    bottom = (0.12 + 0.28 * num_legend_rows) / figure.get_figheight()
    top = 1 - 0.62 / figure.get_figheight()
    figure.subplots_adjust(
        left=0.38 / figure.get_figwidth(), right=0.99, bottom=bottom, top=top, wspace=0.03, hspace=0.03
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _choose_slices(
    reference_zyx: NDArray[np.integer], predicted_zyx: NDArray[np.integer], values: list[int]
) -> list[int]:
    """The slices where the labels are largest, the rarest first, then slices spread over what is labelled."""
    num_wanted = min(NUM_SLICES, len(reference_zyx))
    area_vz = np.array([(reference_zyx == value).sum(axis=(1, 2)) for value in values]).reshape(len(values), -1)
    chosen = [int(area.argmax()) for area in sorted(area_vz, key=np.sum) if area.any()]
    labelled = np.flatnonzero(((reference_zyx > 0) | (predicted_zyx > 0)).any(axis=(1, 2)))
    if labelled.size == 0:
        labelled = np.arange(len(reference_zyx))
    for parts in range(num_wanted, len(reference_zyx) + num_wanted + 1):
        places = np.linspace(labelled[0], labelled[-1], parts + 2)[1:-1]
        chosen.extend(int(place) for place in places.round())
    # Where too few slices are labelled, those beside them fill the row.
    chosen.extend(sorted(range(len(reference_zyx)), key=lambda z: abs(z - labelled.mean())))
    return sorted(list(dict.fromkeys(chosen))[:num_wanted])
