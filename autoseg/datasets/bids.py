"""Cases of a BIDS dataset: images in ``sub-01/anat``, labels below ``derivatives``.

Notes
-----
Names are read as the Brain Imaging Data Structure has them: ``key-value`` pairs between underscores, and a suffix
(https://bids-specification.readthedocs.io, common principles). Of the label suffixes only ``dseg`` and ``mask`` are
the specification's; the others are what laboratories write.
"""

import csv
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.artifacts.dataset import Case
from autoseg.datasets.folders import check_channels
from autoseg.datasets.found import Found, Stated, images_among, some, stored_path
from autoseg.datasets.naming import naming_of
from autoseg.datasets.pairing import chosen_channels, stem
from autoseg.errors import DatasetError

log = logging.getLogger(__name__)
CASE_KEYS = ("sub", "ses", "run")
# Which label it is; whatever else a label's name holds (space, resolution, the image's suffix) describes its making.
LABEL_KEYS = ("atlas", "seg", "desc", "label")
LABEL_SUFFIX = re.compile(r"^(dseg|seg|mask|lesion|roi)(-.+)?$")
# Series over time, directions or sensors, which are no images of one case.
OTHER_DATA = {"func", "dwi", "fmap", "perf", "mrs", "meg", "eeg", "ieeg", "beh", "motion", "nirs"}
DERIVATIVES = "derivatives"


@dataclass(frozen=True, slots=True)
class Scan:
    """One file with its name taken apart: keys to values, and the words without a key, the suffix last."""

    file: Path
    keys: Mapping[str, str]
    words: tuple[str, ...]

    @property
    def case(self) -> str:
        """Subject, session and run, as far as the name has them."""
        return "_".join(f"{key}-{self.keys[key]}" for key in CASE_KEYS if key in self.keys)

    @property
    def channel(self) -> str:
        """What tells it from the case's other scans: ``T1w``, ``ce-gad_T1w``."""
        return "_".join([*(f"{key}-{value}" for key, value in self.keys.items() if key not in CASE_KEYS), *self.words])

    @property
    def kind(self) -> str:
        """Which label it is: ``dseg``, ``label-lesion_mask``."""
        return "_".join([*(f"{key}-{self.keys[key]}" for key in LABEL_KEYS if key in self.keys), self.words[-1]])


def is_bids(root: Path) -> bool:
    """Whether a folder holds images of subjects, named after BIDS."""
    return any(_scans(folder) for folder in _subjects(root))


def find_bids(root: Path, labels: Path | None, channels: Sequence[str] | None) -> Found:
    """The cases of a BIDS dataset: each session, or each run where names have runs.

    Parameters
    ----------
    root : Path
        Absolute.
    labels : Path, optional
        The folder of derivatives that holds the labels (``derivatives/manual``), where needed with the kind of label
        behind it (``derivatives/manual/label-lesion_mask``).
    channels : sequence of str, optional
        Which scans are the channels, in order (``T1w,FLAIR``); without it all are.

    Raises
    ------
    DatasetError
        There are no labels, or several kinds to choose from; a case misses a channel or has two labels; a label has
        no image.
    """
    images: dict[str, dict[str, Path]] = defaultdict(dict)
    for folder in _subjects(root):
        for scan in _scans(folder):
            if not LABEL_SUFFIX.match(scan.words[-1]):
                other = images[scan.case].setdefault(scan.channel, scan.file)
                if other != scan.file:
                    raise DatasetError(
                        "a case is there twice",
                        where=f"case {scan.case}, {scan.file.parent}",
                        found=f"{other.name} and {scan.file.name}",
                        hint="remove one of the two",
                    )
    name, kind, label_files = _choose(root, labels, _candidates(root, labels))
    strays = sorted(set(label_files) - set(images))
    if strays:
        raise DatasetError(
            "a label has no image",
            where=f"case {some(strays)}, {label_files[strays[0]]}",
            found=f"the cases {some(sorted(images))}",
            allowed="a label whose name has the same sub-, ses- and run- as its image",
            hint="add the image, or take the label out",
        )
    unlabelled = sorted(set(images) - set(label_files))
    if unlabelled:
        log.warning("%d cases have no %s in %s and are left out: %s", len(unlabelled), kind, name, some(unlabelled))
    labelled = {case: images[case] for case in sorted(label_files)}
    found_channels = sorted({channel for case in labelled.values() for channel in case})
    wanted = chosen_channels(found_channels, channels)
    picked = {
        case: {each: files[each] for each in wanted or files if each in files} for case, files in labelled.items()
    }
    common = ",".join(each for each in found_channels if all(each in files for files in labelled.values()))
    check_channels(
        {case: {each: file.name for each, file in files.items()} for case, files in picked.items()},
        root,
        wanted,
        joint="_",
        hint=f", or use only what all cases have: --channels {common}" if common else "",
    )
    order = wanted or sorted(next(iter(picked.values())))
    subjects = {case: case.split("_")[0] for case in picked}
    several = len(set(subjects.values())) < len(subjects)
    cases = tuple(
        Case(
            name=case,
            images=tuple(stored_path(files[each], root) for each in order),
            label=stored_path(label_files[case], root),
            group=subjects[case] if several else None,
        )
        for case, files in picked.items()
    )
    said = Stated(channel_names=tuple(order), value_names=_value_names(root, name, kind, list(label_files.values())))
    return Found(cases, naming_of(cases, order), said)


