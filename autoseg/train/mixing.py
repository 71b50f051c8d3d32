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


def cut_mix(image_bczyx: Tensor, maps: Sequence[Tensor], boxes: Sequence[Box]) -> None:
    """Replace boxes by what another sample has at the same place, labels and other maps included."""
    if not boxes:
        return
    for batch in (image_bczyx, *maps):
        before = batch.clone()
        for box in boxes:
            place: tuple[slice, ...] = (*(slice(None) for _ in batch.shape[1 : -len(box.place)]), *box.place)
            batch[box.sample][place] = before[box.other][place]


def copy_paste(image_bczyx: Tensor, maps: Sequence[Tensor], pasted_from: NDArray[np.int64], ignore: int | None) -> None:
    """Copy another sample's foreground over a sample, maps included; the first of these are the labels.

    What is not annotated is no foreground.
    """
    samples = np.flatnonzero(pasted_from != np.arange(len(pasted_from)))
    if samples.size == 0:
        return
    at = torch.from_numpy(samples).to(image_bczyx.device, non_blocking=True)
    source = torch.from_numpy(pasted_from[samples]).to(image_bczyx.device, non_blocking=True)
    label = maps[0].index_select(0, source)
    foreground = label > 0
    if ignore is not None:
        foreground &= label != ignore
    for batch, where in ((image_bczyx, foreground[:, None]), *((each, foreground) for each in maps)):
        batch.index_copy_(0, at, torch.where(where, batch.index_select(0, source), batch.index_select(0, at)))
