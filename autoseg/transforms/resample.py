"""How a volume gets from one grid to another: array and shape -> array of that shape.

A resize along the axes is linear and separable, so each axis is one small matrix and a volume takes three matrix
products. The slice axis of anisotropic volumes is treated apart: whole slices are copied from the nearest one.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ANISOTROPY = 3.0
NEGLIGIBLE = 1e-9
TIE = 1e-6
BAND_ROWS = 32  # fewer make products too small to be fast, more multiply too many zeros
CACHED_VOXELS = 2**18
Shape = tuple[int, int, int]


class Band(NamedTuple):
    """Some rows of a matrix, and those columns in which they are not all zero."""

    rows: slice
    columns: slice
    block: NDArray[np.float32]


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


# Few: one of 4000 voxels holds 64 MB. The bands made of them are kept.
@lru_cache(maxsize=4)
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

    matrix: NDArray[np.float64] = zoom(np.eye(n_in), (n_out / n_in, 1), order=order, mode="nearest", grid_mode=True)
    matrix[np.abs(matrix) < NEGLIGIBLE] = 0
    single: NDArray[np.float32] = matrix.astype(np.float32)
    single.setflags(write=False)
    return single


@lru_cache(maxsize=256)
def resize_bands(n_in: int, n_out: int, order: int) -> tuple[Band, ...]:
    """`resize_matrix` without most of its zeros: a spline's weights soon fade on both sides of the diagonal."""
    return _bands(resize_matrix(n_in, n_out, order))


