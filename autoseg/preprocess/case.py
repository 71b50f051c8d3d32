"""What is stored of a case beside its arrays: how much foreground there is, and where."""

from collections.abc import Mapping
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.labels import foreground, ignored, voxels_by_name

MAX_LOCATIONS = 10_000
LEAST_SHARE = 0.01


def foreground_locations(
    label_zyx: NDArray[np.int16], name: str, labels: Mapping[str, int | tuple[int, ...]]
) -> NDArray[np.int32]:
    """A sample of each class's voxels, for patches that have to contain some of it.

    Parameters
    ----------
    label_zyx : ndarray of int16, shape (Z, Y, X)
        Only values above 0 are foreground.
    name : str
        Of the case; the same name and label give the same sample.
    labels : mapping of str to int or tuple of int
        The plan's.

    Returns
    -------
    ndarray of int32, shape (N, 4)
        Class, z, y, x; classes ascending, voxels of a class in the array's order. Class 1 is the first of the
        foreground labels or regions, and so on; class 0 stands only where there is an ignore label, for every voxel
        that is annotated. Of each class 10,000 voxels, or all where there are fewer, or 1 % where that is more.

    Notes
    -----
    Source: nnU-Net v2 (2.8.1).
    """
    generator = np.random.default_rng(int.from_bytes(sha256(name.encode()).digest()[:8], "little"))
    flat = label_zyx.reshape(-1)
    places = np.flatnonzero(flat > 0)
    values = flat[places]
    members = {number: places[_is_any(values, value)] for number, value in enumerate(foreground(labels).values(), 1)}
    ignore = ignored(labels)
    if ignore is not None:
        members = {0: np.flatnonzero(flat != ignore), **members}
    rows = [np.empty((0, 4), np.int32)]
    for number, mine in members.items():
        wanted = max(min(MAX_LOCATIONS, len(mine)), int(np.ceil(LEAST_SHARE * len(mine))))
        if wanted == 0:
            continue
        chosen = mine if wanted == len(mine) else np.sort(generator.choice(mine, wanted, replace=False))
        zyx = np.unravel_index(chosen, label_zyx.shape)
        rows.append(np.stack([np.full(len(chosen), number), *zyx], axis=1).astype(np.int32))
    return np.concatenate(rows)


def _is_any(values: NDArray[np.int16], wanted: int | tuple[int, ...]) -> NDArray[np.bool_]:
    return np.isin(values, wanted) if isinstance(wanted, tuple) else values == wanted


def arrays_digest(*arrays: NDArray[np.generic]) -> str:
    """SHA-256 over the arrays' contents, shapes and types: what training depends on, wherever it came from."""
    sha = sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def foreground_voxels(label_zyx: NDArray[np.int16], labels: Mapping[str, int | tuple[int, ...]]) -> dict[str, int]:
    """How many voxels each foreground label or region has, by its name, in the order of a network's outputs."""
    return voxels_by_name(np.bincount(label_zyx[label_zyx > 0]).tolist(), labels)
