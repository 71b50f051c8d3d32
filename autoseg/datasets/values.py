"""What label values mean: names and the files' values -> consecutive values, and how the files write them."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.artifacts.dataset import Case
from autoseg.artifacts.labels import BACKGROUND, IGNORE, Labels, all_values, fault, foreground, has_regions, values_of
from autoseg.datasets.found import Found, Stated
from autoseg.errors import DatasetError
from autoseg.images.io import read_label
from autoseg.images.segmentations import segment_names

log = logging.getLogger(__name__)
WHITE = 255
# A mask of a few classes has few values between black and white; a smoothed or compressed one, or a photo, has most.
SMEARED = 50


@dataclass(frozen=True, slots=True)
class Meaning:
    """The labels of a dataset; attributes as those of `Dataset`."""

    labels: Labels
    regions_class_order: tuple[int, ...]
    file_values: tuple[int, ...]


def find_meaning(found: Found, root: Path, names: Sequence[str] | None, *, lenient: bool = False) -> Meaning:
    """Labels from the user's names, else as the dataset states them, else from the files.

    Parameters
    ----------
    found : Found
    root : Path
    names : sequence of str or None
        The labels' names in the order of their values.
    lenient : bool, optional
        Pass over label files that can't be used: whoever reads the cases will tell.

    Raises
    ------
    DatasetError
        As `stated_meaning`, `named_meaning` and `read_meaning`.
    """
    if names is not None:
        return named_meaning(found, root, names, lenient=lenient)
    if found.stated.labels is not None:
        return stated_meaning(found.stated, found.stated.labels)
    return read_meaning(found, root, lenient=lenient)


def stated_meaning(stated: Stated, labels: Labels) -> Meaning:
    """The labels as stated, with the name of value 0 set to ``background`` and gaps closed.

    Raises
    ------
    DatasetError
        Two labels share a value, there is only background, ``ignore`` is not the highest value, or there are regions
        and no value to write for each of them.
    """
    where = f"{stated.where}, labels"
    named = {name: value for name, value in labels.items() if value != 0}
    if not foreground(named):
        raise DatasetError("there is no label but the background", where=where, found=labels)
    if BACKGROUND in named:
        raise DatasetError("the background must be 0", where=where, found=named[BACKGROUND])
    if IGNORE in named and named[IGNORE] != max(all_values(named)):
        raise DatasetError(
            "the label to be ignored has not the highest value",
            where=f"{where}.{IGNORE}",
            found=named[IGNORE],
            allowed=f"a value above {max(all_values(named))}",
        )
    if not has_regions(named):
        named = dict(sorted(named.items(), key=lambda item: values_of(item[1])))
    meaning = _close_gaps({BACKGROUND: 0, **named}, stated.regions_class_order)
    wrong = fault(meaning.labels, meaning.regions_class_order)
    if wrong is not None:
        regions = has_regions(named)
        raise DatasetError(
            "the labels contradict each other",
            where=where,
            found=f"{wrong}: {labels}"
            + (f"; regions_class_order {list(stated.regions_class_order)}" if regions else ""),
            allowed="0 for the background, and another value, or list of values, for each label",
            hint=f'add "regions_class_order": [{", ".join(map(str, _proposed_order(named)))}]' if regions else None,
        )
    return meaning


def named_meaning(found: Found, root: Path, names: Sequence[str], *, lenient: bool = False) -> Meaning:
    """The user's names for 1, 2, 3, ..., or where the files hold other values for those, in order.

    Label files are read until each value has been seen, which most often the first few settle.

    Raises
    ------
    DatasetError
        A name is there twice or empty, or ``ignore`` is not the last; a label file can't be read; the files' values
        are others, and not as many as the names.
    """
    names = list(names[1:] if names and names[0].lower() == BACKGROUND else names)
    if (
        not set(names) - {IGNORE}
        or len(set(names)) < len(names)
        or {"", BACKGROUND} & set(names)
        or IGNORE in names[:-1]
    ):
        raise DatasetError(
            "the label names can't be used",
            where="--label-names",
            found=", ".join(names) or "none",
            allowed="different names, in order of the label values, without the background; ignore may be the last",
        )
    values = tuple(range(1, len(names) + 1))
    seen: dict[int, str] = {}
    for case in found.cases:
        for value in _values_of_file(case, root, lenient=lenient):
            seen.setdefault(value, case.name)
        if set(values) <= set(seen) <= {0, *values}:
            break
    present = sorted(set(seen) - {0})
    if set(present) <= set(values):
        return Meaning({BACKGROUND: 0, **dict(zip(names, values, strict=True))}, (), ())
    if len(present) != len(names):
        raise DatasetError(
            "there are not as many label names as label values",
            where=f"--label-names, and the label of case {seen[present[-1]]}, which holds {present[-1]}",
            found=f"{len(names)} names ({', '.join(names)}) and {len(present)} values ({_listed(present)})",
            allowed="a name for each value but 0, in order; ignore as the last one for what is not annotated",
        )
    return _close_gaps({BACKGROUND: 0, **dict(zip(names, present, strict=True))}, ())


def read_meaning(found: Found, root: Path, *, lenient: bool = False) -> Meaning:
    """A label for each value in the label files, all of which are read; DICOM segmentations bring names.

    Raises
    ------
    DatasetError
        A label file can't be read, or looks smoothed or compressed; all hold nothing but background; or a segment is
        called otherwise from case to case.
    """
    present = sorted({value for case in found.cases for value in _values_of_file(case, root, lenient=lenient)} - {0})
    if not present:
        raise DatasetError(
            "the labels hold nothing but background", where=f"all {len(found.cases)} label files", found="only 0"
        )
    value_names = found.stated.value_names or _segment_names(found, root)
    return _close_gaps({BACKGROUND: 0, **_named(present, value_names)}, ())


def _segment_names(found: Found, root: Path) -> dict[int, str]:
    """What all the label files call their values, where they are DICOM segmentations."""
    named: dict[int, tuple[str, str]] = {}
    for case in found.cases:
        if case.label is None:
            continue
        for value, name in segment_names(root / case.label, case.name).items():
            other, first = named.setdefault(value, (name, case.name))
            if other != name:
                raise DatasetError(
                    "segments of one number have different names",
                    where=f"case {first} and case {case.name}",
                    found=f"segment {value} is called {other} and {name}",
                    hint="renumber the segments, or if they mean the same, name the labels with --label-names",
                )
    return {value: name for value, (name, _) in named.items()}


def _named(present: Sequence[int], value_names: Mapping[int, str]) -> Labels:
    """A name for each value; the value itself makes it one where names are missing or taken."""
    named: Labels = {}
    for value in present:
        name = value_names.get(value, f"label_{value}")
        named[name if name not in (*named, BACKGROUND) else f"{name}_{value}"] = value
    return named


def _values_of_file(case: Case, root: Path, *, lenient: bool) -> list[int]:
    """The values in a case's label file, which is refused where they look like shades."""
    if case.label is None:
        return []
    try:
        values = read_label(root / case.label, case=case.name).values()
    except DatasetError:
        if lenient:
            return []
        _check_order(case, root)
        raise
    between = [value for value in values if 0 < value < WHITE]
    if WHITE in values and (len(between) > SMEARED or {1, WHITE - 1} <= set(between)):
        raise DatasetError(
            "a label map looks like an image or a smoothed mask",
            where=f"case {case.name}, {case.label}",
            found=f"{len(values)} different values: {_listed(values, 6)}",
            allowed="a whole number for each class",
            hint="was the mask smoothed (anti-aliased) or stored as JPEG? Export it again without, or set what is "
            "above 127 to 255 and the rest to 0. Values that are classes indeed have to be named in dataset.json",
        )
    return values


