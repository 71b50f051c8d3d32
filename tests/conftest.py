"""What several tests share: options, and builders of small valid records."""

from math import prod
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.artifacts.base import write
from autoseg.artifacts.dataset import Case, Dataset, Naming
from autoseg.artifacts.fingerprint import CaseMeasure, Fingerprint, IntensityStatistics
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.plan import Configuration, Plan, Resampling
from autoseg.evaluate import stage as evaluation
from autoseg.images.io import write_label
from autoseg.layout import Workspace

ORACLE = Path(__file__).parents[2] / "shared" / "oracle" / "golden.jsonl"


def pytest_addoption(parser):
    parser.addoption(
        "--oracle", metavar="PATH", type=Path, default=ORACLE, help="Recorded plans to be reproduced (golden.jsonl)."
    )


def _configuration(patch_size=(8, 8, 8), strides=((1, 1, 1), (2, 2, 2)), *, channels=1, **changes):
    d, stages = len(patch_size), len(strides)
    fields = {
        "spacing": (1.0,) * d,
        "median_image_size_in_voxels": tuple(float(edge) for edge in patch_size),
        "patch_size": tuple(patch_size),
        "batch_size": 2,
        "strides": tuple(tuple(stride) for stride in strides),
        "kernel_sizes": ((3,) * d,) * stages,
        "features_per_stage": tuple(4 * 2**stage for stage in range(stages)),
        "n_stages": stages,
        "n_conv_per_stage": (2,) * stages,
        "n_conv_per_stage_decoder": (2,) * (stages - 1),
        "batch_dice": False,
        "normalization_schemes": ("zscore",) * channels,
        "use_mask_for_norm": (False,) * channels,
        "mirror_axes": tuple(range(d)),
        "resampling": Resampling(),
        "memory_proxy": float(prod(patch_size)),
    }
    return Configuration(**{**fields, **changes})


def _plan(configurations=None, *, channels=("MR",), labels=None, **changes):
    fields = {
        "inputs_sha256": "0",
        "gpu_memory_gb": 8.0,
        "channel_names": tuple(channels),
        "labels": labels or {"background": 0, "blob": 1},
        "transpose_forward": (0, 1, 2),
        "transpose_backward": (0, 1, 2),
        "original_median_spacing": (1.0, 1.0, 1.0),
        "original_median_shape": (8.0, 8.0, 8.0),
        "intensities": (_STATISTICS,) * len(channels),
        "configurations": configurations or {"3d_fullres": _configuration(channels=len(channels))},
    }
    return Plan(**{**fields, **changes})


_STATISTICS = IntensityStatistics(
    mean=1.0, median=1.0, std=2.0, min=-3.0, max=9.0, percentile_00_5=-2.0, percentile_99_5=8.0
)


def _dataset(root="/raw", *, num_cases=6, labels=None, num_training=None):
    return Dataset(
        root=str(root),
        channel_names=("MR",),
        labels=labels or {"background": 0, "blob": 1},
        naming=Naming(image_suffixes=("_0000.nii.gz",), label_suffix=".nii.gz"),
        cases=tuple(
            Case(name=f"case_{i}", images=(f"case_{i}_0000.nii.gz",), label=f"case_{i}.nii.gz")
            for i in range(num_cases)
        ),
        num_training=num_training or num_cases,
    )


def _fingerprint(dataset, shapes=((36, 50, 35),), spacing_mm=(1.0, 1.0, 1.0), **geometry):
    """Cases of the given shapes in turn."""
    measures = []
    for i, case in enumerate(dataset.cases):
        shape = shapes[i % len(shapes)]
        grid = Geometry(shape=shape, spacing_mm=spacing_mm, **geometry)
        measures.append(CaseMeasure(name=case.name, geometry=grid, shape_after_crop=shape))
    return Fingerprint(
        inputs_sha256="0",
        channel_names=dataset.channel_names,
        labels=dict(dataset.labels),
        num_training=dataset.num_training,
        cases=tuple(measures),
        median_relative_size_after_cropping=1.0,
        intensities=(_STATISTICS,) * len(dataset.channel_names),
    )


@pytest.fixture(scope="session")
def build_configuration():
    """Callable: a small valid configuration, with any field changed."""
    return _configuration


@pytest.fixture(scope="session")
def build_plan():
    """Callable: a small valid plan, with any field changed."""
    return _plan


@pytest.fixture(scope="session")
def build_dataset():
    """Callable: a description of cases that need not exist."""
    return _dataset


@pytest.fixture(scope="session")
def build_fingerprint():
    """Callable: the fingerprint of a dataset, with shapes and spacing as asked."""
    return _fingerprint


