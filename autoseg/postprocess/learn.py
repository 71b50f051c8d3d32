"""Which rules help: components of out-of-fold predictions -> rules, each proved on cases it was not learned on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.selection import PairedTest, Rule, RuleTrial
from autoseg.postprocess.components import CaseComponents, kept_by

SHARES = (0.03, 0.1, 0.333)
# Of the reference's components: small ones, and parts of the usual one.
QUANTILES = (0.01, 0.05, 0.1)
PARTS_OF_MEDIAN = (0.01, 0.1)
RELEVANT_LOSS = 0.001
TIE = 0.0001
DIGITS = 3


@dataclass(frozen=True, slots=True)
class Case:
    """A case that its fold did not see.

    Attributes
    ----------
    fold : int
    components : CaseComponents
    """

    fold: int
    components: CaseComponents


def learn(cases: Sequence[Case], test: PairedTest, *, by_label: bool = True) -> tuple[list[Rule], list[RuleTrial]]:
    """Find the rules that help.

    Parameters
    ----------
    cases : sequence of Case
        At least one.
    test : callable
        The difference of two lists of scores, the second minus the first.
    by_label : bool, optional
        Also look for a rule for each label; False where labels are regions, for what is cut out of one would be a hole
        in the one around it.

    Returns
    -------
    list of Rule
        In the order in which they are to be applied: the whole foreground first.
    list of RuleTrial
        What each rule that was looked for would do.

    Notes
    -----
    A rule is learned on all folds but one and applied to the one left out, fold after fold. It is accepted if the
    cases' Dice is higher with it on average, the test says that this is real, and no label loses more than 0.001. What
    is accepted is then learned again on all folds. As in nnU-Net the whole foreground comes first, and rules for labels
    are learned on what it leaves.
    """
    whole = _try(cases, None, None, test)
    accepted = whole.rule if whole.accepted else None
    trials = [whole]
    if by_label:
        trials += [_try(cases, name, accepted, test) for name in cases[0].components.labels]
    return [trial.rule for trial in trials if trial.accepted and trial.rule is not None], trials


def propose(cases: Sequence[Case], label: str | None) -> list[Rule]:
    """The rules that are tried, the harmless ones first, with volumes that these cases' references suggest."""
    if label is None:
        volumes = np.concatenate([case.components.foreground_reference_mm3 for case in cases])
    else:
        volumes = np.concatenate([case.components.labels[label].reference_mm3 for case in cases])
    least: list[float] = []
    if volumes.size:
        least = [float(np.quantile(volumes, share)) for share in QUANTILES]
        least += [part * float(np.median(volumes)) for part in PARTS_OF_MEDIAN]
    rounded = sorted({float(f"{volume:.{DIGITS}g}") for volume in least})
    return [
        *(Rule(label=label, keep="min_share", threshold=share) for share in SHARES),
        Rule(label=label, keep="largest"),
        *(Rule(label=label, keep="min_volume_mm3", threshold=volume) for volume in rounded),
    ]


def case_dice(case: CaseComponents, label: str | None, rule: Rule | None, foreground: Rule | None) -> dict[str, float]:
    """Dice of each label that a rule is about.

    Parameters
    ----------
    case : CaseComponents
    label : str or None
        None: all of them.
    rule : Rule or None
        For this label, or for the whole foreground.
    foreground : Rule or None
        A rule for the whole foreground that was applied before, where `label` is one.
    """
    whole = kept_by(rule if label is None else foreground, case.foreground_mm3)
    found = {}
    for name in case.labels if label is None else [label]:
        parts = case.labels[name]
        kept: NDArray[np.bool_] = whole[parts.parents]
        if label is not None:
            kept = kept & kept_by(rule, np.where(kept, parts.volumes_mm3, 0.0))
        found[name] = parts.dice(kept)
    return found


def _try(cases: Sequence[Case], label: str | None, foreground: Rule | None, test: PairedTest) -> RuleTrial:
    """Learn a rule on all folds but one, again and again, and see what it does to the one left out."""
    before = [case_dice(case.components, label, None, foreground) for case in cases]
    after = list(before)
    for fold in sorted({case.fold for case in cases}):
        others = [case for case in cases if case.fold != fold]
        rule = _best(others, label, foreground) if others else None
        for index, case in enumerate(cases):
            if case.fold == fold:
                after[index] = case_dice(case.components, label, rule, foreground)
    rule = _best(cases, label, foreground)
    means = [[fmean(dice.values()) for dice in each] for each in (before, after)]
    difference = test(*means)
    loser = _loser(before, after)
    if rule is None:
        why = "no rule does better than none"
    elif difference.mean <= 0:
        why = "not better on cases that it was not learned on"
    elif loser is not None:
        why = f"{loser} loses"
    elif not difference.is_real_gain:
        why = "the difference may be chance"
    else:
        why = "better, and not by chance"
    return RuleTrial(
        label=label,
        rule=rule,
        dice_before=fmean(means[0]),
        dice_after=fmean(means[1]),
        difference=difference,
        accepted=why.startswith("better"),
        why=why,
    )


def _best(cases: Sequence[Case], label: str | None, foreground: Rule | None) -> Rule | None:
    """The rule with the highest mean Dice; None where none is higher than without.

    Notes
    -----
    Of rules about as good as each other the first is taken: one that goes by the largest component always leaves
    something, and a least volume may remove an organ that is smaller than any seen before.
    """

    def mean(rule: Rule | None) -> float:
        return fmean(
            chain.from_iterable(case_dice(case.components, label, rule, foreground).values() for case in cases)
        )

    best, highest = None, mean(None)
    for rule in propose(cases, label):
        dice = mean(rule)
        if dice > highest + (0 if best is None else TIE):
            best, highest = rule, dice
    return best


def _loser(before: Sequence[dict[str, float]], after: Sequence[dict[str, float]]) -> str | None:
    """A label whose mean Dice falls by more than is of no account."""
    for name in before[0]:
        loss = fmean(dice[name] for dice in before) - fmean(dice[name] for dice in after)
        if loss > RELEVANT_LOSS:
            return name
    return None
