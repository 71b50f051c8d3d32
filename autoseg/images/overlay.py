"""Draws a label map over its image: arrays of one slice -> a panel of a figure."""

from collections.abc import Iterable, Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from numpy.typing import NDArray

from autoseg.artifacts.labels import values_of

# Okabe and Ito's colours, which most colour-blind readers can tell apart, the lightest first on dark scans.
COLOURS = ("#56b4e9", "#e69f00", "#cc79a7", "#009e73", "#f0e442", "#d55e00", "#0072b2")
BACKGROUND, FOREGROUND = "#111417", "#e8eaed"
WINDOW_PERCENTILES = (0.5, 99.5)


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for each label; more than seven are spread over the rainbow."""
    listed = list(names)
    if len(listed) <= len(COLOURS):
        return dict(zip(listed, COLOURS, strict=False))
    places = np.linspace(0.05, 0.95, len(listed))
    return {name: to_hex(colour) for name, colour in zip(listed, matplotlib.colormaps["turbo"](places), strict=True)}


def draw_slice(
    panel: Axes,
    image_yx: NDArray[np.floating],
    label_yx: NDArray[np.integer] | None,
    labels: Mapping[str, int | tuple[int, ...]],
    window: NDArray[np.floating],
    aspect: float = 1.0,
) -> None:
    """One slice in grey, its labels tinted and outlined.

    Parameters
    ----------
    panel : Axes
    image_yx : ndarray of float, shape (Y, X)
    label_yx : ndarray of int, shape (Y, X), or None
        None: the image alone.
    labels : mapping of str to int or tuple of int
        Name to the value in `label_yx`, or to the values of a region. Later ones are drawn over earlier ones.
    window : ndarray of float, shape (2,)
        What is black and what is white.
    aspect : float
        Height of a voxel in its widths.
    """
    panel.set(xticks=[], yticks=[])
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.imshow(image_yx, cmap="gray", vmin=window[0], vmax=window[1], interpolation="bilinear", aspect=aspect)
    if label_yx is None:
        return
    masks = {name: np.isin(label_yx, values_of(value)) for name, value in labels.items()}
    colours = colours_of(labels)
    tint = np.zeros((*label_yx.shape, 4), np.float32)
    for name, mask in masks.items():
        tint[mask] = (*to_rgb(colours[name]), 0.3)
    panel.imshow(tint, interpolation="nearest", aspect=aspect)
    outline(panel, label_yx, labels)


def outline(
    panel: Axes,
    label_yx: NDArray[np.integer],
    labels: Mapping[str, int | tuple[int, ...]],
    *,
    style: str = "solid",
    width: float = 1.3,
) -> None:
    """The edges of labels over a slice that is drawn already.

    Parameters
    ----------
    panel : Axes
    label_yx : ndarray of int, shape (Y, X)
    labels : mapping of str to int or tuple of int
        As `draw_slice` takes them.
    style : str
        Matplotlib's name of a line style.
    width : float
        In points.
    """
    colours = colours_of(labels)
    # Padding closes the outlines at the picture's edge and shifts them by one voxel.
    rows, columns = label_yx.shape
    places = np.arange(-1, columns + 1), np.arange(-1, rows + 1)
    for name, value in labels.items():
        mask = np.isin(label_yx, values_of(value))
        if mask.any():
            padded = np.pad(mask, 1)
            panel.contour(*places, padded, levels=[0.5], colors=[colours[name]], linewidths=width, linestyles=style)
    panel.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
