"""Drawn augmentation applied to a whole batch, as tensor code on whatever device trains.

Regions are packed on the host, where mirroring costs nothing; what is left for the device is a few dozen kernels for a
batch, however large, none of which the host waits for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autoseg.train.draws import SPLINE_ORDER, Draws
from autoseg.train.mixing import copy_paste, cut_mix, cut_out
from autoseg.train.previous import one_hot
from autoseg.train.rows import (
    add_gradient,
    along_axes,
    blur,
    brighten,
    curve,
    curve_locally,
    lower_resolution,
    sharpen,
    shift,
    smooth_by_median,
    spread,
)

# b: batch, c: channels, m: moved samples of a group, k: label values, zyx: the patch's axes (two in 2D).

# Regions to be moved are padded to one size and moved together up to this size; larger ones alone.
GROUP_BYTES = 2**26
# Votes of as many label values are held at a time.
VOTES_BYTES = 2**27
T = TypeVar("T", Tensor, Tensor | None)
FORWARDS, BACKWARDS = slice(None), slice(None, None, -1)


@dataclass(frozen=True, slots=True)
class Moving:
    """Regions of samples that are moved, padded to one size around their centres.

    Attributes
    ----------
    samples : tuple of int
    images : Tensor of float32, shape (M, C, *edges)
    labels : Tensor of int16, shape (M, *edges)
    previous : Tensor of int16, shape (M, *edges), or None
    """

    samples: tuple[int, ...]
    images: Tensor
    labels: Tensor
    previous: Tensor | None = None

    def to(self, device: torch.device) -> "Moving":
        """The same on a device."""
        return Moving(
            self.samples, _sent(self.images, device), _sent(self.labels, device), _sent(self.previous, device)
        )


@dataclass(frozen=True, slots=True)
class Regions:
    """What a batch is made from, packed to be sent to the device.

    Attributes
    ----------
    images : Tensor of float32, shape (B, C, *patch)
        Of samples that are not moved; the places of the others hold nothing.
    labels : Tensor of int16, shape (B, *patch)
        Likewise; -1 outside the case's mask.
    moving : tuple of Moving
    noise : Tensor of float32, shape (N, C, *patch), or None
        Of the samples that get some.
    values : tuple of int
        Label values that the moving regions hold, in order.
    previous : Tensor of int16, shape (B, *patch), or None
        What the previous stage of a cascade predicted, likewise.
    num_previous : int
        Its labels are 1 to this.
    """

    images: Tensor
    labels: Tensor
    moving: tuple[Moving, ...]
    noise: Tensor | None
    values: tuple[int, ...]
    previous: Tensor | None = None
    num_previous: int = 0

    def to(self, device: torch.device) -> "Regions":
        """The same on a device; the host does not wait where memory is pinned."""
        return replace(
            self,
            images=_sent(self.images, device),
            labels=_sent(self.labels, device),
            moving=tuple(group.to(device) for group in self.moving),
            noise=_sent(self.noise, device),
            previous=_sent(self.previous, device),
        )


@dataclass(frozen=True, slots=True)
class Augmented:
    """A batch to train on.

    Attributes
    ----------
    images : Tensor of float32, shape (B, C, *patch)
    labels : Tensor of int64, shape (B, *patch)
    other_labels : Tensor of int64, shape (B, *patch), or None
        Of the samples mixed in.
    own_share : float
        What `labels` count in the loss; the rest counts `other_labels`.
    """

    images: Tensor
    labels: Tensor
    other_labels: Tensor | None = None
    own_share: float = 1.0

    def of(self, samples: range) -> "Augmented":
        """Some of the samples."""
        place = slice(samples.start, samples.stop)
        other = None if self.other_labels is None else self.other_labels[place]
        return Augmented(self.images[place], self.labels[place], other, self.own_share)

    def chunk(self, parts: int) -> "list[Augmented]":
        """The batch in parts, along its samples."""
        labels = self.labels.chunk(parts)
        others = [None] * len(labels) if self.other_labels is None else self.other_labels.chunk(parts)
        return [
            Augmented(*part, own_share=self.own_share)
            for part in zip(self.images.chunk(parts), labels, others, strict=True)
        ]


def pack(
    images: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.int16]],
    draws: Draws,
    patch: Sequence[int],
    values: Sequence[int],
    previous: Sequence[NDArray[np.int16]] = (),
    *,
    num_previous: int = 0,
    pinned: bool = False,
) -> Regions:
    """Put the regions of a batch together on the host, mirrored where they are not moved.

    Parameters
    ----------
    images : sequence of B ndarrays of float32, shape (C, *source edges)
        Regions as large as `Draws.source_edges` says.
    labels : sequence of B ndarrays of int16, shape (*source edges)
        -1 outside the case's mask.
    draws : Draws
    patch : sequence of int
    values : sequence of int
        Label values that the moved samples hold, in `previous` too.
    previous : sequence of B or 0 ndarrays of int16, shape (*source edges)
        What the previous stage of a cascade predicted.
    num_previous : int
        Its labels are 1 to this.
    pinned : bool
        In memory that CUDA can read by itself.

    Returns
    -------
    Regions
    """
    b, c = len(images), len(images[0])
    still_images = torch.empty((b, c, *patch), pin_memory=pinned)
    still_labels = torch.empty((b, *patch), dtype=torch.int16, pin_memory=pinned)
    still_previous = torch.empty((b, *patch), dtype=torch.int16, pin_memory=pinned) if previous else None
    packed: list[tuple[NDArray[Any], Sequence[NDArray[Any]]]] = [
        (still_images.numpy(), images),
        (still_labels.numpy(), labels),
    ]
    if still_previous is not None:
        packed.append((still_previous.numpy(), previous))
    for i in np.flatnonzero(~draws.moved).tolist():
        for together, regions in packed:
            _lay(together[i], regions[i], draws, i)
    noise = None
    if draws.noise:
        noise = torch.empty((len(draws.noise), c, *patch), pin_memory=pinned)
        for place, values_czyx in zip(noise, draws.noise.values(), strict=True):
            place.numpy()[:] = values_czyx
    groups = [_together(group, images, labels, previous, pinned=pinned) for group in _groups(images, draws)]
    return Regions(
        still_images, still_labels, tuple(groups), noise, tuple(sorted(values)), still_previous, num_previous
    )


def _lay(place: NDArray[np.generic], region: NDArray[np.generic], draws: Draws, sample: int) -> None:
    """Copy a region that is not moved, turned and mirrored."""
    axes, lead = draws.axes[sample].tolist(), region.ndim - draws.axes.shape[1]
    turned = region.transpose(*range(lead), *(axis + lead for axis in axes))
    place[:] = turned[(..., *(BACKWARDS if mirrored else FORWARDS for mirrored in draws.mirrored[sample].tolist()))]


def _groups(images: Sequence[NDArray[np.float32]], draws: Draws) -> list[list[int]]:
    """The moved samples, as many together as memory for their padded regions allows."""
    groups: list[list[int]] = []
    for i in np.flatnonzero(draws.moved):
        if groups:
            together = [*groups[-1], int(i)]
            if len(together) * prod(_common_edges(together, images)) * 4 <= GROUP_BYTES:
                groups[-1] = together
                continue
        groups.append([int(i)])
    return groups


def _common_edges(samples: Sequence[int], images: Sequence[NDArray[np.float32]]) -> tuple[int, ...]:
    """Channels, and the largest edges of some samples' regions."""
    return tuple(int(edge) for edge in np.max([images[i].shape for i in samples], axis=0))


