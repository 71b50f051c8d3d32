"""The loss over the levels of deep supervision: of classes, or of regions that may overlap."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from autoseg.artifacts.plan import LossName, Training
from autoseg.train.distributed import ALONE, Ranks
from autoseg.train.loss_terms import (
    Answers,
    ClassAnswers,
    RegionAnswers,
    focused,
    mean_of_largest,
    mean_overlap,
    mean_where,
)

# b: batch, k: classes, zyx: space (any number of axes).
EntropyKind = Literal["mean", "focal", "largest"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a loss is made of.

    Attributes
    ----------
    entropy : str or None
        How the cross-entropies of voxels become one number; None: they don't count.
    overlap : str or None
        Which soft overlap is taken off; None: none.
    """

    entropy: EntropyKind | None
    overlap: Literal["dice", "tversky"] | None


TERMS: dict[LossName, Terms] = {
    "dice_ce": Terms("mean", "dice"),
    "ce": Terms("mean", None),
    "dice": Terms(None, "dice"),
    "dice_focal": Terms("focal", "dice"),
    "dice_topk": Terms("largest", "dice"),
    "tversky": Terms(None, "tversky"),
}


def level_weights(num_levels: int) -> list[float]:
    """Weight of each decoder level, the finest first: halved per level, the coarsest left out, sum 1.

    Notes
    -----
    A network with a single level keeps it. nnU-Net's rule gives weight zero to everything there.
    """
    used = max(1, num_levels - 1)
    weights = [0.5**level for level in range(used)]
    return [weight / sum(weights) for weight in weights]


@dataclass(frozen=True, slots=True)
class Objective:
    """What a network's outputs are held against.

    Attributes
    ----------
    batch_dice : bool
        Pool the batch into one volume before taking the overlap.
    regions : tuple of tuple of int
        The label values that each output stands for; empty where the outputs are classes that exclude each other.
    ignore : int or None
        The label value of voxels that count nowhere.
    recipe : Training
        Which loss, and its parameters.
    class_weights : tuple of float
        Of the cross-entropy, one an output; empty: 1 each.
    ranks : Ranks
        The processes that hold a share of the batch each; the loss is that of all.
    """

    batch_dice: bool
    regions: tuple[tuple[int, ...], ...] = ()
    ignore: int | None = None
    recipe: Training = field(default_factory=Training)
    class_weights: tuple[float, ...] = ()
    ranks: Ranks = ALONE

    @property
    def is_mean_over_samples(self) -> bool:
        """Whether the loss of a batch is the mean of its samples' losses."""
        terms = TERMS[self.recipe.loss]
        pools = terms.overlap is not None and self.batch_dice
        # The mean of the cross-entropy is over all voxels that count, and some samples have more of them.
        counts = terms.entropy is not None and self.ignore is not None
        return not pools and not counts

    def num_apart(self, batch_size: int) -> int:
        """Samples of a batch whose gradients can be taken apart from each other's."""
        return batch_size if self.is_mean_over_samples else 1

    def loss(self, logits_bkzyx: Tensor, target_bzyx: Tensor) -> Tensor:
        """Cross-entropy minus overlap, or one of them, as the recipe says.

        Parameters
        ----------
        logits_bkzyx : Tensor of any float, shape (B, K, *edges)
        target_bzyx : Tensor of int64, shape (B, *edges)
            Label value of each voxel.

        Returns
        -------
        Tensor of float32, scalar

        Notes
        -----
        Isensee et al. 2021: the two terms weigh the same, the background has no Dice, smoothing 1e-5. With regions a
        sigmoid takes the softmax's place, and no output is the background. The mean of the cross-entropy is over the
        voxels that count, and over regions; it is 0 where none does. nnU-Net v2 (2.8.1) takes it so too, but with an
        ignore label sums over the regions, which makes the term as many times larger as there are regions.
        """
        terms, recipe = TERMS[self.recipe.loss], self.recipe
        answers = self._answers(logits_bkzyx, target_bzyx)
        loss = torch.zeros((), device=logits_bkzyx.device)
        if terms.entropy is not None:
            loss = loss + self._entropy(terms.entropy, answers)
        if terms.overlap is not None:
            alpha, beta = (0.5, 0.5) if terms.overlap == "dice" else (recipe.tversky_alpha, recipe.tversky_beta)
            loss = loss - mean_overlap(answers.extents(), alpha, beta, self.ranks, pooled=self.batch_dice)
        return loss

    def _answers(self, logits_bkzyx: Tensor, target_bzyx: Tensor) -> Answers:
        known = None if self.ignore is None else target_bzyx != self.ignore
        if self.regions:
            return RegionAnswers(logits_bkzyx, region_masks(target_bzyx, self.regions), known)
        return ClassAnswers(logits_bkzyx, target_bzyx, known)

    def _entropy(self, kind: EntropyKind, answers: Answers) -> Tensor:
        if kind == "mean" and not self.class_weights:
            return answers.mean_entropy(self.ranks)
        values = answers.entropies()
        if kind == "focal":
            values = focused(values, self.recipe.focal_gamma)
        if self.class_weights:
            values = answers.weighted(values, self.class_weights)
        if kind == "largest":
            return mean_of_largest(values, self.recipe.topk_share, answers.known, self.ranks)
        return mean_where(values, answers.known, self.ranks)


