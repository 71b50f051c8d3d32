"""What `autoseg compare` is given -> tables of scores, with the folds and patients that workspaces know."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoseg.artifacts.base import read
from autoseg.artifacts.dataset import Dataset
from autoseg.artifacts.plan import PREFERRED
from autoseg.artifacts.selection import Selection
from autoseg.errors import SettingError
from autoseg.evaluate.baselines import ScoreTable, read_scores
from autoseg.evaluate.patients import groups_of_names
from autoseg.layout import Workspace, folds_in


def read_results(
    paths: Sequence[Path],
    *,
    metrics: Sequence[str] = ("dice",),
    tasks: Sequence[str] = (),
    archs: Sequence[str] = (),
    group_by: str | None = None,
) -> list[list[ScoreTable]]:
    """The scores of several results.

    Parameters
    ----------
    paths : sequence of Path
        Workspaces, or what `read_scores` reads. A single table stands for as many results as networks are named.
    metrics : sequence of str, optional
        Without repetition.
    tasks, archs : sequence of str, optional
        Which rows of the CSV tables: one for all of them, or one each in their order.
    group_by : str, optional
        Regular expression of the patient in a case's name, in place of the groups that workspaces know.

    Returns
    -------
    list of list of ScoreTable
        Result by result, and of each metric by metric.

    Raises
    ------
    SettingError
        Tasks or networks are neither one nor one a table, or a metric, task or network is not in a file.
    DatasetError
        A path holds no scores, or a case gives no patient.
    ArtifactError
        A file is damaged.
    """
    if len(paths) == 1 and _is_table(paths[0]):
        paths = list(paths) * max(1, len(archs))
    num_tables = sum(map(_is_table, paths))
    each_task, each_arch = iter(_one_each(tasks, num_tables, "--task")), iter(_one_each(archs, num_tables, "--arch"))
    results = []
    for path in paths:
        task, arch = (next(each_task), next(each_arch)) if _is_table(path) else (None, None)
        folder = scored_folder(Workspace(path)) if is_workspace(path) else path
        tables = [read_scores(folder, metric=metric, task=task, arch=arch) for metric in dict.fromkeys(metrics)]
        results.append([with_patients(table, folder, group_by) for table in tables])
    return results


def is_workspace(path: Path) -> bool:
    """Whether the folder is one that autoseg works in."""
    workspace = Workspace(path)
    return workspace.dataset.is_file() and bool(workspace.trained_configurations)


def scored_folder(workspace: Workspace) -> Path:
    """The folder of the configuration that predicts by itself, if it has scores: as selected, else the usual ones.

    Of a selected pair whose probabilities are averaged no scores are kept; the first of them stands for it.

    Raises
    ------
    SettingError
        No fold is scored yet.
    ArtifactError
        selection.json can't be read.
    """
    chosen = read(workspace.selection, Selection).configurations if workspace.selection.exists() else ()
    for name in dict.fromkeys((*chosen, *PREFERRED, *workspace.trained_configurations)):
        if any(fold.evaluation.exists() for fold in folds_in(workspace.models(name)).values()):
            return workspace.models(name)
    raise SettingError(
        "no fold is scored yet", where=str(workspace.root), hint=f"autoseg train all -w {workspace.root}"
    )


def with_patients(table: ScoreTable, path: Path, group_by: str | None = None) -> ScoreTable:
    """The table with the patient of each case.

    Parameters
    ----------
    table : ScoreTable
    path : Path
        Where it is from: in a workspace's ``models``, the workspace's dataset knows the groups.
    group_by : str, optional
        Regular expression that finds the patient in a case's name instead.

    Raises
    ------
    SettingError, DatasetError
        The expression is none, or a case does not match.
    ArtifactError
        dataset.json can't be read.
    """
    if group_by is not None:
        return replace(table, groups=groups_of_names(sorted(table.cases), group_by))
    models = next((folder for folder in (path, *path.absolute().parents) if folder.name == "models"), None)
    if models is None or not Workspace(models.parent).dataset.is_file():
        return table
    cases = read(Workspace(models.parent).dataset, Dataset).cases
    return replace(table, groups={case.name: case.group for case in cases if case.group is not None})


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _one_each(names: Sequence[str], num_tables: int, option: str) -> list[str | None]:
    """A name for each table.

    Raises
    ------
    SettingError
        The numbers don't fit.
    """
    if len(names) > 1 and len(names) != num_tables:
        raise SettingError(
            "as many names as tables are needed, or one for all",
            where=option,
            found=", ".join(names),
            allowed=f"1 or {num_tables}" if num_tables > 1 else "1",
        )
    return list(names) if len(names) > 1 else [names[0] if names else None] * num_tables
