"""A trained fold where it is stored: in a folder of its own, or in a bundle."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, load_file
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

    def weights(self) -> dict[str, Tensor]:
        """The weights, by the names of `UNet`.

        Raises
        ------
        ArtifactError
            They can't be read, or in a bundle are not those that were put there.
        """
        archive = bundle_of(self.path)
        file = FoldFolder(self.path).weights
        try:
            return load_file(file) if archive is None else load(read_weights(archive, _bundled(archive, self.path)))
        except (OSError, SafetensorError) as error:
            raise ArtifactError("weights can't be read", where=str(file), found=str(error)) from error


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
    with folder.weights.open("rb") as file:
        return StoredFold(path, manifest, hashlib.file_digest(file, "sha256").hexdigest())


def folds_in_bundle(bundle: Path) -> dict[int, Path]:
    """Paths of a bundle's folds, by their numbers.

    Raises
    ------
    ArtifactError
        It is no bundle.
    """
    return {fold.manifest.fold: (bundle / fold.file).parent for fold in read_bundle(bundle).folds}


def bundle_of(path: Path) -> Path | None:
    """The bundle that a fold's path leads into."""
    return next((parent for parent in path.parents if parent.is_file()), None)


def _bundled(bundle: Path, path: Path) -> BundledFold:
    for fold in read_bundle(bundle).folds:
        if (bundle / fold.file).parent == path:
            return fold
    raise ArtifactError("a fold is gone from its bundle", where=str(path))
