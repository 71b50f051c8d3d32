"""Connected components of label maps: which of them a rule keeps, and what their voxels do to Dice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import values_of
from autoseg.artifacts.selection import Rule
from autoseg.errors import SettingError, nearest
from autoseg.images.components import components

Labels = Mapping[str, int | tuple[int, ...]]
Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Components:
    """The connected components of one label in one case.

    Attributes
    ----------
    volumes_mm3 : ndarray of float64, shape (N,)
    parents : ndarray of int64, shape (N,)
        The component of the whole foreground that each is a part of.
    found : ndarray of int64, shape (N,)
        Voxels of each, without those that are not annotated.
    common : ndarray of int64, shape (N,)
        Those of them that the reference gives the same label.
    num_reference : int
        Voxels of the label in the reference.
    reference_mm3 : ndarray of float64
        Volumes of the reference's own components.
    """

    volumes_mm3: NDArray[np.float64]
    parents: NDArray[np.int64]
    found: NDArray[np.int64]
    common: NDArray[np.int64]
    num_reference: int
    reference_mm3: NDArray[np.float64]

    def dice(self, kept: NDArray[np.bool_]) -> float:
        """Dice of what is kept; 1 where that and the reference are both empty, for then nothing is wrong."""
        size = self.num_reference + int(self.found[kept].sum())
        return 2 * int(self.common[kept].sum()) / size if size else 1.0


@dataclass(frozen=True, slots=True)
class CaseComponents:
    """All components of one case.

    Attributes
    ----------
    foreground_mm3 : ndarray of float64
        Volumes of the components of the whole foreground.
    foreground_reference_mm3 : ndarray of float64
        Of the reference's.
    labels : dict of str to Components
    """

    foreground_mm3: NDArray[np.float64]
    foreground_reference_mm3: NDArray[np.float64]
    labels: dict[str, Components]


def measure(
    found_zyx: NDArray[np.integer],
    truth_zyx: NDArray[np.integer],
    labels: Labels,
    *,
    ignore: int | None = None,
    voxel_mm3: float,
) -> CaseComponents:
    """Find every component once, and count what each one is worth.

    Parameters
    ----------
    found_zyx, truth_zyx : ndarray of integers, shape (Z, Y, X)
        Prediction and reference.
    labels : mapping of str to int or tuple of int
        The foreground labels.
    ignore : int or None
        Value in the reference of what is not annotated.
    voxel_mm3 : float

    Returns
    -------
    CaseComponents
    """
    known_zyx = np.ones(truth_zyx.shape, bool) if ignore is None else truth_zyx != ignore
    reference_zyx = np.where(known_zyx, truth_zyx, 0)
    box = bounding_box(found_zyx != 0)
    whole, volumes = components(found_zyx[box] != 0)
    _, reference_volumes = components(reference_zyx[bounding_box(reference_zyx != 0)] != 0)
    return CaseComponents(
        volumes * voxel_mm3,
        reference_volumes * voxel_mm3,
        {
            name: _measure_label(
                is_one_of(found_zyx[box], value),
                is_one_of(reference_zyx, value),
                box,
                known_zyx[box],
                whole,
                voxel_mm3,
            )
            for name, value in labels.items()
        },
    )


def _measure_label(
    found_zyx: NDArray[np.bool_],
    reference_zyx: NDArray[np.bool_],
    box: Box,
    known_zyx: NDArray[np.bool_],
    whole: NDArray[np.integer],
    voxel_mm3: float,
) -> Components:
    """The components of a label; all but the reference within the box of the predicted foreground."""
    inner = bounding_box(found_zyx)
    numbers, volumes = components(found_zyx[inner])
    count = len(volumes) + 1
    known = numbers[known_zyx[inner]]
    common = numbers[reference_zyx[box][inner]]
    parents = np.zeros(count, np.int64)
    parents[numbers.ravel()] = whole[inner].ravel()
    _, reference_volumes = components(reference_zyx[bounding_box(reference_zyx)])
    return Components(
        volumes_mm3=volumes * voxel_mm3,
        parents=parents[1:] - 1,
        found=np.bincount(known, minlength=count)[1:],
        common=np.bincount(common, minlength=count)[1:],
        num_reference=int(np.count_nonzero(reference_zyx)),
        reference_mm3=reference_volumes * voxel_mm3,
    )


def kept_by(rule: Rule | None, volumes_mm3: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which components a rule keeps; bool, in their order.

    Parameters
    ----------
    rule : Rule or None
        None keeps all.
    volumes_mm3 : ndarray of float64, shape (N,)
        0 for what another rule has removed.

    Notes
    -----
    A volume or share that falls short by rounding alone is enough. Of components of one size the first is the largest.
    """
    if rule is None or not volumes_mm3.size:
        return np.ones(volumes_mm3.shape, bool)
    if rule.keep == "largest":
        largest: NDArray[np.bool_] = np.arange(len(volumes_mm3)) == volumes_mm3.argmax()
        return largest
    least = (rule.threshold or 0.0) * (volumes_mm3.max() if rule.keep == "min_share" else 1)
    enough: NDArray[np.bool_] = volumes_mm3 >= least * (1 - 1e-9)
    return enough


