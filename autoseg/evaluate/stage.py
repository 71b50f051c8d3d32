"""Stage: predicted and reference label files -> evaluation.json."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.base import digest, read_if_whole, write
from autoseg.artifacts.dataset import Repair
from autoseg.artifacts.evaluation import Evaluation, LabelScores
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import Labels, all_values, foreground, ignored
from autoseg.artifacts.stamp import files_of
from autoseg.errors import DatasetError
from autoseg.evaluate.labels import name_values
from autoseg.evaluate.overlap import label_overlaps
from autoseg.evaluate.score import Ruler, score_labels
from autoseg.evaluate.summary import mean_defined, summarize
from autoseg.executor import SerialExecutor, memory_at_hand, run_cases
from autoseg.images.grids import compare_grids, geometry_differences, resample_onto
from autoseg.images.image import LabelMap
from autoseg.images.io import read_geometry, read_label

logger = logging.getLogger(__name__)
RULES = "2"  # to be raised when the same files would give other scores


@dataclass(frozen=True, slots=True)
class CasePair:
    """All that a worker needs to score one case.

    Attributes
    ----------
    case : str
    predicted, reference : Path
    labels : dict of str to int or tuple of int
        To be scored.
    ignore : int or None
        The value in the reference of voxels that count nowhere.
    tolerance_mm : dict of str to float
    repair : {'resample-labels'} or None
        Whether a reference on another grid is brought onto the prediction's.
    in_pixels : bool
        Measure in pixels even where the reference states a spacing.
    lesion_iou : float or None
        As for `match_lesions`; None: lesions are not counted.
    """

    case: str
    predicted: Path
    reference: Path
    labels: Labels
    ignore: int | None
    tolerance_mm: dict[str, float]
    repair: Repair | None = None
    in_pixels: bool = False
    lesion_iou: float | None = None


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What a worker hands back.

    Attributes
    ----------
    scores : dict of str to LabelScores
    in_pixels : bool
        Whether distances count pixels.
    notes : tuple of str
        For the log of the process that asked.
    """

    scores: dict[str, LabelScores]
    in_pixels: bool
    notes: tuple[str, ...]


def run(
    predicted: Mapping[str, Path],
    reference: Mapping[str, Path],
    labels: Mapping[str, int | tuple[int, ...]] | None,
    out: Path,
    *,
    tolerance_mm: float | Mapping[str, float] = 1.0,
    lesion_iou: float | None = None,
    repair: Repair | None = None,
    executor: Executor | None = None,
) -> Evaluation:
    """Score predictions against their references.

    Parameters
    ----------
    predicted, reference : mapping of str to Path
        Case name to label file. Each reference needs a prediction; predictions without one are ignored.
    labels : mapping of str to int or tuple of int, or None
        Name to value, or for a region to several; the background may be among them and is left out. Voxels whose
        reference has the value of ``ignore`` count nowhere. None: every value that occurs in a reference, as
        ``label_1`` and so on.
    out : Path
        The evaluation.json to write.
    tolerance_mm : float or mapping of str to float, optional
        Of the surface Dice, inclusive, for all labels or label by label; in pixels for pictures.
    lesion_iou : float or None
        How much two components overlap at least that count as one lesion, as for `match_lesions`; None: lesions are
        not counted.
    repair : {'resample-labels'} or None
        What is done with a reference on another grid than its prediction; None: it is an error.
    executor : concurrent.futures.Executor, optional
        Reads and scores cases in parallel; by default one by one in this process.

    Returns
    -------
    Evaluation
        As written to `out`; what stands there is returned unchanged when it was made from the same files,
        labels and tolerances.

    Raises
    ------
    DatasetError
        There is nothing to score, a reference has no prediction, a file can't be read, or a prediction's grid
        is not its reference's (the case is named).
    """
    missing = sorted(reference.keys() - predicted.keys())
    if missing or not reference:
        raise DatasetError(
            "references have no prediction" if missing else "there are no references to evaluate against",
            found=", ".join(missing) or None,
            hint="predict these cases first" if missing else None,
        )
    executor = executor or SerialExecutor()
    names = sorted(reference)
    found = _foreground(labels) if labels is not None else _find_labels(executor, reference)
    ignore = ignored(labels) if labels is not None else None
    tolerances = _tolerances(tolerance_mm, found)
    hashes = hash_both(predicted, reference, repair)
    fresh = _read_fresh(out, names, found, ignore, tolerances, lesion_iou, hashes)
    if fresh is not None:
        return fresh
    pairs = [
        CasePair(name, predicted[name], reference[name], found, ignore, tolerances, repair, lesion_iou=lesion_iou)
        for name in names
    ]
    results = _one_unit(executor, pairs, _score_all(executor, pairs))
    for name, result in zip(names, results, strict=True):
        for note in result.notes:
            logger.warning("case %s: %s", name, note)
    cases = {name: result.scores for name, result in zip(names, results, strict=True)}
    evaluation = Evaluation(
        unit="pixels" if results[0].in_pixels else "mm",
        labels=found,
        ignore=ignore,
        tolerance_mm=tolerances,
        lesion_iou=lesion_iou,
        summary=summarize(cases, found),
        cases=cases,
        hashes=hashes,
    )
    write(out, evaluation)
    return evaluation


