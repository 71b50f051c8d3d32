"""The network over windows: one volume -> its logits on the network's grid, from the first slice to the last."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autoseg.networks.device import channels_last
from autoseg.predict.windows import gaussian_weights, mirrorings, windows

# k: classes, c: channels, zyx: space.
Network = Callable[[Tensor], Tensor]  # (B, C, *patch) to (B, K, *patch)
# Voxels given to the network at once: enough to keep it busy, little enough for the memory the plan reckons with. On
# CPUs 6 windows of 40 x 56 x 40 take a tenth less time than one by one: weights are read once for all. More of them
# take more memory and no less time.
VOXELS_AT_ONCE = {"cpu": 600_000}
VOXELS_AT_ONCE_ELSEWHERE = 2**21


@dataclass(frozen=True, slots=True)
class ImageWithMap:
    """What the second stage of a cascade is shown: an image, and the label map that the first predicts of it.

    Attributes
    ----------
    image_czyx : ndarray of float32, shape (C, Z, Y, X)
    map_zyx : ndarray of integers of at most 16 bits, shape (Z, Y, X)
    num_values : int
        For each of the values 1 to this the network sees a channel: 1 where the map has it, else 0. At most what the
        map's type holds.

    Notes
    -----
    These channels are made for each window: of a whole volume they take 4 bytes for each value and voxel.
    """

    image_czyx: NDArray[np.float32]
    map_zyx: NDArray[np.integer]
    num_values: int

    @property
    def shape(self) -> tuple[int, ...]:
        """With the channels that the network sees."""
        return (len(self.image_czyx) + self.num_values, *self.image_czyx.shape[1:])


Shown = NDArray[np.float32] | ImageWithMap


@torch.inference_mode()
def sliding_logits(
    networks: Sequence[Network],
    image_czyx: Shown,
    patch: Sequence[int],
    *,
    device: torch.device,
    mirror_axes: Sequence[int],
    step: float,
    keep: NDArray[np.floating],
    exclusive: bool,
) -> None:
    """Mean logits over networks, windows and mirrorings.

    Parameters
    ----------
    networks : sequence of callable
        Each maps a Tensor of float32, shape (B, C, *patch), on the device, to logits of shape (B, K, *patch).
    image_czyx : ndarray of float32, shape (C, Z, Y, X), or ImageWithMap
        Of any size; padded with zeros up to the patch where it is smaller.
    patch : sequence of int, length 2 or 3
        Two edges: each slice along Z is a picture of its own.
    device : torch.device
    mirror_axes : sequence of int
        Axes of the patch; all subsets are averaged.
    step : float
        Greatest distance of neighbouring windows, in patch edges.
    keep : ndarray of float32 or float16, shape (K, Z, Y, X)
        Where the logits go, slice by slice; it may lie in a file.
    exclusive : bool
        Whether the classes exclude each other: then only differences between logits count, and half precision keeps
        their distance from the largest, which is exact where it matters, near ties.

    Notes
    -----
    Windows are visited from the first slice to the last. Only slices that windows to come still reach are held in
    single precision, on the device where they fit: the sums of a volume never exist as a whole.
    """
    padded, inside = _padded(image_czyx, patch, device)
    flat = len(patch) == 2
    subsets = mirrorings(mirror_axes)
    at_once = max(1, VOXELS_AT_ONCE.get(device.type, VOXELS_AT_ONCE_ELSEWHERE) // int(np.prod(patch)))
    groups = _groups(
        windows(tuple(padded.image_czyx.shape[1:]), patch, step), -(-at_once // len(subsets)) if flat else 1
    )
    height = max(places[-1][0].stop - places[0][0].start for places in groups)
    sums = _Sums(len(keep), height, padded.image_czyx.shape[2:], patch, device)
    for places, following in zip(groups, [*groups[1:], None], strict=True):
        first = places[0][0].start
        work = [(place, axes) for place in places for axes in subsets]
        for start in range(0, len(work), at_once):
            batch = work[start : start + at_once]
            inputs = torch.stack([_cut(padded, place, axes, flat) for place, axes in batch])
            if device.type == "cpu":
                inputs = channels_last(inputs)
            for network in networks:
                for (place, axes), logits in zip(batch, network(inputs), strict=True):
                    straight = logits.flip([axis + 1 for axis in axes]) if axes else logits
                    sums.add(straight, place, first, 1 / (len(subsets) * len(networks)))
        for place in places:
            sums.count(place, first)
        last = padded.image_czyx.shape[1] if following is None else following[0][0].start
        means = sums.take(last - first)
        if exclusive and keep.dtype == np.float16:
            means -= means.amax(0)
        _store(means, first, keep, inside)


def _groups(places: Sequence[tuple[slice, ...]], count: int) -> list[list[tuple[slice, ...]]]:
    """The windows of so many neighbouring first slices together, in order."""
    layers = [list(layer) for _, layer in groupby(places, key=lambda place: place[0].start)]
    return [list(chain(*layers[start : start + count])) for start in range(0, len(layers), count)]


class _Sums:
    """Weighted sums of logits over a few slices, which move on through the volume.

    Parameters
    ----------
    num_classes, height : int
        Slices held at a time.
    plane : sequence of int
        Edges of a slice.
    patch : sequence of int
    device : torch.device
    """

    def __init__(
        self, num_classes: int, height: int, plane: Sequence[int], patch: Sequence[int], device: torch.device
    ) -> None:
        self.flat = len(patch) == 2
        # Sums of many classes can be larger than a GPU; they then stay in the host's memory.
        needed_bytes = 4 * (num_classes + 1) * height * int(np.prod(plane))
        keeper = device if _fits(needed_bytes, device) else torch.device("cpu")
        self.weights = torch.from_numpy(gaussian_weights(patch)).to(keeper)
        self.total = torch.zeros((num_classes, height, *plane), device=keeper)
        self.norm = torch.zeros((height, *plane), device=keeper)

    def add(self, logits: Tensor, place: tuple[slice, ...], first: int, share: float) -> None:
        """Add a window's logits; `first` is the slice of the volume that is held as slice 0."""
        logits, weights = logits.to(self.total.device), self.weights
        if self.flat:
            logits, weights = logits[:, None], weights[None]
        self.total[(slice(None), *_moved(place, first))].addcmul_(logits, weights, value=share)

    def count(self, place: tuple[slice, ...], first: int) -> None:
        """Count a window once all its logits are there."""
        self.norm[_moved(place, first)] += self.weights[None] if self.flat else self.weights

    def take(self, count: int) -> Tensor:
        """The means of the first slices, shape (K, count, Y, X), on the CPU; later ones take their place."""
        means = (self.total[:, :count] / self.norm[:count]).cpu()
        for held in (self.total.unbind(0), (self.norm,)):
            for slices in held:
                left = slices[count:].clone()
                slices.zero_()
                slices[: len(left)] = left
        return means


