"""Dice + cross-entropy over the levels of deep supervision: of classes, or of regions that may overlap."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from autoseg.train.distributed import ALONE, Ranks

# b: batch, k: classes, zyx: space (any number of axes).
SMOOTH = 1e-5


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
        Pool the batch into one volume before taking Dice.
    regions : tuple of tuple of int
        The label values that each output stands for; empty where the outputs are classes that exclude each other.
    ignore : int or None
        The label value of voxels that count nowhere.
    ranks : Ranks
        The processes that hold a share of the batch each; the loss is that of all.
    """

    batch_dice: bool
    regions: tuple[tuple[int, ...], ...] = ()
    ignore: int | None = None
    ranks: Ranks = ALONE

    @property
    def is_mean_over_samples(self) -> bool:
        """Whether the loss of a batch is the mean of its samples' losses."""
        return not self.batch_dice and self.ignore is None

    def loss(self, logits_bkzyx: Tensor, target_bzyx: Tensor) -> Tensor:
        """Cross-entropy minus soft Dice.

        Parameters
        ----------
        logits_bkzyx : Tensor of any float, shape (B, K, *edges)
        target_bzyx : Tensor of int64, shape (B, *edges)
            Label value of each voxel.

        Returns
        -------
        Tensor of float32, scalar
        """
        known = None if self.ignore is None else target_bzyx != self.ignore
        if self.regions:
            truth = region_masks(target_bzyx, self.regions)
            return dice_binary_cross_entropy(logits_bkzyx, truth, known, batch_dice=self.batch_dice, ranks=self.ranks)
        return dice_cross_entropy(logits_bkzyx, target_bzyx, known, batch_dice=self.batch_dice, ranks=self.ranks)


