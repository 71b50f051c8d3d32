"""Looks at every case of a dataset and goes on past those that can't be used: Dataset -> Check."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from autoseg.artifacts.check import CaseCheck, Check
from autoseg.artifacts.dataset import Case, Dataset
from autoseg.artifacts.labels import Labels, voxels_by_name
from autoseg.datasets.found import some
from autoseg.datasets.load import Promises, case_bytes, read_case
from autoseg.datasets.remarks import case_remarks
from autoseg.errors import AutosegError
from autoseg.executor import case_executor, memory_at_hand, run_cases


@dataclass(frozen=True, slots=True)
class Task:
    """All that a worker needs to look at one case."""

    case: Case
    promises: Promises
    labels: Labels


def look_at(dataset: Dataset, *, jobs: int) -> Check:
    """Read every case.

    Parameters
    ----------
    dataset : Dataset
    jobs : int
        Cases at a time.

    Returns
    -------
    Check
    """
    promises = Promises.of(dataset)
    tasks = [Task(case, promises, dataset.labels) for case in dataset.cases]
    with case_executor(min(jobs, len(tasks))) as executor:
        cases = run_cases(
            executor,
            check_case,
            tasks,
            name_of=lambda task: task.case.name,
            progress="check",
            memory=memory_at_hand(lambda task: case_bytes(task.case, task.promises)),
        )
    return Check(
        root=dataset.root,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        file_values=dataset.file_values,
        num_problems=sum(case.problem is not None for case in cases),
        remarks=tuple(_remarks(cases, dataset)),
        cases=tuple(cases),
    )


def check_case(task: Task) -> CaseCheck:
    """Read one case; what is wrong with it is told, not raised. Runs in a worker process."""
    try:
        found = read_case(task.case, task.promises)
    except AutosegError as error:
        return CaseCheck(name=task.case.name, problem=error.in_one_line)
    return CaseCheck(
        name=task.case.name,
        geometry=found.image.geometry,
        label_grid=found.label_grid,
        label_voxels=voxels_by_name(found.label.counts.tolist(), task.labels),
        image_sha256=sha256(found.image.array_czyx.data).hexdigest(),
    )


def _remarks(cases: Sequence[CaseCheck], dataset: Dataset) -> list[str]:
    usable = [case for case in cases if case.problem is None]
    remarks = case_remarks(usable)
    for label in dataset.foreground:
        if usable and not any(case.label_voxels.get(label) for case in usable):
            remarks.append(f"no case has any voxel of {label}")
    same = defaultdict(list)
    for case in usable:
        same[case.image_sha256].append(case.name)
    remarks += [f"the same image under several names: {some(names)}" for names in same.values() if len(names) > 1]
    if dataset.file_values:
        pairs = ", ".join(f"{there} is {value}" for value, there in enumerate(dataset.file_values))
        remarks.append(f"values in the label files: {pairs}")
    return remarks


def table(report: Check) -> list[str]:
    """The report as lines for a person: a row for each case, then the remarks and the verdict."""
    labels = list(report.cases[0].label_voxels) if report.cases else []
    labels = next((list(case.label_voxels) for case in report.cases if case.label_voxels), labels)
    rows = [("case", "shape", "spacing in mm", "label's grid", *labels, "problem")]
    for case in report.cases:
        grid = case.geometry
        shape = "x".join(map(str, grid.shape)) if grid else "-"
        spacing = "-" if grid is None or not grid.has_spacing else " ".join(f"{edge:.4g}" for edge in grid.spacing_mm)
        voxels = (str(case.label_voxels[label]) if label in case.label_voxels else "-" for label in labels)
        rows.append((case.name, shape, spacing, case.label_grid or "-", *voxels, case.problem or ""))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, *report.remarks]
