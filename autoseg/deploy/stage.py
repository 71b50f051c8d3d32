"""Trained folds -> a folder that predicts without autoseg: ONNX files, model.json, predict.py."""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Protocol

from autoseg import __version__
from autoseg.artifacts.base import atomic_path, check_writable, read_if_whole, write
from autoseg.artifacts.model import TrainedModel
from autoseg.artifacts.onnx_model import OnnxFold, OnnxModel
from autoseg.artifacts.plan import Configuration
from autoseg.datasets.pairing import stem
from autoseg.errors import ArtifactError, SettingError
from autoseg.images.endings import KINDS, file_ending
from autoseg.networks.onnx_graph import largest_difference, to_onnx
from autoseg.networks.unet import UNet

log = logging.getLogger(__name__)
RECORD, PROGRAM = "model.json", "predict.py"
# Rounding gives 1e-4 or so where logits reach 70.
LARGEST_DIFFERENCE = 1e-2


class Fold(Protocol):
    """A trained fold, loaded."""

    @property
    def manifest(self) -> TrainedModel:
        """What it was trained from and how."""

    @property
    def network(self) -> UNet:
        """With its weights."""

    @property
    def weights_sha256(self) -> str:
        """Of the file with these."""


def run(folds: Sequence[Fold], out: Path) -> OnnxModel:
    """Write folds as ONNX, with all that is needed to predict with them.

    Parameters
    ----------
    folds : sequence of Fold
        Of one configuration, checked to fit together.
    out : Path
        A new folder, or one that this function wrote, which is replaced; written whole or not at all.

    Raises
    ------
    SettingError
        The folder holds something else; the configuration needs another one's prediction; a package is missing.
    ArtifactError
        The folder can't be written, or onnxruntime computes something else than torch.
    """
    first = folds[0].manifest
    if first.configuration.previous_stage:
        raise SettingError(
            "the second stage of a cascade can't be written as ONNX yet",
            where="--configuration",
            found=first.configuration_name,
            hint=f"export {first.configuration.previous_stage} or 3d_fullres",
        )
    _check_free(out)
    check_writable(out.parent)
    _warn_of_pictures(first)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _replaced(out) as folder:
        written = tuple(_write_fold(fold, folder) for fold in folds)
        record = record_of(first, written)
        write(folder / RECORD, record)
        with atomic_path(folder / PROGRAM) as temporary:
            temporary.write_bytes(Path(__file__).with_name("onnx_predictor.py").read_bytes())
    return record


def record_of(manifest: TrainedModel, folds: tuple[OnnxFold, ...]) -> OnnxModel:
    """What the predictor has to know of a model, from a fold's manifest."""
    plan, configuration = manifest.plan, manifest.configuration
    return OnnxModel(
        autoseg_version=__version__,
        configuration_name=manifest.configuration_name,
        folds=folds,
        num_classes=plan.num_classes,
        channel_names=plan.channel_names,
        # A letter in front, because a bare ending alone would be a hidden file's name.
        image_suffixes=tuple(stem(f"x{suffix}")[1:] for suffix in manifest.naming.image_suffixes),
        labels=plan.labels,
        regions_class_order=plan.regions_class_order,
        file_values=manifest.file_values,
        transpose_forward=plan.transpose_forward,
        spacing=configuration.spacing,
        patch_size=configuration.patch_size,
        mirror_axes=configuration.mirror_axes if plan.prediction.mirroring else (),
        step=plan.prediction.step,
        normalization_schemes=configuration.normalization_schemes,
        use_mask_for_norm=configuration.use_mask_for_norm,
        intensities=plan.intensities,
        resampling=configuration.resampling,
    )


def shapes_to_compare(configuration: Configuration, num_channels: int) -> list[tuple[int, ...]]:
    """A patch, a batch of two of the smallest cubes that the graph takes, and one whose edges differ."""
    n = configuration.divisors
    return [
        (1, num_channels, *configuration.patch_size),
        (2, num_channels, *(2 * edge for edge in n)),
        (1, num_channels, *((2 + axis) * edge for axis, edge in enumerate(n))),
    ]


def _write_fold(fold: Fold, folder: Path) -> OnnxFold:
    """One fold's network, compared with torch before it is written."""
    manifest = fold.manifest
    graph = to_onnx(fold.network)
    shapes = shapes_to_compare(manifest.configuration, manifest.plan.num_inputs(manifest.configuration))
    difference = largest_difference(fold.network, graph, shapes)
    file = f"fold_{manifest.fold}.onnx"
    if not difference < LARGEST_DIFFERENCE:
        raise ArtifactError(
            "onnxruntime computes something else than torch",
            where=f"fold {manifest.fold}",
            found=f"logits that differ by {difference:.3g}",
            allowed=f"less than {LARGEST_DIFFERENCE:g}",
            hint="try other versions of onnxscript and onnxruntime",
        )
    log.info("fold %d: logits differ from torch's by %.2g at most", manifest.fold, difference)
    with atomic_path(folder / file) as temporary:
        temporary.write_bytes(graph)
    return OnnxFold(
        fold=manifest.fold,
        file=file,
        sha256=hashlib.sha256(graph).hexdigest(),
        weights_sha256=fold.weights_sha256,
        largest_difference=difference,
    )


def _check_free(out: Path) -> None:
    """Refuse a folder in which something would be lost.

    Raises
    ------
    SettingError
        It holds more than an earlier export.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise SettingError("ONNX is written into a folder, and this is a file", where=str(out))
    names = {entry.name for entry in out.iterdir()}
    earlier = read_if_whole(out / RECORD, OnnxModel)
    ours = {RECORD, PROGRAM, "__pycache__", *(fold.file for fold in earlier.folds)} if earlier else set()
    if foreign := sorted(names - ours):
        raise SettingError(
            "a folder holds something else than an earlier export",
            where=str(out),
            found=", ".join(foreign[:3]),
            hint="name a new folder",
        )


def _warn_of_pictures(manifest: TrainedModel) -> None:
    """Say what predict.py can't read of a dataset's files; arrays it takes whatever they come from."""
    endings = {(file_ending(f"x{suffix}") or "").lower() for suffix in manifest.naming.image_suffixes}
    if any(KINDS.get(ending) != "volume" for ending in endings):
        log.warning(
            "predict.py reads volumes (NIfTI, NRRD, MetaImage, GIPL), not %s: use its class OnnxPredictor on arrays",
            ", ".join(sorted(endings)),
        )


@contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`, which takes its place at the end, or is removed where something fails.

    Raises
    ------
    SettingError
        As `_check_free`, which is asked again at the end: exporting takes a while.
    ArtifactError
        The folder can't be put in place; what was there is there again.
    """
    temporary = Path(mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    # What mkdtemp makes is private; what lies in it has the usual permissions.
    folder, earlier = temporary / "new", temporary / "earlier"
    folder.mkdir()
    try:
        yield folder
        _check_free(out)
        _swap(folder, out, earlier)
    except OSError as error:
        hint = f"the earlier export lies in {earlier}" if earlier.exists() and not out.exists() else None
        raise ArtifactError("a folder can't be written", where=str(out), found=error.strerror, hint=hint) from error
    finally:
        if out.exists() or not earlier.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(folder: Path, out: Path, earlier: Path) -> None:
    """Put a folder in the place of `out`, and that into `earlier`; all or nothing."""
    try:
        if out.exists():
            out.rename(earlier)
        folder.rename(out)
    except BaseException:
        if earlier.exists() and not out.exists():
            earlier.rename(out)
        raise
