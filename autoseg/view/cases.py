"""Which cases are shown, in which order: a workspace, or plain folders -> files, labels and scores of each case."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.artifacts.base import read
from autoseg.artifacts.dataset import Dataset
from autoseg.artifacts.evaluation import Evaluation
from autoseg.artifacts.labels import Labels
from autoseg.artifacts.plan import PREFERRED
from autoseg.artifacts.selection import Selection
from autoseg.errors import DatasetError, SettingError, nearest
from autoseg.evaluate.labels import read_labels
from autoseg.evaluate.pairing import label_files, pair_files, references_of, stem
from autoseg.evaluate.summary import mean_defined
from autoseg.images.endings import file_ending
from autoseg.layout import FoldFolder, Workspace, folds_in

CHANNEL = re.compile(r"_\d{4}")  # behind a case's name, in nnU-Net's way


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewCase:
    """One case to look at.

    Attributes
    ----------
    name : str
    images : tuple of Path
        One file for each channel, or a single one with all.
    reference, predicted : Path or None
        Label maps; at least one is there.
    channel_names : tuple of str
        Empty where nobody named them.
    labels : dict of str to int or tuple of int, or None
        Name to value in the files, or to the values of a region; None: the values that occur get names.
    dice : dict of str to float or None
        By label; None where neither label map has it. Empty where the case was not scored.
    fold : int or None
        The fold that did not train on it.
    """

    name: str
    images: tuple[Path, ...]
    reference: Path | None = None
    predicted: Path | None = None
    channel_names: tuple[str, ...] = ()
    labels: Labels | None = None
    dice: dict[str, float | None] = field(default_factory=dict)
    fold: int | None = None

    @property
    def mean_dice(self) -> float | None:
        """Mean over the labels where it is defined."""
        return mean_defined(self.dice.values())


def workspace_cases(
    workspace: Workspace, configuration: str | None, folds: Sequence[int] | None, names: Sequence[str] = ()
) -> list[ViewCase]:
    """Validation cases of a workspace, each with what the fold predicted that had not seen it.

    Parameters
    ----------
    workspace : Workspace
    configuration : str or None
        None: the first that selection.json names, else 3d_fullres, else 2d.
    folds : sequence of int or None
        None: all that are scored.
    names : sequence of str, optional
        Which cases, in this order. None named: all, the worst Dice first.

    Returns
    -------
    list of ViewCase

    Raises
    ------
    ArtifactError
        A record can't be read.
    SettingError
        No fold is scored, or there is no case of this name.
    DatasetError
        A prediction is missing.
    """
    dataset = read(workspace.dataset, Dataset)
    described = {case.name: case for case in dataset.cases}
    root = Path(dataset.root)
    cases = []
    for fold, folder in _scored_folds(workspace, configuration, folds).items():
        evaluation = read(folder.evaluation, Evaluation)
        scored = [name for name in evaluation.cases if name in described]
        predicted = references_of(scored, folder.validation)
        for name in scored:
            case = described[name]
            cases.append(
                ViewCase(
                    name=name,
                    images=tuple(root / image for image in case.images),
                    reference=root / case.label if case.label is not None else None,
                    predicted=predicted[name],
                    channel_names=dataset.channel_names,
                    labels=dataset.labels_in_files,
                    dice={label: scores.dice for label, scores in evaluation.cases[name].items()},
                    fold=fold,
                )
            )
    return _chosen(cases, names)


def folder_cases(
    images: Path,
    predicted: Path | None,
    reference: Path | None,
    *,
    dataset: Path | None = None,
    names: Sequence[str] = (),
) -> list[ViewCase]:
    """Cases of plain folders.

    Parameters
    ----------
    images, predicted, reference : Path
        Folders; one of the last two may be None. An image is ``CASE.*``, or ``CASE_0000.*``, ``CASE_0001.*`` where
        each channel has a file, or a folder ``CASE`` of DICOM slices.
    dataset : Path, optional
        A dataset.json that names the labels. Without it names and scores come from an evaluation.json beside the
        predictions, where there is one.
    names : sequence of str, optional
        As `workspace_cases`; cases without scores come last, by name.

    Returns
    -------
    list of ViewCase

    Raises
    ------
    DatasetError
        Files don't match each other, or a case has no image.
    SettingError
        There is no case of this name.
    ArtifactError
        evaluation.json can't be read.
    """
    for folder in (images, predicted, reference):
        if folder is not None and not folder.is_dir():
            raise DatasetError("a folder is missing", where=str(folder))
    predictions: Mapping[str, Path] = {}
    references: Mapping[str, Path] = {}
    if predicted is not None and reference is not None:
        pairs = pair_files(predicted, reference)
        predictions, references = pairs.predicted, pairs.reference
    elif predicted is not None:
        predictions = label_files(predicted)
    elif reference is not None:
        references = label_files(reference)
    scores = predicted / "evaluation.json" if predicted is not None else None
    evaluation = read(scores, Evaluation) if scores is not None and scores.exists() else None
    labels = read_labels(dataset) if dataset is not None else evaluation.labels if evaluation is not None else None
    channels = _channels(images)
    cases = []
    for name in sorted({*predictions, *references}):
        if name not in channels:
            raise DatasetError(
                "a case has no image",
                where=f"case {name}, {images}",
                allowed=f"{name}.nii.gz, or {name}_0000.nii.gz for the first of several channels, or another ending",
            )
        scored = evaluation.cases.get(name, {}) if evaluation is not None else {}
        cases.append(
            ViewCase(
                name=name,
                images=channels[name],
                reference=references.get(name),
                predicted=predictions.get(name),
                labels=labels,
                dice={label: each.dice for label, each in scored.items()},
            )
        )
    return _chosen(cases, names)


def _scored_folds(
    workspace: Workspace, configuration: str | None, folds: Sequence[int] | None
) -> dict[int, FoldFolder]:
    """The folds with scored validation cases, by number."""
    wanted: Iterable[str] = PREFERRED
    if configuration is not None:
        wanted = [configuration]
    elif workspace.selection.exists():
        wanted = [*read(workspace.selection, Selection).configurations, *PREFERRED]
    for name in wanted:
        there = folds_in(workspace.models(name))
        scored = {fold: folder for fold, folder in there.items() if folder.evaluation.exists()}
        if not scored:
            continue
        missing = [fold for fold in folds or () if fold not in scored]
        if missing:
            raise SettingError(
                "a fold has no scored validation cases",
                where=str(workspace.models(name)),
                found=", ".join(map(str, missing)),
                allowed=", ".join(map(str, scored)),
            )
        return scored if folds is None else {fold: scored[fold] for fold in folds}
    raise SettingError(
        "there are no validation cases to look at",
        where=str(workspace.root / "models"),
        found=configuration,
        hint=f"autoseg train 0 -w {workspace.root} trains a fold, predicts and scores its validation cases",
    )


def _channels(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Case name to the files of its channels, for every name that a folder's files may stand for."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name if path.is_dir() else stem(path)
        # The sidecar of a TIFF is none of the known kinds.
        if name is not None and (path.is_dir() or file_ending(path.name)):
            files.setdefault(name, path)
    found: dict[str, tuple[Path, ...]] = {}
    for name, path in files.items():
        if CHANNEL.fullmatch(name[-5:]) and len(name) > len("_0000"):
            found[name[:-5]] = (*found.get(name[:-5], ()), path)
    return {**found, **{name: (path,) for name, path in files.items()}}


def _chosen(cases: Sequence[ViewCase], names: Sequence[str]) -> list[ViewCase]:
    """The cases named, or all in order of their mean Dice, those without any last."""
    if not names:
        return sorted(
            cases, key=lambda case: (case.mean_dice is None, case.mean_dice or 0.0, case.name, case.fold or 0)
        )
    by_name = {case.name: case for case in cases}
    for name in names:
        if name not in by_name:
            close = nearest(name, by_name)
            raise SettingError(
                "there is no such case to look at",
                where="CASE",
                found=name,
                hint=f"did you mean {close}?" if close else "autoseg view without CASE shows all",
            )
    return [by_name[name] for name in dict.fromkeys(names)]
