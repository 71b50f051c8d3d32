"""A workspace -> report/index.html."""

import hashlib
import logging
import platform
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol, TypeVar

from autoseg import __version__
from autoseg.artifacts.base import Artifact, atomic_path, read
from autoseg.artifacts.comparison import Comparisons
from autoseg.artifacts.dataset import Dataset
from autoseg.artifacts.distillation import Distillation
from autoseg.artifacts.evaluation import Evaluation
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.metrics import read_metrics
from autoseg.artifacts.model import TrainedModel
from autoseg.artifacts.plan import Plan
from autoseg.artifacts.prediction import PredictionSet
from autoseg.artifacts.selection import Selection
from autoseg.artifacts.splits import Splits
from autoseg.artifacts.standing import Standing
from autoseg.errors import ArtifactError, AutosegError
from autoseg.evaluate.stage import CasePair, hash_both, read_reference
from autoseg.images.endings import KINDS, file_ending
from autoseg.images.io import read_image, read_label
from autoseg.layout import FoldFolder, Workspace, folds_in
from autoseg.report.found import Found, FoundFold, alike
from autoseg.report.page import whole_page
from autoseg.report.scores import ScoredCase, pooled, worst
from autoseg.report.stale import notes
from autoseg.report.worst_part import Picture

log = logging.getLogger(__name__)
NUM_WORST = 6
PACKAGES = ("numpy", "scipy", "torch", "SimpleITK", "blosc2", "msgspec")
A = TypeVar("A", bound=Artifact)


class Optional(Protocol):
    """Reads a record that may be missing or damaged."""

    def __call__(self, path: Path, kind: type[A]) -> A | None:
        """The record, or None."""


def run(workspace: Workspace, *, made: str, comparison: Path | None = None) -> Path:
    """Write the page.

    Parameters
    ----------
    workspace : Workspace
    made : str
        Date to be written on it.
    comparison : Path, optional
        What `autoseg compare` wrote.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ArtifactError
        The folder is no workspace, the comparison can't be read, or the page can't be written. What else is missing
        or can't be read is said on the page.
    """
    found = find(workspace, comparison)
    validations = found.validations
    cases: tuple[ScoredCase, ...] = ()
    pictures: dict[tuple[str, int], Picture | str] = {}
    if validations:
        name, evaluations = next(iter(validations.items()))
        cases = pooled(alike(evaluations))
        for case, _ in worst(cases, NUM_WORST):
            folder = workspace.fold(name, case.fold)
            pictures[case.name, case.fold] = _picture(case, evaluations[case.fold], folder, found.dataset)
    text = whole_page(found, worst(cases, NUM_WORST), pictures, num_scored=len(cases), versions=_versions(), made=made)
    with atomic_path(workspace.report) as temporary:
        # Names of files may hold bytes that are no text.
        temporary.write_bytes(text.encode("utf-8", "replace"))
    return workspace.report


def find(workspace: Workspace, comparison: Path | None) -> Found:
    """Read all that is there.

    Raises
    ------
    ArtifactError
        The folder is no workspace, or the comparison can't be read.
    """
    troubles: list[str] = []

    def optional(path: Path, kind: type[A]) -> A | None:
        if not path.exists():
            return None
        try:
            return read(path, kind)
        except ArtifactError as error:
            troubles.append(f"{path.relative_to(workspace.root)} can't be read: {_in_a_line(error)}")
            return None

    known = [workspace.dataset, workspace.fingerprint, workspace.plan, workspace.splits, workspace.selection]
    there = [path for path in known if path.exists()]
    if not there:
        raise ArtifactError(
            "this folder is not a workspace: it has no dataset.json, no fingerprint.json and no plan.json",
            where=str(workspace.root),
            hint="autoseg plan RAW -w DIR makes one",
        )
    given = None if comparison is None else _compared(comparison)
    folds = {
        name: tuple(_fold(number, folder, optional) for number, folder in folds_in(workspace.models(name)).items())
        for name in workspace.trained_configurations
    }
    distilled = {name: optional(workspace.distillation(name), Distillation) for name in folds}
    found = Found(
        name=workspace.root.resolve().name,
        root=str(workspace.root),
        dataset=optional(workspace.dataset, Dataset),
        fingerprint=optional(workspace.fingerprint, Fingerprint),
        plan=optional(workspace.plan, Plan),
        splits=optional(workspace.splits, Splits),
        selection=optional(workspace.selection, Selection),
        comparison=given,
        explanation=_text(workspace.explanation),
        folds=folds,
        distillations={name: each for name, each in distilled.items() if each is not None},
        file_sha256={path.name: _sha256(path) for path in there},
    )
    stale = (*notes(found), *_changed_files(found, workspace))
    return replace(found, notes=(*troubles, *stale))