@pytest.fixture(scope="session")
def phantom():
    """Callable: a noisy image (1, Z, Y, X) with a bright box, and the box as label."""

    def make(shape=(12, 12, 12), seed=0):
        rng = np.random.default_rng(seed)
        label = np.zeros(shape, np.int16)
        label[tuple(slice(n // 4, n // 4 + max(1, n // 2)) for n in shape)] = 1
        image = rng.standard_normal(shape, dtype=np.float32) * 0.3 + label * 2
        return image[None].astype(np.float32), label

    return make


def _write_dicom(
    folder,
    array_zyx,
    *,
    spacing_mm=(2.5, 0.75, 0.5),
    origin_mm=(-12.5, 30.25, 7.0),
    direction=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    rescale=(1, 0),
    uid="1.2.3",
    number=3,
    description="Thorax 1.0 B31f",
    name="{:03d}.dcm",
    keep=lambda k: True,
    change=lambda k: {},
):
    """Write slices as DICOM files whose names say nothing about their order.

    Values are true ones: the writer itself applies the inverse of slope and intercept. `change` gives tags that
    replace those of slice k; a column of `direction` is the direction of an axis (x, y, z).
    """
    folder.mkdir(parents=True, exist_ok=True)
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    direction = np.asarray(direction, float)
    shuffled = np.random.default_rng(1).permutation(len(array_zyx))
    for k, plane in enumerate(array_zyx):
        image = SimpleITK.GetImageFromArray(plane, isVector=plane.ndim == 3)
        image.SetSpacing(spacing_mm[:0:-1])
        place = origin_mm + direction[:, 2] * spacing_mm[0] * k
        tags = {
            "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
            "0008|0018": f"{uid}.{k + 1}",
            "0008|0060": "CT",
            "0008|103e": description,
            "0018|0050": "1",
            "0020|000d": "1.2",
            "0020|000e": uid,
            "0020|0011": str(number),
            "0020|0032": "\\".join(f"{value:.6f}" for value in place),
            "0020|0037": "\\".join(f"{value:.8f}" for value in direction[:, :2].T.ravel()),
            "0028|0100": "16",
            "0028|0101": "16",
            "0028|0102": "15",
            "0028|0103": "1",
            "0028|1052": str(rescale[1]),
            "0028|1053": str(rescale[0]),
        } | change(k)
        for key, value in tags.items():
            image.SetMetaData(key, value)
        if keep(k):
            writer.SetFileName(str(folder / name.format(shuffled[k])))
            writer.Execute(image)
    return folder


@pytest.fixture(scope="session")
def write_dicom():
    """Callable: write a volume as a DICOM series, whole or wrong in some way."""
    return _write_dicom


@pytest.fixture
def one_thread():
    """Sums in one order, whatever the machine, and one workspace in oneDNN; threads would only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def scored_workspace(tmp_path):
    """Three cases with two channels and two labels, two folds scored; predictions are references, shifted."""
    grid = Geometry(shape=(6, 10, 12), spacing_mm=(3.0, 1.0, 0.5), origin_mm=(5.0, -7.0, 11.0))
    raw = tmp_path / "raw"
    space = Workspace(tmp_path / "workspace")
    rng = np.random.default_rng(1)
    cases = []
    for name, shift in {"good": 0, "fair": 1, "bad": 3}.items():
        label = np.zeros(grid.shape, np.uint8)
        label[2:4, 2:6, 3:6] = 1
        label[2:4, 2:6, 6:9] = 2
        for channel in range(2):
            write_label(raw / f"{name}_000{channel}.nrrd", rng.integers(0, 200, grid.shape, np.uint16), grid)
        write_label(raw / f"{name}.nii.gz", label, grid)
        fold = space.fold("3d_fullres", 0 if name == "good" else 1)
        write_label(fold.validation / f"{name}.nii.gz", np.roll(label, shift, axis=2), grid)
        images = tuple(f"{name}_000{channel}.nrrd" for channel in range(2))
        cases.append(Case(name=name, images=images, label=f"{name}.nii.gz"))
    dataset = Dataset(
        root=str(raw),
        channel_names=("T1", "T2"),
        labels={"background": 0, "left": 1, "right": 2},
        naming=Naming(image_suffixes=("_0000.nrrd", "_0001.nrrd"), label_suffix=".nii.gz"),
        cases=tuple(sorted(cases, key=lambda case: case.name)),
        num_training=3,
    )
    write(space.dataset, dataset)
    for number, names in enumerate((["good"], ["fair", "bad"])):
        fold = space.fold("3d_fullres", number)
        predicted = {name: fold.validation / f"{name}.nii.gz" for name in names}
        reference = {name: raw / f"{name}.nii.gz" for name in names}
        evaluation.run(predicted, reference, dataset.labels, fold.evaluation)
    return space