def _bands(matrix: NDArray[np.float32]) -> tuple[Band, ...]:
    bands = []
    for start in range(0, len(matrix), BAND_ROWS):
        rows = slice(start, min(start + BAND_ROWS, len(matrix)))
        used = np.flatnonzero(matrix[rows].any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        bands.append(Band(rows, columns, np.ascontiguousarray(matrix[rows, columns])))
    return tuple(bands)


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
    array_czyx = np.ascontiguousarray(array_czyx)
    resized = np.empty((len(array_czyx), *shape), np.float32)
    for channel, out in zip(array_czyx, resized, strict=True):
        if separate_axis is None:
            _spline(channel, shape, (order,) * 3, out)
            _clip(out, channel, order)
        elif separate_axis == 0:
            _by_slices(channel, order, order_z, out)
        else:
            moved = np.empty(
                [shape[separate_axis], *(n for a, n in enumerate(shape) if a != separate_axis)], np.float32
            )
            _by_slices(np.ascontiguousarray(np.moveaxis(channel, separate_axis, 0)), order, order_z, moved)
            out[...] = np.moveaxis(moved, 0, separate_axis)
    return resized


def _by_slices(slices_zyx: NDArray[np.float32], order: int, order_z: int, out: NDArray[np.float32]) -> None:
    """Resize each slice in its plane, then across the first axis."""
    n_in, n_out = len(slices_zyx), len(out)
    if order_z > 0 and n_in != n_out:
        planes = np.empty((n_in, *out.shape[1:]), np.float32)
        _by_slices(slices_zyx, order, 0, planes)
        _apply(planes, 0, n_out, order_z, out)
        _clip(out, slices_zyx, order_z)
        return
    indices = nearest_indices(n_in, n_out)
    # Slices that no new one copies need not be resized, and none is resized twice.
    wanted = np.unique(indices)
    for part in _parts(len(wanted), max(slices_zyx[0].size, out[0].size)):
        chosen = wanted[part]
        kept = slices_zyx[chosen]
        planes = np.empty((len(kept), *out.shape[1:]), np.float32)
        _planes(kept, (order, order), planes)
        for old, plane in zip(kept, planes, strict=True):
            _clip(plane, old, order)
        rows = slice(*np.searchsorted(indices, [chosen[0], chosen[-1] + 1]))
        np.take(planes, np.searchsorted(chosen, indices[rows]), axis=0, out=out[rows], mode="clip")


def _spline(
    array: NDArray[np.float32], shape: Sequence[int], orders: Sequence[int], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Resize the last three axes; `out` is not the array itself."""
    if array.shape[-3:] == tuple(shape):
        if out is None:
            return array
        out[...] = array
        return out
    if out is None:
        out = np.empty((*array.shape[:-3], *shape), np.float32)
    (z, y, x), (new_z, new_y, new_x) = array.shape[-3:], shape
    if z == new_z:
        return _planes(array, orders[1:], out)
    if (y, x) == (new_y, new_x):
        return _apply(array, 0, new_z, orders[0], out)
    # The axis across slices before the planes where it grows less than they do.
    if new_z * y * x < z * new_y * new_x:
        return _planes(_apply(array, 0, new_z, orders[0]), orders[1:], out)
    between = np.empty((*array.shape[:-2], new_y, new_x), np.float32)
    return _apply(_planes(array, orders[1:], between), 0, new_z, orders[0], out)


def _planes(array: NDArray[np.float32], orders: Sequence[int], out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Resize the last two axes, a few slices at a time, that what stands between the two stays in the cache."""
    slices, planes = array.reshape(-1, 1, *array.shape[-2:]), out.reshape(-1, 1, *out.shape[-2:])
    first, second = sorted((1, 2), key=lambda axis: out.shape[axis - 3] / array.shape[axis - 3])
    for part in _parts(len(slices), max(slices[0].size, planes[0].size)):
        between = _apply(slices[part], first, out.shape[first - 3], orders[first - 1])
        _apply(between, second, out.shape[second - 3], orders[second - 1], planes[part])
    return out


def _parts(count: int, voxels: int) -> Iterator[slice]:
    """As many of `count` slices at a time as fit the cache."""
    step = max(1, CACHED_VOXELS // voxels)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _apply(
    array: NDArray[np.float32], axis: int, n_out: int, order: int, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Resize one of the last three axes."""
    n_in = array.shape[axis - 3]
    if n_in == n_out:
        if out is None:
            return array
        out[...] = array
        return out
    if order == 0:
        return np.take(array, nearest_indices(n_in, n_out), axis=axis - 3, out=out, mode="clip")
    return _multiply(array, resize_bands(n_in, n_out, order), axis, out)


def _multiply(
    array: NDArray[np.float32], bands: Sequence[Band], axis: int, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Apply a matrix along one of the last three axes."""
    lead, (z, y, x) = array.shape[:-3], array.shape[-3:]
    n_out = bands[-1].rows.stop
    if out is None:
        out = np.empty([*lead, *(n_out if a == axis else n for a, n in enumerate((z, y, x)))], np.float32)
    if axis == 0:
        flat, product = array.reshape(*lead, z, y * x), out.reshape(*lead, n_out, y * x)
    else:
        flat, product = array, out
    for band in bands:
        if axis == 2:
            np.matmul(flat[..., band.columns], band.block.T, out=product[..., band.rows])
        else:
            np.matmul(band.block, flat[..., band.columns, :], out=product[..., band.rows, :])
    return out


def _clip(resized: NDArray[np.float32], original: NDArray[np.float32], order: int) -> None:
    """Hold a spline, in place, inside the range of what it was made from."""
    if order > 1:
        np.clip(resized, original.min(), original.max(), out=resized)


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
    the label that nearest-neighbour resizing gives if it is among the tied, else to the smallest. No such map
    is made: a new voxel lies between at most eight old ones, and only where those disagree is anything weighed.
    """
    if label_zyx.shape == tuple(shape):
        return label_zyx
    taps = [
        _taps(n, m, order_z if axis == separate_axis else order)
        for axis, (n, m) in enumerate(zip(label_zyx.shape, shape, strict=True))
    ]
    label_zyx = np.ascontiguousarray(label_zyx)
    resized = np.empty(shape, label_zyx.dtype)
    for rows in _parts(shape[0], shape[1] * shape[2]):
        _resize_label_slices(label_zyx, [taps[0].at(rows), *taps[1:]], resized[rows])
    return resized


class _Taps(NamedTuple):
    """The one or two old voxels that each new one of an axis lies between."""

    nearest: NDArray[np.intp]
    low: NDArray[np.intp]
    high: NDArray[np.intp]  # low itself where it counts alone
    weight: NDArray[np.float32]  # of high; 0 where it is low

    def at(self, rows: slice | NDArray[np.intp]) -> "_Taps":
        """Of some new voxels."""
        return _Taps(self.nearest[rows], self.low[rows], self.high[rows], self.weight[rows])


@lru_cache(maxsize=256)
def _taps(n_in: int, n_out: int, order: int) -> _Taps:
    nearest = np.arange(n_in) if n_in == n_out else nearest_indices(n_in, n_out)
    if order == 0 or n_in == n_out:
        return _Taps(nearest, nearest, nearest, np.zeros(n_out, np.float32))
    matrix = resize_matrix(n_in, n_out, 1)
    low, last = (matrix != 0).argmax(axis=1), n_in - 1 - (matrix[:, ::-1] != 0).argmax(axis=1)
    return _Taps(nearest, low, last, np.where(last > low, matrix[np.arange(n_out), last], np.float32(0)))


def _resize_label_slices(label_zyx: NDArray[np.integer], taps: Sequence[_Taps], out: NDArray[np.integer]) -> None:
    """What `resize_labels` does, for some slices of the result."""
    nearest = smallest = largest = label_zyx
    for axis, (centre, low, high, weight) in enumerate(taps):
        if axis > 0 and len(centre) == label_zyx.shape[axis]:
            continue
        if weight.any():
            nearest = np.take(nearest, centre, axis=axis)
            one, other = smallest, largest
            smallest = np.minimum(np.take(one, low, axis=axis), np.take(one, high, axis=axis))
            largest = np.maximum(np.take(other, low, axis=axis), np.take(other, high, axis=axis))
        elif smallest is largest:
            nearest = smallest = largest = np.take(nearest, centre, axis=axis)
        else:
            nearest, smallest, largest = (np.take(part, centre, axis=axis) for part in (nearest, smallest, largest))
    out[...] = nearest
    if smallest is largest:
        return
    # Where all old voxels around a new one agree, that is the label.
    places = np.flatnonzero(smallest != largest)
    if places.size:
        flat = out.reshape(-1)
        at = [one.at(index) for one, index in zip(taps, np.unravel_index(places, out.shape), strict=True)]
        flat[places] = _weighed(label_zyx, at, flat[places])


def _weighed(
    label_zyx: NDArray[np.integer], taps: Sequence[_Taps], nearest: NDArray[np.integer]
) -> NDArray[np.integer]:
    """The label with the largest share for each of N new voxels, whose `taps` have N entries along each axis."""
    flat, strides = label_zyx.reshape(-1), (label_zyx.shape[1] * label_zyx.shape[2], label_zyx.shape[2], 1)
    corners = [(np.zeros(1, np.intp), np.ones(1, np.float32))]
    for (_, low, high, weight), stride in zip(taps, strides, strict=True):
        ends = [(low * stride, 1 - weight)]
        if weight.any():
            ends.append((high * stride, weight))
        corners = [(place + step, share * part) for place, share in corners for step, part in ends]
    labels = [flat[place] for place, _ in corners]
    shares = [share for _, share in corners]
    own = sum(share * (label == nearest) for label, share in zip(labels, shares, strict=True))
    # With half of the weight or more the nearest label wins, or is tied.
    unclear = np.flatnonzero(own < 0.5)
    if unclear.size:
        label_kn = np.stack([label[unclear] for label in labels])
        share_kn = np.stack([share[unclear] for share in shares])
        total_kn = np.stack([(share_kn * (label_kn == label)).sum(axis=0) for label in label_kn])
        tied = total_kn > total_kn.max(axis=0) - TIE
        smallest = np.where(tied, label_kn, np.iinfo(label_kn.dtype).max).min(axis=0)
        near = nearest[unclear]
        nearest[unclear] = np.where((tied & (label_kn == near)).any(axis=0), near, smallest)
    return nearest


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
            bands = _bands(matrix[:, columns])
            if shrinks:
                block = _multiply(block, bands, 0)
            block = _spline(block, (block.shape[1], *shape[1:]), orders)
            if not shrinks:
                block = _multiply(block, bands, 0)
        yield rows, block


def _single(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.ascontiguousarray(logits, dtype=np.float32)