def _subjects(root: Path) -> list[Path]:
    return sorted(folder for folder in root.iterdir() if folder.name.startswith("sub-") and folder.is_dir())


def _scans(subject: Path) -> list[Scan]:
    """The scans of a subject, in its folder and at most two below: session and type of data."""
    folders = [subject, *subject.glob("*/"), *subject.glob("*/*/")]
    kept = [folder for folder in folders if not {folder.name, folder.parent.name} & OTHER_DATA]
    parsed = (_scan(file, subject.name) for folder in sorted(kept) for file in images_among(list(folder.iterdir())))
    return [scan for scan in parsed if scan is not None]


def _scan(file: Path, subject: str) -> Scan | None:
    """A file's name taken apart; None where it isn't one of BIDS'."""
    parts = stem(file.name).split("_")
    if parts[0] != subject or len(parts) < 2:
        return None
    *rest, suffix = parts
    keys = dict(part.split("-", 1) for part in rest if "-" in part)
    return Scan(file, keys, (*(part for part in rest if "-" not in part), suffix))


def _candidates(root: Path, labels: Path | None) -> dict[tuple[Path, str], list[Scan]]:
    """Label files by folder of derivatives and kind."""
    folders = _folders(root)
    if labels is not None:
        given = labels.absolute()
        folders = [given if given.is_dir() else given.parent]
    found: dict[tuple[Path, str], list[Scan]] = defaultdict(list)
    for folder in folders:
        for subject in _subjects(folder) if folder.is_dir() else []:
            for scan in _scans(subject):
                if LABEL_SUFFIX.match(scan.words[-1]):
                    found[folder, scan.kind].append(scan)
    kinds = {kind for _, kind in found} if labels is None or labels.is_dir() else {labels.name}
    return {key: scans for key, scans in found.items() if key[1] in kinds}


def _folders(root: Path) -> list[Path]:
    derivatives = root / DERIVATIVES
    if not derivatives.is_dir():
        return []
    inside = sorted(
        entry for entry in derivatives.iterdir() if entry.is_dir() and not entry.name.startswith((".", "sub-"))
    )
    return [derivatives, *inside]


def _choose(
    root: Path, labels: Path | None, candidates: Mapping[tuple[Path, str], Sequence[Scan]]
) -> tuple[Path, str, dict[str, Path]]:
    """The folder, the kind and the label file of each case.

    Raises
    ------
    DatasetError
        None or several; or two files for one case.
    """
    if not candidates:
        raise DatasetError(
            "a BIDS dataset has no labels",
            where=str(labels or root / DERIVATIVES),
            found=f"no label in {some([str(folder) for folder in _folders(root)])}" if _folders(root) else "nothing",
            allowed=f"{DERIVATIVES}/NAME/sub-01/anat/sub-01_dseg.nii.gz, or names that end in _mask",
            hint=f"autoseg plan {root} --labels DIR, where DIR holds sub-01/, sub-02/, ...",
        )
    if len(candidates) > 1:
        shown = [f"{folder}/{kind} ({len(scans)} files)" for (folder, kind), scans in sorted(candidates.items())]
        folder, kind = min(candidates, key=lambda key: (-len(candidates[key]), key))
        raise DatasetError(
            "a BIDS dataset has several kinds of labels",
            where=str(root),
            found=some(shown, 10),
            hint=f"choose one: autoseg plan {root} --labels {folder}/{kind}",
        )
    ((folder, kind), scans) = next(iter(candidates.items()))
    files: dict[str, Path] = {}
    for scan in scans:
        if scan.case in files:
            raise DatasetError(
                "a case has two labels",
                where=f"case {scan.case}",
                found=f"{files[scan.case]} and {scan.file}",
                hint="move one of the two to a folder of its own",
            )
        files[scan.case] = scan.file
    return folder, kind, files


def _value_names(root: Path, folder: Path, kind: str, files: Collection[Path]) -> dict[int, str]:
    """What values are called: from a table beside the labels, else by the name of a single mask's label.

    Raises
    ------
    DatasetError
        A table can't be read.
    """
    label = re.search(r"label-([^_]+)_mask", kind)
    names = {1: label.group(1)} if label else {}
    first = min(files)
    places = [first.with_name(f"{stem(first.name)}.tsv"), *(place / f"{kind}.tsv" for place in (folder, root))]
    places += [
        table for place in (folder, root) for name in ("*dseg.tsv", "labels.tsv") for table in sorted(place.glob(name))
    ]
    table = next((place for place in places if place.is_file()), None)
    return names if table is None else _read_names(table)


def _read_names(table: Path) -> dict[int, str]:
    """The columns ``index`` and ``name`` of a table."""
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
        return {
            int(row["index"]): row["name"].strip()
            for row in csv.DictReader(lines, delimiter="\t")
            if row["name"].strip()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            "a table of label names can't be read",
            where=str(table),
            found=f"{type(error).__name__}: {error}",
            allowed="columns index and name, with tabs between them",
            hint="correct the table, or name the labels with --label-names",
        ) from error
