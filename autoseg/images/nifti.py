"""NIfTI's own header and data, for what ITK does badly: noticing damage, and reading plain volumes fast.

ITK fills a volume that is cut short with zeros without a word, and takes twice the time of inflating it. Geometry
still comes from ITK, and so do voxels of any but the simplest kind.
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.geometry import Geometry

HEADER_BYTES = 540  # of version 2; version 1 has 348
CHUNK_BYTES = 1 << 20
PLAIN_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
TYPE_CODES = {np.dtype(kind): code for code, kind in PLAIN_TYPES.items()}
FIRST_HEADER_BYTES = 352  # version 1, with four bytes that say that nothing follows it
MILLIMETRES, SCANNER = 2, 1  # NIfTI's codes


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes say about the data that follow.

    Attributes
    ----------
    shape : tuple of int
        As stored: x varies fastest and comes first.
    bits : int
        Of one voxel.
    offset : int
        Where the data begin, in bytes.
    plain_dtype : str or None
        Type of the voxels with byte order, where they are single numbers in this very file that need no
        scaling; else None.
    """

    shape: tuple[int, ...]
    bits: int
    offset: int
    plain_dtype: str | None

    @property
    def file_bytes(self) -> int:
        """Length of the uncompressed file."""
        return self.offset + math.prod(self.shape) * self.bits // 8


def parse_header(start: bytes) -> Header:
    """Read a header of version 1 or 2 in either byte order.

    Parameters
    ----------
    start : bytes
        At least the first 540 bytes of the uncompressed file, or all of it.

    Raises
    ------
    ValueError
        There is no header, or an impossible one.
    """
    for order in "<>":
        size = struct.unpack_from(f"{order}i", start)[0] if len(start) >= 348 else 0
        if size == 348:
            dims = struct.unpack_from(f"{order}8h", start, 40)
            kind, bits = struct.unpack_from(f"{order}2h", start, 70)
            offset, slope, intercept = struct.unpack_from(f"{order}3f", start, 108)
            single = start[344:347] == b"n+1"
        elif size == 540 and len(start) >= 540:
            dims = struct.unpack_from(f"{order}8q", start, 16)
            kind, bits = struct.unpack_from(f"{order}2h", start, 12)
            (offset,) = struct.unpack_from(f"{order}q", start, 168)
            slope, intercept = struct.unpack_from(f"{order}2d", start, 176)
            single = start[4:7] == b"n+2"
        else:
            continue
        if not 1 <= dims[0] <= 7 or min(dims[1 : dims[0] + 1]) < 1 or bits < 0 or not 0 <= offset < 2**31:
            raise ValueError(f"its NIfTI header is damaged: dimensions {dims}, {bits} bits a voxel, data at {offset}")
        unscaled = slope in (0, 1) and intercept == 0
        plain = PLAIN_TYPES.get(kind) if single and unscaled else None
        return Header(dims[1 : dims[0] + 1], bits, int(offset), f"{order}{plain}" if plain else None)
    raise ValueError("it has no NIfTI header")


def read_header(file: Path) -> Header:
    """The header of a ``.nii`` or ``.nii.gz``; ValueError when it is damaged."""
    try:
        with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as stream:
            return parse_header(stream.read(HEADER_BYTES))
    except EOFError as error:
        raise ValueError("it is cut short: the compressed data end too early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"its compressed data are damaged: {error}") from error


def read_plain(file: Path, header: Header) -> NDArray[Any]:
    """Read all voxels of a file whose header has a `plain_dtype`, its checksum tested.

    Returns
    -------
    ndarray
        One-dimensional, as stored; read-only.

    Raises
    ------
    ValueError
        The file is cut short or damaged.
    """
    data = inflate(file, header) if file.name.lower().endswith(".gz") else file.read_bytes()
    check_length(len(data), header)
    return np.frombuffer(data, header.plain_dtype, math.prod(header.shape), header.offset)


def check_length(found: int, header: Header) -> None:
    """Complain when there is less than the header promises; more is harmless padding."""
    if found < header.file_bytes:
        raise ValueError(f"it is cut short: {found} bytes of the {header.file_bytes} its header promises")


def inflate(file: Path, header: Header) -> bytes:
    """The uncompressed file, which may not be much longer than its header promises; ValueError when damaged."""
    limit = header.file_bytes + CHUNK_BYTES
    compressed = file.read_bytes()
    try:
        member = zlib.decompressobj(wbits=31)
        data = member.decompress(compressed, limit)
        if member.eof and member.unused_data.strip(b"\0"):
            # Made of several members, as bgzip does: the library's own loop knows how to go on.
            with gzip.open(file) as stream:
                data = stream.read(limit)
                excess = bool(stream.read(1))
        else:
            excess = bool(member.unconsumed_tail)
            if not member.eof and not excess:
                raise ValueError("it is cut short: the compressed data end too early")
    except EOFError as error:
        raise ValueError("it is cut short: the compressed data end too early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"its compressed data are damaged: {error}") from error
    if excess:
        raise ValueError(f"it is longer than its header promises ({header.file_bytes} bytes)")
    return data


def encode(array_zyx: NDArray[Any], geometry: Geometry) -> bytes:
    """A volume as an uncompressed file of version 1, in memory.

    Parameters
    ----------
    array_zyx : ndarray of integer or float, shape (Z, Y, X)
    geometry : Geometry
        Of the same shape. A picture becomes a single slice, as thick as its pixels are wide.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        Shape and geometry disagree, or version 1 can't hold so many voxels along an axis.

    Notes
    -----
    Header as in nifti1.h (R. W. Cox et al.). Its space is RAS, with x and y of the other sign than ITK's.
    """
    if array_zyx.shape != geometry.shape:
        raise ValueError(f"array of shape {array_zyx.shape} on a grid of {geometry.shape}")
    if max(array_zyx.shape) > np.iinfo(np.int16).max:
        raise ValueError(f"NIfTI of version 1 can't hold a volume of shape {array_zyx.shape}")
    z_mm, y_mm, x_mm = geometry.spacing_mm
    if geometry.num_dimensions == 2:
        z_mm = max(y_mm, x_mm)
    to_mm = np.reshape(geometry.direction, (3, 3)) * (x_mm, y_mm, z_mm)
    rows = np.column_stack([to_mm, geometry.origin_mm]) * np.array([[-1], [-1], [1]])
    little = np.ascontiguousarray(array_zyx, dtype=array_zyx.dtype.newbyteorder("<"))
    header = bytearray(FIRST_HEADER_BYTES)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *array_zyx.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, TYPE_CODES[array_zyx.dtype.newbyteorder("=")], 8 * little.itemsize)
    struct.pack_into("<8f", header, 76, 1, x_mm, y_mm, z_mm, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, FIRST_HEADER_BYTES, 1, 0)
    header[123] = MILLIMETRES
    struct.pack_into("<2h", header, 252, 0, SCANNER)
    struct.pack_into("<12f", header, 280, *rows.ravel())
    header[344:348] = b"n+1\0"
    return bytes(header) + little.tobytes()
