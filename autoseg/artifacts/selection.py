"""selection.json: which configurations predict, how their probabilities become labels, what is tidied up, and why."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import msgspec

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.bounds import Count, NonNegative, Share
from autoseg.artifacts.labels import Name

Decoding = Literal["argmax", "dice"]
Keep = Literal["largest", "min_volume_mm3", "min_share"]
SIGNIFICANCE = 0.05
OneOrTwo = Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=2)]


class Way(Record, frozen=True, kw_only=True):
    """A way from trained folds to label maps.

    Attributes
    ----------
    configurations : tuple of str
        One, or two whose probabilities are averaged.
    decoding : {'argmax', 'dice'}
        Each voxel's most likely class (of regions: inside where more likely than not), or the set of voxels with the
        highest expected Dice of each class.
    """

    configurations: OneOrTwo
    decoding: Decoding = "argmax"

    def __post_init__(self) -> None:
        """Refuse a configuration that is named twice.

        Raises
        ------
        ValueError
            It is.
        """
        if len(set(self.configurations)) < len(self.configurations):
            message = f"{self.configurations[0]} is named twice"
            raise ValueError(message)

    @property
    def words(self) -> str:
        """For people: ``2d + 3d_fullres, dice``."""
        return f"{' + '.join(self.configurations)}, {self.decoding}"


class Rule(Record, frozen=True, kw_only=True):
    """Which connected components of a label stay; all others become background.

    Attributes
    ----------
    label : str or None
        None: of the whole foreground, whatever its labels.
    keep : {'largest', 'min_volume_mm3', 'min_share'}
        The largest; those of at least a volume; those of at least a share of the largest one's volume.
    threshold : float or None
        The volume in mm³, or the share; None for the largest.
    """

    label: Name | None = None
    keep: Keep
    threshold: NonNegative | None = None

    def __post_init__(self) -> None:
        """Hold the threshold against what it is for.

        Raises
        ------
        ValueError
            It is missing, not needed, or a share above 1.
        """
        if (self.threshold is None) != (self.keep == "largest"):
            message = f"keep {self.keep} {'needs a threshold' if self.threshold is None else 'has no threshold'}"
            raise ValueError(message)
        if self.keep == "min_share" and self.threshold is not None and self.threshold > 1:
            message = f"a share of the largest component is at most 1, not {self.threshold:g}"
            raise ValueError(message)

    @property
    def words(self) -> str:
        """For people: ``liver: keep min_share 0.333``."""
        threshold = "" if self.threshold is None else f" {self.threshold:.4g}"
        return f"{self.label or 'whole foreground'}: keep {self.keep}{threshold}"


class Difference(Record, frozen=True, kw_only=True):
    """A score of the same cases before and after.

    Attributes
    ----------
    mean : float
        After minus before.
    num_higher, num_lower : int
        Cases whose score rises, and falls.
    p_wilcoxon : float or None
        Two-sided, of the signed-rank test; None where fewer than six cases differ, for then it can't be below 0.05.
    rank_biserial : float or None
        Of the ranks of all changes, the share of the rises minus that of the falls.
    """

    mean: float
    num_higher: Count
    num_lower: Count
    p_wilcoxon: Share | None = None
    rank_biserial: float | None = None

    @property
    def is_real_gain(self) -> bool:
        """Better on average, better by rank, and not by chance."""
        by_rank = self.rank_biserial is not None and self.rank_biserial > 0
        return self.mean > 0 and by_rank and self.p_wilcoxon is not None and self.p_wilcoxon < SIGNIFICANCE


# Of two lists of scores, the cases in one order: the second minus the first.
PairedTest = Callable[[Sequence[float], Sequence[float]], Difference]


class Candidate(Way, frozen=True, kw_only=True):
    """A way that was judged.

    Attributes
    ----------
    mean_dice : float
        Over the cases, each predicted by the fold that did not see it, the mean of their foreground Dice; a label that
        is rightly absent counts as 1.
    compared_with : str or None
        The simpler choice that it was tested against; None: it was the first.
    difference : Difference or None
        Of the cases' Dice from that one's.
    """

    mean_dice: Share
    compared_with: str | None = None
    difference: Difference | None = None


class RuleTrial(Record, frozen=True, kw_only=True):
    """What a rule does to cases that it was not learned on.

    Attributes
    ----------
    label : str or None
        None: the whole foreground.
    rule : Rule or None
        Learned on all folds; None: there is nothing to gain.
    dice_before, dice_after : float
        Mean Dice of the label (of the whole foreground: of all labels), a label that is rightly absent counting as 1;
        after, by the rule that the other folds teach.
    difference : Difference
    accepted : bool
    why : str
        In words.
    """

    label: Name | None
    rule: Rule | None
    dice_before: Share
    dice_after: Share
    difference: Difference
    accepted: bool
    why: str


class Selection(Artifact, frozen=True, kw_only=True):
    """What `predict` goes by; a person may change the first four keys.

    Attributes
    ----------
    configurations, decoding
        As `Way` has them.
    folds : tuple of int
        Of each configuration; the mean of their logits predicts. They may be more than those that were judged.
    rules : tuple of Rule
        Applied in this order.
    num_cases : int
        What the choice rests on.
    judged_on : tuple of int
        The folds whose validation cases these are.
    candidates : tuple of Candidate
        From simple to complex.
    rule_trials : tuple of RuleTrial
    left_out : tuple of str
        Configurations that were not considered, folds that were not judged, and why.
    weights_sha256 : dict of str to dict of str to str
        Of each configuration considered, fold by fold, the weights that would predict; for the second stage of a
        cascade those of the first as well.
    inputs_sha256 : str
        Of these weights, the scores, and the cases.
    """

    configurations: OneOrTwo
    decoding: Decoding = "argmax"
    folds: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)]
    rules: tuple[Rule, ...] = ()
    num_cases: Count
    judged_on: tuple[Count, ...]
    candidates: tuple[Candidate, ...]
    rule_trials: tuple[RuleTrial, ...] = ()
    left_out: tuple[str, ...] = ()
    weights_sha256: dict[Name, dict[str, str]]
    inputs_sha256: str

    def __post_init__(self) -> None:
        """Hold what a person may have changed against what `Way` allows.

        Raises
        ------
        ValueError
            A configuration is named twice, or a fold.
        """
        _ = self.way  # made only to be checked: it refuses a configuration that is named twice
        if len(set(self.folds)) < len(self.folds):
            message = f"folds names one twice: {', '.join(map(str, self.folds))}"
            raise ValueError(message)

    @property
    def words(self) -> str:
        """For people: what predicts, and what is done with it."""
        return in_words(self.way, self.rules)

    @property
    def way(self) -> Way:
        """Which configurations, and how their probabilities become labels."""
        return Way(configurations=self.configurations, decoding=self.decoding)


def in_words(way: Way, rules: Sequence[Rule]) -> str:
    """What predicts, and what is removed afterwards."""
    return f"{way.words}; {'; '.join(rule.words for rule in rules) or 'no post-processing'}"