def score_case(pair: CasePair) -> CaseResult:
    """Read the two files of a case and score every label; runs in a worker process.

    Parameters
    ----------
    pair : CasePair

    Returns
    -------
    CaseResult

    Raises
    ------
    DatasetError
        A file can't be read, or shapes or spacings differ.
    """
    predicted = read_label(pair.predicted, case=pair.case)
    reference, place = read_reference(predicted.geometry, pair)
    in_pixels = pair.in_pixels or not reference.geometry.has_spacing
    geometry = reference.geometry
    ruler = Ruler.pixels() if in_pixels else Ruler.millimetres(geometry.spacing_mm, flat=geometry.num_dimensions == 2)
    notes = tuple(_notes(predicted, reference, pair, place))
    truth_zyx, found_zyx = _known(reference, predicted, pair.ignore)
    scores = score_labels(truth_zyx, found_zyx, pair.labels, ruler, pair.tolerance_mm, pair.lesion_iou)
    return CaseResult(scores, in_pixels, notes)


def mean_dice(predicted: LabelMap, pair: CasePair) -> float | None:
    """Mean Dice of a case's labels, of a prediction that was not written; as `score_case` finds it.

    Parameters
    ----------
    predicted : LabelMap
    pair : CasePair
        `predicted` is a name for messages alone.

    Raises
    ------
    DatasetError
        The reference can't be read, or shapes or spacings differ.
    """
    reference, _ = read_reference(predicted.geometry, pair)
    return mean_defined(label_dice(reference, predicted, pair).values())


def label_dice(reference: LabelMap, predicted: LabelMap, pair: CasePair) -> dict[str, float | None]:
    """Dice of each label; None where neither of the two has it.

    Parameters
    ----------
    reference : LabelMap
        As `read_reference` gives it.
    predicted : LabelMap
    pair : CasePair
    """
    overlaps = label_overlaps(*_known(reference, predicted, pair.ignore), pair.labels)
    return {name: counts.dice for name, counts in overlaps.items()}


def read_reference(predicted: Geometry, pair: CasePair) -> tuple[LabelMap, list[str]]:
    """The reference on the prediction's grid, and the differences of the two in place.

    Raises
    ------
    DatasetError
        It can't be read, or shapes or spacings differ.
    """
    reference = read_label(pair.reference, case=pair.case, grid=predicted)
    if pair.repair and compare_grids(predicted, reference.geometry).level == "real":
        reference = _onto_prediction(reference, predicted, pair)
    return reference, check_grid(predicted, reference.geometry, pair)