def check_rules(rules: Sequence[Rule], labels: Labels, *, where: str) -> None:
    """Find out before anything is predicted that rules are about labels that are there.

    Parameters
    ----------
    rules : sequence of Rule
    labels : mapping of str to int or tuple of int
        Those that are there.
    where : str
        File and key of the rules, for people.

    Raises
    ------
    SettingError
        One is not.
    """
    for rule in rules:
        if rule.label is not None and rule.label not in labels:
            close = nearest(rule.label, labels)
            raise SettingError(
                "a rule is about an unknown label",
                where=where,
                found=rule.label,
                allowed=", ".join(labels),
                hint=f"did you mean {close}?" if close else "null stands for the whole foreground",
            )


def apply_rules(
    label_zyx: NDArray[np.integer], rules: Sequence[Rule], labels: Labels, voxel_mm3: float
) -> NDArray[np.integer]:
    """The label map without the components that the rules remove.

    Parameters
    ----------
    label_zyx : ndarray of integers, shape (Z, Y, X)
        Not changed.
    rules : sequence of Rule
        One after the other.
    labels : mapping of str to int or tuple of int
        Name to value in the label map.
    voxel_mm3 : float

    Returns
    -------
    ndarray of integers, shape (Z, Y, X)

    Raises
    ------
    SettingError
        As `check_rules`.
    """
    check_rules(rules, labels, where="rules")
    cleaned = label_zyx.copy()
    for rule in rules:
        mask = cleaned != 0 if rule.label is None else is_one_of(cleaned, labels[rule.label])
        box = bounding_box(mask)
        numbers, volumes = components(mask[box])
        removed = np.concatenate([[False], ~kept_by(rule, volumes * voxel_mm3)])
        cleaned[box][removed[numbers]] = 0
    return cleaned


def voxel_mm3(geometry: Geometry) -> float:
    """Volume of a voxel; of 2D files its area in mm², of pictures without spacing 1, so that pixels are counted."""
    if not geometry.has_spacing:
        return 1.0
    return float(np.prod(geometry.spacing_mm[3 - geometry.num_dimensions :]))


def is_one_of(label_zyx: NDArray[np.integer], value: int | tuple[int, ...]) -> NDArray[np.bool_]:
    """Where a label map has the value, or one of a region's."""
    if isinstance(value, tuple):
        return np.isin(label_zyx, values_of(value))
    mask: NDArray[np.bool_] = label_zyx == value
    return mask


def bounding_box(mask_zyx: NDArray[np.bool_]) -> Box:
    """The smallest box around a mask; empty where the mask is."""
    box = []
    for axis in range(mask_zyx.ndim):
        others = tuple(other for other in range(mask_zyx.ndim) if other != axis)
        filled = np.flatnonzero(mask_zyx.any(axis=others))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 0))
    return tuple(box)
