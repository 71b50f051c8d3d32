"""A preprocessed case on disk: arrays -> chunked compressed files, and back whole or patch by patch."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.base import write
from autoseg.artifacts.preprocessed import PreprocessedCase
from autoseg.errors import ArtifactError
from autoseg.layout import CaseFiles

CHUNK_VOXELS = 2**18  # 1 MiB of single precision: fits the cache of one core
LEAST_EDGE = 64  # small patches would make thousands of small chunks
BLOCK_VOXELS = 2**13  # what is unpacked at a time


@dataclass(frozen=True)
class StoredCase:
    """A case whose arrays stay on disk; each is opened whenever it is asked for.

    An open array holds a file descriptor, and a dataset can have more cases than a process may have of those.

    Attributes
    ----------
    files : CaseFiles
    """

    files: CaseFiles

    def __reduce__(self) -> tuple[type["StoredCase"], tuple[CaseFiles]]:
        # Another process opens the files for itself.
        return type(self), (self.files,)

    @property
    def image(self) -> Any:  # noqa: ANN401 - blosc2 has no types
        """The image as a memory-mapped blosc2 array, float32, (C, Z, Y, X)."""
        return _open(self.files.image)

    @property
    def label(self) -> Any:  # noqa: ANN401 - blosc2 has no types
        """The label map as a memory-mapped blosc2 array, int16, (Z, Y, X)."""
        return _open(self.files.label)

    @cached_property
    def locations(self) -> NDArray[np.int32]:
        """Sampled foreground voxels, int32, (N, 4): label value, z, y, x."""
        return _whole(self.files.locations)


@dataclass(frozen=True, slots=True)
class LoadedCase:
    """A case in memory; answers as `StoredCase`.

    Attributes
    ----------
    image : ndarray of float32, shape (C, Z, Y, X)
    label : ndarray of int16, shape (Z, Y, X)
    locations : ndarray of int32, shape (N, 4)
    """

    image: NDArray[np.float32]
    label: NDArray[np.int16]
    locations: NDArray[np.int32]


def write_case(
    files: CaseFiles,
    image_czyx: NDArray[np.float32],
    label_zyx: NDArray[np.int16],
    locations: NDArray[np.int32],
    record: PreprocessedCase,
    patch_size: Sequence[int],
) -> None:
    """Write the arrays, then the record whose presence says that they are whole.

    Parameters
    ----------
    files : CaseFiles
    image_czyx : ndarray of float32, shape (C, Z, Y, X)
    label_zyx : ndarray of int16, shape (Z, Y, X)
    locations : ndarray of int32, shape (N, 4)
    record : PreprocessedCase
    patch_size : sequence of int, length 2 or 3
        What will be read at a time, for the shape of the chunks.

    Raises
    ------
    ArtifactError
        A file can't be written.
    """
    # An old record must not vouch for new arrays while they are being exchanged.
    _remove(files.record)
    chunk, block = chunk_shapes(label_zyx.shape, patch_size)
    _write(files.image, image_czyx, (1, *chunk), (1, *block))
    _write(files.label, label_zyx, chunk, block)
    _write(files.locations, locations, None, None)
    write(files.record, record)


def open_case(files: CaseFiles) -> StoredCase:
    """A case to be read patch by patch; nothing is opened yet."""
    return StoredCase(files)


def load_case(files: CaseFiles) -> LoadedCase:
    """Read a case's arrays whole.

    Raises
    ------
    ArtifactError
        A file is missing or damaged.
    """
    return LoadedCase(_whole(files.image), _whole(files.label), _whole(files.locations))


def chunk_shapes(shape: Sequence[int], patch_size: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Edges of the chunks, about those of the patch, and of the blocks in them, in voxels.

    Notes
    -----
    The longest edge is halved until the voxels are few enough: near-cubes waste the least around a patch that
    lies anywhere. For 2D networks slices are kept whole as far as possible, and each is unpacked by itself.
    """
    flat = len(patch_size) == 2
    patch = (1, *patch_size) if flat else tuple(patch_size)
    wanted = [1 if edge == 1 else max(edge, LEAST_EDGE) for edge in patch]
    chunk = _halved([min(n, p) for n, p in zip(shape, wanted, strict=True)], CHUNK_VOXELS)
    if not flat:
        return chunk, _halved(list(chunk), BLOCK_VOXELS)
    slices = min(shape[0], CHUNK_VOXELS // prod(chunk))
    return (slices, *chunk[1:]), _halved(list(chunk), BLOCK_VOXELS)


def _halved(edges: list[int], most: int) -> tuple[int, ...]:
    while prod(edges) > most:
        longest = edges.index(max(edges))
        edges[longest] = (edges[longest] + 1) // 2
    return tuple(edges)


def _write(path: Path, array: NDArray[Any], chunks: tuple[int, ...] | None, blocks: tuple[int, ...] | None) -> None:
    packed = blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=chunks,
        blocks=blocks,
        contiguous=True,  # one buffer, which is the file
        cparams=blosc2.CParams(codec=blosc2.Codec.LZ4, clevel=1, filters=[blosc2.Filter.SHUFFLE], nthreads=1),
        dparams=blosc2.DParams(nthreads=1),
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Python's own writing reports a full disk properly. Nothing is flushed here: that took half of the
            # time for small cases, and after a power cut a file that is not whole does not open.
            temporary.write_bytes(packed.to_cframe())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(
            "a preprocessed case can't be written",
            where=str(path),
            found=error.strerror or str(error),
            hint="check the disk's free space and the folder's permissions",
        ) from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(
            "an old file can't be removed", where=str(path), found=str(error), hint="check the folder's permissions"
        ) from error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what blosc2 makes of a damaged file into one error."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise ArtifactError(
            "a preprocessed case can't be read",
            where=str(path),
            found=str(error),
            hint="remove its .json record and run autoseg preprocess again",
        ) from error


def _open(path: Path) -> Any:  # noqa: ANN401 - blosc2 has no types
    with _explained(path):
        return blosc2.open(str(path), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))


def _whole(path: Path) -> NDArray[Any]:
    array = _open(path)
    with _explained(path):
        return np.asarray(array[:])
