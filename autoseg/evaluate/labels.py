"""What the labels are called: a dataset.json of ours or of nnU-Net, or the values in the references."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from autoseg.errors import DatasetError


def read_labels(file: Path) -> dict[str, int]:
    """The foreground labels that a dataset.json states.

    Parameters
    ----------
    file : Path
        A dataset.json of autoseg, of nnU-Net v2 (name to value), or of nnU-Net v1 and the Decathlon (value to
        name).

    Returns
    -------
    dict of str to int
        Name to value in order of the values, without background and without nnU-Net's ``ignore``.

    Raises
    ------
    DatasetError
        The file can't be read, has no `labels`, or a label is made of several values (regions).
    """
    try:
        labels = msgspec.json.decode(file.read_bytes()).get("labels")
    except (OSError, msgspec.DecodeError, AttributeError) as error:
        raise DatasetError("the description of a dataset can't be read", where=str(file), found=str(error)) from error
    if not isinstance(labels, dict) or not labels:
        raise DatasetError("a dataset.json names no labels", where=str(file), found=labels, allowed='{"liver": 1, ...}')
    pairs = (_name_and_value(key, value, file) for key, value in labels.items())
    named = {name: value for name, value in pairs if value != 0 and name != "ignore"}
    return dict(sorted(named.items(), key=lambda item: item[1]))


def name_values(values: Iterable[int]) -> dict[str, int]:
    """Names for label values that have none: ``label_1`` for 1, and so on; without the background.

    Examples
    --------
    >>> name_values([2, 0, 1])
    {'label_1': 1, 'label_2': 2}
    """
    return {f"label_{value}": value for value in sorted(set(values)) if value > 0}


def present_values(labels_zyx: NDArray[np.integer]) -> list[int]:
    """The values that occur in a label map.

    Parameters
    ----------
    labels_zyx : ndarray of integers, shape (Z, Y, X)

    Returns
    -------
    list of int
        Each value once, sorted.

    Notes
    -----
    Small integers are ticked off in a table, which on whole volumes is far quicker than sorting them.
    """
    kind = labels_zyx.dtype
    if kind.itemsize > 2:
        return [int(value) for value in np.unique(labels_zyx)]
    bounds = np.iinfo(kind)
    ticked = np.zeros(bounds.max - bounds.min + 1, dtype=bool)
    # Negative values index the table from its end.
    ticked[labels_zyx] = True
    values = np.flatnonzero(ticked)
    return sorted(int(value) if value <= bounds.max else int(value) - len(ticked) for value in values)


def _name_and_value(key: str, value: Any, file: Path) -> tuple[str, int]:  # noqa: ANN401 - straight from JSON
    """One entry of `labels`, whichever way round it stands."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535:
        return key, value
    if isinstance(value, str) and key.isdecimal():
        return value, int(key)
    raise DatasetError(
        "a label is not a single value",
        where=f"{file}, labels.{key}",
        found=value,
        allowed="an integer from 0 to 65535",
        hint="regions made of several labels are not scored; name the labels one by one",
    )
