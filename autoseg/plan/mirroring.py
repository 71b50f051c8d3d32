"""Along which axes mirroring leaves the meaning of the labels alone."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from autoseg.artifacts.geometry import Geometry

PARTNERS = {"left": "right", "l": "r", "lt": "rt", "lh": "rh"}


def names_sides(labels: Iterable[str]) -> bool:
    """Whether label names tell left from right.

    Notes
    -----
    "left" or "right" as a word of a name is enough. Single letters (`kidney_L`) count only when the partner with
    the other letter exists too, since an L alone may mean anything.
    """
    words = [_words(name) for name in labels]
    if any(word in ("left", "right") for name in words for word in name):
        return True
    known = set(words)
    for name in words:
        for place, word in enumerate(name):
            partner = PARTNERS.get(word)
            if partner and (*name[:place], partner, *name[place + 1 :]) in known:
                return True
    return False


def _words(name: str) -> tuple[str, ...]:
    """`KidneyLeft_2` -> kidney, left, 2."""
    return tuple(part.casefold() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name))


def left_right_axis(geometry: Geometry) -> int:
    """The array axis (0, 1, 2 for Z, Y, X) that runs closest to the patient's left-right."""
    if geometry.num_dimensions == 2:
        return 2
    # Column j of the direction matrix is where ITK's axis j (x, y, z) points; row 0 is the patient's left-right.
    along = np.abs(np.asarray(geometry.direction).reshape(3, 3)[0])
    return 2 - int(np.argmax(along))


def mirror_axes(
    labels: Iterable[str], geometries: Iterable[Geometry], transpose_forward: Sequence[int]
) -> tuple[int, ...]:
    """Axes of the transposed volume along which to mirror.

    Parameters
    ----------
    labels : iterable of str
    geometries : iterable of Geometry
        Of the training cases; where they differ, every axis that is left-right in one of them is left out.
    transpose_forward : sequence of int, length 3

    Returns
    -------
    tuple of int
        Subset of (0, 1, 2).

    Notes
    -----
    nnU-Net mirrors along every axis whatever the labels mean, which teaches the network that left and right
    can't be told apart (issues 869, 2225, 2654 of its tracker). We differ.
    """
    if not names_sides(labels):
        return (0, 1, 2)
    sided = {left_right_axis(geometry) for geometry in geometries}
    return tuple(position for position, axis in enumerate(transpose_forward) if axis not in sided)


def in_plane(mirror: Sequence[int]) -> tuple[int, ...]:
    """The same axes for 2D networks, which know the last two alone."""
    return tuple(axis - 1 for axis in mirror if axis > 0)
