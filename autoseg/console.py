"""What commands print: artifacts -> lines for a person."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from autoseg.artifacts.distillation import Distillation
from autoseg.artifacts.evaluation import Evaluation
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.plan import Plan
from autoseg.artifacts.rate_test import RateTest
from autoseg.artifacts.selection import Difference, Selection
from autoseg.artifacts.splits import Splits
from autoseg.datasets.found import some
from autoseg.datasets.remarks import case_remarks
from autoseg.errors import AutosegError
from autoseg.networks.cost import planned_step_memory
from autoseg.plan.mirroring import names_sides

RATE = "training.initial_learning_rate="


def plan_lines(plan: Plan) -> list[str]:
    """The plan's main choices, a line for each configuration."""
    lines = []
    for name, configuration in plan.configurations.items():
        spacing = " x ".join(f"{value:.4g}" for value in configuration.spacing)
        patch = "x".join(str(edge) for edge in configuration.patch_size)
        schemes = ", ".join(
            f"{channel}: {scheme}"
            for channel, scheme in zip(plan.channel_names, configuration.normalization_schemes, strict=True)
        )
        lines.append(
            f"{name}: spacing {spacing} mm, patch {patch}, batch {configuration.batch_size}, "
            f"{configuration.n_stages} stages, {schemes}"
        )
    lines += _warnings(plan)
    spared = any(len(each.mirror_axes) < len(each.patch_size) for each in plan.configurations.values())
    if spared and names_sides(plan.labels):
        lines.append(
            "labels tell left from right: the left-right axis is not mirrored, in training or prediction "
            "(nnU-Net mirrors it)"
        )
    return lines


def distillation_lines(result: Distillation) -> list[str]:
    """How a student compares with its teachers."""
    lines = [
        f"{who}: Dice {'none' if side.dice is None else f'{side.dice:.4f}'}, {side.seconds:.1f} s, "
        f"{side.num_parameters / 1e6:.2f} million weights"
        for who, side in (("teacher", result.teacher), ("student", result.student))
    ]
    known = "that took no part in training" if result.unseen else "that both were trained on: Dice is too good"
    return [*lines, f"{result.speed_ratio:.1f} times as fast, on {len(result.cases)} cases {known}"]


def case_lines(fingerprint: Fingerprint) -> list[str]:
    """What a user should know about the cases."""
    lines = case_remarks(fingerprint.cases)
    if fingerprint.rejected:
        names = list(fingerprint.rejected)
        lines.append(f"{len(names)} cases are left out, as dataset.json says: {some(names)}")
    return lines


def splits_line(splits: Splits) -> str:
    """How many folds, of what, and how they were made."""
    sizes = sorted({len(fold.validation) for fold in splits.folds})
    size = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
    many = "" if sizes == [1] else "s"
    return f"{len(splits.folds)} fold{'s' * (len(splits.folds) > 1)} of {size} validation case{many}: {splits.method}"


def _warnings(plan: Plan) -> list[str]:
    """What a user should look at before training."""
    lines = []
    if plan.preset_was_chosen:
        lines.append(f"preset {plan.preset} was chosen for this dataset: --explain says why")
    for name, configuration in plan.configurations.items():
        if configuration.n_stages == 1:
            lines.append(
                f"{name} sees {'x'.join(map(str, configuration.patch_size))} at one resolution: see its spacing"
            )
        step = planned_step_memory(plan, configuration)
        if step.peak_bytes > plan.gpu_memory_gb * 2**30:
            lines.append(
                f"{name}: a training step takes about {step.peak_bytes / 2**30:.3g} GiB on a GPU, more than the target "
                f"of {plan.gpu_memory_gb:g}"
            )
    return lines


