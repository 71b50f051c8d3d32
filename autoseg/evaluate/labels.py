"""What the labels are called: a dataset.json of ours or of nnU-Net, or the values in the references."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from autoseg.artifacts.dataset import foreground
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
        Name to value in order of the values, without background.

    Raises
    ------
    DatasetError
        The file can't be read, has no `labels`, a label is made of several values (regions), or there is an
        ignore label.
    """
    try:
        labels = msgspec.json.decode(file.read_bytes()).get("labels")
    except (OSError, msgspec.DecodeError, AttributeError) as error:
        raise DatasetError("the description of a dataset can't be read", where=str(file), found=str(error)) from error
    if not isinstance(labels, dict) or not labels:
        raise DatasetError("a dataset.json names no labels", where=str(file), found=labels, allowed='{"liver": 1, ...}')
    pairs = (_name_and_value(key, value, file) for key, value in labels.items())
    named = foreground(dict(pairs))
    if "ignore" in named:
        raise DatasetError(
            "an ignore label is not supported yet",
            where=f"{file}, labels.ignore",
            hint="voxels to be ignored would count as background, and predictions there as wrong",
        )
    return named


def name_values(values: Iterable[int]) -> dict[str, int]:
    """Names for label values that have none: ``label_1`` for 1, and so on; without the background.

    Examples
    --------
    >>> name_values([2, 0, 1])
    {'label_1': 1, 'label_2': 2}
    """
    return {f"label_{value}": value for value in sorted(set(values)) if value > 0}


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
