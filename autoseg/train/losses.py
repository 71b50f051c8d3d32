"""Dice + cross-entropy over the levels of deep supervision."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

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


def dice_cross_entropy(logits_bkzyx: Tensor, target_bzyx: Tensor, *, batch_dice: bool) -> Tensor:
    """Cross-entropy minus soft Dice of the foreground classes.

    Parameters
    ----------
    logits_bkzyx : Tensor of any float, shape (B, K, *edges)
    target_bzyx : Tensor of int64, shape (B, *edges)
        Class of each voxel.
    batch_dice : bool
        Pool the batch into one volume before taking Dice.

    Returns
    -------
    Tensor of float32, scalar

    Notes
    -----
    Isensee et al. 2021: the two terms weigh the same, the background has no Dice, smoothing 1e-5.
    """
    log_p = functional.log_softmax(logits_bkzyx.float(), dim=1)
    cross_entropy = functional.nll_loss(log_p, target_bzyx)
    p = log_p.exp()
    # Masks are never multiplied or summed: they would become numbers first, four or eight times as large.
    elsewhere = torch.ones_like(p, dtype=torch.bool).scatter_(1, target_bzyx[:, None], value=False)
    space = tuple(range(2, p.ndim))
    overlap = p.masked_fill(elsewhere, 0).sum(space)[:, 1:]
    voxels = target_bzyx.flatten(1)
    true_size = p.new_zeros(p.shape[:2]).scatter_add_(1, voxels, p.new_ones(()).expand_as(voxels))
    size = p.sum(space)[:, 1:] + true_size[:, 1:]
    if batch_dice:
        overlap, size = overlap.sum(0), size.sum(0)
    dice = (2 * overlap + SMOOTH) / (size + SMOOTH)
    return cross_entropy - dice.mean()


def deep_loss(levels: Sequence[Tensor], target_bzyx: Tensor, weights: Sequence[float], *, batch_dice: bool) -> Tensor:
    """Weighted sum of the loss over decoder levels, the finest first."""
    loss = torch.zeros((), device=target_bzyx.device)
    for logits, weight in zip(levels, weights, strict=True):
        loss = loss + weight * dice_cross_entropy(logits, at_level(target_bzyx, logits), batch_dice=batch_dice)
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
def overlap_counts(logits_bkzyx: Tensor, target_bzyx: Tensor) -> Tensor:
    """Hard overlap and size of each foreground class, for Dice over many batches.

    Returns
    -------
    Tensor of float64, shape (2, K - 1)
        Overlap in voxels; predicted plus true size in voxels.
    """
    classes = logits_bkzyx.shape[1]
    predicted = logits_bkzyx.argmax(1)
    hit = torch.bincount(target_bzyx[predicted == target_bzyx].flatten(), minlength=classes)
    size = torch.bincount(predicted.flatten(), minlength=classes) + torch.bincount(
        target_bzyx.flatten(), minlength=classes
    )
    return torch.stack((hit, size)).double()[:, 1:].cpu()
