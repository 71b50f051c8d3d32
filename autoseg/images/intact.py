"""Finds MetaImage and GIPL files that are cut short or damaged, which ITK would fill with zeros or chatter about.

A file -> nothing, or ValueError with the reason. NIfTI has its own module; NRRD is left to ITK, which notices.
"""

import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1 << 20
META_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "FLOAT": 4, "DOUBLE": 8}
GIPL_HEADER_BYTES = 256
GIPL_BITS = {1: 1, 7: 8, 8: 8, 15: 16, 16: 16, 31: 32, 32: 32, 64: 32, 65: 64}


def check_gipl(file: Path) -> None:
    """Check that a GIPL file holds as many bytes as its header promises.

    Raises
    ------
    ValueError
        It doesn't, or there is no header.
    """
    with file.open("rb") as stream:
        header = stream.read(GIPL_HEADER_BYTES)
    if len(header) < GIPL_HEADER_BYTES:
        raise ValueError("it has no GIPL header")
    *dims, kind = struct.unpack_from(">5H", header)
    voxels = math.prod(max(n, 1) for n in dims)
    _compare(file.stat().st_size, GIPL_HEADER_BYTES + voxels * GIPL_BITS.get(kind, 0) // 8)


def check_meta(file: Path, *, inflate: bool) -> None:
    """Check that a MetaImage, or the data file it points to, holds as many bytes as its header promises.

    Parameters
    ----------
    file : Path
    inflate : bool
        Inflate compressed data wholly, which also tests their checksum.

    Raises
    ------
    ValueError
        It is cut short or damaged, there is no header, or the data file is missing.
    """
    with file.open("rb") as stream:
        fields = _meta_fields(stream)
        data = fields.get("ElementDataFile", "")
        if data.upper() == "LOCAL":
            _check_meta_data(stream, fields, file.stat().st_size - stream.tell(), inflate=inflate)
            return
    if not data:
        raise ValueError("it has no MetaImage header, or one that ends too early")
    if data == "LIST" or "%" in data or fields.get("HeaderSize", "0") != "0":
        return  # Slices in many files, or data inside a foreign file: ITK's own checks have to do.
    raw = file.parent / data
    if not raw.is_file():
        raise ValueError(f"its data file {data} is missing")
    with raw.open("rb") as stream:
        _check_meta_data(stream, fields, raw.stat().st_size, inflate=inflate)


def _meta_fields(stream: BinaryIO) -> dict[str, str]:
    """The text header of a MetaImage; the stream is left at the first byte of the data."""
    fields: dict[str, str] = {}
    for _ in range(1000):
        key, equals, value = stream.readline(4096).decode("latin-1").partition("=")
        if not equals:
            break
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    return fields


def _check_meta_data(stream: BinaryIO, fields: dict[str, str], found: int, *, inflate: bool) -> None:
    compressed = fields.get("CompressedData", "False").lower() == "true"
    width = META_BYTES.get(fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY"))
    if compressed and "CompressedDataSize" in fields:
        _compare(found, int(fields["CompressedDataSize"]))
    if width is None:
        return
    voxels = math.prod(int(n) for n in fields.get("DimSize", "0").split())
    expected = voxels * width * int(fields.get("ElementNumberOfChannels", "1"))
    if not compressed:
        _compare(found, expected)
    elif inflate:
        _compare(_inflated_bytes(stream), expected)


def _inflated_bytes(stream: BinaryIO) -> int:
    """Length of a zlib or gzip stream after inflating, its checksum tested."""
    inflate = zlib.decompressobj(wbits=47)
    length = 0
    try:
        while not inflate.eof and (chunk := stream.read(CHUNK_BYTES)):
            while chunk and not inflate.eof:
                length += len(inflate.decompress(chunk, CHUNK_BYTES))
                chunk = inflate.unconsumed_tail
    except zlib.error as error:
        raise ValueError(f"its compressed data are damaged: {error}") from error
    if not inflate.eof:
        raise ValueError("it is cut short: the compressed data end too early")
    return length


def _compare(found: int, expected: int) -> None:
    """Complain when there is less than the header promises; more is harmless padding."""
    if found < expected:
        raise ValueError(f"it is cut short: {found} bytes of the {expected} its header promises")
