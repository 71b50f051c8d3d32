"""Drawn augmentation applied to a batch, as tensor code on whatever device trains."""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autoseg.train.draws import Draws, is_flat

# b: batch, c: channels, zyx: the patch's axes (two in 2D).


def augment(
    images: Sequence[Tensor],
    labels: Sequence[Tensor],
    draws: Draws,
    patch: Sequence[int],
    masked_channels: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """Cut, move and change the patches of a batch.

    Parameters
    ----------
    images : sequence of B Tensors of float32, shape (C, *source edges)
        Regions as large as `Draws.source_edges` says.
    labels : sequence of B Tensors of int16, shape (*source edges)
        -1 outside the case's mask.
    draws : Draws
    patch : sequence of int
    masked_channels : sequence of bool, length C
        Channels normalized inside the mask: they are set to 0 outside it again.

    Returns
    -------
    Tensor of float32, shape (B, C, *patch)
    Tensor of int64, shape (B, *patch)
    """
    moved = [
        _move(image, label, draws.matrices[i], patch) if draws.moved[i] else (image, label)
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    image_bczyx = torch.stack([image for image, _ in moved])
    label_bzyx = torch.stack([label for _, label in moved])
    _add_noise(image_bczyx, draws.noise)
    _blur(image_bczyx, draws.blur_sigma_voxels)
    _brighten(image_bczyx, draws.brightness)
    _change_contrast(image_bczyx, draws.contrast)
    _lower_resolution(image_bczyx, draws.low_resolution, patch)
    _gamma(image_bczyx, draws.gamma_inverted, inverted=True)
    _gamma(image_bczyx, draws.gamma, inverted=False)
    for i in range(len(moved)):
        axes = [int(axis) for axis in np.flatnonzero(draws.mirrored[i])]
        if axes:
            image_bczyx[i] = image_bczyx[i].flip([axis + 1 for axis in axes])
            label_bzyx[i] = label_bzyx[i].flip(axes)
    if any(masked_channels):
        outside = label_bzyx < 0
        for channel in (c for c, masked in enumerate(masked_channels) if masked):
            image_bczyx[:, channel][outside] = 0
    return image_bczyx, label_bzyx.clamp_(min=0).long()


def _move(image: Tensor, label: Tensor, matrix: NDArray[np.float64], patch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Sample the patch through the matrix: linear for the image, linear votes of each class for the label."""
    d = len(patch)
    source = image.shape[1:]
    # In coordinates that run from -1 to 1 over the volume, in torch's reversed axis order.
    scaled = matrix * np.asarray(patch, dtype=np.float64)[None, :] / np.asarray(source, dtype=np.float64)[:, None]
    theta = torch.zeros(1, d, d + 1, device=image.device)
    theta[0, :, :d] = torch.as_tensor(scaled[::-1, ::-1].copy(), dtype=torch.float32)
    grid = functional.affine_grid(theta, [1, 1, *patch], align_corners=False)
    new_image = functional.grid_sample(image[None], grid, align_corners=False)[0]
    # Beyond the region nothing votes: that is outside, as where the case ends.
    best = torch.zeros(tuple(patch), device=image.device)
    new_label = torch.full(tuple(patch), -1, dtype=label.dtype, device=label.device)
    # One label after the other: memory must not grow with their number.
    for value in torch.unique(label):
        votes = functional.grid_sample((label == value).to(image.dtype)[None, None], grid, align_corners=False)[0, 0]
        new_label = torch.where(votes > best, value, new_label)
        best = torch.maximum(best, votes)
    return new_image, new_label


def _add_noise(image_bczyx: Tensor, noise: dict[int, NDArray[np.float32]]) -> None:
    for sample, field in noise.items():
        image_bczyx[sample] += torch.as_tensor(field, device=image_bczyx.device)


def _blur(image_bczyx: Tensor, sigma_bcd: NDArray[np.float64]) -> None:
    for b, c in zip(*np.nonzero(sigma_bcd.max(axis=2)), strict=True):
        matrices = [
            gaussian_matrix(n, float(sigma)) for n, sigma in zip(image_bczyx.shape[2:], sigma_bcd[b, c], strict=True)
        ]
        image_bczyx[b, c] = along_axes(image_bczyx[b, c], matrices)


def _lower_resolution(image_bczyx: Tensor, factor_bc: NDArray[np.float64], patch: Sequence[int]) -> None:
    kept = 1 if is_flat(patch) else 0
    for b, c in zip(*np.nonzero(factor_bc < 1), strict=True):
        matrices = [
            torch.eye(n) if axis < kept else coarse_matrix(n, max(1, round(n * float(factor_bc[b, c]))))
            for axis, n in enumerate(image_bczyx.shape[2:])
        ]
        image_bczyx[b, c] = along_axes(image_bczyx[b, c], matrices)


def along_axes(volume: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Apply one matrix along each axis of a volume."""
    for axis, matrix in enumerate(matrices):
        moved = volume.movedim(axis, -1)
        volume = (moved @ matrix.to(volume).T).movedim(-1, axis)
    return volume


def gaussian_matrix(n: int, sigma: float) -> Tensor:
    """Blur of a line of n voxels as a matrix, reflecting at the ends; rows sum to 1."""
    if sigma <= 0 or n == 1:
        return torch.eye(n)
    radius = ceil(4 * sigma)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    # A line reflected at both ends without repeating the end repeats itself every 2n - 2 voxels.
    place = np.abs(np.arange(n)[:, None] + offsets[None, :]) % (2 * n - 2)
    place = np.where(place >= n, 2 * n - 2 - place, place)
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.arange(n)[:, None], place), kernel[None, :])
    return torch.as_tensor(matrix, dtype=torch.float32)


@lru_cache(maxsize=1024)
def coarse_matrix(n: int, m: int) -> Tensor:
    """Take m of n voxels (the nearest) and interpolate back to n, as a matrix."""
    rows = functional.interpolate(torch.eye(n)[None], size=m, mode="nearest-exact")
    return functional.interpolate(rows, size=n, mode="linear")[0].T.contiguous()


def _brighten(image_bczyx: Tensor, factor_bc: NDArray[np.float64]) -> None:
    for b, c in zip(*np.nonzero(factor_bc != 1), strict=True):
        image_bczyx[b, c] *= float(factor_bc[b, c])


def _change_contrast(image_bczyx: Tensor, factor_bc: NDArray[np.float64]) -> None:
    """Spread intensities about their mean, within their old range."""
    for b, c in zip(*np.nonzero(factor_bc != 1), strict=True):
        x = image_bczyx[b, c]
        low, high = x.aminmax()
        mean = x.mean()
        image_bczyx[b, c] = ((x - mean) * float(factor_bc[b, c]) + mean).clamp(low, high)


def _gamma(image_bczyx: Tensor, gamma_bc: NDArray[np.float64], *, inverted: bool) -> None:
    """Gamma curve over the patch's own range, mean and standard deviation kept."""
    for b, c in zip(*np.nonzero(gamma_bc != 1), strict=True):
        x = -image_bczyx[b, c] if inverted else image_bczyx[b, c]
        mean, std = x.mean(), x.std()
        low, high = x.aminmax()
        span = (high - low).clamp(min=1e-7)
        y = ((x - low) / span) ** float(gamma_bc[b, c]) * span + low
        y = (y - y.mean()) / y.std().clamp(min=1e-7) * std + mean
        image_bczyx[b, c] = -y if inverted else y