def _check_order(case: Case, root: Path) -> None:
    """See whether the image holds what the label should, where the label can't be one."""
    try:
        values = read_label(root / case.images[0], case=case.name).values()
    except DatasetError:
        return
    if case.label is not None and 1 < len(values) <= SMEARED:
        folders = [str((root / file).parent) for file in (case.label, case.images[0])]
        raise DatasetError(
            "images and labels look swapped",
            where=f"case {case.name}, label {root / case.label}",
            found=f"{case.images[0]} holds the values {_listed(values)}, as a label would",
            hint=shlex.join(["autoseg", "plan", "--images", folders[0], "--labels", folders[1]]),
        )


def _close_gaps(labels: Labels, order: tuple[int, ...]) -> Meaning:
    """Labels with the files' values -> the same with 0, 1, 2, ... in the same order; a log line says so."""
    values = all_values({BACKGROUND: 0, **labels})
    if values == tuple(range(len(values))):
        return Meaning(labels, order, ())
    place = {value: number for number, value in enumerate(values)}
    log.info("label values %s in the files are read as %s", _listed(values), _listed(range(len(values))))
    closed: Labels = {
        name: tuple(place[each] for each in value) if isinstance(value, tuple) else place[value]
        for name, value in labels.items()
    }
    # What is no label's value stays one that is none, and is refused as such.
    return Meaning(closed, tuple(place.get(value, len(values)) for value in order), values)


def _proposed_order(labels: Labels) -> list[int]:
    """A value for each region that no later region has, where there is one: what nested regions need."""
    sets = [values_of(value) for name, value in labels.items() if name != IGNORE]
    return [
        next((value for value in each if all(value not in later for later in sets[number + 1 :])), each[0])
        for number, each in enumerate(sets)
    ]


def _listed(values: Sequence[int], n: int = 20) -> str:
    return ", ".join(map(str, values[:n])) + (", ..." if len(values) > n else "")
