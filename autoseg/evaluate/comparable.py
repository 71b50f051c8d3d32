"""What two tables of scores do not share, and a reader should know: cases, folds, defined scores."""

from collections.abc import Sequence

from autoseg.evaluate.baselines import ScoreTable


def other_cases(a: ScoreTable, b: ScoreTable) -> tuple[str, ...]:
    """A warning where the two were not scored on the same cases."""
    only_a, only_b = len(a.cases - b.cases), len(b.cases - a.cases)
    if not only_a and not only_b:
        return ()
    return (f"not the same cases: {only_a} are in A alone, {only_b} in B alone; both are compared on the rest",)


def other_folds(a: ScoreTable, b: ScoreTable) -> tuple[str, ...]:
    """A warning where cases that one held out together were apart in the other, or a fold learned from others.

    Folds may be numbered as one likes; what counts is which cases go together.
    """
    shared = sorted(a.folds.keys() & b.folds.keys())
    together = {(a.folds[case], b.folds[case]) for case in shared}
    numbers_a, numbers_b = {one for one, _ in together}, {two for _, two in together}
    if not len(together) == len(numbers_a) == len(numbers_b):
        return (
            f"not the same folds: the compared cases are in {len(numbers_a)} folds of A and {len(numbers_b)} of B, and "
            "not in the same way; each case was predicted by networks that learned from other cases",
        )
    others = [
        (one, len(a.training[one]), len(b.training[two]))
        for one, two in sorted(together)
        if one in a.training and two in b.training and a.training[one] != b.training[two]
    ]
    if others:
        fold, num_a, num_b = others[0]
        return (f"not the same training cases: in fold {fold}, for one, A learned from {num_a} and B from {num_b}",)
    return ()


def one_sided(a: ScoreTable, b: ScoreTable, shared: Sequence[str]) -> tuple[str, ...]:
    """A warning for each label that has cases with a score on one side alone: a failure there costs nothing here.

    A distance is undefined where a label is missed, and an overlap where it is rightly absent, but not where it is a
    false alarm.
    """
    lost = {}
    for label in a.scores:
        undefined = [[table.scores[label].get(case) is None for case in shared] for table in (a, b)]
        only = [sum(one and not two for one, two in zip(*sides, strict=True)) for sides in (undefined, undefined[::-1])]
        if any(only):
            lost[label] = only
    return tuple(
        f"{label}: {a.metric} is undefined on one side alone, in {in_a} cases for A and {in_b} for B; its row leaves "
        "them out, whatever went wrong there, and a side's foreground mean is over the labels that it has"
        for label, (in_a, in_b) in lost.items()
    )
