"""Reads a case and checks it at the border: files -> Image and LabelMap that fit each other and the dataset."""

import logging
from collections.abc import Collection
from pathlib import Path

from autoseg.artifacts.dataset import Case
from autoseg.errors import DatasetError
from autoseg.images.image import Image, LabelMap
from autoseg.images.io import geometry_differences, read_image, read_label

log = logging.getLogger(__name__)


def read_case(case: Case, root: Path, num_channels: int, label_values: Collection[int]) -> tuple[Image, LabelMap]:
    """Read image and label of a training case.

    Parameters
    ----------
    case : Case
        With a label.
    root : Path
        What its relative paths start from.
    num_channels : int
        Of the dataset.
    label_values : collection of int
        Every value the dataset names, 0 included.

    Raises
    ------
    DatasetError
        A file can't be read; the number of channels differs; image and label differ in shape or spacing; the
        label holds a value without a name. Differences in origin and direction are only logged.
    """
    if case.label is None:
        raise DatasetError("a case has no label", where=f"case {case.name}")
    image = _read_channels(case, root, num_channels)
    label = read_label(root / case.label, case=case.name, grid=image.geometry)
    where = f"case {case.name}, {case.label}"
    size, place = geometry_differences(image.geometry, label.geometry)
    if size:
        raise DatasetError(
            "image and label lie on different grids",
            where=where,
            found=f"{'; '.join(size)} (image and label)",
            allowed="the same shape and spacing",
            hint="resample the label onto the image with nearest neighbour, or take the case out",
        )
    if place:
        log.warning("%s: image and label differ in %s; the image's place is kept", where, "; ".join(place))
    unknown = sorted(set(label.values()) - set(label_values))
    if unknown:
        raise DatasetError(
            "a label map holds values without a name",
            where=where,
            found=", ".join(map(str, unknown[:20])) + (", ..." if len(unknown) > 20 else ""),
            allowed=", ".join(map(str, sorted(label_values))),
            hint="name the value under labels in dataset.json or with --label-names, or correct the file",
        )
    return image, label


def read_input(case: Case, num_channels: int) -> Image:
    """Read a case to be predicted, whose paths are absolute.

    Raises
    ------
    DatasetError
        A file can't be read, or the number of channels is not the model's.
    """
    return _read_channels(case, Path(), num_channels)


def _read_channels(case: Case, root: Path, num_channels: int) -> Image:
    image = read_image([root / file for file in case.images], case=case.name)
    if len(image.array_czyx) != num_channels:
        raise DatasetError(
            "a case has the wrong number of channels",
            where=f"case {case.name}, {', '.join(case.images)}",
            found=f"{len(image.array_czyx)} channels",
            allowed=f"{num_channels} channels",
        )
    return image
