"""How training went: curves and a table, configuration by configuration."""

from collections.abc import Sequence
from typing import Any

from autoseg.artifacts.distillation import Distillation
from autoseg.artifacts.model import TrainedModel
from autoseg.report.found import Found, FoundFold
from autoseg.report.html import Element, Node, element, number, paragraph, section, table
from autoseg.report.plots import Line, line_chart
from autoseg.report.words import duration, several

MOST_POINTS = 400  # of a curve: more can't be told apart


def training(found: Found) -> Element:
    """The part; the page's main configuration comes first."""
    if not found.folds:
        return section("Training", "training", paragraph("Nothing is trained yet."))
    order = list(dict.fromkeys((*found.validations, *found.folds)))
    parts: list[Node] = []
    for place, name in enumerate(order):
        block = _configuration(name, found.folds[name], f"training-{place}")
        if name in found.distillations:
            block.insert(0, _student(found.distillations[name]))
        if place == 0:
            parts += [element("h3", name), *block]
        else:
            count = several(len(found.folds[name]), "fold")
            parts.append(element("details", element("summary", f"{name}: {count}"), *block))
    return section("Training", "training", *parts)


def _student(result: Distillation) -> Element:
    """How a student compares with the folds that it imitates."""
    teacher, student = (
        ("no" if each.dice is None else f"{each.dice:.3f}") for each in (result.teacher, result.student)
    )
    known = "took no part in training" if result.unseen else "both were trained on, so Dice is too good"
    return paragraph(
        f"It imitates other folds: Dice {student} against {teacher}, {result.speed_ratio:.1f} times as fast, on "
        f"{several(len(result.cases), 'case')} that {known}."
    )


def _configuration(name: str, folds: Sequence[FoundFold], id_: str) -> list[Node]:
    told: list[Node] = []
    if any(fold.metrics for fold in folds):
        told.append(element("div", _losses(name, folds, id_), _dice(name, folds, id_), class_="plots"))
    lines = [_line(fold, fold.manifest) for fold in folds if fold.manifest is not None]
    head = [
        "Fold",
        "Epochs",
        "Steps",
        "Time",
        "Last loss",
        "Patch Dice",
        "Cases",
        "Weights",
        "Device",
        "Precision",
        "State",
    ]
    if lines:
        told.append(table(f"Trainings of {name}", head, lines, name=f"{id_}-table"))
    settings = dict.fromkeys(setting for fold in folds if fold.manifest for setting in fold.manifest.settings)
    if settings:
        codes = [part for setting in settings for part in (element("code", setting), ", ")]
        told.append(paragraph("Set otherwise than plan.json has it: ", *codes[:-1], class_="small"))
    return told or [paragraph("Its manifest can't be read.")]


def _line(fold: FoundFold, manifest: TrainedModel) -> list[Node]:
    last = fold.metrics[-1] if fold.metrics else {}
    cases = "–" if manifest.cases is None else f"{len(manifest.cases.training)} + {len(manifest.cases.validation)}"
    done = manifest.finished
    return [
        f"fold\N{NO-BREAK SPACE}{fold.number}",
        str(manifest.epochs if done else len(fold.metrics)),
        f"{manifest.iterations:,}" if done else f"{last.get('iterations', 0):,}",
        duration(manifest.training_seconds if done else last.get("seconds", 0)),
        number(last.get("train_loss")),
        number(last.get("patch_dice")),
        cases,
        f"{manifest.num_parameters / 1e6:.2f} M",
        manifest.device,
        manifest.step.precision,
        "finished" if done else "not finished",
    ]


def _losses(name: str, folds: Sequence[FoundFold], id_: str) -> Element:
    curves = [
        Line("" if dashed else f"fold {fold.number}", _points(fold.metrics, key), place, dashed)
        for place, fold in enumerate(folds)
        for key, dashed in (("train_loss", False), ("validation_loss", True))
        if fold.metrics
    ]
    lasts = _lasts(folds, "train_loss")
    return line_chart(
        curves,
        name=f"{id_}-loss",
        title="Loss: training solid, validation patches dashed",
        description=f"Training loss (solid) and loss of validation patches (dashed) of {name}, over epochs. "
        f"Training loss at the end: {lasts}.",
        x_label="epoch",
    )


def _dice(name: str, folds: Sequence[FoundFold], id_: str) -> Element:
    curves = []
    for place, fold in enumerate(folds):
        if fold.metrics:
            curves.append(Line(f"fold {fold.number}", _points(fold.metrics, "patch_dice"), place))
            whole = [(x, y) for x, y in _points(fold.metrics, "whole_case_dice") if y is not None]
            if whole:
                curves.append(Line("", whole, place, dashed=True, marked=True))
    any_whole = any(line.marked for line in curves)
    values = [y for line in curves for _, y in line.points if y is not None]
    lasts = _lasts(folds, "patch_dice")
    return line_chart(
        curves,
        name=f"{id_}-dice",
        title=f"Dice of validation patches{', of a few whole cases dashed' if any_whole else ''}",
        description=f"Dice of validation patches of {name}, over epochs. At the end: {lasts}. Patches are drawn at "
        "random and count as one volume, so this is not the Dice of cases.",
        x_label="epoch",
        bounds=(0.0 if min(values, default=0) < 0.5 else 0.5, 1.0),
    )


def _points(metrics: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float | None]]:
    """Epochs, counted from 1, and values; of long trainings every few of them, and the last."""
    points = [(float(record["epoch"] + 1), record.get(key)) for record in metrics if "epoch" in record]
    if key == "whole_case_dice" or len(points) <= MOST_POINTS:
        return points
    step = -(-len(points) // MOST_POINTS)
    return [*points[:-1:step], points[-1]]


def _lasts(folds: Sequence[FoundFold], key: str) -> str:
    known = [(fold.number, fold.metrics[-1].get(key)) for fold in folds if fold.metrics]
    return ", ".join(f"fold {fold} {value:.3f}" for fold, value in known if value is not None) or "unknown"