def region_masks(target_bzyx: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Which voxels belong to each region.

    Parameters
    ----------
    target_bzyx : Tensor of int64, shape (B, *edges)
        Label value of each voxel.
    regions : sequence of K sequences of int

    Returns
    -------
    Tensor of bool, shape (B, K, *edges)
    """
    masks = []
    for values in regions:
        mask = target_bzyx == values[0]
        for value in values[1:]:
            mask |= target_bzyx == value
        masks.append(mask)
    return torch.stack(masks, dim=1)


def deep_loss(levels: Sequence[Tensor], target_bzyx: Tensor, weights: Sequence[float], objective: Objective) -> Tensor:
    """Weighted sum of the loss over decoder levels.

    Parameters
    ----------
    levels : sequence of Tensor of float, shape (B, K, *edges of the level)
        Logits, the finest first.
    target_bzyx : Tensor of int, shape (B, *edges of the finest level)
    weights : sequence of float
        One for each level.
    objective : Objective

    Returns
    -------
    Tensor of float32, shape ()
    """
    loss = torch.zeros((), device=target_bzyx.device)
    for logits, weight in zip(levels, weights, strict=True):
        loss = loss + weight * objective.loss(logits, at_level(target_bzyx, logits))
    return loss


def at_level(target_bzyx: Tensor, logits_bkzyx: Tensor) -> Tensor:
    """The target at the resolution of the logits: the voxel nearest to each coarse voxel's centre.

    Parameters
    ----------
    target_bzyx : Tensor of int, shape (B, *edges)
    logits_bkzyx : Tensor of float, shape (B, K, *edges / strides)

    Returns
    -------
    Tensor of int, shape (B, *edges / strides)
    """
    small = target_bzyx
    for axis in range(1, target_bzyx.ndim):
        step = target_bzyx.shape[axis] // logits_bkzyx.shape[axis + 1]
        if step > 1:
            index = torch.arange(step // 2, target_bzyx.shape[axis], step, device=small.device)
            small = small.index_select(axis, index)
    return small


@torch.no_grad()
def overlap_counts(logits_bkzyx: Tensor, target_bzyx: Tensor, objective: Objective) -> Tensor:
    """Hard overlap and size of each foreground class or region, for Dice over many batches.

    Returns
    -------
    Tensor of float64, shape (2, K - 1), or (2, K) of regions
        Overlap in voxels; predicted plus true size in voxels.
    """
    known = None if objective.ignore is None else target_bzyx != objective.ignore
    if objective.regions:
        truth, predicted = region_masks(target_bzyx, objective.regions), logits_bkzyx > 0
        if known is not None:
            truth, predicted = truth & known[:, None], predicted & known[:, None]
        over = (0, *range(2, truth.ndim))
        return torch.stack(((truth & predicted).sum(over), truth.sum(over) + predicted.sum(over))).cpu().double()
    classes = logits_bkzyx.shape[1]
    predicted = logits_bkzyx.argmax(1)
    if known is not None:
        predicted, target_bzyx = predicted[known], target_bzyx[known]
    hit = torch.bincount(target_bzyx[predicted == target_bzyx].flatten(), minlength=classes)
    size = torch.bincount(predicted.flatten(), minlength=classes) + torch.bincount(
        target_bzyx.flatten(), minlength=classes
    )
    return torch.stack((hit, size))[:, 1:].cpu().double()