def _known(
    reference: LabelMap, predicted: LabelMap, ignore: int | None
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """The arrays of both; what is not annotated is background in both, so that no mask of either reaches there."""
    truth_zyx, found_zyx = reference.array_zyx, predicted.array_zyx
    if ignore is None:
        return truth_zyx, found_zyx
    unknown = truth_zyx == ignore
    return np.where(unknown, 0, truth_zyx), np.where(unknown, 0, found_zyx)


def check_grid(predicted: Geometry, reference: Geometry, pair: CasePair) -> list[str]:
    """Refuse a prediction whose voxels are not the reference's.

    Parameters
    ----------
    predicted, reference : Geometry
    pair : CasePair
        Names the case and the files in the error.

    Returns
    -------
    list of str
        Differences in place (origin, direction), which don't forbid to compare voxel by voxel.

    Raises
    ------
    DatasetError
        Shapes differ, or spacings differ by more than rounding where both files state one.
    """
    compared = compare_grids(predicted, reference)
    if compared.level != "real":
        return []
    size, _ = geometry_differences(predicted, reference)
    if size:
        raise DatasetError(
            "a prediction and its reference lie on different grids",
            where=f"case {pair.case}, {pair.predicted} and {pair.reference}",
            found="; ".join(size),
            allowed="the same shape and spacing (Z, Y, X)",
            hint="predict on the grid of the image that the reference was drawn on",
        )
    return [compared.words]


def _onto_prediction(reference: LabelMap, geometry: Geometry, pair: CasePair) -> LabelMap:
    """The reference on the prediction's grid; what it does not reach is not annotated, as in training."""
    try:
        return resample_onto(reference, geometry, pair.ignore or 0)
    except ValueError as error:
        raise DatasetError(
            "a reference can't be brought onto its prediction",
            where=f"case {pair.case}, {pair.reference}",
            found=str(error),
        ) from error


def find_values(case_and_file: tuple[str, Path]) -> list[int]:
    """The values that occur in a label file; runs in a worker process."""
    case, file = case_and_file
    return read_label(file, case=case).values()


def case_bytes(case: str, reference: Path) -> int:
    """Peak memory of scoring a case, estimated from its reference's header; 0 where that can't be read."""
    try:
        shape = read_geometry([reference], case=case).shape
    except DatasetError:
        return 0  # the case itself will tell
    # Two label maps; masks and distances in double precision, of one label at a time.
    return prod(shape) * 40


def _score_all(executor: Executor, pairs: list[CasePair]) -> list[CaseResult]:
    """Score the pairs in order."""
    return run_cases(
        executor,
        score_case,
        pairs,
        name_of=lambda pair: pair.case,
        progress="evaluate",
        memory=memory_at_hand(lambda pair: case_bytes(pair.case, pair.reference)),
    )


def _foreground(labels: Mapping[str, int | tuple[int, ...]]) -> Labels:
    """The labels that are to be scored."""
    found = foreground(labels)
    if not found:
        raise DatasetError("there is no label to score", found=dict(labels), hint="name at least one foreground label")
    return found


def _find_labels(executor: Executor, reference: Mapping[str, Path]) -> Labels:
    """Labels named after the values in the references."""
    values = run_cases(
        executor,
        find_values,
        sorted(reference.items()),
        name_of=lambda item: item[0],
        progress="find labels",
        memory=memory_at_hand(lambda item: case_bytes(*item)),
    )
    found: Labels = {**name_values(chain.from_iterable(values))}
    if not found:
        raise DatasetError(
            "there is no label to score", found="references without any foreground", hint="state the labels' names"
        )
    return found


def _tolerances(tolerance_mm: float | Mapping[str, float], labels: Mapping[str, object]) -> dict[str, float]:
    """A tolerance for each label."""
    if not isinstance(tolerance_mm, Mapping):
        return dict.fromkeys(labels, float(tolerance_mm))
    missing = [name for name in labels if name not in tolerance_mm]
    if missing:
        raise DatasetError(
            "labels have no tolerance",
            found=", ".join(missing),
            hint="state one for each label in mm, or a single one for all",
        )
    return {name: float(tolerance_mm[name]) for name in labels}


def hash_both(predicted: Mapping[str, Path], reference: Mapping[str, Path], repair: Repair | None) -> dict[str, str]:
    """Hashes of what is scored, as `Evaluation` keeps them.

    Raises
    ------
    DatasetError
        A file can't be read.
    """
    names = sorted(reference)
    hashes = {"predicted": _hash_files(predicted, names), "reference": _hash_files(reference, names)}
    if repair is not None:
        hashes["reference"] = digest(hashes["reference"], repair)
    return hashes


def _hash_files(files: Mapping[str, Path], names: list[str]) -> str:
    """One hash over case names and file contents."""
    parts = [RULES]
    for name in names:
        try:
            # A DICOM segmentation may be a folder.
            for file in files_of(files[name]) or [files[name]]:
                with file.open("rb") as content:
                    parts += [name, hashlib.file_digest(content, "sha256").hexdigest()]
        except OSError as error:
            raise DatasetError(
                "a label file can't be read", where=f"case {name}: {files[name]}", found=str(error.strerror)
            ) from error
    return digest(*parts)


def _read_fresh(
    out: Path,
    names: list[str],
    labels: Labels,
    ignore: int | None,
    tolerance_mm: dict[str, float],
    lesion_iou: float | None,
    hashes: dict[str, str],
) -> Evaluation | None:
    """The evaluation at `out` if it answers the same question; None if it is missing, stale or damaged."""
    old = read_if_whole(out, Evaluation)
    if old is None:
        return None
    there = (list(old.cases), old.labels, old.ignore, old.tolerance_mm, old.lesion_iou, old.hashes)
    return old if there == (names, labels, ignore, tolerance_mm, lesion_iou, hashes) else None


def _one_unit(executor: Executor, pairs: list[CasePair], results: list[CaseResult]) -> list[CaseResult]:
    """Bring all cases to one unit: a mean over millimetres and pixels would mean nothing."""
    in_mm = [index for index, result in enumerate(results) if not result.in_pixels]
    if len(in_mm) in (0, len(results)):
        return results
    logger.warning("only %d of %d references state a spacing; all are measured in pixels", len(in_mm), len(results))
    again = _score_all(executor, [replace(pairs[index], in_pixels=True) for index in in_mm])
    renewed = dict(zip(in_mm, again, strict=True))
    return [renewed.get(index, result) for index, result in enumerate(results)]


def _notes(predicted: LabelMap, reference: LabelMap, pair: CasePair, place: list[str]) -> Iterator[str]:
    """What a reader of the scores should know about this case."""
    if place:
        yield (
            f"prediction and reference are compared voxel by voxel although they differ in {'; '.join(place)}; "
            "--repair resample-labels brings the reference onto the prediction"
        )
    known = {0, pair.ignore, *all_values(pair.labels)}
    for title, volume in (("prediction", predicted), ("reference", reference)):
        other = sorted(set(volume.values()) - known)
        if other:
            yield f"the {title} holds values that are no label and count as background: {other[:10]}"
