"""Which prediction belongs to which reference: two folders, or two files -> pairs by case name."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import DatasetError
from autoseg.images.endings import KINDS, file_ending

logger = logging.getLogger(__name__)

LISTED = 10
"""How many names a message shows before it counts the rest."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Predictions and references with the same keys: the case names, sorted.

    Attributes
    ----------
    predicted, reference : dict of str to Path
    ignored : tuple of Path
        Predictions without a reference.
    """

    predicted: dict[str, Path]
    reference: dict[str, Path]
    ignored: tuple[Path, ...]


def stem(file: Path) -> str | None:
    """The file's name without its ending; None for a file of another kind or a hidden one."""
    ending = file_ending(file.name)
    return None if ending is None or file.name.startswith(".") else file.name[: -len(ending)]


def pair_files(predicted: Path, reference: Path) -> Pairing:
    """Match predictions to references by case name.

    Parameters
    ----------
    predicted, reference : Path
        Two folders, or two files. Extensions may differ; so may a suffix that all files of a folder share
        (``case_7.nii.gz`` and ``case_7_seg.nrrd``).

    Returns
    -------
    Pairing
        Predictions without a reference are left out with a logged note.

    Raises
    ------
    DatasetError
        A path is missing or holds no label file, two files of a folder have the same case name, names allow
        more than one way to match, or a reference has no prediction.

    Notes
    -----
    Of all suffixes that the names allow, those that match most references win; equal names win over suffixes. A
    suffix starts with ``_``, ``-`` or ``.`` and holds a letter.
    """
    for path in (predicted, reference):
        if not path.exists():
            raise DatasetError("there is nothing to evaluate", where=str(path), found="no such file or folder")
    if predicted.is_file() and reference.is_file():
        name = stem(reference) or reference.stem
        return Pairing({name: predicted}, {name: reference}, ())
    if predicted.is_file() or reference.is_file():
        raise DatasetError(
            "a file and a folder can't be compared",
            where=f"{predicted} and {reference}",
            hint="give two files, or two folders",
        )
    predictions, references = label_files(predicted), label_files(reference)
    suffix, matches = _best_match(set(references), set(predictions), where=f"{predicted} and {reference}")
    missing = sorted(references.keys() - matches.keys())
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(references)} references have no prediction",
            where=str(predicted),
            found=_some(references[name].name for name in missing),
            hint=f"predict them, or take them out of {reference}",
        )
    ignored = tuple(predictions[name] for name in sorted(predictions.keys() - set(matches.values())))
    if ignored:
        logger.info(
            "%d predictions have no reference and are left out: %s", len(ignored), _some(file.name for file in ignored)
        )
    cases = sorted((name.removesuffix(suffix), name) for name in matches)
    return Pairing(
        predicted={case: predictions[matches[name]] for case, name in cases},
        reference={case: references[name] for case, name in cases},
        ignored=ignored,
    )


def references_of(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """The label map of each case, by the rules of `pair_files`.

    Raises
    ------
    DatasetError
        A case has none, or as `pair_files`.
    """
    files, wanted = label_files(folder), set(names)
    _, matches = _best_match(set(files), wanted, where=str(folder))
    found = {name: files[file] for file, name in matches.items()}
    missing = sorted(wanted - found.keys())
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(wanted)} cases have no label map", where=str(folder), found=_some(missing)
        )
    return found


def label_files(folder: Path) -> dict[str, Path]:
    """Stem to file of the label files of a folder."""
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        name = stem(file)
        if name is None or not file.is_file():
            continue
        if name in files:
            raise DatasetError(
                "two files stand for the same case", where=str(folder), found=f"{files[name].name} and {file.name}"
            )
        files[name] = file
    if not files:
        raise DatasetError("a folder holds no label files", where=str(folder), allowed=", ".join(KINDS))
    return files


def _best_match(references: set[str], predictions: set[str], *, where: str) -> tuple[str, dict[str, str]]:
    """The references' suffix, and reference to prediction, for the suffixes that match most references."""
    candidates = {("", "")}
    for name in references:
        candidates |= {(ending, "") for ending in _endings(name) if name.removesuffix(ending) in predictions}
    for name in predictions:
        candidates |= {("", ending) for ending in _endings(name) if name.removesuffix(ending) in references}
    # Both sides may have one (case_7_gt and case_7_pred). A single file doesn't tell a suffix from a case's name.
    if len(references) > 1 and len(predictions) > 1:
        candidates |= {(one, two) for one in _shared_endings(references) for two in _shared_endings(predictions)}
    matches = {pair: _match(references, predictions, pair) for pair in candidates}
    most = max(len(match) for match in matches.values())
    best = sorted((pair for pair in matches if len(matches[pair]) == most), key=lambda pair: (len("".join(pair)), pair))
    if best[0] != ("", "") and any(matches[pair] != matches[best[0]] for pair in best):
        raise DatasetError(
            "references match more than one prediction each",
            where=where,
            found=", ".join(f"{one or 'nothing'} for {two or 'nothing'}" for one, two in best[:LISTED]),
            hint="keep one kind of label file in each folder",
        )
    return best[0][0], matches[best[0]]


def _match(references: set[str], predictions: set[str], suffixes: tuple[str, str]) -> dict[str, str]:
    """Reference to prediction, where both are the same case with its side's suffix."""
    cases = {name.removesuffix(suffixes[1]): name for name in predictions if name.endswith(suffixes[1])}
    return {
        name: cases[name.removesuffix(suffixes[0])]
        for name in references
        if name.endswith(suffixes[0]) and name.removesuffix(suffixes[0]) in cases
    }


def _endings(name: str) -> set[str]:
    """The parts of a name from one of its separators on that hold a letter: numbers alone tell cases apart."""
    starts = [match.start() for match in re.finditer(r"[_.\-]", name) if match.start() > 0]
    return {name[start:] for start in starts if re.search(r"[^\W\d_]", name[start:])}


def _shared_endings(names: set[str]) -> set[str]:
    """The endings that all names have and that hold no digit."""
    endings = _endings(min(names))
    return {
        ending
        for ending in endings
        if not re.search(r"\d", ending) and all(name.endswith(ending) and name != ending for name in names)
    }


def _some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return ", ".join(listed[:LISTED]) + more
