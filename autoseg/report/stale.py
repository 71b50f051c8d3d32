"""What no longer fits together: records -> sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from autoseg.artifacts.model import TrainedModel
from autoseg.artifacts.overlay import differences, overlay
from autoseg.artifacts.plan import Plan
from autoseg.artifacts.selection import Selection
from autoseg.artifacts.splits import Splits
from autoseg.errors import SettingError
from autoseg.report.found import Found, FoundFold

MOST_SHOWN = 3
# Where they differ weights and predictions are the same, or the fold says itself what it was.
ASIDE = ("inputs_sha256", "budget", "schema_version", "gpu_memory_gb", "preset", "preset_was_chosen")


def notes(found: Found) -> Iterator[str]:
    """What a reader should know before trusting the page."""
    if found.plan is not None and found.dataset is not None and found.plan.labels != found.dataset.labels:
        yield "plan.json names other labels than dataset.json"
    for name, folds in found.folds.items():
        for fold in folds:
            yield from (f"{name}, fold {fold.number}: {words}" for words in _of_fold(fold, found.plan, found.splits))
    if found.selection is not None:
        yield from (f"selection.json: {words}" for words in _of_selection(found.selection, found.folds))


def _of_fold(fold: FoundFold, plan: Plan | None, splits: Splits | None) -> Iterator[str]:
    manifest = fold.manifest
    if manifest is None:
        return
    if fold.being_extended:
        yield "it is being trained for longer; figures are of before"
    elif not manifest.finished:
        yield "its training is not finished"
    elif fold.evaluation is None and manifest.cases is not None and manifest.cases.validation:
        yield "its validation cases are not predicted and scored yet"
    if plan is not None and (changed := plan_changes(manifest, plan)):
        more = f" and {len(changed) - MOST_SHOWN} more" if len(changed) > MOST_SHOWN else ""
        yield f"it was trained by another plan than plan.json is now: {'; '.join(changed[:MOST_SHOWN])}{more}"
    known = splits.folds[fold.number] if splits is not None and fold.number < len(splits.folds) else None
    if known is not None and manifest.cases is not None and manifest.cases.validation and manifest.cases != known:
        yield "it was trained on other cases than splits.json says now"
    if fold.evaluation is not None and manifest.cases is not None:
        others = set(fold.evaluation.cases) ^ set(manifest.cases.validation)
        if others:
            yield f"the scores are not those of its validation cases: {len(others)} differ"


def plan_changes(manifest: TrainedModel, plan: Plan) -> list[str]:
    """Where the plan, with the settings that the fold was given, differs from what it was trained by."""
    name = manifest.configuration_name
    if name not in plan.configurations:
        return []  # a student's, or of a plan that had one more; its own manifest says it
    try:
        now = overlay(plan, manifest.settings)
    except SettingError:
        return ["the settings that it was given do not fit plan.json any more"]
    return differences(*(_relevant(each, name) for each in (manifest.plan, now)))


def _relevant(plan: Plan, name: str) -> dict[str, Any]:
    """The parts that shape a fold."""
    tree: dict[str, Any] = msgspec.to_builtins(plan)
    tree["configurations"] = {name: tree["configurations"][name]}
    return {key: value for key, value in tree.items() if key not in ASIDE}


def _of_selection(selection: Selection, folds: Mapping[str, tuple[FoundFold, ...]]) -> Iterator[str]:
    now = {name: {str(fold.number): fold.weights_sha256 for fold in each} for name, each in folds.items()}
    for name, judged in selection.weights_sha256.items():
        there = now.get(name, {})
        anew = [number for number, sha in judged.items() if there.get(number) not in (None, sha)]
        if anew:
            yield f"{name}, fold {', '.join(anew)}: trained anew since the choice was made"
        gone = [number for number in judged if there.get(number) is None]
        if gone:
            yield f"{name}, fold {', '.join(gone)}: was judged, and its weights are not there any more"
        since = [number for number, sha in there.items() if sha is not None and number not in judged]
        if since:
            yield f"{name}, fold {', '.join(since)}: had no part in the choice"
