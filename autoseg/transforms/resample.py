"""How a volume gets from one grid to another: array and shape -> array of that shape.

A resize along the axes is linear and separable, so each axis is one small matrix and a volume takes three matrix
products. The slice axis of anisotropic volumes is treated apart: whole slices are copied from the nearest one.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ANISOTROPY = 3.0
NEGLIGIBLE = 1e-9
TIE = 1e-6
Shape = tuple[int, int, int]


def resampled_shape(shape: Sequence[float], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Voxels after resampling from `spacing` to `target` (both in mm), rounded half to even, at least one."""
    return tuple(max(1, round(old / new * n)) for n, old, new in zip(shape, spacing, target, strict=True))


def separate_axis(spacing: Sequence[float], target: Sequence[float], force: bool | None) -> int | None:
    """The axis across which slices are copied rather than interpolated; None for an ordinary 3D resize.

    Parameters
    ----------
    spacing, target : sequence of float, length 3
        Of the grid that is left and of the one that is reached, in mm.
    force : bool or None
        True: the coarsest axis of `spacing`, however fine; False: none; None: decided by anisotropy.

    Notes
    -----
    Anisotropic means coarsest axis more than three times the finest; the grid that is left is asked first. Two
    axes that share the largest spacing leave no plane of fine pixels, hence no separate treatment. Isensee et
    al., Nature Methods 18, 203-211 (2021), online methods; docs/explanation/resampling.md.
    """
    if force is False:
        return None
    for candidate in (spacing, target):
        if force or max(candidate) / min(candidate) > ANISOTROPY:
            coarsest = [axis for axis, edge in enumerate(candidate) if edge == max(candidate)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


@lru_cache(maxsize=256)
def resize_matrix(n_in: int, n_out: int, order: int) -> NDArray[np.float32]:
    """The spline resize of one axis as a matrix.

    Parameters
    ----------
    n_in, n_out : int
        Voxels before and after.
    order : int
        Of the spline, 0 to 3.

    Returns
    -------
    ndarray of float32, shape (n_out, n_in)
        Read-only; its rows sum to 1.

    Notes
    -----
    Built by resizing unit vectors with the call that `skimage.transform.resize(mode="edge",
    anti_aliasing=False)` comes down to, in double precision. Entries below 1e-9 become zero: a spline's tails run
    into denormal numbers, which make products ten times slower.
    """
    # Planning needs shapes alone, and is done before scipy would be loaded.
    from scipy.ndimage import zoom

    matrix = np.empty((n_out, n_in))
    for column, unit in enumerate(np.eye(n_in)):
        matrix[:, column] = zoom(unit, n_out / n_in, order=order, mode="nearest", grid_mode=True)
    matrix[np.abs(matrix) < NEGLIGIBLE] = 0
    single = matrix.astype(np.float32)
    single.setflags(write=False)
    return single


@lru_cache(maxsize=256)
def nearest_indices(n_in: int, n_out: int) -> NDArray[np.intp]:
    """Which old voxel each new one copies: half-pixel centres, halves up as in scipy, clamped to the edge."""
    centres = n_in / n_out * (np.arange(n_out) + 0.5) - 0.5
    indices: NDArray[np.intp] = np.clip(np.floor(centres + 0.5), 0, n_in - 1).astype(np.intp)
    indices.setflags(write=False)
    return indices


def resize(
    array_czyx: NDArray[np.float32], shape: Shape, order: int, order_z: int, separate_axis: int | None
) -> NDArray[np.float32]:
    """Resize every channel.

    Parameters
    ----------
    array_czyx : ndarray of float32, shape (C, Z, Y, X)
    shape : tuple of int, length 3
        Wanted along (Z, Y, X).
    order : int
        Of the spline, 0 to 3.
    order_z : int
        The same across `separate_axis`; 0 copies the nearest slice.
    separate_axis : int or None
        See the function of that name.

    Returns
    -------
    ndarray of float32, shape (C, *shape)
        The array itself when the shape does not change.

    Notes
    -----
    Equals `skimage.transform.resize(mode="edge", anti_aliasing=False, clip=True)` to rounding in single
    precision: a spline of order above 1 is clipped to the input's range, channel by channel, or slice by slice
    where an axis is apart, so that it can't overshoot. docs/explanation/resampling.md.
    """
    if array_czyx.shape[1:] == tuple(shape):
        return array_czyx
    resized = np.empty((len(array_czyx), *shape), np.float32)
    for channel, out in zip(array_czyx, resized, strict=True):
        if separate_axis is None:
            out[...] = _clip(_spline(channel, shape, (order,) * 3), channel, order, None)
        else:
            out[...] = _by_slices(channel, shape, order, order_z, separate_axis)
    return resized


def _by_slices(
    channel_zyx: NDArray[np.float32], shape: Shape, order: int, order_z: int, axis: int
) -> NDArray[np.float32]:
    """Resize in the plane, then across it."""
    in_plane = tuple(n if a == axis else m for a, (n, m) in enumerate(zip(channel_zyx.shape, shape, strict=True)))
    orders = (order,) * 3
    if order_z > 0 or shape[axis] == channel_zyx.shape[axis]:
        planes = _spline(channel_zyx, in_plane, orders)
        planes = _clip(planes, channel_zyx, order, axis)
        return _clip(_apply(planes, axis, shape[axis], order_z), channel_zyx, order_z, None)
    # Slices that no new one copies need not be resized, and none is resized twice.
    wanted, again = np.unique(nearest_indices(channel_zyx.shape[axis], shape[axis]), return_inverse=True)
    kept = np.take(channel_zyx, wanted, axis=axis)
    in_plane = tuple(len(wanted) if a == axis else m for a, m in enumerate(shape))
    return np.take(_clip(_spline(kept, in_plane, orders), kept, order, axis), again, axis=axis)


def _spline(array: NDArray[np.float32], shape: Sequence[int], orders: Sequence[int]) -> NDArray[np.float32]:
    """Resize the last three axes, those that shrink most first."""
    lead = array.ndim - 3
    growth = [new / old for new, old in zip(shape, array.shape[lead:], strict=True)]
    for axis in sorted(range(3), key=growth.__getitem__):
        array = _apply(array, axis, shape[axis], orders[axis])
    return array


def _apply(array: NDArray[np.float32], axis: int, n_out: int, order: int) -> NDArray[np.float32]:
    """Resize one of the last three axes."""
    n_in = array.shape[array.ndim - 3 + axis]
    if n_in == n_out:
        return array
    if order == 0:
        return np.take(array, nearest_indices(n_in, n_out), axis=array.ndim - 3 + axis)
    return _multiply(array, resize_matrix(n_in, n_out, order), axis)


def _multiply(array: NDArray[np.float32], matrix: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Apply a matrix along one of the last three axes."""
    lead, (z, y, x) = array.shape[:-3], array.shape[-3:]
    n_out = len(matrix)
    product: NDArray[np.float32]
    if axis == 2:
        product = (array.reshape(-1, x) @ matrix.T).reshape(*lead, z, y, n_out)
    elif axis == 1:
        product = np.matmul(matrix, array)
    else:
        product = np.matmul(matrix, array.reshape(*lead, z, y * x)).reshape(*lead, n_out, y, x)
    return product


def _clip(
    resized: NDArray[np.float32], original: NDArray[np.float32], order: int, axis: int | None
) -> NDArray[np.float32]:
    """Hold a spline inside the range of what it was made from, slice by slice along `axis`."""
    if order < 2:
        return resized
    over = tuple(a for a in range(3) if a != axis)
    low, high = original.min(axis=over, keepdims=True), original.max(axis=over, keepdims=True)
    return np.clip(resized, low, high, out=resized if resized is not original else None)


def resize_labels(
    label_zyx: NDArray[np.integer], shape: Shape, order: int, order_z: int, separate_axis: int | None
) -> NDArray[np.integer]:
    """Resize a label map without mixing its values.

    Parameters
    ----------
    label_zyx : ndarray of integer, shape (Z, Y, X)
        May hold negative values.
    shape : tuple of int, length 3
    order, order_z : int
        0 or 1, in the plane and across `separate_axis`.
    separate_axis : int or None

    Returns
    -------
    ndarray of the same dtype, shape `shape`
        The map itself when the shape does not change.

    Notes
    -----
    Each label becomes a map of zeros and ones that is resized, and the largest wins. A tie (within 1e-6) goes to
    the label that nearest-neighbour resizing gives if it is among the tied, else to the smallest. A label is
    looked at only where its bounding box has influence.
    """
    if label_zyx.shape == tuple(shape):
        return label_zyx
    orders = [order_z if axis == separate_axis else order for axis in range(3)]
    nearest = label_zyx
    for axis in range(3):
        indices = nearest_indices(label_zyx.shape[axis], shape[axis])
        nearest = np.take(nearest, indices, axis=axis)
        if orders[axis] == 0:
            # One-hot maps that are copied along an axis stay one-hot: copy the labels instead, before the rest.
            label_zyx = np.take(label_zyx, indices, axis=axis)
    winner = nearest.copy()
    if label_zyx.shape == tuple(shape):
        return winner
    best = np.full(shape, -1, np.float32)
    for value in np.unique(label_zyx):
        block, share = _share(label_zyx == value, shape)
        current, held = best[block], winner[block]
        wins = share > current + TIE
        wins |= (nearest[block] == value) & (share > current - TIE)
        held[wins] = value
        np.maximum(current, share, out=current)
    return winner


def _share(mask: NDArray[np.bool_], shape: Shape) -> tuple[tuple[slice, ...], NDArray[np.float32]]:
    """Linear resize of a mask that is not empty: the block of the result it reaches, and its values there."""
    matrices, inner, outer = [], [], []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        n_in, n_out = mask.shape[axis], shape[axis]
        matrix = np.eye(n_in, dtype=np.float32) if n_in == n_out else resize_matrix(n_in, n_out, 1)
        rows = np.flatnonzero(matrix[:, columns].any(axis=1))
        # A label can fall between the new voxels; an empty block then stands for it.
        reach = slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0)
        matrices.append(matrix[reach, columns])
        inner.append(columns)
        outer.append(reach)
    share = mask[tuple(inner)].astype(np.float32)
    for axis in sorted(range(3), key=lambda a: matrices[a].shape[0] / matrices[a].shape[1]):
        if shape[axis] != mask.shape[axis]:
            share = _multiply(share, matrices[axis], axis)
    return tuple(outer), share


def resized_slabs(
    logits_kzyx: NDArray[np.floating],
    shape: Shape,
    order: int,
    order_z: int,
    separate_axis: int | None,
    slab: int,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Resize a prediction a few slices at a time.

    Parameters
    ----------
    logits_kzyx : ndarray of float32 or float16, shape (K, Z, Y, X)
        May be memory-mapped: only the slices in use are read.
    shape : tuple of int, length 3
    order, order_z : int
        0 or 1, in the plane and across `separate_axis`.
    separate_axis : int or None
    slab : int
        New slices at a time.

    Yields
    ------
    rows : slice
        Along axis 0 of the result.
    block_kzyx : ndarray of float32, shape (K, rows, *shape[1:])

    Notes
    -----
    Together the blocks equal `resize` of the whole to rounding; memory is classes x slab.
    """
    n_in, n_out = logits_kzyx.shape[1], shape[0]
    orders = [order_z if axis == separate_axis else order for axis in range(3)]
    for start in range(0, n_out, slab):
        rows = slice(start, min(start + slab, n_out))
        if n_in == n_out:
            block = _spline(_single(logits_kzyx[:, rows]), (rows.stop - start, *shape[1:]), orders)
        elif orders[0] == 0:
            wanted, again = np.unique(nearest_indices(n_in, n_out)[rows], return_inverse=True)
            kept = _single(logits_kzyx[:, int(wanted[0]) : int(wanted[-1]) + 1])[:, wanted - wanted[0]]
            block = _spline(kept, (len(wanted), *shape[1:]), orders)[:, again]
        else:
            matrix = resize_matrix(n_in, n_out, orders[0])[rows]
            used = np.flatnonzero(matrix.any(axis=0))
            columns = slice(int(used[0]), int(used[-1]) + 1)
            block = _single(logits_kzyx[:, columns])
            shrinks = n_out < n_in
            if shrinks:
                block = _multiply(block, matrix[:, columns], 0)
            block = _spline(block, (block.shape[1], *shape[1:]), orders)
            if not shrinks:
                block = _multiply(block, matrix[:, columns], 0)
        yield rows, block


def _single(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.ascontiguousarray(logits, dtype=np.float32)
