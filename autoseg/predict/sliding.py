"""The network over windows: one volume -> its logits on the network's grid."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from autoseg.artifacts.model import Precision
from autoseg.networks.device import autocast, channels_last
from autoseg.predict.windows import gaussian_weights, mirrorings, windows

# k: classes, c: channels, zyx: space.
# Voxels given to the network at once: enough to keep it busy, little enough for the memory the plan reckons with.
# On CPUs a single volume is enough, and feature maps that stay near the cache are faster.
VOXELS_AT_ONCE = {"cpu": 2**16}
VOXELS_AT_ONCE_ELSEWHERE = 2**21


@torch.inference_mode()
def sliding_logits(
    network: nn.Module,
    image_czyx: NDArray[np.float32],
    num_classes: int,
    patch: Sequence[int],
    *,
    device: torch.device,
    precision: Precision,
    mirror_axes: Sequence[int],
    step: float,
) -> Tensor:
    """Mean logits over windows and mirrorings.

    Parameters
    ----------
    network : Module
        Maps (B, C, *patch) to (B, K, *patch).
    image_czyx : ndarray of float32, shape (C, Z, Y, X)
        Of any size; padded with zeros up to the patch where it is smaller.
    num_classes : int
    patch : sequence of int, length 2 or 3
        Two edges: each slice along Z is a picture of its own.
    device : torch.device
    precision : str
        Of the network's layers; sums are float32.
    mirror_axes : sequence of int
        Axes of the patch; all subsets are averaged.
    step : float
        Greatest distance of neighbouring windows, in patch edges.

    Returns
    -------
    Tensor of float32, shape (K, Z, Y, X), on the CPU
    """
    padded, inside = pad_to_patch(torch.from_numpy(image_czyx), patch)
    padded = padded.to(device)
    space = tuple(padded.shape[1:])
    flat = len(patch) == 2
    weights = torch.from_numpy(gaussian_weights(patch)).to(device)
    # Sums of many classes can be larger than a GPU; they then stay in the host's memory.
    keeper = device if _fits(num_classes * int(np.prod(space)) * 4, device) else torch.device("cpu")
    weights = weights.to(keeper)
    total = torch.zeros((num_classes, *space), device=keeper)
    norm = torch.zeros(space, device=keeper)
    subsets = mirrorings(mirror_axes)
    places = windows(space, patch, step)
    for place in places:
        norm[place] += weights[None] if flat else weights
    work = [(place, axes) for place in places for axes in subsets]
    at_once = max(1, VOXELS_AT_ONCE.get(device.type, VOXELS_AT_ONCE_ELSEWHERE) // int(np.prod(patch)))
    for first in range(0, len(work), at_once):
        group = work[first : first + at_once]
        inputs = torch.stack([_cut(padded, place, axes, flat) for place, axes in group])
        if device.type == "cpu" and len(inputs) == 1:
            inputs = channels_last(inputs)
        with autocast(device, precision):
            outputs = network(inputs)
        for (place, axes), logits in zip(group, outputs.float().to(keeper), strict=True):
            straight = logits.flip([axis + 1 for axis in axes]) if axes else logits
            weighted = straight * (weights / len(subsets))
            total[(slice(None), *place)] += weighted[:, None] if flat else weighted
    total /= norm
    return total[(slice(None), *inside)].cpu()


def _fits(needed_bytes: int, device: torch.device) -> bool:
    """Whether half of what is free on the device holds this much."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return needed_bytes <= free // 2


def pad_to_patch(image_czyx: Tensor, patch: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    """Zeros around a volume smaller than the patch, and where the volume lies in the result."""
    space = image_czyx.shape[1:]
    edges = [*space[: len(space) - len(patch)], *patch]
    before = [max(0, edge - n) // 2 for edge, n in zip(edges, space, strict=True)]
    after = [max(0, edge - n) - low for edge, n, low in zip(edges, space, before, strict=True)]
    # torch lists the padding of the last axis first.
    sizes = [size for low, high in zip(before[::-1], after[::-1], strict=True) for size in (low, high)]
    inside = tuple(slice(low, low + n) for low, n in zip(before, space, strict=True))
    return functional.pad(image_czyx, sizes), inside


def _cut(padded: Tensor, place: tuple[slice, ...], axes: tuple[int, ...], flat: bool) -> Tensor:
    window = padded[(slice(None), *place)]
    if flat:
        window = window[:, 0]
    return window.flip([axis + 1 for axis in axes]) if axes else window
