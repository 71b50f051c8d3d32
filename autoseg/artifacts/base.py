"""How every JSON record is read and written: typed, versioned, never half a file."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, ClassVar, TypeVar, get_args

import msgspec

from autoseg.errors import ArtifactError, DatasetError, nearest


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A typed, frozen part of an artifact."""


class Artifact(Record, frozen=True, kw_only=True):
    """A record that is a whole file.

    Attributes
    ----------
    schema_version : int
        Version of the file's layout; a file with a higher one than the class knows is refused.
    """

    newest_schema: ClassVar[int] = 1
    schema_version: int = 1


A = TypeVar("A", bound=Artifact)


class NewerSchemaError(ArtifactError):
    """A file that a newer version wrote: never to be overwritten by this one."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it and rename it, on failure remove it.

    Raises
    ------
    ArtifactError
        The folder can't be written, or the disk is full.
    """
    # The real ending comes last because image libraries choose the format by it (".nii.gz" is two suffixes).
    temporary = path.with_name(f".{path.name}.{token_hex(4)}.part{''.join(path.suffixes[-2:])}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # With the usual permissions, for a shared workspace; what tempfile makes is private.
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ArtifactError(
            "a file can't be written",
            where=str(path),
            found=error.strerror or str(error),
            hint="check the disk's free space and the folder's permissions",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_writable(folder: Path) -> None:
    """Find out before hours of work that a folder can't be written; nothing is left there, not even the folder.

    Raises
    ------
    ArtifactError
        It can't.
    """
    try:
        nearest_there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=nearest_there) as probe:
            probe.write(b"probe")
    except OSError as error:
        raise ArtifactError(
            "the folder can't be written",
            where=str(folder),
            found=error.strerror or str(error),
            hint="check its permissions and the disk's free space, or name another folder",
        ) from error


def encode(artifact: Artifact) -> bytes:
    """The artifact as indented JSON, checked by decoding it again.

    Raises
    ------
    ArtifactError
        The record breaks its own bounds: a mistake of the program, caught before it reaches the disk.
    """
    data = msgspec.json.format(msgspec.json.encode(artifact), indent=1) + b"\n"
    if decode(data, type(artifact), where="record about to be written") != artifact:
        raise ArtifactError("a record changes when it is written and read again", where=type(artifact).__name__)
    return data


def decode(data: bytes, kind: type[A], *, where: str) -> A:
    """Decode `data` as `kind`, with every complaint turned into one clear error.

    Raises
    ------
    ArtifactError
        Not JSON, a newer schema, an unknown key (the nearest known one is named), or a value out of bounds.
    """
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ArtifactError("a file is not valid JSON", where=where, found=str(error)) from error
    version = raw.get("schema_version", 1) if isinstance(raw, dict) else 1
    if isinstance(version, int) and version > kind.newest_schema:
        raise NewerSchemaError(
            "a file was made by a newer autoseg",
            where=where,
            found=f"schema_version {version}",
            allowed=f"up to {kind.newest_schema}",
            hint="upgrade autoseg, or make the workspace again with this version",
        )
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise explain(error, kind, where) from error


def explain(error: msgspec.ValidationError, kind: type[msgspec.Struct], where: str) -> ArtifactError:
    """Turn msgspec's complaint into ours, naming the key and the nearest known one."""
    text = str(error)
    unknown = re.search(r"unknown field `([^`]+)`", text)
    if unknown is None:
        return ArtifactError("a file holds a value that is not allowed", where=where, found=text)
    key = unknown.group(1)
    path = re.search(r"at `\$\.?([^`]*)`", text)
    full = ".".join(part for part in (path.group(1) if path else "", key) if part)
    close = nearest(key, field_names(kind))
    return ArtifactError(
        f"unknown key {full!r}",
        where=where,
        hint=f"did you mean {close!r}?" if close else "remove it",
    )


def field_names(kind: Any) -> set[str]:  # noqa: ANN401 - any annotation may be asked
    """Every key that may stand in a record of this type, at any depth."""
    names: set[str] = set()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            names |= {field.encode_name} | field_names(field.type)
    for part in get_args(kind):
        names |= field_names(part)
    return names


def write(path: Path, artifact: Artifact) -> None:
    """Write `artifact` to `path` whole or not at all."""
    data = encode(artifact)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def set_aside(path: Path) -> Path:
    """Rename a file that is about to be made anew, so that what a person changed in it is kept.

    Returns
    -------
    Path
        ``plan.previous.json`` for plan.json, or ``plan.previous-2.json`` and so on where that is taken.
    """
    number = 1
    while (kept := path.with_name(f"{path.stem}.previous{'' if number == 1 else f'-{number}'}{path.suffix}")).exists():
        number += 1
    return path.rename(kept)


def read(path: Path, kind: type[A]) -> A:
    """Read the artifact at `path`.

    Raises
    ------
    ArtifactError
        The file is missing, or not a valid record of this kind.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError("a file can't be read", where=str(path), found=str(error.strerror)) from error
    return decode(data, kind, where=str(path))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file that another program wrote.

    Raises
    ------
    DatasetError
        The file can't be read, or holds no object.
    """
    content = read_any_json(path)
    if not isinstance(content, dict):
        raise DatasetError(
            "a JSON file holds no object", where=str(path), found=type(content).__name__, allowed="{...}"
        )
    return content


def read_any_json(path: Path) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """What a JSON file of another program holds, object or not.

    Raises
    ------
    DatasetError
        The file can't be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        # Half a character, which JSON lets one write, is no text.
        json.dumps(content, ensure_ascii=False).encode()
    except (OSError, ValueError) as error:
        raise DatasetError(
            "a JSON file can't be read", where=str(path), found=str(error), hint="check the path and the file"
        ) from error
    return content


def read_if_whole(path: Path, kind: type[A]) -> A | None:
    """The artifact at `path`, or None where it is missing or damaged and may be made anew.

    Raises
    ------
    NewerSchemaError
        A newer autoseg wrote it.
    """
    try:
        return read(path, kind)
    except NewerSchemaError:
        raise
    except ArtifactError:
        return None


def digest(*parts: bytes | str | Record) -> str:
    """SHA-256 over the parts in order, as 64 hexadecimal digits."""
    sha = hashlib.sha256()
    for part in parts:
        data = (
            part.encode() if isinstance(part, str) else part if isinstance(part, bytes) else msgspec.json.encode(part)
        )
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return sha.hexdigest()