def rate_lines(test: RateTest, *, workspace: Path, pretrained: Path | None) -> list[str]:
    """What a sweep of the learning rate suggests, and the command that trains at it."""
    if test.proposed_rate is None:
        return [
            f"no rate is proposed: over {len(test.points)} steps the loss did not fall by more than its noise; "
            "--iterations takes more"
        ]
    smoothed = [point.smoothed for point in test.points]
    end = (
        "rose far above its beginning, where the sweep ended"
        if test.exploded
        else f"{smoothed[-1]:.3f} at the highest rate"
    )
    command = ["autoseg", "train", str(test.fold), "-w", str(workspace), "--configuration", test.configuration_name]
    command += [part for setting in test.settings if not setting.startswith(RATE) for part in ("--set", setting)]
    command += ["--set", f"{RATE}{test.proposed_rate:g}"]
    command += [] if pretrained is None else ["--pretrained", str(pretrained)]
    return [
        f"the loss was {smoothed[0]:.3f} at first, {min(smoothed):.3f} at the lowest, and {end}",
        f"proposed learning rate: {test.proposed_rate:g}, in the middle between the loss's fall and its rise",
        shlex.join(command),
    ]


def selection_lines(selection: Selection) -> list[str]:
    """What was judged, how it compares, and what is chosen."""
    folds = ", ".join(map(str, selection.judged_on))
    lines = [f"{selection.num_cases} cases that no fold has seen (folds {folds})"]
    lines += [f"left out: {words}" for words in selection.left_out]
    lines += [
        f"{candidate.words}: Dice {candidate.mean_dice:.4f}{_against(candidate.compared_with, candidate.difference)}"
        for candidate in selection.candidates
    ]
    for trial in selection.rule_trials:
        what = f"{trial.label or 'whole foreground'}: {trial.why}" if trial.rule is None else trial.rule.words
        why = "" if trial.rule is None else f", {trial.why}"
        lines.append(f"{what}: Dice {trial.dice_before:.4f} -> {trial.dice_after:.4f}{_chance(trial.difference)}{why}")
    return [*lines, f"chosen: {selection.words}"]


def _against(simpler: str | None, difference: Difference | None) -> str:
    if simpler is None or difference is None:
        return ""
    real = "really better" if difference.is_real_gain else "not really better"
    return f", {difference.mean:+.4f} against {simpler}{_chance(difference)}: {real}"


def _chance(difference: Difference) -> str:
    p = "too few cases differ" if difference.p_wilcoxon is None else f"p {difference.p_wilcoxon:.3g}"
    return f" ({difference.num_higher} cases up, {difference.num_lower} down, {p})"


def score_lines(evaluation: Evaluation) -> list[str]:
    """Mean scores as lines of a table, one a label."""
    metrics = ["dice", "nsd", "hd95_mm", "assd_mm", "volume_difference_ml"]
    if evaluation.lesion_iou is not None:
        metrics.append("lesion_f1")
    in_pixels = evaluation.unit == "pixels"
    titles = (metric.replace("_mm", "_pixels").replace("_ml", "_pixels") if in_pixels else metric for metric in metrics)
    rows: list[tuple[str, ...]] = [("label", *titles)]
    for name, scores in (*evaluation.summary.labels.items(), ("mean", evaluation.summary.mean)):
        values = (getattr(scores, metric) for metric in metrics)
        rows.append((name, *("-" if value is None else f"{value:.4f}" for value in values)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def summary_line(evaluation: Evaluation) -> str:
    """Mean Dice and the Dice of each label in one line."""
    labels = ", ".join(f"{name} {_dice(scores.dice)}" for name, scores in evaluation.summary.labels.items())
    return f"mean Dice {_dice(evaluation.summary.mean.dice)} over {len(evaluation.cases)} cases ({labels})"


def failed_folds(failures: Mapping[int, str], *, restarted: bool) -> AutosegError:
    """What is raised when some folds were not trained, and why each."""
    lines = (line for fold, why in failures.items() for line in f"fold {fold}: {why}".splitlines())
    return AutosegError(
        f"{len(failures)} fold{'s' * (len(failures) > 1)} failed",
        found="\n           ".join(lines),
        hint=f"the same command{' without --restart' * restarted} trains what is missing",
    )


def _dice(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