def _fold(number: int, folder: FoldFolder, optional: Optional) -> FoundFold:
    return FoundFold(
        number=number,
        manifest=optional(folder.manifest, TrainedModel),
        evaluation=optional(folder.evaluation, Evaluation),
        metrics=[record for record in read_metrics(folder.metrics) if isinstance(record, dict)],
        weights_sha256=_sha256(folder.weights) if folder.weights.exists() else None,
        being_extended=folder.extension.exists(),
    )


def _changed_files(found: Found, workspace: Workspace) -> Iterator[str]:
    """Which scores are not of the label maps that are there now."""
    if found.dataset is None:
        return
    references = {case.name: Path(found.dataset.root) / case.label for case in found.dataset.cases if case.label}
    for name, evaluations in found.validations.items():
        for number, evaluation in evaluations.items():
            where = f"{name}, fold {number}"
            predicted = _predictions(workspace.fold(name, number))
            cases = evaluation.cases.keys()
            if not cases <= predicted.keys() or not cases <= references.keys():
                yield f"{where}: the label maps of its scores are not all known any more"
                continue
            try:
                now = hash_both(
                    {case: predicted[case] for case in cases},
                    {case: references[case] for case in cases},
                    found.dataset.repair,
                )
            except AutosegError as error:
                yield f"{where}: whether its scores still hold can't be told: {_in_a_line(error)}"
                continue
            changed = [words for words in ("predicted", "reference") if now[words] != evaluation.hashes.get(words)]
            if changed:
                # The hashes hold the rules of scoring, too.
                both = "predictions and references, or the rules of scoring,"
                what = both if len(changed) > 1 else {"predicted": "predictions", "reference": "references"}[changed[0]]
                yield f"{where}: {what} changed since they were scored"


def _predictions(folder: FoldFolder) -> dict[str, Path]:
    """The label map of each validation case."""
    try:
        record = read(folder.validation / "prediction.json", PredictionSet)
    except ArtifactError:
        return {}
    return {case: folder.validation / file for case, file in record.files.items()}


def _picture(case: ScoredCase, evaluation: Evaluation, folder: FoldFolder, dataset: Dataset | None) -> Picture | str:
    """The picture of a case, or why there is none."""
    from autoseg.report.picture import draw_case  # matplotlib takes its time to load

    raw = next((each for each in dataset.cases if each.name == case.name), None) if dataset is not None else None
    file = _predictions(folder).get(case.name)
    if raw is None or raw.label is None or file is None or dataset is None:
        return "its files are not known any more"
    root = Path(dataset.root)
    pair = CasePair(
        case=case.name,
        predicted=file,
        reference=root / raw.label,
        labels=evaluation.labels,
        ignore=evaluation.ignore,
        tolerance_mm=evaluation.tolerance_mm,
        repair=dataset.repair,
    )
    try:
        predicted = read_label(file, case=case.name)
        reference, _ = read_reference(predicted.geometry, pair)
        # Channels in files of their own: the first is enough.
        image_zyx = read_image([root / raw.images[0]], case=case.name).array_czyx[0]
    except AutosegError as error:
        return _in_a_line(error)
    if image_zyx.shape != predicted.array_zyx.shape:
        return "its image and its label maps have different shapes"
    truth_zyx, found_zyx = reference.array_zyx, predicted.array_zyx
    if evaluation.ignore is not None:
        unknown = truth_zyx == evaluation.ignore
        truth_zyx, found_zyx = truth_zyx.copy(), found_zyx.copy()
        truth_zyx[unknown] = found_zyx[unknown] = 0
    is_volume = KINDS.get((file_ending(file.name) or "").lower()) == "volume"
    anatomical = is_volume and predicted.geometry.num_dimensions == 3
    return draw_case(image_zyx, truth_zyx, found_zyx, evaluation.labels, predicted.geometry, anatomical=anatomical)


def _versions() -> dict[str, str]:
    """Of what shapes results, without importing it."""
    known = {"autoseg": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**known, "on": f"{platform.system()} {platform.machine()}"}


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _compared(path: Path) -> Comparisons | Standing:
    """What `autoseg compare` wrote, of results or beside a published figure.

    Raises
    ------
    ArtifactError
        It can't be read, or is something else.
    """
    try:
        return read(path, Standing)
    except ArtifactError:
        return read(path, Comparisons)


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None


def _in_a_line(error: AutosegError) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines())
