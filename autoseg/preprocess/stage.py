"""Stage: dataset + plan -> preprocessed/."""

from dataclasses import dataclass
from functools import partial
from math import prod

import msgspec

from autoseg.artifacts.base import check_writable, digest, read_if_whole
from autoseg.artifacts.dataset import Case, Dataset
from autoseg.artifacts.labels import foreground, ignored
from autoseg.artifacts.plan import Configuration, Plan
from autoseg.artifacts.preprocessed import PreprocessedCase
from autoseg.artifacts.stamp import case_stamp
from autoseg.datasets.load import Promises, read_case
from autoseg.errors import ArtifactError, DatasetError, SettingError, nearest
from autoseg.executor import case_executor, memory_at_hand, run_cases
from autoseg.images.io import read_geometry
from autoseg.layout import CaseFiles, Workspace
from autoseg.machine import locked, seen_soon
from autoseg.preprocess.case import arrays_digest, foreground_locations, foreground_voxels
from autoseg.preprocess.store import is_whole, remove_leftovers, write_case
from autoseg.transforms.chain import forward, grids

FORMAT = "2"  # to be raised when the same inputs would give other files


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
    dataset: Dataset,
    plan: Plan,
    configuration_name: str,
    workspace: Workspace,
    *,
    jobs: int,
    scheduler: str | None = None,
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
    scheduler : str, optional
        Address of a dask scheduler, whose workers then do it all; they must see the same files.

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
    folder = workspace.preprocessed(configuration_name)
    tasks = _tasks(dataset, plan, configuration_name, workspace)
    records = {task.case.name: _read_fresh(task) for task in tasks}
    missing = [task for task in tasks if records[task.case.name] is None]
    remove_leftovers(task.files for task in tasks)
    if missing:
        check_writable(folder)
        if scheduler is not None:
            folder.mkdir(parents=True, exist_ok=True)  # for the workers to see
        with case_executor(min(jobs, len(missing)), scheduler=scheduler, sees=folder.absolute()) as executor:
            done = run_cases(
                executor,
                preprocess_case,
                missing,
                name_of=lambda task: task.case.name,
                progress=f"preprocess {configuration_name}",
                keeps=True,
                memory=memory_at_hand(case_bytes) if scheduler is None else None,
            )
        records |= {record.name: record for record in done}
        remove_leftovers(task.files for task in missing)
    return tuple(record for record in records.values() if record is not None)


def find(dataset: Dataset, plan: Plan, configuration_name: str, workspace: Workspace) -> tuple[PreprocessedCase, ...]:
    """Every case as another process has just made it; nothing is written.

    Raises
    ------
    ArtifactError
        One is not to be seen here.
    """
    found = []
    for task in _tasks(dataset, plan, configuration_name, workspace):
        record = seen_soon(partial(_read_fresh, task))
        if record is None:
            raise ArtifactError(
                "a case that the first process prepared is not to be seen here",
                where=str(task.files.record),
                hint="all hosts must see the same workspace and the same dataset, with the same times of its files",
            )
        found.append(record)
    return tuple(found)


def _tasks(dataset: Dataset, plan: Plan, configuration_name: str, workspace: Workspace) -> list[Task]:
    configuration = _configuration(plan, configuration_name)
    promises, root = Promises.of(dataset), Workspace(workspace.root.absolute())
    return [
        Task(
            case,
            promises,
            root.case(configuration_name, case.name),
            plan,
            configuration,
            inputs_digest(promises, case, plan, configuration),
        )
        for case in dataset.cases
    ]


def preprocess_case(task: Task) -> PreprocessedCase:
    """Read one case, bring it onto the network's grid, store it; runs in a worker process.

    Raises
    ------
    DatasetError
        As `read_case`.
    ArtifactError
        As `write_case`.

    Notes
    -----
    Two processes never make the same case at once: the second waits, and finds it made.
    """
    with locked(task.files.lock, wait=True):
        return _read_fresh(task) or _make(task)


def _make(task: Task) -> PreprocessedCase:
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
    """The case's record, if it was made from the same inputs and its arrays are there and whole."""
    found = read_if_whole(task.files.record, PreprocessedCase)
    if found is None or found.inputs_sha256 != task.inputs_sha256:
        return None
    return found if is_whole(task.files, found.arrays_sha256) else None


def case_bytes(task: Task) -> int:
    """Peak memory of a case, estimated from its header; 0 where that can't be read, which the case itself will tell."""
    try:
        geometry = read_geometry([task.promises.root / file for file in task.case.images], case=task.case.name)
    except DatasetError:
        return 0
    source, target = grids(geometry.spacing_mm, task.plan, task.configuration)
    # An axis that grows may do so before another shrinks.
    growth = prod(max(1.0, old / new) for old, new in zip(source, target, strict=True))
    channels = len(task.plan.channel_names)
    # All channels as read and as cropped, the new ones, and intermediate arrays of one channel and of the label.
    return int(4 * prod(geometry.shape) * (2 * channels + 3 + (channels + 5) * growth))
