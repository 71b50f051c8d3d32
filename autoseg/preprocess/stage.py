"""Stage: dataset + plan -> preprocessed/."""

from dataclasses import dataclass
from math import prod

import msgspec

from autoseg.artifacts.base import check_writable, digest, read_if_whole
from autoseg.artifacts.dataset import Case, Dataset
from autoseg.artifacts.labels import foreground, ignored
from autoseg.artifacts.plan import Configuration, Plan
from autoseg.artifacts.preprocessed import PreprocessedCase
from autoseg.artifacts.stamp import case_stamp, largest_case
from autoseg.datasets.load import Promises, read_case
from autoseg.errors import ArtifactError, SettingError, nearest
from autoseg.executor import case_executor, run_cases
from autoseg.images.io import read_geometry
from autoseg.layout import CaseFiles, Workspace
from autoseg.machine import jobs_that_fit
from autoseg.preprocess.case import arrays_digest, foreground_locations, foreground_voxels
from autoseg.preprocess.store import write_case
from autoseg.transforms.chain import forward, grids

FORMAT = "1"  # to be raised when the same inputs would give other arrays


@dataclass(frozen=True, slots=True)
class Task:
    """All that a worker needs to preprocess one case."""

    case: Case
    promises: Promises
    files: CaseFiles
    plan: Plan
    configuration: Configuration
    inputs_sha256: str


def run(
    dataset: Dataset, plan: Plan, configuration_name: str, workspace: Workspace, *, jobs: int
) -> tuple[PreprocessedCase, ...]:
    """Bring every case onto the network's grid.

    Parameters
    ----------
    dataset : Dataset
    plan : Plan
    configuration_name : str
        One of the plan's.
    workspace : Workspace
        Arrays and records go to its folder of this configuration.
    jobs : int
        Cases at a time, at most; fewer where memory does not allow so many.

    Returns
    -------
    tuple of PreprocessedCase
        In the dataset's order. Cases that are there already, from the same files and the same choices, are not
        done again.

    Raises
    ------
    SettingError
        The plan has no such configuration.
    DatasetError
        A case can't be read or breaks the dataset's promises.
    ArtifactError
        The workspace can't be written.
    """
    configuration = _configuration(plan, configuration_name)
    promises = Promises.of(dataset)
    tasks = []
    for case in dataset.cases:
        inputs = inputs_digest(promises, case, plan, configuration)
        files = workspace.case(configuration_name, case.name)
        tasks.append(Task(case, promises, files, plan, configuration, inputs))
    records = {task.case.name: _read_fresh(task) for task in tasks}
    missing = [task for task in tasks if records[task.case.name] is None]
    if missing:
        check_writable(workspace.preprocessed(configuration_name))
        at_once = min(jobs, len(missing))
        if at_once > 1:
            at_once = jobs_that_fit(at_once, _case_bytes(missing, len(dataset.channel_names)))
        with case_executor(at_once) as executor:
            done = run_cases(
                executor,
                preprocess_case,
                missing,
                name_of=lambda task: task.case.name,
                progress=f"preprocess {configuration_name}",
                keeps=True,
            )
        records |= {record.name: record for record in done}
    return tuple(record for record in records.values() if record is not None)


def preprocess_case(task: Task) -> PreprocessedCase:
    """Read one case, bring it onto the network's grid, store it; runs in a worker process.

    Raises
    ------
    DatasetError
        As `read_case`.
    ArtifactError
        As `write_case`.
    """
    labels = task.plan.labels
    case = read_case(task.case, task.promises)
    prepared = forward(case.image, case.label, task.plan, task.configuration)
    values = prepared.label_zyx
    if values is None:  # only without a label map, and read_case has seen to that
        raise ArtifactError("a case has no label", where=f"case {task.case.name}")
    locations = foreground_locations(values, task.case.name, labels)
    record = PreprocessedCase(
        name=task.case.name,
        inputs_sha256=task.inputs_sha256,
        arrays_sha256=arrays_digest(prepared.image_czyx, values, locations),
        placement=prepared.placement,
        num_channels=len(prepared.image_czyx),
        foreground_voxels=foreground_voxels(values, labels),
    )
    write_case(task.files, prepared.image_czyx, values, locations, record, task.configuration.patch_size)
    return record


def inputs_digest(promises: Promises, case: Case, plan: Plan, configuration: Configuration) -> str:
    """Of the case's files and of those parts of the plan that shape its arrays; training's knobs are not among them."""
    choices = {
        "transpose_forward": plan.transpose_forward,
        "file_values": promises.file_values,
        "repair": promises.repair,
        "labels": [*foreground(plan.labels).items(), ignored(plan.labels)],
        "spacing": configuration.spacing,
        "normalization_schemes": configuration.normalization_schemes,
        "use_mask_for_norm": configuration.use_mask_for_norm,
        "intensities": [
            statistics if scheme == "ct" else None
            for scheme, statistics in zip(configuration.normalization_schemes, plan.intensities, strict=True)
        ],
        "resampling": {
            key: value
            for key, value in msgspec.structs.asdict(configuration.resampling).items()
            if not key.startswith("probabilities")
        },
    }
    return digest(FORMAT, case.name, case_stamp(promises.root, case), msgspec.json.encode(choices))


def _configuration(plan: Plan, name: str) -> Configuration:
    if name not in plan.configurations:
        close = nearest(name, plan.configurations)
        raise SettingError(
            "the plan has no such configuration",
            found=name,
            allowed=", ".join(plan.configurations),
            hint=f"did you mean {close}?" if close else None,
        )
    return plan.configurations[name]


def _read_fresh(task: Task) -> PreprocessedCase | None:
    """The case's record, if its arrays are there and were made from the same inputs."""
    files = task.files
    found = read_if_whole(files.record, PreprocessedCase)
    whole = all(file.is_file() for file in (files.image, files.label, files.locations))
    return found if found is not None and whole and found.inputs_sha256 == task.inputs_sha256 else None


def _case_bytes(tasks: list[Task], num_channels: int) -> int:
    """Peak memory of a case, estimated from the one with the largest files."""
    first = tasks[0]
    largest = largest_case(first.promises.root, (task.case for task in tasks))
    geometry = read_geometry([first.promises.root / file for file in largest.images], case=largest.name)
    source, target = grids(geometry.spacing_mm, first.plan, first.configuration)
    growth = max(1.0, prod(source) / prod(target))
    # Read and cropped copies of all channels, the new ones, and intermediate arrays of one.
    return int(4 * prod(geometry.shape) * (2 * num_channels + 4 + (num_channels + 6) * growth))