def _together(
    samples: Sequence[int],
    images: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.int16]],
    previous: Sequence[NDArray[np.int16]],
    *,
    pinned: bool,
) -> Moving:
    """Regions of some samples in one array each."""
    if len(samples) == 1 and not pinned:
        only = samples[0]
        parts = [torch.from_numpy(each[only])[None] for each in (images, labels, previous) if each]
        return Moving((only,), *parts)
    edges = _common_edges(samples, images)
    all_images = torch.zeros((len(samples), *edges), pin_memory=pinned)
    all_labels = torch.full((len(samples), *edges[1:]), -1, dtype=torch.int16, pin_memory=pinned)
    all_previous = None
    if previous:
        all_previous = torch.full(all_labels.shape, -1, dtype=torch.int16, pin_memory=pinned)
    for place, i in enumerate(samples):
        # Source edges are the patch's plus even numbers, so that all centres are the same place.
        inside = [(wide - edge) // 2 for wide, edge in zip(edges[1:], labels[i].shape, strict=True)]
        box = [slice(start, start + edge) for start, edge in zip(inside, labels[i].shape, strict=True)]
        all_images[place].numpy()[(slice(None), *box)] = images[i]
        all_labels[place].numpy()[(*box,)] = labels[i]
        if all_previous is not None:
            all_previous[place].numpy()[(*box,)] = previous[i]
    return Moving(tuple(samples), all_images, all_labels, all_previous)


def _sent(tensor: T, device: torch.device) -> T:
    """A tensor on a device, if there is one."""
    return None if tensor is None else tensor.to(device, non_blocking=True)


def augment(
    regions: Regions,
    draws: Draws,
    patch: Sequence[int],
    masked_channels: Sequence[bool],
    ignore: int | None = None,
) -> Augmented:
    """Move and change the patches of a batch.

    Parameters
    ----------
    regions : Regions
        On the device; what they hold is changed.
    draws : Draws
    patch : sequence of int
    masked_channels : sequence of bool, length C
        Channels normalized inside the mask: they are set to 0 outside it again.
    ignore : int, optional
        The label value of voxels that are not annotated.

    Returns
    -------
    Augmented
        What the previous stage predicted is further channels of the images: a label has 1 or 0, whatever happened to
        intensities.
    """
    image_bczyx, label_bzyx = regions.images, regions.labels
    maps = [label_bzyx] if regions.previous is None else [label_bzyx, regions.previous]
    for group in regions.moving:
        _move(group, draws, patch, regions.values, image_bczyx, maps)
    copy_paste(image_bczyx, maps, draws.pasted_from, ignore)
    cut_mix(image_bczyx, maps, draws.cut_mixed)
    if regions.noise is not None:
        image_bczyx.index_add_(0, _index(list(draws.noise), image_bczyx.device), regions.noise)
    smooth_by_median(image_bczyx, draws.median_size_voxels)
    blur(image_bczyx, draws.blur_sigma_voxels)
    shift(image_bczyx, draws.shift)
    brighten(image_bczyx, draws.brightness)
    spread(image_bczyx, draws.contrast, draws.contrast_clipped)
    lower_resolution(image_bczyx, draws.low_resolution, draws.mirrored)
    curve(image_bczyx, draws.gamma_inverted, inverted=True)
    curve(image_bczyx, draws.gamma, inverted=False)
    cut_out(image_bczyx, draws.cut_out)
    add_gradient(image_bczyx, draws.gradient)
    curve_locally(image_bczyx, draws.local_gamma)
    sharpen(image_bczyx, draws.sharpen)
    if any(masked_channels):
        outside = label_bzyx < 0
        for channel in (c for c, masked in enumerate(masked_channels) if masked):
            image_bczyx[:, channel].masked_fill_(outside, 0)
    if regions.previous is not None:
        predicted = one_hot(regions.previous, regions.num_previous, image_bczyx.dtype)
        image_bczyx = torch.cat([image_bczyx, predicted], dim=1)
    label_bzyx = label_bzyx.clamp_(min=0).long()
    if draws.own_share == 1:
        return Augmented(image_bczyx, label_bzyx)
    partners = _index(draws.mixed_with.tolist(), image_bczyx.device)
    mixed = image_bczyx.index_select(0, partners).lerp_(image_bczyx, draws.own_share)
    return Augmented(mixed, label_bzyx, label_bzyx.index_select(0, partners), draws.own_share)


def _move(
    group: Moving,
    draws: Draws,
    patch: Sequence[int],
    values: Sequence[int],
    image_bczyx: Tensor,
    maps: Sequence[Tensor],
) -> None:
    """Sample the group's patches into the batch."""
    device = image_bczyx.device
    grid = _grid(group, draws, patch)
    index = _index(group.samples, device)
    image_bczyx.index_copy_(0, index, functional.grid_sample(group.images, grid, align_corners=False))
    regions = [group.labels] if group.previous is None else [group.labels, group.previous]
    for patches, each in zip(maps, regions, strict=True):
        patches.index_copy_(0, index, vote(each, grid, values))


def _grid(group: Moving, draws: Draws, patch: Sequence[int]) -> Tensor:
    """Where each voxel of the group's patches comes from, in torch's terms; shape (M, *patch, d)."""
    device, d, m = group.images.device, len(patch), len(group.samples)
    # In coordinates that run from -1 to 1 over the volume, in torch's reversed axis order.
    source = np.asarray(group.labels.shape[1:], dtype=np.float64)
    scaled = np.stack([draws.mapping(i) for i in group.samples]) * np.asarray(patch, dtype=np.float64)
    scaled = (scaled / source[:, None])[:, ::-1, ::-1]
    theta = np.zeros((m, d, d + 1))
    theta[:, :, :d] = scaled
    on_device = torch.from_numpy(theta).to(group.images.dtype).to(device, non_blocking=True)
    grid = functional.affine_grid(on_device, [m, 1, *patch], align_corners=False)
    if any(i in draws.elastic for i in group.samples):
        offsets = _offsets(group.samples, draws, patch, grid)
        grid += (offsets.flatten(1, d) @ on_device[:, :, :d].transpose(1, 2)).view_as(grid)
    return grid


def _offsets(samples: Sequence[int], draws: Draws, patch: Sequence[int], like: Tensor) -> Tensor:
    """Deformation of the patches, in torch's terms; shape (M, *patch, d)."""
    d = len(patch)
    points = next(iter(draws.elastic.values())).shape
    moved = np.zeros((len(samples), *points), dtype=np.float32)
    for place, i in enumerate(samples):
        if i in draws.elastic:
            moved[place] = draws.elastic[i] * (2 / np.asarray(patch)).reshape(-1, *(1 for _ in patch))
    splines = [spline_matrix(n, count) for n, count in zip(patch, points[1:], strict=True)]
    # Reversed axes, and channels last.
    controls = (
        torch.from_numpy(moved[:, ::-1].reshape(-1, *points[1:]).copy())
        .to(like.dtype)
        .to(like.device, non_blocking=True)
    )
    return along_axes(controls, splines).view(len(samples), d, *patch).movedim(1, -1).contiguous()


def spline_matrix(n: int, num_points: int) -> NDArray[np.float32]:
    """Values at n voxels of a cubic B-spline with control points at equal distances, as a matrix.

    Notes
    -----
    The points reach a cell beyond both ends. Rows sum to 1 and hold nothing negative. A single point is a constant.
    """
    if num_points == 1:
        return np.ones((n, 1), dtype=np.float32)
    cells = num_points - SPLINE_ORDER
    at = (np.arange(n) + 0.5) / n * cells
    cell = np.minimum(at.astype(np.int64), cells - 1)
    t = at - cell
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    matrix = np.zeros((n, num_points), dtype=np.float32)
    for offset, weight in enumerate(weights):
        matrix[np.arange(n), cell + offset] = weight / 6
    return matrix


def vote(label_mzyx: Tensor, grid: Tensor, values: Sequence[int]) -> Tensor:
    """Sample a label map: each value votes linearly, and the most votes win.

    Parameters
    ----------
    label_mzyx : Tensor of int16, shape (M, *edges)
    grid : Tensor of float32, shape (M, *patch, d)
    values : sequence of int
        All that occur, in order.

    Returns
    -------
    Tensor of int16, shape (M, *patch)

    Notes
    -----
    Votes sum to 1, so the first value takes what the others leave: its own are not counted. Of the others as many are
    counted at a time as memory is allowed.
    """
    rest, others = values[0], values[1:]
    label = torch.full(grid.shape[:-1], rest, dtype=label_mzyx.dtype, device=label_mzyx.device)
    if not others:
        return label
    best = grid.new_zeros(grid.shape[:-1])
    left = torch.ones_like(best)
    at_once = max(1, VOTES_BYTES // (4 * max(label_mzyx.numel(), label.numel())))
    for start in range(0, len(others), at_once):
        chunk = others[start : start + at_once]
        masks = torch.stack([label_mzyx == value for value in chunk], dim=1).to(grid.dtype)
        votes = functional.grid_sample(masks, grid, align_corners=False)
        for k, value in enumerate(chunk):
            mine = votes[:, k]
            label.masked_fill_(mine > best, value)
            torch.maximum(best, mine, out=best)
            left -= mine
    return label.masked_fill_(left >= best, rest)


def _index(samples: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(samples, dtype=torch.int64).to(device, non_blocking=True)
