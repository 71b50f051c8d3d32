"""Changes of intensity, each to the chosen channels of a whole batch at once.

A row is a channel of a sample. Which rows change is known on the host, so nothing waits for the device.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autoseg.train.draws import Bumps, is_flat

# b: batch, c: channels, r: chosen rows, zyx: the patch's axes (two in 2D).

Change = Callable[[Tensor, NDArray[np.int64]], Tensor]
# Rows this large are changed where they are, run by run: launching kernels costs less than copying them together.
LARGE_ROW_VOXELS = 2**18


def change_rows(image_bczyx: Tensor, chosen_bc: NDArray[np.bool_], change: Change) -> None:
    """Change some rows in place.

    Parameters
    ----------
    image_bczyx : Tensor of float32, shape (B, C, *patch)
    chosen_bc : ndarray of bool, shape (B, C)
    change : callable
        Takes the rows, shape (R, *patch), and their numbers; gives them changed, in place or as a new tensor.
    """
    rows = np.flatnonzero(chosen_bc)
    if rows.size == 0:
        return
    flat = image_bczyx.flatten(0, 1)
    breaks = np.flatnonzero(np.diff(rows) > 1) + 1
    if breaks.size == 0 or flat[0].numel() >= LARGE_ROW_VOXELS:
        for run in np.split(rows, breaks):
            before = flat[run[0] : run[-1] + 1]
            after = change(before, run)
            if after.data_ptr() != before.data_ptr():
                before.copy_(after)
    else:
        index = torch.from_numpy(rows).to(flat.device, non_blocking=True)
        flat.index_copy_(0, index, change(flat.index_select(0, index), rows))


def brighten(image_bczyx: Tensor, factor_bc: NDArray[np.float64]) -> None:
    """Multiply."""
    change_rows(image_bczyx, factor_bc != 1, lambda x, rows: x.mul_(_column(factor_bc, rows, x)))


def shift(image_bczyx: Tensor, shift_bc: NDArray[np.float64]) -> None:
    """Add."""
    change_rows(image_bczyx, shift_bc != 0, lambda x, rows: x.add_(_column(shift_bc, rows, x)))


def spread(image_bczyx: Tensor, factor_bc: NDArray[np.float64], clipped_b: NDArray[np.bool_]) -> None:
    """Spread intensities about their mean; where clipped, within their old range."""

    def change(x: Tensor, rows: NDArray[np.int64], *, clip: bool) -> Tensor:
        low, high = _range(x) if clip else (None, None)
        mean = _mean(x)
        x.sub_(mean).mul_(_column(factor_bc, rows, x)).add_(mean)
        return x.clamp_(low, high) if clip else x

    changed = factor_bc != 1
    change_rows(image_bczyx, changed & clipped_b[:, None], lambda x, rows: change(x, rows, clip=True))
    change_rows(image_bczyx, changed & ~clipped_b[:, None], lambda x, rows: change(x, rows, clip=False))


def curve(image_bczyx: Tensor, gamma_bc: NDArray[np.float64], *, inverted: bool) -> None:
    """Gamma curve over the row's own range, mean and standard deviation kept."""

    def change(x: Tensor, rows: NDArray[np.int64]) -> Tensor:
        if inverted:
            x.neg_()
        mean = _mean(x)
        x.sub_(mean)
        # Beside each other, lengths of centred rows are as good as deviations.
        length = _length(x)
        low, high = _range(x)
        span = (high - low).clamp_(min=1e-7)
        x.sub_(low).div_(span).pow_(_column(gamma_bc, rows, x)).mul_(span)
        x.sub_(_mean(x))
        x.mul_(length / _length(x).clamp_(min=1e-7)).add_(mean)
        return x.neg_() if inverted else x

    change_rows(image_bczyx, gamma_bc != 1, change)


def blur(image_bczyx: Tensor, sigma_bcd: NDArray[np.float64]) -> None:
    """Gaussian blur along each axis by its own sigma."""
    edges = image_bczyx.shape[2:]

    def change(x: Tensor, rows: NDArray[np.int64]) -> Tensor:
        sigma_rd = sigma_bcd.reshape(-1, len(edges))[rows]
        return along_axes(x, [gaussian_matrices(n, sigma_rd[:, axis]) for axis, n in enumerate(edges)])

    change_rows(image_bczyx, sigma_bcd.max(axis=2) > 0, change)


