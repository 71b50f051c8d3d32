"""Probabilities of a case on disk: chunked, compressed, a byte for each voxel and class."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.base import atomic_path
from autoseg.errors import ArtifactError

WHOLE = 255  # the level of probability 1
CHUNK_BYTES = 2**20
MADE_FROM = "made_from"
# What blosc2 raises for files that are damaged.
UNREADABLE = (OSError, RuntimeError, ValueError)


def to_levels(probabilities: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Probabilities in steps of 1/255.

    Notes
    -----
    Half precision keeps more of the small ones, but these digits are noise that does not compress: most of a volume is
    background, whose probability rounds to 255 here.

    Examples
    --------
    >>> to_levels(np.array([0.0, 0.001, 0.5, 1.0], np.float32)).tolist()
    [0, 0, 128, 255]
    """
    # In C order, whatever that of the probabilities: blosc2 takes no other.
    levels: NDArray[np.uint8] = np.rint(probabilities * WHOLE).astype(np.uint8, order="C")
    return levels


def new_levels(shape_kzyx: Sequence[int], *, made_from: str = "", has_background: bool = True) -> Any:  # noqa: ANN401
    """A compressed array in memory, to be filled; without entries all is background.

    Parameters
    ----------
    shape_kzyx : sequence of int, length 4
    made_from : str, optional
        Hash of what its content comes from.
    has_background : bool, optional
        The first class is the background; False for regions.

    Returns
    -------
    blosc2.NDArray of uint8, shape (K, Z, Y, X)
    """
    levels = blosc2.zeros(
        tuple(shape_kzyx),
        dtype=np.uint8,
        chunks=chunk_shape(shape_kzyx),
        contiguous=True,  # one buffer, which becomes the file
        cparams=blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=1, filters=[blosc2.Filter.NOFILTER], nthreads=1),
        dparams=blosc2.DParams(nthreads=1),
        meta={MADE_FROM: made_from.encode()},
    )
    if has_background:
        levels[0] = np.uint8(WHOLE)
    return levels


def chunk_shape(shape_kzyx: Sequence[int]) -> tuple[int, ...]:
    """Of one class, as many whole slices (or rows, where a slice is large) as make a chunk.

    Examples
    --------
    >>> chunk_shape((3, 100, 512, 512))
    (1, 4, 512, 512)
    """
    edges: list[int] = []
    for length in reversed(shape_kzyx[1:]):
        edges.insert(0, max(1, min(length, CHUNK_BYTES // prod(edges))))
    return (1, *edges)


def write_levels(path: Path, levels: Any) -> None:  # noqa: ANN401 - blosc2 has no types
    """Write an array of `new_levels`, whole or not at all.

    Raises
    ------
    ArtifactError
        The folder can't be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(levels.to_cframe())


def read_levels(path: Path) -> Any:  # noqa: ANN401 - blosc2 has no types
    """The array at a path, of which only what is asked for is unpacked.

    Raises
    ------
    ArtifactError
        It can't be read.
    """
    try:
        return blosc2.open(str(path), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))
    except UNREADABLE as error:
        raise ArtifactError(
            "probabilities can't be read",
            where=str(path),
            found=str(error),
            hint="remove the file and give autoseg select again",
        ) from error


def are_made_from(path: Path, made_from: str) -> bool:
    """Whether whole probabilities with this hash stand at a path; a file that was cut short does not open."""
    if not path.exists():
        return False
    try:
        levels = read_levels(path)  # has to outlive what it says of itself
        return MADE_FROM in levels.schunk.meta and bytes(levels.schunk.meta[MADE_FROM]) == made_from.encode()
    except (ArtifactError, *UNREADABLE):
        return False
