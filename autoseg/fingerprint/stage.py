"""Stage: dataset -> fingerprint.json."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median

from autoseg.artifacts.base import digest, read_if_whole, write
from autoseg.artifacts.dataset import Case, Dataset
from autoseg.artifacts.fingerprint import CaseMeasure, Fingerprint
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import all_values, values_of
from autoseg.artifacts.stamp import case_stamp, largest_case
from autoseg.datasets.load import read_case
from autoseg.errors import DatasetError
from autoseg.executor import case_executor, run_cases
from autoseg.fingerprint.case import Measured, measure
from autoseg.fingerprint.merge import merge
from autoseg.images.io import read_geometry
from autoseg.machine import jobs_that_fit

RULES = "1"  # to be raised when the same files would measure something else


@dataclass(frozen=True, slots=True)
class Task:
    """All that a worker needs to measure one case."""

    case: Case
    root: Path
    num_channels: int
    label_values: tuple[int, ...]


def run(dataset: Dataset, out: Path, *, jobs: int) -> Fingerprint:
    """Measure every case.

    Parameters
    ----------
    dataset : Dataset
    out : Path
        The fingerprint.json to write.
    jobs : int
        Cases at a time, at most; fewer where memory does not allow so many.

    Returns
    -------
    Fingerprint
        As written to `out`; what stands there is returned unchanged when it was made from the same files.

    Raises
    ------
    DatasetError
        A case can't be read or breaks the dataset's promises; or no case has any foreground.
    ArtifactError
        `out` can't be written.
    """
    root = Path(dataset.root)
    inputs = digest(RULES, dataset, *(case_stamp(root, case) for case in dataset.cases))
    fresh = _read_fresh(out, inputs)
    if fresh is not None:
        return fresh
    values = all_values(dataset.labels)
    tasks = [Task(case, root, len(dataset.channel_names), values) for case in dataset.cases]
    at_once = min(jobs, len(tasks))
    if at_once > 1:
        at_once = jobs_that_fit(at_once, _case_bytes(dataset, root))
    with case_executor(at_once) as executor:
        results = run_cases(executor, measure_case, tasks, name_of=lambda task: task.case.name, progress="fingerprint")
    measured = [part for _, part in results]
    cases = tuple(
        CaseMeasure(name=case.name, geometry=geometry, shape_after_crop=part.shape_after_crop)
        for case, (geometry, part) in zip(dataset.cases, results, strict=True)
    )
    with_foreground = [part.intensities for part in measured if part.intensities]
    if not with_foreground:
        raise DatasetError(
            "no case has any labelled voxel",
            where=dataset.root,
            found=f"only background in {len(cases)} label files",
            allowed=", ".join(f"{name} = {', '.join(map(str, values_of(value)))}" for name, value in dataset.foreground.items()),
            hint="check that the labels belong to these images and that their values are those of the dataset",
        )
    fingerprint = Fingerprint(
        inputs_sha256=inputs,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        regions_class_order=dataset.regions_class_order,
        num_training=dataset.num_training,
        cases=cases,
        median_relative_size_after_cropping=median(case.relative_size_after_crop for case in cases),
        intensities=tuple(merge(channel) for channel in zip(*with_foreground, strict=True)),
    )
    write(out, fingerprint)
    return fingerprint


def measure_case(task: Task) -> tuple[Geometry, Measured]:
    """Read one case and measure it; runs in a worker process.

    Raises
    ------
    DatasetError
        As `read_case`.
    """
    image, label = read_case(task.case, task.root, task.num_channels, task.label_values)
    return image.geometry, measure(image, label)


def _read_fresh(out: Path, inputs: str) -> Fingerprint | None:
    """What stands at `out`, if it was made from the same inputs."""
    found = read_if_whole(out, Fingerprint)
    return found if found is not None and found.inputs_sha256 == inputs else None


def _case_bytes(dataset: Dataset, root: Path) -> int:
    """Peak memory of a case, estimated from the one with the largest files."""
    largest = largest_case(root, dataset.cases)
    shape = read_geometry([root / file for file in largest.images], case=largest.name).shape
    # Images while they are read, masks, and the foreground in double precision.
    return prod(shape) * (8 * len(dataset.channel_names) + 16)
