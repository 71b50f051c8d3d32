"""What was chosen from the configurations, and why."""

from autoseg.artifacts.selection import Difference, Selection
from autoseg.report.html import Element, Node, element, items, number, paragraph, section, table
from autoseg.report.words import listed, several


def selected(selection: Selection | None) -> Element:
    """The part."""
    if selection is None:
        told = paragraph(
            "Nothing is selected yet: ", element("code", "autoseg select"), " chooses among what is trained."
        )
        return section("Selection", "selection", told)
    folds = listed(selection.judged_on)
    parts: list[Node] = [
        paragraph(
            element("b", f"Chosen: {selection.words}."),
            f" Judged on {several(selection.num_cases, 'case')} of folds {folds}, each predicted by a fold that "
            "had not seen it; a label that is rightly absent counts as 1 here, so means may be higher than above.",
        ),
        table(
            "Ways to predict, from simple to complex",
            ["Way", "Mean Dice", "Against", "Change", "Cases up, down", "p (Wilcoxon)"],
            [
                [each.words, number(each.mean_dice, 4), each.compared_with or "–", *_change(each.difference)]
                for each in selection.candidates
            ],
            name="candidates",
        ),
    ]
    if selection.rule_trials:
        lines: list[list[Node]] = [
            [
                trial.label or "whole foreground",
                trial.rule.words if trial.rule is not None else "none",
                number(trial.dice_before, 4),
                number(trial.dice_after, 4),
                "accepted" if trial.accepted else "rejected",
                trial.why,
            ]
            for trial in selection.rule_trials
        ]
        head = ["Label", "Rule", "Dice before", "After", "Outcome", "Why"]
        parts.append(table("Rules for connected components", head, lines, name="rules"))
    if selection.left_out:
        parts.append(items(f"left out: {words}" for words in selection.left_out))
    return section("Selection", "selection", *parts)


def _change(difference: Difference | None) -> list[Node]:
    if difference is None:
        return ["–", "–", "–"]
    p = "too few differ" if difference.p_wilcoxon is None else f"{difference.p_wilcoxon:.3g}"
    return [number(difference.mean, 4), f"{difference.num_higher}, {difference.num_lower}", p]
