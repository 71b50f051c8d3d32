"""One file that predicts anywhere: an archive of trained folds' manifests and weights, in which nothing is code."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from autoseg.artifacts.base import Artifact, Record, atomic_path, decode, encode
from autoseg.artifacts.model import TrainedModel
from autoseg.artifacts.selection import Decoding, Rule
from autoseg.errors import ArtifactError

RECORD = "bundle.json"
# Dates would make two exports of the same folds differ.
EPOCH = (1980, 1, 1, 0, 0, 0)
MOST_SHOWN = 3
# What zipfile raises for archives that are damaged, or made to be.
UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile)


class BundledFold(Record, frozen=True, kw_only=True):
    """One fold's model.

    Attributes
    ----------
    weights_sha256 : str
        Of the file with its weights.
    manifest : TrainedModel
        As it stood beside the weights.
    """

    weights_sha256: str
    manifest: TrainedModel

    @property
    def file(self) -> str:
        """Name of the weights in the archive."""
        return f"{self.manifest.configuration_name}/fold_{self.manifest.fold}/weights.safetensors"


class Bundle(Artifact, frozen=True, kw_only=True):
    """bundle.json: the folds whose mean predicts.

    Attributes
    ----------
    folds : tuple of BundledFold
        At least one.
    source : str
        Where the weights come from, for people.
    previous : tuple of BundledFold
        Where the folds are of the second stage of a cascade: those of the first.
    decoding, rules
        As `Selection` has them, where the folds were selected.
    """

    folds: tuple[BundledFold, ...]
    source: str
    previous: tuple[BundledFold, ...] = ()
    decoding: Decoding = "argmax"
    rules: tuple[Rule, ...] = ()


def write_bundle(
    out: Path,
    models: Sequence[tuple[TrainedModel, bytes]],
    *,
    source: str,
    previous: Sequence[tuple[TrainedModel, bytes]] = (),
    decoding: Decoding = "argmax",
    rules: tuple[Rule, ...] = (),
) -> Bundle:
    """Write folds into one file, whole or not at all.

    Parameters
    ----------
    out : Path
        Replaced if it is there.
    models : sequence of (TrainedModel, bytes)
        Of each fold the manifest and its weights as safetensors; finished folds of one configuration, each once.
    source : str
        Where they come from, for people.
    previous : sequence of (TrainedModel, bytes)
        The first stage of a cascade, where the models are the second.
    decoding, rules
        As `Bundle` has them.

    Returns
    -------
    Bundle

    Raises
    ------
    ArtifactError
        The file can't be written.
    """
    folds, before = (
        tuple(
            BundledFold(weights_sha256=hashlib.sha256(weights).hexdigest(), manifest=manifest)
            for manifest, weights in stage
        )
        for stage in (models, previous)
    )
    bundle = Bundle(folds=folds, source=source, previous=before, decoding=decoding, rules=rules)
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(RECORD, EPOCH), encode(bundle))
        for fold, (_, weights) in zip((*folds, *before), (*models, *previous), strict=True):
            archive.writestr(zipfile.ZipInfo(fold.file, EPOCH), weights)
    return bundle


def read_bundle(path: Path) -> Bundle:
    """What a bundle holds; its weights are not looked at yet.

    Raises
    ------
    ArtifactError
        The file is missing, no archive, or not one that autoseg wrote.
    """
    with _opened(path) as archive:
        return _record(archive, path)


def read_weights(path: Path, file: str) -> bytes:
    """A fold's weights as safetensors; whether they are those that the record names is not looked at.

    Raises
    ------
    ArtifactError
        As `read_bundle`; or there is no such file in it.
    """
    with _opened(path) as archive:
        _record(archive, path)
        return _content(archive, file, path)


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except UNREADABLE as error:
        raise ArtifactError(
            "a bundle can't be read",
            where=str(path),
            found=str(error),
            hint="autoseg export writes one",
        ) from error


def _record(archive: zipfile.ZipFile, path: Path) -> Bundle:
    """The bundle's record, once nothing in the archive can do harm and everything in it is named."""
    _check_entries(archive.infolist(), path)
    names = {info.filename for info in archive.infolist()}
    if RECORD not in names:
        raise ArtifactError(
            "an archive is no bundle",
            where=str(path),
            found=", ".join(sorted(names)[:MOST_SHOWN]) or "nothing in it",
            allowed=f"an archive with {RECORD}",
            hint="autoseg export writes one",
        )
    where = f"{path}, {RECORD}"
    bundle = decode(_content(archive, RECORD, path), Bundle, where=where)
    for stage in (bundle.folds, bundle.previous):
        _check_folds([fold.manifest for fold in stage], where)
    _check_stages(bundle, where)
    expected = {RECORD, *(fold.file for fold in (*bundle.folds, *bundle.previous))}
    if not bundle.folds or names != expected:
        foreign, missing = sorted(names - expected), sorted(expected - names)
        raise ArtifactError(
            "a bundle does not hold what its record names",
            where=str(path),
            found="; ".join(
                f"{word}: {', '.join(some[:MOST_SHOWN])}"
                for word, some in (("too much", foreign), ("missing", missing))
                if some
            )
            or "no folds",
            allowed=f"{RECORD} and the weights it names",
            hint="export it again",
        )
    return bundle


