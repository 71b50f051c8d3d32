"""Stage: dataset -> fingerprint.json."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median

from autoseg.artifacts.base import digest, read_if_whole, write
from autoseg.artifacts.dataset import Case, Dataset
from autoseg.artifacts.fingerprint import CaseMeasure, Fingerprint
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.stamp import case_stamp
from autoseg.datasets.load import read_case
from autoseg.errors import DatasetError
from autoseg.executor import case_executor, memory_at_hand, run_cases
from autoseg.fingerprint.case import Measured, measure
from autoseg.fingerprint.merge import merge
from autoseg.images.io import read_geometry

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
    values = tuple(dataset.labels.values())
    tasks = [Task(case, root, len(dataset.channel_names), values) for case in dataset.cases]
    with case_executor(min(jobs, len(tasks))) as executor:
        results = run_cases(
            executor,
            measure_case,
            tasks,
            name_of=lambda task: task.case.name,
            progress="fingerprint",
            memory=memory_at_hand(case_bytes),
        )
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
            allowed=", ".join(f"{name} = {value}" for name, value in dataset.foreground.items()),
            hint="check that the labels belong to these images and that their values are those of the dataset",
        )
    fingerprint = Fingerprint(
        inputs_sha256=inputs,
        channel_names=dataset.channel_names,
        labels=dict(dataset.labels),
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


def case_bytes(task: Task) -> int:
    """Peak memory of a case, estimated from its header; 0 where that can't be read, which the case itself will tell."""
    try:
        shape = read_geometry([task.root / file for file in task.case.images], case=task.case.name).shape
    except DatasetError:
        return 0
    # Images while they are read, masks, and the foreground in double precision.
    return prod(shape) * (8 * task.num_channels + 16)
