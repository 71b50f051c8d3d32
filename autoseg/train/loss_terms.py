"""The terms that losses are made of: cross-entropies of voxels, and soft overlaps.

Everything works on float32. Masks are never multiplied or summed where that can be helped: they would become numbers
first, four or eight times as large.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from autoseg.train.distributed import ALONE, Ranks

# b: batch, k: classes or regions, zyx: space (any number of axes).
SMOOTH = 1e-5
# Below this distance from certainty, a power of it has the slope that it has there: at 0 that may be infinite.
LEAST_DOUBT = 1e-7


@dataclass(frozen=True, slots=True)
class Extents:
    """Soft volumes in voxels, of each sample and each output that has an overlap.

    Attributes
    ----------
    common_bk, predicted_bk, true_bk : Tensor of float32, shape (B, K)
    """

    common_bk: Tensor
    predicted_bk: Tensor
    true_bk: Tensor


class Answers(Protocol):
    """What a network said of voxels, held against the truth."""

    @property
    def known(self) -> Tensor | None:
        """Where an entropy counts, in a shape that broadcasts to theirs; None: everywhere."""

    def mean_entropy(self, ranks: Ranks) -> Tensor:
        """Mean of the entropies that count."""

    def entropies(self) -> Tensor:
        """Cross-entropy of each voxel, and of each region where there are regions: b first, 0 or above."""

    def weighted(self, values: Tensor, weights: Sequence[float]) -> Tensor:
        """Values, as the entropies are arranged, times the weight of what the voxel truly is."""

    def extents(self) -> Extents:
        """Soft volumes of the outputs that have an overlap, in the voxels that count."""


class ClassAnswers:
    """Of classes that exclude each other.

    Parameters
    ----------
    logits_bkzyx : Tensor of any float, shape (B, K, *edges)
    target_bzyx : Tensor of int64, shape (B, *edges)
        Class of each voxel; anything where it is not known.
    known_bzyx : Tensor of bool, shape (B, *edges), optional
        Voxels that count; None: all.
    """

    def __init__(self, logits_bkzyx: Tensor, target_bzyx: Tensor, known_bzyx: Tensor | None) -> None:
        self.known = known_bzyx
        self.log_p_bkzyx = functional.log_softmax(logits_bkzyx.float(), dim=1)
        # As background, which has no overlap, what is unknown adds nothing to the true sizes.
        self.target_bzyx = target_bzyx if known_bzyx is None else target_bzyx.masked_fill(~known_bzyx, 0)

    def mean_entropy(self, ranks: Ranks) -> Tensor:
        """Mean over the voxels that count; without a value for each of them in between, where all do."""
        if self.known is None:
            return ranks.mean(functional.nll_loss(self.log_p_bkzyx, self.target_bzyx), len(self.target_bzyx))
        return mean_where(self.entropies(), self.known, ranks)

    def entropies(self) -> Tensor:
        """Of each voxel, shape (B, *edges)."""
        return functional.nll_loss(self.log_p_bkzyx, self.target_bzyx, reduction="none")

    def weighted(self, values: Tensor, weights: Sequence[float]) -> Tensor:
        """Each voxel by its class."""
        return values * values.new_tensor(weights)[self.target_bzyx]

    def extents(self) -> Extents:
        """Of each class but the background."""
        p, target = self.log_p_bkzyx.exp(), self.target_bzyx
        if self.known is not None:
            p = p.masked_fill(~self.known[:, None], 0)
        elsewhere = torch.ones_like(p, dtype=torch.bool).scatter_(1, target[:, None], value=False)
        space = tuple(range(2, p.ndim))
        voxels = target.flatten(1)
        true = p.new_zeros(p.shape[:2]).scatter_add_(1, voxels, p.new_ones(()).expand_as(voxels))
        return Extents(p.masked_fill(elsewhere, 0).sum(space)[:, 1:], p.sum(space)[:, 1:], true[:, 1:])


class RegionAnswers:
    """Of regions, each an output of its own.

    Parameters
    ----------
    logits_bkzyx : Tensor of any float, shape (B, K, *edges)
    truth_bkzyx : Tensor of bool, shape (B, K, *edges)
    known_bzyx : Tensor of bool, shape (B, *edges), optional
        Voxels that count; None: all.
    """

    def __init__(self, logits_bkzyx: Tensor, truth_bkzyx: Tensor, known_bzyx: Tensor | None) -> None:
        self.known = None if known_bzyx is None else known_bzyx[:, None]
        self.logits_bkzyx = logits_bkzyx.float()
        self.truth_bkzyx = truth_bkzyx

    def mean_entropy(self, ranks: Ranks) -> Tensor:
        """Mean over voxels and regions."""
        return mean_where(self.entropies(), self.known, ranks)

    def entropies(self) -> Tensor:
        """Of each voxel and region, shape (B, K, *edges)."""
        truth = self.truth_bkzyx.to(self.logits_bkzyx.dtype)
        return functional.binary_cross_entropy_with_logits(self.logits_bkzyx, truth, reduction="none")

    def weighted(self, values: Tensor, weights: Sequence[float]) -> Tensor:
        """By the region's weight inside it; outside, values stay."""
        by_region = values.new_tensor(weights).view(1, -1, *(1,) * (values.ndim - 2))
        return torch.where(self.truth_bkzyx, values * by_region, values)

    def extents(self) -> Extents:
        """Of each region."""
        p, truth = self.logits_bkzyx.sigmoid(), self.truth_bkzyx
        if self.known is not None:
            p = p.masked_fill(~self.known, 0)
            truth = truth & self.known
        space = tuple(range(2, p.ndim))
        return Extents(p.masked_fill(~truth, 0).sum(space), p.sum(space), truth.sum(space).to(p.dtype))


