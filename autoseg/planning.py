"""1 and 2, by every way: a dataset, a fingerprint or nnU-Net's files -> plan.json; and a plan -> nnU-Net's file."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from autoseg.artifacts.base import NewerSchemaError, check_writable, read, read_if_whole, read_json, set_aside, write
from autoseg.artifacts.dataset import Dataset, without
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.plan import Configuration, Plan
from autoseg.artifacts.splits import Splits
from autoseg.datasets.splits import SplitWishes, TooFewError, find_splits, given_splits, keep_splits
from autoseg.errors import ArtifactError, SettingError
from autoseg.layout import Workspace
from autoseg.machine import alone

if TYPE_CHECKING:
    from autoseg.plan.decide import Meter, Timer, Wishes

log = logging.getLogger(__name__)
AS_PLANNED = SplitWishes()
PLANNED_BY_ANOTHER = "another process plans this workspace"
USUAL_ENDING, PICTURE_ENDING = ".nii.gz", ".png"
# Of a device's free memory; the rest is for what allocators and drivers hold back.
MEASURED_SHARE = 0.9
# How long timing steps for a budget takes at most, but for a step that takes longer than expected.
TIMING_SECONDS, TIMING_SHARE = 60.0, 0.05


def plan(
    dataset: Dataset,
    workspace: Workspace,
    *,
    raw: Sequence[Path],
    jobs: int,
    wishes: "Wishes | None" = None,
    imported: Path | None = None,
    reject: bool = False,
    split: SplitWishes = AS_PLANNED,
) -> Plan:
    """1 and 2: dataset -> fingerprint.json -> plan.json; and the folds where they can be made -> splits.json.

    Parameters
    ----------
    raw : sequence of Path
        The folders the user named; none of them may be the workspace.
    wishes : Wishes, optional
        Preset, memory target, spacing and measuring, where they are not the usual ones.
    imported : Path, optional
        An nnUNetPlans.json that takes the place of the planner.
    reject : bool
        Leave out cases that can't be used.
    split : SplitWishes, optional
        How to split, where it is to be other than the plan says.

    Raises
    ------
    SettingError
        The workspace is a folder the user named, or holds a dataset.json that autoseg did not write; another
        process plans it; or as `autoseg.datasets.splits.given_splits`.
    DatasetError
        Likewise.
    ArtifactError
        It can't be written; or what is imported is no plan of nnU-Net's.
    """
    from autoseg.fingerprint import stage

    if workspace.root.resolve() in {folder.resolve() for folder in raw}:
        raise SettingError(
            "the workspace may not be a folder of the dataset",
            where=str(workspace.root),
            hint="choose another folder with -w",
        )
    _check_ours(workspace.dataset)
    check_writable(workspace.root)
    # A file that can't be read and a device that is not there are told before every case is measured.
    foreign, meter, timer = _foreign(imported), _meter(wishes), _timer(wishes)
    # Where cases may be rejected, folds can be held against them only when it is known which are left.
    given = None if reject else given_splits(dataset, workspace, split)
    with alone(workspace.lock, PLANNED_BY_ANOTHER):
        fingerprint = stage.run(dataset, workspace.fingerprint, jobs=jobs, reject=reject)
        if reject:
            dataset = without(dataset, fingerprint.rejected)
            given = given_splits(dataset, workspace, split)
        # Before the plan: one without a dataset passes for planned from a fingerprint alone.
        write(workspace.dataset, dataset)
        made = _plan(fingerprint, workspace, wishes, meter, timer, foreign)
        training = split.applied(made.training, given)
        if training != made.training:
            made = replace(made, training=training)
            write(workspace.plan, made)
        _split(dataset, made, workspace, given)
        return made


def grouped_by(workspace: Workspace) -> str | None:
    """What the cases of a workspace that is planned already were grouped by; a new plan must not let them leak."""
    earlier = read_if_whole(workspace.dataset, Dataset) if workspace.dataset.exists() else None
    return earlier.group_by if earlier is not None else None


def _split(dataset: Dataset, plan: Plan, workspace: Workspace, given: Splits | None) -> None:
    """Write splits.json; where there are too few cases say so, and leave none that is of others."""
    try:
        keep_splits(given or find_splits(dataset, plan, workspace), dataset, workspace)
    except TooFewError as error:
        log.warning("no folds are made: %s (%s); %s", error.what, error.found, error.hint)
        if workspace.splits.exists():
            log.warning("the old folds are now %s", set_aside(workspace.splits))


def plan_fingerprint(
    file: Path,
    workspace: Workspace,
    *,
    description: Path | None = None,
    wishes: "Wishes | None" = None,
    imported: Path | None = None,
) -> Plan:
    """2: a fingerprint made elsewhere -> plan.json; there are no cases to train on.

    Parameters
    ----------
    file, description : Path
        As `autoseg.fingerprint.nnunet.read_fingerprint`.

    Raises
    ------
    SettingError
        The workspace belongs to a dataset, or another process plans it.
    DatasetError
        The fingerprint can't be used.
    ArtifactError
        As `plan`.
    """
    from autoseg.fingerprint.nnunet import read_fingerprint

    _check_ours(workspace.dataset)
    if workspace.dataset.exists():
        raise SettingError(
            "the workspace belongs to a dataset, whose fingerprint would be replaced",
            where=str(workspace.dataset),
            hint="choose another folder with -w",
        )
    if description is not None and file.resolve() == workspace.fingerprint.resolve():
        raise SettingError(
            "nnU-Net's fingerprint stands where the workspace's own would be written",
            where=str(file),
            hint="choose another folder with -w",
        )
    check_writable(workspace.root)
    fingerprint = read_fingerprint(file, description)
    with alone(workspace.lock, PLANNED_BY_ANOTHER):
        made = _plan(fingerprint, workspace, wishes, _meter(wishes), _timer(wishes), _foreign(imported))
        write(workspace.fingerprint, fingerprint)
        return made


def _plan(
    fingerprint: Fingerprint,
    workspace: Workspace,
    wishes: "Wishes | None",
    meter: "Meter | None",
    timer: "Timer | None",
    foreign: tuple[dict[str, Any], str] | None,
) -> Plan:
    from autoseg.plan import stage
    from autoseg.plan.decide import USUAL

    if foreign is not None:
        return stage.adopt(fingerprint, workspace.plan, workspace.explanation, *foreign)
    return stage.run(fingerprint, workspace.plan, workspace.explanation, wishes or USUAL, meter, timer)


def _foreign(file: Path | None) -> tuple[dict[str, Any], str] | None:
    """What an nnUNetPlans.json holds, and its name."""
    return (read_json(file), str(file)) if file is not None else None


def _meter(wishes: "Wishes | None") -> "Meter | None":
    """What training steps are measured with: most of what is free, and not more than the user's target.

    Raises
    ------
    SettingError
        There is no such device, or its memory can't be told.
    """
    if wishes is None or wishes.measure_on is None:
        return None
    from autoseg.networks.device import choose_device
    from autoseg.plan.decide import Meter
    from autoseg.train.measure import free_bytes, step_bytes

    device = choose_device(wishes.measure_on)
    limit = int(MEASURED_SHARE * free_bytes(device))
    if wishes.gpu_memory_gb is not None:
        limit = min(limit, int(wishes.gpu_memory_gb * 2**30))

    def measure(plan: Plan, configuration: Configuration) -> tuple[int, bool]:
        # A single region still gets two classes here: the loss of one class has no gradient.
        classes = max(2, plan.num_classes)
        return step_bytes(configuration, plan.num_inputs(configuration), classes, device, limit)

    return Meter(str(device), limit, measure)


def _timer(wishes: "Wishes | None") -> "Timer | None":
    """What training steps are timed with, where the plan is to fit a time.

    Raises
    ------
    SettingError
        There is no such device.
    """
    if wishes is None or wishes.budget_hours is None:
        return None
    from autoseg.networks.device import choose_device
    from autoseg.plan.decide import Timer
    from autoseg.train.pace import Stopwatch

    device = choose_device(wishes.budget_on)
    most = max(TIMING_SECONDS, TIMING_SHARE * 3600 * wishes.budget_hours)
    begun: list[float] = []

    def seconds_left() -> float:
        # The fingerprint is made before anything is timed.
        begun[:] = begun or [time.monotonic()]
        return begun[0] + most - time.monotonic()

    return Timer(str(device), Stopwatch(device).seconds, seconds_left)


def export_nnunet(
    plan: Plan,
    workspace: Workspace,
    out: Path,
    *,
    raw: Path | None = None,
    description: Path | None = None,
    inputs: Sequence[Path | None] = (),
) -> None:
    """Write a plan as an nnUNetPlans.json.

    Parameters
    ----------
    out : Path
        Its name without the ending is the plans' name in nnU-Net. A file that is there is set aside.
    raw : Path, optional
        The dataset's folder; its name counts where `out` does not lie in a dataset's folder of nnU-Net's.
    description : Path, optional
        nnU-Net's dataset.json, which says how image files end where the workspace has no cases.
    inputs : sequence of Path or None
        Files that were read, and are not to be replaced.

    Raises
    ------
    SettingError
        The file belongs to the workspace, or is one of the inputs.
    ArtifactError
        It can't be written.
    """
    from autoseg.images.endings import file_ending
    from autoseg.plan import stage
    from autoseg.plan.nnunet import dataset_name

    ours = (workspace.dataset, workspace.fingerprint, workspace.plan, workspace.explanation, workspace.splits)
    if out.resolve() in {file.resolve() for file in (*ours, *inputs) if file is not None}:
        raise SettingError(
            "nnU-Net's plans would replace a file that is needed",
            where=f"--write-nnunet {out}",
            hint="choose another name, e.g. nnUNetPlans.json",
        )
    stated = None
    if workspace.dataset.exists():
        stated = file_ending(read(workspace.dataset, Dataset).cases[0].images[0])
    elif description is not None:
        stated = read_json(description).get("file_ending")
    elif not any(case.geometry.has_spacing for case in read(workspace.fingerprint, Fingerprint).cases):
        stated = PICTURE_ENDING
    ending = stated if isinstance(stated, str) else USUAL_ENDING
    stage.export(plan, out, dataset_name=dataset_name(out, raw), file_ending=ending)


def _check_ours(file: Path) -> None:
    """Refuse to write over a dataset.json that describes somebody's raw data.

    Raises
    ------
    SettingError
        It does.
    """
    try:
        if file.exists():
            read(file, Dataset)
    except NewerSchemaError:
        raise
    except ArtifactError as error:
        raise SettingError(
            "the workspace holds a dataset.json that autoseg did not write, or that was damaged",
            where=str(file),
            found=error.what,
            hint="choose another folder with -w, or remove the file",
        ) from error
