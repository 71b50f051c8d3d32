"""What the labels are called: a dataset.json of ours or of nnU-Net, or the values in the references."""

from collections.abc import Iterable
from pathlib import Path

from autoseg.artifacts.base import read_json
from autoseg.artifacts.labels import Labels, foreground
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
    dict of str to int
        Name to value in order of the values, without background.

    Raises
    ------
    DatasetError
        The file can't be read, has no `labels`, a label is made of several values (regions), or there is an
        ignore label.
    """
    labels = described_labels(read_json(file), str(file))
    if labels is None:
        raise DatasetError("a dataset.json names no labels", where=str(file), allowed='{"labels": {"liver": 1, ...}}')
    return foreground(labels)


def name_values(values: Iterable[int]) -> dict[str, int]:
    """Names for label values that have none: ``label_1`` for 1, and so on; without the background.

    Examples
    --------
    >>> name_values([2, 0, 1])
    {'label_1': 1, 'label_2': 2}
    """
    return {f"label_{value}": value for value in sorted(set(values)) if value > 0}