def lower_resolution(image_bczyx: Tensor, factor_bc: NDArray[np.float64], mirrored_bd: NDArray[np.bool_]) -> None:
    """Take the nearest voxels of a coarser grid and interpolate back; a flat patch's slices stay.

    Of two voxels as near, the later one before mirroring.
    """
    edges = image_bczyx.shape[2:]
    kept = 1 if is_flat(edges) else 0

    def change(x: Tensor, rows: NDArray[np.int64]) -> Tensor:
        factors, mirrored = factor_bc.ravel()[rows], mirrored_bd[rows // factor_bc.shape[1]]
        matrices: list[NDArray[np.floating] | None] = [None] * len(edges)
        for axis, n in list(enumerate(edges))[kept:]:
            each = [coarse_matrix(n, max(1, round(n * factor))) for factor in factors]
            matrices[axis] = np.stack(
                [one[::-1, ::-1] if flip else one for one, flip in zip(each, mirrored[:, axis], strict=True)]
            )
        return along_axes(x, matrices)

    change_rows(image_bczyx, factor_bc < 1, change)


def smooth_by_median(image_bczyx: Tensor, size_bc: NDArray[np.int64]) -> None:
    """Median of a line of voxels along one axis after the other; a flat patch's slices stay apart."""
    edges = image_bczyx.shape[2:]
    axes = range(1 if is_flat(edges) else 0, len(edges))

    def change(x: Tensor, rows: NDArray[np.int64]) -> Tensor:
        for i, size in enumerate(size_bc.ravel()[rows]):
            for axis in axes:
                x[i] = median_along(x[i], axis, int(size))
        return x

    change_rows(image_bczyx, size_bc > 1, change)


def median_along(volume: Tensor, axis: int, size: int) -> Tensor:
    """Median of `size` voxels around each along an axis, the ends repeated; the lower of the two where size is even."""
    n = volume.shape[axis]
    place = torch.arange(-(size // 2), n + size - size // 2 - 1, device=volume.device).clamp_(0, n - 1)
    median: Tensor = volume.index_select(axis, place).unfold(axis, size, 1).median(dim=-1).values
    return median


def sharpen(image_bczyx: Tensor, strength_bc: NDArray[np.float64]) -> None:
    """Add what a voxel differs by from its neighbours, the ends repeated; a flat patch's within its slices."""
    edges = image_bczyx.shape[2:]
    axes = range(2 if is_flat(edges) else 1, len(edges) + 1)

    def change(x: Tensor, rows: NDArray[np.int64]) -> Tensor:
        difference = torch.zeros_like(x)
        for axis in axes:
            step = x.diff(dim=axis)
            difference.narrow(axis, 0, step.shape[axis]).sub_(step)
            difference.narrow(axis, 1, step.shape[axis]).add_(step)
        return x.add_(difference.mul_(_column(strength_bc, rows, x)))

    change_rows(image_bczyx, strength_bc != 0, change)


def add_gradient(image_bczyx: Tensor, bumps: Bumps | None) -> None:
    """Add a bump."""
    if bumps is None:
        return

    def change(x: Tensor, rows: NDArray[np.int64]) -> Tensor:
        return x.add_(bump(bumps, rows, x).mul_(_column(bumps.strength, rows, x)))

    change_rows(image_bczyx, bumps.strength != 0, change)


def curve_locally(image_bczyx: Tensor, bumps: Bumps | None) -> None:
    """Gamma curve over the row's own range, as far as a bump reaches."""
    if bumps is None:
        return

    def change(x: Tensor, rows: NDArray[np.int64]) -> Tensor:
        low, high = _range(x)
        span = (high - low).clamp_(min=1e-7)
        x.sub_(low).div_(span)
        curved = x.pow(_column(bumps.strength, rows, x))
        return x.lerp_(curved, bump(bumps, rows, x)).mul_(span).add_(low)

    change_rows(image_bczyx, bumps.strength != 1, change)


def bump(bumps: Bumps, rows: NDArray[np.int64], like: Tensor) -> Tensor:
    """The bumps of some rows, each from 0 to 1 over the patch; shape (R, *patch)."""
    edges = like.shape[1:]
    centre, sigma = (values.reshape(-1, len(edges))[rows] for values in (bumps.centre_voxels, bumps.sigma_voxels))
    lines = []
    for axis, n in enumerate(edges):
        exponent = -0.5 * ((np.arange(n) + 0.5 - centre[:, axis, None]) / sigma[:, axis, None]) ** 2
        lines.append(np.exp(exponent - exponent.max(axis=1, keepdims=True)))
    lowest = np.prod([line.min(axis=1) for line in lines], axis=0)
    product = torch.ones((), device=like.device)
    for axis, line in enumerate(lines):
        shape = (len(rows), *(n if axis == other else 1 for other, n in enumerate(edges)))
        product = product * _on(line, like).view(shape)
    low = _column(lowest, np.arange(len(rows)), like)
    return product.sub_(low).div_((1 - low).clamp_(min=1e-7))


def along_axes(volumes_rzyx: Tensor, matrices: Sequence[NDArray[np.floating] | None]) -> Tensor:
    """Apply one matrix along each axis of each volume.

    Parameters
    ----------
    volumes_rzyx : Tensor of float32, shape (R, *edges)
    matrices : sequence, one for each axis
        ndarray of float, shape (R, new edge, edge), or (new edge, edge) for all volumes; None leaves the axis alone.

    Returns
    -------
    Tensor of float32, shape (R, *new edges)
    """
    r, *edges = volumes_rzyx.shape
    volume = volumes_rzyx
    for axis, matrix in enumerate(matrices):
        # The first axis comes last each time, so that after all of them the order is the old one.
        volume = volume.reshape(r, edges[axis], -1).transpose(1, 2)
        if matrix is not None:
            volume = volume @ _on(matrix, volumes_rzyx).transpose(-1, -2)
    new = [n if matrix is None else matrix.shape[-2] for n, matrix in zip(edges, matrices, strict=True)]
    return volume.reshape(r, *new)


def gaussian_matrices(n: int, sigma_r: NDArray[np.float64]) -> NDArray[np.float32]:
    """Blur of a line of n voxels as matrices, reflecting at the ends; rows sum to 1.

    Parameters
    ----------
    n : int
    sigma_r : ndarray of float64, shape (R,)
        In voxels; 0 leaves the line as it is.

    Returns
    -------
    ndarray of float32, shape (R, n, n)
    """
    matrices = np.zeros((len(sigma_r), n, n))
    if n == 1:
        return np.ones_like(matrices, dtype=np.float32)
    radius = ceil(4 * sigma_r.max())
    offsets = np.arange(-radius, radius + 1)
    sigma = np.maximum(sigma_r, 1e-6)[:, None]
    kernel = np.where(np.abs(offsets) <= np.ceil(4 * sigma), np.exp(-0.5 * (offsets / sigma) ** 2), 0)
    kernel /= kernel.sum(axis=1, keepdims=True)
    # A line reflected at both ends without repeating the end repeats itself every 2n - 2 voxels.
    place = np.abs(np.arange(n)[:, None] + offsets) % (2 * n - 2)
    place = np.where(place >= n, 2 * n - 2 - place, place)
    for column in range(len(offsets)):
        matrices[:, np.arange(n), place[:, column]] += kernel[:, column, None]
    return matrices.astype(np.float32)


@lru_cache(maxsize=1024)
def coarse_matrix(n: int, m: int) -> NDArray[np.float32]:
    """Take m of n voxels (the nearest) and interpolate back to n, as a matrix."""
    rows = functional.interpolate(torch.eye(n)[None], size=m, mode="nearest-exact")
    matrix: NDArray[np.float32] = functional.interpolate(rows, size=n, mode="linear")[0].T.contiguous().numpy()
    return matrix


def _on(values: NDArray[np.floating], like: Tensor) -> Tensor:
    """An array where a tensor is, and of its type."""
    on_host = torch.from_numpy(np.ascontiguousarray(values)).to(like.dtype)
    # CUDA copies a few kilobytes without waiting; matrices are larger, for which the memory must be pinned.
    return (on_host.pin_memory() if like.is_cuda else on_host).to(like.device, non_blocking=True)


def _column(values: NDArray[np.float64], rows: NDArray[np.int64], like: Tensor) -> Tensor:
    """One number for each row, to be combined with all its voxels."""
    return _on(values.ravel()[rows], like).view(-1, *(1 for _ in like.shape[1:]))


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=_space(x), keepdim=True)


def _length(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=_space(x), keepdim=True)
    return length


def _range(x: Tensor) -> tuple[Tensor, Tensor]:
    # On CPUs many times faster than aminmax.
    return x.amin(dim=_space(x), keepdim=True), x.amax(dim=_space(x), keepdim=True)


def _space(x: Tensor) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))
