"""Augmentation by boxes and by other samples of the batch."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.train.draws import Box

# b: batch, c: channels, zyx: the patch's axes (two in 2D).


def cut_out(image_bczyx: Tensor, boxes: Sequence[Box]) -> None:
    """Replace boxes of a channel by their mean."""
    for box in boxes:
        region = image_bczyx[box.sample, box.other][box.place]
        region.copy_(region.mean())


def cut_mix(image_bczyx: Tensor, label_bzyx: Tensor, boxes: Sequence[Box]) -> None:
    """Replace boxes by what another sample has at the same place, labels included."""
    if not boxes:
        return
    image, label = image_bczyx.clone(), label_bzyx.clone()
    for box in boxes:
        place = (slice(None), *box.place)
        image_bczyx[box.sample][place] = image[box.other][place]
        label_bzyx[box.sample][box.place] = label[box.other][box.place]


def copy_paste(image_bczyx: Tensor, label_bzyx: Tensor, pasted_from: NDArray[np.int64], ignore: int | None) -> None:
    """Copy another sample's foreground over a sample, labels included; what is not annotated is no foreground."""
    samples = np.flatnonzero(pasted_from != np.arange(len(pasted_from)))
    if samples.size == 0:
        return
    at = torch.from_numpy(samples).to(image_bczyx.device, non_blocking=True)
    source = torch.from_numpy(pasted_from[samples]).to(image_bczyx.device, non_blocking=True)
    label = label_bzyx.index_select(0, source)
    foreground = label > 0
    if ignore is not None:
        foreground &= label != ignore
    pasted = torch.where(foreground[:, None], image_bczyx.index_select(0, source), image_bczyx.index_select(0, at))
    image_bczyx.index_copy_(0, at, pasted)
    label_bzyx.index_copy_(0, at, torch.where(foreground, label, label_bzyx.index_select(0, at)))
