"""What the labels are called: a dataset.json of ours or of nnU-Net, or the values in the references."""

from collections.abc import Iterable
from pathlib import Path

from autoseg.artifacts.base import read_json
from autoseg.artifacts.dataset import Repair
from autoseg.artifacts.labels import IGNORE, Labels, foreground, ignored, in_files
from autoseg.datasets.described import described_labels
from autoseg.errors import DatasetError


def read_labels(file: Path) -> Labels:
    """The foreground labels that a dataset.json states.

    Parameters
    ----------
    file : Path
        A dataset.json of autoseg, of nnU-Net v2 (name to value), or of nnU-Net v1 and the Decathlon (value to
        name).

    Returns
    -------
    dict of str to int or tuple of int
        Name to value, or for a region to several, in order of the values or as listed where there are regions; without
        the background, with ``ignore`` where there is one.

    Raises
    ------
    DatasetError
        The file can't be read or has no `labels`.
    """
    content = read_json(file)
    labels = described_labels(content, str(file))
    if labels is None:
        raise DatasetError("a dataset.json names no labels", where=str(file), allowed='{"labels": {"liver": 1, ...}}')
    found = foreground(labels)
    ignore = ignored(labels)
    if ignore is not None:
        found[IGNORE] = ignore
    return in_files(found, tuple(content.get("file_values") or ()))


def read_repair(file: Path) -> Repair | None:
    """What a dataset.json of autoseg says is done with labels on another grid; None for others.

    Raises
    ------
    DatasetError
        The file can't be read.
    """
    return "resample-labels" if read_json(file).get("repair") == "resample-labels" else None


def name_values(values: Iterable[int]) -> dict[str, int]:
    """Names for label values that have none: ``label_1`` for 1, and so on; without the background.

    Examples
    --------
    >>> name_values([2, 0, 1])
    {'label_1': 1, 'label_2': 2}
    """
    return {f"label_{value}": value for value in sorted(set(values)) if value > 0}
