"""Stage: dataset -> fingerprint.json."""

import logging
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec

from autoseg.artifacts.base import digest, read_if_whole, write
from autoseg.artifacts.dataset import Case, Dataset
from autoseg.artifacts.fingerprint import CaseMeasure, Fingerprint, LabelGrid
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import values_of, voxels_by_name
from autoseg.artifacts.stamp import case_stamp
from autoseg.datasets.load import Promises, case_bytes, read_case
from autoseg.errors import DatasetError
from autoseg.executor import case_executor, memory_at_hand, run_cases
from autoseg.fingerprint.case import Measured, measure
from autoseg.fingerprint.merge import merge

log = logging.getLogger(__name__)
RULES = "2"  # to be raised when the same files would measure something else


@dataclass(frozen=True, slots=True)
class Task:
    """All that a worker needs to measure one case."""

    case: Case
    promises: Promises
    reject: bool


def run(dataset: Dataset, out: Path, *, jobs: int, reject: bool = False) -> Fingerprint:
    """Measure every case.

    Parameters
    ----------
    dataset : Dataset
    out : Path
        The fingerprint.json to write.
    jobs : int
        Cases at a time, at most; fewer where memory does not allow so many.
    reject : bool
        Leave out cases that can't be used, rather than stop at the first.

    Returns
    -------
    Fingerprint
        As written to `out`; what stands there is returned unchanged when it was made from the same files.

    Raises
    ------
    DatasetError
        A case can't be read or breaks the dataset's promises; or no case is left, or none has any foreground.
    ArtifactError
        `out` can't be written.
    """
    inputs = _inputs(dataset, reject)
    fresh = _read_fresh(out, inputs)
    if fresh is not None:
        return fresh
    promises = Promises.of(dataset)
    tasks = [Task(case, promises, reject) for case in dataset.cases]
    with case_executor(min(jobs, len(tasks))) as executor:
        results = run_cases(
            executor,
            measure_case,
            tasks,
            name_of=lambda task: task.case.name,
            progress="fingerprint",
            memory=memory_at_hand(lambda task: case_bytes(task.case, task.promises)),
        )
    rejected = {case.name: found for case, found in zip(dataset.cases, results, strict=True) if isinstance(found, str)}
    for name, reason in rejected.items():
        log.warning("case %s is left out: %s", name, reason)
    if len(rejected) == len(results):
        raise DatasetError("no case can be used", where=dataset.root, found=next(iter(rejected.values())))
    cases, with_foreground = [], []
    for case, found in zip(dataset.cases, results, strict=True):
        if isinstance(found, str):
            continue
        geometry, label_grid, part = found
        cases.append(
            CaseMeasure(
                name=case.name,
                geometry=geometry,
                shape_after_crop=part.shape_after_crop,
                label_grid=label_grid,
                label_voxels=voxels_by_name(part.voxels_by_value, dataset.labels),
            )
        )
        if part.intensities:
            with_foreground.append(part.intensities)
    if not with_foreground:
        raise DatasetError(
            "no case has any labelled voxel",
            where=dataset.root,
            found=f"only background in {len(cases)} label files",
            allowed=", ".join(
                f"{name} = {', '.join(map(str, values_of(value)))}" for name, value in dataset.foreground.items()
            ),
            hint="check that the labels belong to these images and that their values are those of the dataset",
        )
    fingerprint = Fingerprint(
        inputs_sha256=inputs,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        regions_class_order=dataset.regions_class_order,
        num_training=max(1, dataset.num_training - len(rejected)),
        cases=tuple(cases),
        rejected=rejected,
        median_relative_size_after_cropping=median(case.relative_size_after_crop for case in cases),
        intensities=tuple(merge(channel) for channel in zip(*with_foreground, strict=True)),
    )
    write(out, fingerprint)
    return fingerprint


def _inputs(dataset: Dataset, reject: bool) -> str:
    """Hash of all that is measured; groups, folds and how files are named are not."""
    root = Path(dataset.root)
    said = [
        dataset.root,
        dataset.channel_names,
        list(dataset.labels.items()),
        dataset.regions_class_order,
        dataset.file_values,
        dataset.num_training,
        dataset.repair,
        reject,
        [case.name for case in dataset.cases],
    ]
    return digest(RULES, msgspec.json.encode(said), *(case_stamp(root, case) for case in dataset.cases))


def measure_case(task: Task) -> tuple[Geometry, LabelGrid, Measured] | str:
    """Read one case and measure it; runs in a worker process.

    Returns
    -------
    tuple, or str
        Why the case can't be used, where such cases are to be left out.

    Raises
    ------
    DatasetError
        As `read_case`.
    """
    try:
        case = read_case(task.case, task.promises)
    except DatasetError as error:
        if task.reject:
            return error.in_one_line
        raise
    return case.image.geometry, case.label_grid, measure(case.image, case.label)


def _read_fresh(out: Path, inputs: str) -> Fingerprint | None:
    """What stands at `out`, if it was made from the same inputs."""
    found = read_if_whole(out, Fingerprint)
    return found if found is not None and found.inputs_sha256 == inputs else None