def _moved(place: tuple[slice, ...], first: int) -> tuple[slice, ...]:
    return (slice(place[0].start - first, place[0].stop - first), *place[1:])


def _store(means_kzyx: Tensor, first: int, keep: NDArray[np.floating], inside: tuple[slice, ...]) -> None:
    """Copy slices of a padded volume, of which `first` is the first, to their place in the volume."""
    low, high = max(first, inside[0].start), min(first + means_kzyx.shape[1], inside[0].stop)
    if low < high:
        means = means_kzyx[(slice(None), slice(low - first, high - first), *inside[1:])]
        keep[:, low - inside[0].start : high - inside[0].start] = means.numpy()


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
    # torch copies the volume even where there is nothing to add.
    return (functional.pad(image_czyx, sizes) if any(sizes) else image_czyx), inside


@dataclass(frozen=True, slots=True)
class _Padded:
    """What is shown, padded, on the device; without a map `num_values` is 0."""

    image_czyx: Tensor
    map_zyx: Tensor | None = None
    num_values: int = 0


def _padded(shown: Shown, patch: Sequence[int], device: torch.device) -> tuple[_Padded, tuple[slice, ...]]:
    """Zeros around image and map alike, and where the volume lies in the result."""
    if not isinstance(shown, ImageWithMap):
        image_czyx, inside = pad_to_patch(torch.from_numpy(shown), patch)
        return _Padded(image_czyx.to(device)), inside
    image_czyx, inside = pad_to_patch(torch.from_numpy(shown.image_czyx), patch)
    # torch computes little with uint16. Read as int16, values from 32768 are negative: there is no channel for them.
    numbers = shown.map_zyx.view(np.int16) if shown.map_zyx.dtype == np.uint16 else shown.map_zyx
    map_1zyx, _ = pad_to_patch(torch.from_numpy(numbers)[None], patch)
    return _Padded(image_czyx.to(device), map_1zyx[0].to(device), shown.num_values), inside


def _cut(padded: _Padded, place: tuple[slice, ...], axes: tuple[int, ...], flat: bool) -> Tensor:
    window = padded.image_czyx[(slice(None), *place)]
    if padded.map_zyx is not None:
        image, numbers = window, padded.map_zyx[place]
        window = image.new_empty((len(image) + padded.num_values, *image.shape[1:]))
        window[: len(image)] = image
        for value, channel in enumerate(window[len(image) :], start=1):
            torch.eq(numbers, value, out=channel)
    if flat:
        window = window[:, 0]
    return window.flip([axis + 1 for axis in axes]) if axes else window
