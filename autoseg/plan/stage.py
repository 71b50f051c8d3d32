"""Plan a dataset: fingerprint -> plan.json, and plan.md, which says why."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from autoseg.artifacts.base import atomic_path, encode, read, set_aside, write
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.overlay import differences
from autoseg.artifacts.plan import Plan
from autoseg.plan.decide import USUAL, Meter, Timer, Wishes, decide, fit_to_budget, fit_to_device
from autoseg.plan.explain import explain
from autoseg.plan.nnunet import from_nnunet, to_nnunet

log = logging.getLogger(__name__)
MOST_SHOWN = 5


def run(
    fingerprint: Fingerprint,
    out: Path,
    explanation: Path,
    wishes: Wishes = USUAL,
    meter: Meter | None = None,
    timer: Timer | None = None,
) -> Plan:
    """Write plan.json and plan.md, unless the plan at `out` was made from the same inputs.

    Parameters
    ----------
    fingerprint : Fingerprint
    out, explanation : Path
        The plan.json and the plan.md.
    wishes : Wishes
    meter : Meter, optional
        Measures training steps, by which batches and patches are then corrected.
    timer : Timer, optional
        Times training steps, by which networks are fitted to the wished hours.

    Notes
    -----
    A plan edited by hand keeps its inputs' hash and is left alone. When the inputs change, the old plan is kept
    beside the new one, so that no edit is lost.
    """
    decisions = decide(fingerprint, wishes)
    old = _fresh(out, decisions.plan)
    if old is not None:
        if meter is None and timer is None:
            _note_edits(old, decisions.plan)
            _write_text(explain(fingerprint, decisions), explanation)
        elif not explanation.exists():
            # What was tried is not known any more.
            _write_text(explain(fingerprint, replace(decisions, plan=old)), explanation)
        return old
    if meter is not None:
        decisions = fit_to_device(decisions, meter)
    if timer is not None and wishes.budget_hours is not None:
        decisions = fit_to_budget(decisions, timer, wishes.budget_hours)
    return _keep(decisions.plan, explain(fingerprint, decisions), out, explanation)


def adopt(fingerprint: Fingerprint, out: Path, explanation: Path, content: dict[str, Any], where: str) -> Plan:
    """Write plan.json from a plan of nnU-Net's, and plan.md, which says where autoseg would have planned otherwise.

    Parameters
    ----------
    fingerprint : Fingerprint
    out, explanation : Path
        The plan.json and the plan.md.
    content : dict
        Of an nnUNetPlans.json.
    where : str
        That file.

    Raises
    ------
    ArtifactError
        As `from_nnunet`.
    """
    plan = from_nnunet(content, fingerprint, where)
    ours = decide(fingerprint, Wishes(preset=plan.preset)).plan
    changed = _otherwise(ours, plan)
    text = [
        "# Where this plan comes from",
        "",
        f"It was imported from {where}, a plan of nnU-Net v2.",
        "",
        f"Where autoseg would plan otherwise with the preset {plan.preset}:" if changed else "autoseg plans the same.",
        *(f"- {line}" for line in changed),
        "",
    ]
    old = _fresh(out, plan)
    if old is not None:
        _note_edits(old, plan)
        _write_text("\n".join(text), explanation)
        return old
    return _keep(plan, "\n".join(text), out, explanation)


def export(plan: Plan, out: Path, *, dataset_name: str, file_ending: str) -> None:
    """Write a plan as an nnUNetPlans.json.

    Parameters
    ----------
    plan : Plan
    out : Path
        Its name without the ending is the plans' name in nnU-Net. Another file that is there is set aside.
    dataset_name, file_ending : str
        As `to_nnunet`.

    Raises
    ------
    ArtifactError
        It can't be written.
    """
    content = to_nnunet(plan, dataset_name=dataset_name, plans_name=out.stem, file_ending=file_ending)
    text = msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n"
    if out.exists() and out.read_bytes() != text.encode():
        log.warning("another file was there: it is now %s", set_aside(out))
    _write_text(text, out)


def _fresh(out: Path, made: Plan) -> Plan | None:
    """The plan at `out`, if it was made from the same inputs."""
    if not out.exists():
        return None
    old = read(out, Plan)
    return old if old.inputs_sha256 == made.inputs_sha256 else None


def _note_edits(plan: Plan, planned: Plan) -> None:
    """Say where a plan is no more what was planned."""
    changed = _differences(planned, plan)
    if changed:
        more = f" and {len(changed) - MOST_SHOWN} more" if len(changed) > MOST_SHOWN else ""
        log.info(
            "plan.json is kept with what was changed in it, by hand or by options: %s%s",
            "; ".join(changed[:MOST_SHOWN]),
            more,
        )


def _differences(one: Plan, other: Plan) -> list[str]:
    return differences(msgspec.to_builtins(one), msgspec.to_builtins(other))


def _otherwise(ours: Plan, theirs: Plan) -> list[str]:
    """Where two plans of one dataset differ, as far as a planner decides."""
    one, other = ours.configurations, theirs.configurations
    lines = [f"{name}: autoseg would plan it" for name in one if name not in other]
    lines += [f"{name}: autoseg would not plan it" for name in other if name not in one]
    shared = [name for name in one if name in other]
    trees = [
        {"transpose_forward": plan.transpose_forward}
        | {name: msgspec.to_builtins(plan.configurations[name]) for name in shared}
        for plan in (ours, theirs)
    ]
    return lines + [line.replace(" was ", " would be ", 1) for line in differences(*trees)]


def _keep(plan: Plan, text: str, out: Path, explanation: Path) -> Plan:
    """Write a plan and what explains it, setting an earlier plan aside once everything else is done."""
    encode(plan)
    _write_text(text, explanation)
    if out.exists():
        kept = set_aside(out)
        log.warning("the dataset, the options or the rules changed: planning again, the old plan is now %s", kept)
    write(out, plan)
    return plan


def _write_text(text: str, out: Path) -> None:
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
