"""A preprocessed case on disk: arrays -> chunked compressed files, and back whole or patch by patch."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from secrets import token_hex
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.base import write
from autoseg.artifacts.preprocessed import PreprocessedCase, PreviousMap
from autoseg.errors import ArtifactError
from autoseg.layout import CaseFiles, MapFiles
from autoseg.machine import locked

CHUNK_VOXELS = 2**18  # 1 MiB of single precision: fits the cache of one core
LEAST_EDGE = 64  # small patches would make thousands of small chunks
BLOCK_VOXELS = 2**13  # what is unpacked at a time
BELONGS = "arrays_sha256"  # in each array's file: of all arrays of the case together
LEFTOVER = re.compile(r"\.(?P<made>.+)\.(lock|[^.]+\.part(\..*)?)")


@dataclass(frozen=True)
class StoredCase:
    """A case whose arrays stay on disk; each is opened whenever it is asked for.

    An open array holds a file descriptor, and a dataset can have more cases than a process may have of those.

    Attributes
    ----------
    files : CaseFiles
    arrays_sha256 : str or None
        Of its record: other arrays, which another process put in their place, are refused. None: any will do.
    """

    files: CaseFiles
    arrays_sha256: str | None = None

    def __reduce__(self) -> tuple[type["StoredCase"], tuple[CaseFiles, str | None]]:
        # Another process opens the files for itself.
        return type(self), (self.files, self.arrays_sha256)

    @property
    def image(self) -> Any:  # noqa: ANN401 - blosc2 has no types
        """The image as a memory-mapped blosc2 array, float32, (C, Z, Y, X)."""
        return _open(self.files.image, self.arrays_sha256)

    @property
    def label(self) -> Any:  # noqa: ANN401 - blosc2 has no types
        """The label map as a memory-mapped blosc2 array, int16, (Z, Y, X)."""
        return _open(self.files.label, self.arrays_sha256)

    @cached_property
    def locations(self) -> NDArray[np.int32]:
        """Sampled foreground voxels, int32, (N, 4): label value, z, y, x."""
        return _whole(self.files.locations, self.arrays_sha256)


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
    """Write the arrays, then the record whose presence says that they are whole; under the case's lock.

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
    belongs = record.arrays_sha256
    _write(files.image, image_czyx, (1, *chunk), (1, *block), belongs)
    _write(files.label, label_zyx, chunk, block, belongs)
    _write(files.locations, locations, None, None, belongs)
    write(files.record, record)


def write_map(
    files: MapFiles, map_zyx: NDArray[np.unsignedinteger], record: PreviousMap, patch_size: Sequence[int]
) -> None:
    """Write what the first stage of a cascade predicted of a case, then its record; under the map's lock.

    Parameters
    ----------
    files : MapFiles
    map_zyx : ndarray of uint8 or uint16, shape (Z, Y, X)
    record : PreviousMap
    patch_size : sequence of int, length 2 or 3

    Raises
    ------
    ArtifactError
        A file can't be written.
    """
    _remove(files.record)
    chunk, block = chunk_shapes(map_zyx.shape, patch_size)
    _write(files.map, map_zyx, chunk, block, record.map_sha256)
    write(files.record, record)


@dataclass(frozen=True, slots=True)
class StoredMap:
    """What the first stage predicted of a case; opened for whatever is read of it.

    Attributes
    ----------
    path : Path
    sha256 : str
        Of the map: another one, which another process put in its place, is refused.
    shape : tuple of int
        Along (Z, Y, X).
    """

    path: Path
    sha256: str
    shape: tuple[int, ...]

    def __getitem__(self, key: Any) -> NDArray[np.int16]:  # noqa: ANN401 - as numpy has it
        """Labels, int16 as those of the case."""
        array = _open(self.path, self.sha256)
        with _explained(self.path):
            return np.asarray(array[key], dtype=np.int16)


def open_case(files: CaseFiles, arrays_sha256: str | None = None) -> StoredCase:
    """A case to be read patch by patch; nothing is opened yet."""
    return StoredCase(files, arrays_sha256)


def load_case(files: CaseFiles, arrays_sha256: str | None = None) -> LoadedCase:
    """Read a case's arrays whole.

    Parameters
    ----------
    files : CaseFiles
    arrays_sha256 : str, optional
        Of the record that was read before. None: whatever is there.

    Raises
    ------
    ArtifactError
        A file is missing or damaged; or another process has put, or is just putting, another in its place.
    """
    belongs = arrays_sha256 or _belongs(_open(files.image, None))
    return LoadedCase(*(_whole(file, belongs) for file in files.arrays))


def is_whole(files: CaseFiles | MapFiles, arrays_sha256: str) -> bool:
    """Whether each array's file opens and is of these arrays; a file cut short does not open. Nothing is unpacked."""
    try:
        for file in files.arrays:
            _open(file, arrays_sha256)
    except ArtifactError:
        return False
    return True


def remove_leftovers(cases: Iterable[CaseFiles | MapFiles]) -> None:
    """Remove partial files and locks that killed processes left of these cases; those of live ones stay."""
    made = {file.name: files for files in cases for file in (*files.arrays, files.record)}
    for folder in {files.record.parent for files in made.values()}:
        with suppress(OSError):
            for path in list(folder.iterdir()):
                match = LEFTOVER.fullmatch(path.name)
                files = made.get(match["made"]) if match else None
                if files is not None:
                    _remove_leftover(path, files.lock)


def _remove_leftover(path: Path, lock: Path) -> None:
    with suppress(BlockingIOError), locked(lock, wait=False) as held:
        if held:
            path.unlink(missing_ok=True)


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


def _write(
    path: Path, array: NDArray[Any], chunks: tuple[int, ...] | None, blocks: tuple[int, ...] | None, belongs: str
) -> None:
    packed = blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=chunks,
        blocks=blocks,
        contiguous=True,  # one buffer, which is the file
        cparams=blosc2.CParams(codec=blosc2.Codec.LZ4, clevel=1, filters=[blosc2.Filter.SHUFFLE], nthreads=1),
        dparams=blosc2.DParams(nthreads=1),
        meta={BELONGS: belongs.encode()},
    )
    temporary = path.with_name(f".{path.name}.{token_hex(4)}.part")
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


def _open(path: Path, belongs: str | None) -> Any:  # noqa: ANN401 - blosc2 has no types
    with _explained(path):
        array = blosc2.open(str(path), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))
    if belongs not in (None, _belongs(array)):
        raise ArtifactError(
            "another process exchanged a preprocessed case that was in use",
            where=str(path),
            hint="prepare a workspace's cases in one way at a time, then give the same command again",
        )
    return array


def _belongs(array: Any) -> str:  # noqa: ANN401 - blosc2 has no types
    """Hash of all arrays of the case that this one was written with."""
    return bytes(array.schunk.meta[BELONGS]).decode() if BELONGS in array.schunk.meta else ""


def _whole(path: Path, belongs: str | None) -> NDArray[Any]:
    array = _open(path, belongs)
    with _explained(path):
        return np.asarray(array[:])