def dice_cross_entropy(
    logits_bkzyx: Tensor,
    target_bzyx: Tensor,
    known_bzyx: Tensor | None = None,
    *,
    batch_dice: bool,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Cross-entropy minus soft Dice of the foreground classes.

    Parameters
    ----------
    logits_bkzyx : Tensor of any float, shape (B, K, *edges)
    target_bzyx : Tensor of int64, shape (B, *edges)
        Class of each voxel.
    known_bzyx : Tensor of bool, shape (B, *edges), optional
        Voxels that count; None: all.
    batch_dice : bool
        Pool the batch into one volume before taking Dice.
    ranks : Ranks

    Returns
    -------
    Tensor of float32, scalar

    Notes
    -----
    Isensee et al. 2021: the two terms weigh the same, the background has no Dice, smoothing 1e-5. The mean of the
    cross-entropy is over the voxels that count; it is 0 where none does.
    """
    log_p = functional.log_softmax(logits_bkzyx.float(), dim=1)
    if known_bzyx is None:
        cross_entropy = ranks.mean(functional.nll_loss(log_p, target_bzyx), len(log_p))
        p = log_p.exp()
    else:
        # As background, which has no Dice, what is unknown adds nothing to the true sizes.
        target_bzyx = target_bzyx.masked_fill(~known_bzyx, 0)
        cross_entropy = _mean_where(functional.nll_loss(log_p, target_bzyx, reduction="none"), known_bzyx, ranks)
        p = log_p.exp().masked_fill(~known_bzyx[:, None], 0)
    # Masks are never multiplied or summed: they would become numbers first, four or eight times as large.
    elsewhere = torch.ones_like(p, dtype=torch.bool).scatter_(1, target_bzyx[:, None], value=False)
    space = tuple(range(2, p.ndim))
    overlap = p.masked_fill(elsewhere, 0).sum(space)[:, 1:]
    voxels = target_bzyx.flatten(1)
    true_size = p.new_zeros(p.shape[:2]).scatter_add_(1, voxels, p.new_ones(()).expand_as(voxels))
    size = p.sum(space)[:, 1:] + true_size[:, 1:]
    return cross_entropy - _mean_dice(overlap, size, batch_dice=batch_dice, ranks=ranks)


def dice_binary_cross_entropy(
    logits_bkzyx: Tensor,
    truth_bkzyx: Tensor,
    known_bzyx: Tensor | None = None,
    *,
    batch_dice: bool,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Binary cross-entropy minus soft Dice of regions, each an output of its own.

    Parameters
    ----------
    logits_bkzyx : Tensor of any float, shape (B, K, *edges)
    truth_bkzyx : Tensor of bool, shape (B, K, *edges)
    known_bzyx : Tensor of bool, shape (B, *edges), optional
        Voxels that count; None: all.
    batch_dice : bool
    ranks : Ranks

    Returns
    -------
    Tensor of float32, scalar

    Notes
    -----
    As for classes, with a sigmoid for the softmax, and no output is the background. The mean of the cross-entropy is
    over voxels and regions. nnU-Net v2 (2.8.1) takes it so too, but with an ignore label sums over the regions, which
    makes the term as many times larger as there are regions.
    """
    logits = logits_bkzyx.float()
    entropies = functional.binary_cross_entropy_with_logits(logits, truth_bkzyx.to(logits.dtype), reduction="none")
    p = logits.sigmoid()
    if known_bzyx is None:
        cross_entropy = ranks.mean(entropies.mean(), len(entropies))
    else:
        cross_entropy = _mean_where(entropies, known_bzyx[:, None].expand_as(entropies), ranks)
        p = p.masked_fill(~known_bzyx[:, None], 0)
        truth_bkzyx = truth_bkzyx & known_bzyx[:, None]
    space = tuple(range(2, p.ndim))
    overlap = p.masked_fill(~truth_bkzyx, 0).sum(space)
    size = p.sum(space) + truth_bkzyx.sum(space)
    return cross_entropy - _mean_dice(overlap, size, batch_dice=batch_dice, ranks=ranks)


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


def _mean_where(values: Tensor, mask: Tensor, ranks: Ranks) -> Tensor:
    """The mean of some of the values; 0 where there are none."""
    return ranks.sum(values.masked_fill(~mask, 0).sum()) / ranks.sum(mask.sum()).clamp(min=1)


def _mean_dice(overlap_bk: Tensor, size_bk: Tensor, *, batch_dice: bool, ranks: Ranks) -> Tensor:
    """Soft Dice, averaged over samples, where they are not pooled, and outputs."""
    if batch_dice:
        both = ranks.sum(torch.stack((overlap_bk.sum(0), size_bk.sum(0))))
        return _dice(both[0], both[1]).mean()
    return ranks.mean(_dice(overlap_bk, size_bk).mean(), len(overlap_bk))


def _dice(overlap: Tensor, size: Tensor) -> Tensor:
    return (2 * overlap + SMOOTH) / (size + SMOOTH)


def deep_loss(levels: Sequence[Tensor], target_bzyx: Tensor, weights: Sequence[float], objective: Objective) -> Tensor:
    """Weighted sum of the loss over decoder levels, the finest first."""
    loss = torch.zeros((), device=target_bzyx.device)
    for logits, weight in zip(levels, weights, strict=True):
        loss = loss + weight * objective.loss(logits, at_level(target_bzyx, logits))
    return loss


def at_level(target_bzyx: Tensor, logits_bkzyx: Tensor) -> Tensor:
    """The target at the resolution of the logits: the voxel nearest to each coarse voxel's centre."""
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
        return torch.stack(((truth & predicted).sum(over), truth.sum(over) + predicted.sum(over))).double().cpu()
    classes = logits_bkzyx.shape[1]
    predicted = logits_bkzyx.argmax(1)
    if known is not None:
        predicted, target_bzyx = predicted[known], target_bzyx[known]
    hit = torch.bincount(target_bzyx[predicted == target_bzyx].flatten(), minlength=classes)
    size = torch.bincount(predicted.flatten(), minlength=classes) + torch.bincount(
        target_bzyx.flatten(), minlength=classes
    )
    return torch.stack((hit, size)).double()[:, 1:].cpu()
