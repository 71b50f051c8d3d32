"""Reads a case and checks it at the border: files -> Image and LabelMap that fit each other and the dataset."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.dataset import Case, Dataset, Repair
from autoseg.artifacts.fingerprint import LabelGrid
from autoseg.artifacts.labels import all_values, ignored
from autoseg.errors import DatasetError
from autoseg.images.grids import compare_grids, resample_onto
from autoseg.images.image import Image, LabelMap
from autoseg.images.io import read_geometry, read_image, read_label


@dataclass(frozen=True, slots=True)
class Promises:
    """What a dataset says of each of its cases.

    Attributes
    ----------
    root : Path
        What relative paths start from.
    num_channels : int
    label_values : tuple of int
        Every value that a label map may hold, 0 included.
    file_values : tuple of int
        What stands in the files for each of them; empty where it is the same.
    ignore : int or None
        The value of what is not annotated.
    repair : {'resample-labels'} or None
        What is done where image and label lie on different grids.
    """

    root: Path
    num_channels: int
    label_values: tuple[int, ...]
    file_values: tuple[int, ...] = ()
    ignore: int | None = None
    repair: Repair | None = None

    @staticmethod
    def of(dataset: Dataset) -> "Promises":
        """Those of a dataset."""
        return Promises(
            # Absolute, since a worker may stand elsewhere.
            Path(dataset.root).absolute(),
            len(dataset.channel_names),
            all_values(dataset.labels),
            dataset.file_values,
            ignored(dataset.labels),
            dataset.repair,
        )


@dataclass(frozen=True, slots=True)
class LabelledCase:
    """A case as read.

    Attributes
    ----------
    image : Image
    label : LabelMap
        On the image's grid.
    label_grid : {'equal', 'snapped', 'resampled'}
        How the label's grid in the file compares with the image's.
    """

    image: Image
    label: LabelMap
    label_grid: LabelGrid


def read_case(case: Case, promises: Promises) -> LabelledCase:
    """Read image and label of a training case.

    Parameters
    ----------
    case : Case
        With a label.
    promises : Promises
        Of its dataset.

    Raises
    ------
    DatasetError
        A file can't be read; the number of channels differs; image and label lie on different grids, and the user
        wished for no repair; the label holds a value without a name.
    """
    if case.label is None:
        raise DatasetError("a case has no label", where=f"case {case.name}")
    image = _read_channels(case, promises.root, promises.num_channels)
    label = read_label(promises.root / case.label, case=case.name, grid=image.geometry)
    where = f"case {case.name}, {case.label}"
    unknown = sorted(set(label.values()) - set(promises.file_values or promises.label_values))
    if unknown:
        raise DatasetError(
            "a label map holds values without a name",
            where=where,
            found=", ".join(map(str, unknown[:20])) + (", ..." if len(unknown) > 20 else ""),
            allowed=", ".join(map(str, sorted(promises.file_values or promises.label_values))),
            hint="name the value under labels in dataset.json or with --label-names, or correct the file",
        )
    if promises.file_values:
        label = LabelMap(renumber(label.array_zyx, promises.file_values), label.geometry)
    label, label_grid = _onto_image(label, image, where, promises)
    return LabelledCase(image, label, label_grid)


def case_bytes(case: Case, promises: Promises) -> int:
    """Peak memory of reading and measuring a case, estimated from its header.

    Returns
    -------
    int
        0 where the header can't be read, which the case itself will tell.
    """
    try:
        shape = read_geometry([promises.root / file for file in case.images], case=case.name).shape
    except DatasetError:
        return 0
    # Images, and either a file of double precision while it is inflated, or the foreground and the same sorted.
    return prod(shape) * (8 * promises.num_channels + 24)


def renumber(array_zyx: NDArray[np.integer], file_values: tuple[int, ...]) -> NDArray[np.integer]:
    """The files' values of a label map as 0, 1, 2, ...: each value's place among `file_values`, which are all there."""
    table = np.zeros(max(file_values) + 1, np.uint8 if len(file_values) <= 256 else np.uint16)
    table[list(file_values)] = np.arange(len(file_values))
    renumbered: NDArray[np.integer] = table[array_zyx]
    return renumbered


def _onto_image(label: LabelMap, image: Image, where: str, promises: Promises) -> tuple[LabelMap, LabelGrid]:
    """The label on the image's own grid."""
    compared = compare_grids(image.geometry, label.geometry)
    if compared.level == "equal":
        return LabelMap(label.array_zyx, image.geometry), "equal"
    if compared.level == "noise":
        return LabelMap(label.array_zyx, image.geometry), "snapped"
    if promises.repair != "resample-labels":
        raise DatasetError(
            "image and label lie on different grids",
            where=where,
            found=f"{compared.words} (image and label)",
            allowed="the same shape, spacing, origin and direction, but for rounding (a tenth of a voxel)",
            hint="--repair resample-labels brings labels onto their images, --reject leaves such cases out",
        )
    if not (image.geometry.has_spacing and label.geometry.has_spacing):
        raise DatasetError(
            "a label can't be brought onto its image: a file states no spacing", where=where, found=compared.words
        )
    try:
        # What the label does not reach is not annotated, which background is only for want of an ignore label.
        return resample_onto(label, image.geometry, promises.ignore or 0), "resampled"
    except ValueError as error:
        raise DatasetError(
            "a label can't be brought onto its image", where=where, found=f"{error}; {compared.words}"
        ) from error


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
