"""A trained fold where it is stored: in a folder of its own, or in a bundle."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from autoseg.artifacts.base import read
from autoseg.artifacts.bundle import BundledFold, read_bundle, read_weights
from autoseg.artifacts.model import TrainedModel
from autoseg.errors import ArtifactError
from autoseg.layout import FoldFolder


@dataclass(frozen=True, slots=True)
class StoredFold:
    """A finished fold.

    Attributes
    ----------
    path : Path
        Of its folder; in a bundle, as if that were a folder.
    manifest : TrainedModel
    weights_sha256 : str
        Of the file with the weights.
    """

    path: Path
    manifest: TrainedModel
    weights_sha256: str

    def content(self) -> bytes:
        """The file with the weights.

        Raises
        ------
        ArtifactError
            It can't be read, or is not the one whose hash is known: replaced meanwhile, damaged, or forged.
        """
        archive = bundle_of(self.path)
        file = FoldFolder(self.path).weights
        if archive is None:
            try:
                content = file.read_bytes()
            except OSError as error:
                raise ArtifactError("weights can't be read", where=str(file), found=str(error)) from error
        else:
            content = read_weights(archive, file.relative_to(archive).as_posix())
        found = hashlib.sha256(content).hexdigest()
        if found != self.weights_sha256:
            raise ArtifactError(
                "weights are not those that stand on record",
                where=str(file),
                found=f"SHA-256 {found}",
                allowed=self.weights_sha256,
                hint="was the fold trained anew meanwhile? Else copy the file again from where it was made",
            )
        return content

    def weights(self) -> dict[str, Tensor]:
        """The weights, by the names of `UNet`.

        Raises
        ------
        ArtifactError
            As `content`; or they are no safetensors.
        """
        try:
            return load(self.content())
        except SafetensorError as error:
            where = str(FoldFolder(self.path).weights)
            raise ArtifactError("weights can't be read", where=where, found=str(error)) from error


def finished_manifest(folder: FoldFolder) -> TrainedModel | None:
    """The record of a fold that was trained to its end; None where it was not.

    Raises
    ------
    ArtifactError
        The record can't be read.
    """
    if not (folder.manifest.exists() and folder.weights.exists()):
        return None
    manifest = read(folder.manifest, TrainedModel)
    return manifest if manifest.finished else None


def fold_at(path: Path) -> StoredFold:
    """The fold at a path such as `StoredFold` gives.

    Raises
    ------
    ArtifactError
        Its files can't be read.
    """
    archive = bundle_of(path)
    if archive is not None:
        bundled = _bundled(archive, path)
        return StoredFold(path, bundled.manifest, bundled.weights_sha256)
    folder = FoldFolder(path)
    manifest = read(folder.manifest, TrainedModel)
    try:
        with folder.weights.open("rb") as file:
            return StoredFold(path, manifest, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise ArtifactError("weights can't be read", where=str(folder.weights), found=error.strerror) from error


def folds_in_bundle(bundle: Path) -> dict[int, Path]:
    """Paths of a bundle's folds, by their numbers.

    Raises
    ------
    ArtifactError
        It is no bundle.
    """
    return {fold.manifest.fold: (bundle / fold.file).parent for fold in read_bundle(bundle).folds}


def previous_in_bundle(bundle: Path) -> dict[int, Path]:
    """Likewise those of a cascade's first stage, where the folds are of the second."""
    return {fold.manifest.fold: (bundle / fold.file).parent for fold in read_bundle(bundle).previous}


def bundle_of(path: Path) -> Path | None:
    """The bundle that a fold's path leads into."""
    return next((parent for parent in path.parents if parent.is_file()), None)


def _bundled(bundle: Path, path: Path) -> BundledFold:
    record = read_bundle(bundle)
    for fold in (*record.folds, *record.previous):
        if (bundle / fold.file).parent == path:
            return fold
    raise ArtifactError("a fold is gone from its bundle", where=str(path))