def _check_folds(manifests: Sequence[TrainedModel], where: str) -> None:
    """Refuse a record whose folds no export put together.

    Raises
    ------
    ArtifactError
        A fold is there twice, or not finished, or of another configuration than the others.
    """
    numbers = [manifest.fold for manifest in manifests]
    names = {manifest.configuration_name for manifest in manifests}
    for fault, is_so in (
        ("a fold is there twice", len(set(numbers)) < len(numbers)),
        ("folds are of several configurations", len(names) > 1),
        (
            "a fold's configuration is not in its plan",
            any(manifest.configuration_name not in manifest.plan.configurations for manifest in manifests),
        ),
        ("a fold's training is not finished", not all(manifest.finished for manifest in manifests)),
    ):
        if is_so:
            raise ArtifactError(
                "a bundle's record contradicts itself",
                where=where,
                found=f"{fault}: {', '.join(sorted(names))}, folds {', '.join(map(str, numbers))}",
                hint="export it again",
            )


def _check_stages(bundle: Bundle, where: str) -> None:
    """Refuse the second stage of a cascade without its first, and a first stage that is another's or has its own.

    Raises
    ------
    ArtifactError
        The bundle is such.
    """
    wanted, deeper = (
        {fold.manifest.configuration.previous_stage for fold in stage} for stage in (bundle.folds, bundle.previous)
    )
    there = {fold.manifest.configuration_name for fold in bundle.previous}
    names, expected, before = (
        ", ".join(sorted(name or "none" for name in stages)) or "none" for stages in (there, wanted, deeper)
    )
    for found, allowed, is_so in (
        (f"folds with different previous stages: {expected}", "the same for all", len(wanted) > 1),
        (f"previous stage: {names}", expected, there != wanted - {None}),
        (f"previous stage of the previous stage: {before}", "none", not deeper <= {None}),
    ):
        if is_so:
            raise ArtifactError(
                "a bundle's record contradicts itself",
                where=where,
                found=found,
                allowed=allowed,
                hint="export it again",
            )


def _check_entries(entries: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Refuse names that lead out of the archive, and entries that are larger than the file.

    Raises
    ------
    ArtifactError
        There are such.
    """
    for entry in entries:
        name = PurePosixPath(entry.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in entry.filename or ":" in entry.filename:
            raise ArtifactError(
                "an archive names a file outside of it",
                where=str(path),
                found=entry.filename,
                hint="it was not made by autoseg export: do not open it",
            )
        # Weights hardly shrink, and what is stored as it is can't grow.
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ArtifactError(
                "a bundle's files are stored as they are; this one's are compressed or encrypted",
                where=f"{path}, {entry.filename}",
                found=f"{entry.compress_size} bytes that say they become {entry.file_size}",
                hint="it was not made by autoseg export: do not open it",
            )
    names = [entry.filename for entry in entries]
    total = sum(entry.file_size for entry in entries)
    if len(set(names)) < len(names) or total > path.stat().st_size:
        raise ArtifactError(
            "an archive holds the same file twice, or more than its size allows",
            where=str(path),
            found=f"{len(names)} files of {total} bytes in {path.stat().st_size}",
            hint="it was not made by autoseg export: do not open it",
        )


def _content(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        return archive.read(name)
    except (KeyError, *UNREADABLE) as error:
        raise ArtifactError("a bundle is damaged", where=f"{path}, {name}", found=str(error)) from error