def focused(entropies: Tensor, gamma: float) -> Tensor:
    """Entropies times the probability that was not given to the truth, to the power of `gamma`.

    Notes
    -----
    Lin et al. 2017, without its factor for the classes, which `Answers.weighted` is for. The entropy is minus the
    logarithm of the probability given to the truth, for classes and for regions.
    """
    doubt = -torch.expm1(-entropies)
    return doubt.clamp(min=LEAST_DOUBT) ** gamma * entropies


def mean_where(values: Tensor, mask: Tensor | None, ranks: Ranks = ALONE) -> Tensor:
    """The mean of the values of all processes, or of some of them; 0 where there are none."""
    if mask is None:
        return ranks.mean(values.mean(), len(values))
    mask = mask.expand_as(values)
    return ranks.sum(values.masked_fill(~mask, 0).sum()) / ranks.sum(mask.sum()).clamp(min=1)


def mean_of_largest(values: Tensor, share: float, mask: Tensor | None, ranks: Ranks = ALONE) -> Tensor:
    """The mean of each sample's largest values, or of the largest of some of them; 0 where there are none.

    Parameters
    ----------
    values : Tensor of float32, shape (B, ...)
    share : float
        How many of a sample's values count: this share of them, rounded, but at least one.
    mask : Tensor of bool, optional
        Broadcasts to the values.
    ranks : Ranks, optional
        The processes that hold some samples each.
    """
    kept = []
    for number, sample in enumerate(values):
        chosen = sample.flatten() if mask is None else sample[mask[number].expand_as(sample)]
        most = min(len(chosen), max(1, round(share * len(chosen))))
        kept.append(chosen.topk(most, sorted=False).values)
    largest = torch.cat(kept)
    return ranks.sum(largest.sum()) / ranks.sum(values.new_tensor(len(largest))).clamp(min=1)


def mean_overlap(extents: Extents, alpha: float, beta: float, ranks: Ranks = ALONE, *, pooled: bool) -> Tensor:
    """Soft Tversky index, averaged over outputs and, where they are not pooled, samples; Dice with 0.5 and 0.5.

    Parameters
    ----------
    extents : Extents
    alpha, beta : float
        Weights of what is found wrongly and of what is missed.
    ranks : Ranks, optional
        The processes that hold some samples each.
    pooled : bool
        Take the batch as one volume.

    Notes
    -----
    Salehi et al. 2017. Twice numerator and denominator, so that Dice has the smoothing of its usual form.
    """
    overlap = 2 * extents.common_bk
    size = 2 * alpha * extents.predicted_bk + 2 * beta * extents.true_bk + (1 - alpha - beta) * overlap
    if pooled:
        # Both at once: a message takes its time, however short it is.
        both = ranks.sum(torch.stack((overlap.sum(0), size.sum(0))))
        return _ratio(both[0], both[1]).mean()
    return ranks.mean(_ratio(overlap, size).mean(), len(overlap))


def _ratio(overlap: Tensor, size: Tensor) -> Tensor:
    return (overlap + SMOOTH) / (size + SMOOTH)
