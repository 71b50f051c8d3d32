"""The published figures that come with the package: found by name, listed, and told in words."""

import re
from difflib import SequenceMatcher
from functools import cache
from importlib.resources import files

from autoseg.artifacts.base import decode
from autoseg.artifacts.published import Baseline, Published
from autoseg.errors import DatasetError, SettingError

FILE = "published.json"


@cache
def published() -> Published:
    """All baselines that come with the package.

    Raises
    ------
    ArtifactError
        The file is damaged.
    """
    return decode(files("autoseg.evaluate").joinpath(FILE).read_bytes(), Published, where=FILE)


def find_baseline(name: str) -> Baseline:
    """The baseline of that name.

    Raises
    ------
    SettingError
        There is none; the nearest name is given.
    DatasetError
        It is the name of a file, which is not there.
    """
    known = published().baselines
    if name in known:
        return known[name]
    if name.lower().endswith((".csv", ".json")):
        raise DatasetError("there are no scores", where=name, found="no such file")
    raise SettingError(
        "there is no such baseline",
        where="--baseline",
        found=name,
        allowed="a name that autoseg baselines lists, or a file of scores",
        hint=f"did you mean {_nearest(name)}?",
    )


def search(words: tuple[str, ...]) -> dict[str, Baseline]:
    """The baselines whose name holds all the words, whatever their case.

    Parameters
    ----------
    words : tuple of str
        Empty: all baselines.

    Returns
    -------
    dict of str to Baseline
        A word that is a whole name gives that one alone.

    Raises
    ------
    SettingError
        None does; the nearest name is given.
    """
    known = published().baselines
    exact = {word: known[word] for word in words if word in known}
    found = exact or {
        name: baseline
        for name, baseline in known.items()
        if all(word.lower() in f"{name} {baseline.method}".lower() for word in words)
    }
    if not found:
        raise SettingError(
            "no baseline has such a name",
            found=" ".join(words),
            hint=f"the nearest is {_nearest(' '.join(words))}; autoseg baselines without a word lists all",
        )
    return found


def describe(baseline: Baseline) -> str:
    """What a baseline is, in one line: method, configuration, protocol, number of cases."""
    parts = [baseline.method, baseline.configuration, published().sources[baseline.source].protocol]
    if baseline.num_cases is not None:
        parts.append(f"{baseline.num_cases} cases")
    return ", ".join(part for part in parts if part)


def list_lines(baselines: dict[str, Baseline]) -> list[str]:
    """A line for each: name, Dice in points, what it is."""
    width = max(map(len, baselines))
    return [f"{name.ljust(width)}  {figures(baseline)}  {describe(baseline)}" for name, baseline in baselines.items()]


def figures(baseline: Baseline) -> str:
    """Mean, and labels in brackets, in points."""
    labels = " / ".join(f"{100 * dice:.2f}" for dice in baseline.labels.values())
    return f"{100 * baseline.foreground:.2f}" + (f" ({labels})" if labels else "")


def detail_lines(name: str, baseline: Baseline) -> list[str]:
    """All that is known of one."""
    source = published().sources[baseline.source]
    stated = "as published" if baseline.mean is not None else "mean of the labels' figures"
    return [
        name,
        f"  method:        {baseline.method}",
        f"  configuration: {baseline.configuration or '-'}",
        f"  measured by:   {source.protocol}",
        f"  cases:         {baseline.num_cases or 'not stated'}",
        "  Dice in points",
        f"    foreground:  {100 * baseline.foreground:.2f} ({stated})",
        *(f"    label {label}:     {100 * dice:.2f}" for label, dice in baseline.labels.items()),
        f"  source:        {source.title}",
        f"                 {source.where}",
        f"  licence:       {source.licence or 'not stated'}",
        *(f"  note:          {note}" for note in (*baseline.notes, *source.notes)),
    ]


def _nearest(name: str) -> str:
    """The name whose parts are most like the words of what was asked for; of equals the one most like it as a whole."""
    wanted = _parts(name)

    def likeness(known: str) -> tuple[float, float]:
        by_part = sum(max(_like(word, part) for part in _parts(known)) for word in wanted)
        return round(by_part, 3), _like(name.lower(), known.lower())

    return max(published().baselines, key=likeness)


def _parts(name: str) -> list[str]:
    return re.split(r"[/_\s-]+", name.lower())


def _like(one: str, two: str) -> float:
    return SequenceMatcher(None, one, two).ratio()
