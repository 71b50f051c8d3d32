"""What labels mean: single values, regions made of several, and one that is to be ignored."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

Name = Annotated[str, msgspec.Meta(min_length=1)]
Value = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Region = Annotated[tuple[Value, ...], msgspec.Meta(min_length=1)]
Labels = dict[Name, Value | Region]
BACKGROUND, IGNORE = "background", "ignore"


def foreground(labels: Mapping[str, int | tuple[int, ...]]) -> dict[str, int | tuple[int, ...]]:
    """The labels that are to be found, in the order of a network's outputs.

    Parameters
    ----------
    labels : mapping of str to int or tuple of int

    Returns
    -------
    dict of str to int or tuple of int
        Without the background, whatever it is called, and without what is to be ignored. Regions keep the order in
        which they are listed, which `regions_class_order` goes by; single values are in order of their size.
    """
    named = {name: value for name, value in labels.items() if value != 0 and name != IGNORE}
    return named if has_regions(labels) else dict(sorted(named.items(), key=lambda item: values_of(item[1])))


def values_of(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """The values in a label map that a label stands for."""
    return value if isinstance(value, tuple) else (value,)


def all_values(labels: Mapping[str, int | tuple[int, ...]]) -> tuple[int, ...]:
    """Every value that may occur in a label map, each once, ascending."""
    return tuple(sorted({each for value in labels.values() for each in values_of(value)}))


def ignored(labels: Mapping[str, int | tuple[int, ...]]) -> int | None:
    """The value of what is not annotated, where there is one."""
    value = labels.get(IGNORE)
    return value if isinstance(value, int) else None


def voxels_by_name(counts: Sequence[int], labels: Mapping[str, int | tuple[int, ...]]) -> dict[str, int]:
    """How many voxels each foreground label or region has, from how many each value has (`counts`, by value)."""
    return {
        name: sum(int(counts[each]) for each in values_of(value) if each < len(counts))
        for name, value in foreground(labels).items()
    }


def in_files(labels: Mapping[str, int | tuple[int, ...]], file_values: Sequence[int]) -> Labels:
    """Labels with the values that stand in the files for theirs; the same where `file_values` is empty."""
    if not file_values:
        return dict(labels)
    return {
        name: tuple(file_values[each] for each in value) if isinstance(value, tuple) else file_values[value]
        for name, value in labels.items()
    }


def has_regions(labels: Mapping[str, int | tuple[int, ...]]) -> bool:
    """Whether a label stands for several values, so that labels may overlap."""
    return any(isinstance(value, tuple) for value in labels.values())


def count_outputs(labels: Mapping[str, int | tuple[int, ...]]) -> int:
    """Outputs of a network: one a label with the background, or one a region without it; nothing is to be ignored."""
    named = [name for name in labels if name != IGNORE]
    return len(named) - (BACKGROUND in named and has_regions(labels))


def count_foreground(labels: Mapping[str, int | tuple[int, ...]]) -> int:
    """Values other than the background's and the one to be ignored, however many regions share them."""
    return len({each for name, value in labels.items() if name != IGNORE for each in values_of(value)} - {0})


def fault(labels: Mapping[str, int | tuple[int, ...]], regions_class_order: tuple[int, ...]) -> str | None:
    """What is wrong with labels, in words; None where nothing is."""
    if labels.get(BACKGROUND) != 0:
        return "labels needs background: 0"
    sets = {name: values_of(value) for name, value in labels.items()}
    values = sorted({value for each in sets.values() for value in each})
    if values != list(range(len(values))):
        return "labels needs values that count on from 0 without a gap"
    if IGNORE in labels and labels[IGNORE] != values[-1]:
        return f"labels.ignore has to be the highest value, {values[-1]}"
    if not has_regions(labels):
        if len(values) < len(labels):
            return "labels gives two names to one value"
        return "regions_class_order is for regions alone" if regions_class_order else None
    if any(0 in each for name, each in sets.items() if name != BACKGROUND):
        return "labels has a region that holds the background"
    if not set(regions_class_order) <= set(values):
        return "regions_class_order has values that are no label's"
    if len(regions_class_order) != count_outputs(labels):
        return f"regions_class_order needs a value for each of the {count_outputs(labels)} regions"
    return None
