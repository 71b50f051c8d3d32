"""Volumes made by a program: computed tomography of bodies, and coarse slices of varying spacing. Seeds are fixed."""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own name for itself
from numpy.typing import NDArray

AIR_HU, NOISE_HU = -1000, 12
# Name, brightness in HU, centre and half axes relative to the body's (z, y, x).
ORGANS = (
    ("liver", 110, (0.1, -0.1, -0.35), (0.35, 0.55, 0.45)),
    ("spleen", 125, (0.15, 0.25, 0.6), (0.2, 0.3, 0.2)),
    ("kidney", 190, (-0.15, 0.4, 0.35), (0.2, 0.2, 0.16)),
    ("lesion", 60, (0.12, -0.15, -0.4), (0.06, 0.1, 0.09)),
)
LUNGS = (((0.75, -0.05, -0.42), (0.3, 0.6, 0.32)), ((0.75, -0.05, 0.42), (0.3, 0.6, 0.32)))


def write_ct(folder: Path, cases: int) -> None:
    """A dataset in nnU-Net's layout: int16 volumes of 512x512x(80-200) voxels at 0.7x0.7x(1-5) mm, four labels."""
    for number in range(cases):
        share = number / max(1, cases - 1)
        slices, thickness_mm = round(200 - 120 * share), round(1 + 4 * share, 2)
        image, label = body(number, (slices, 512, 512))
        _write_case(folder, f"ct_{number:03d}", image, label, (thickness_mm, 0.7, 0.7))
    _write_description(folder, "CT", [name for name, *_ in ORGANS], cases)


def body(seed: int, shape: tuple[int, int, int]) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """An elliptic trunk in air with lungs, a spine and four organs; noise everywhere."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1.25 : 1.25 : shape[1] * 1j, -1.1 : 1.1 : shape[2] * 1j]
    plane = np.where(y**2 + x**2 < 1, 40.0, AIR_HU)
    plane[(y - 0.6) ** 2 + x**2 < 0.02] = 350  # the spine
    image = np.repeat(plane.astype(np.float32), shape[0], axis=0)
    label = np.zeros(shape, np.uint8)

    def inside(centre: tuple[float, ...], radii: tuple[float, ...]) -> NDArray[np.bool_]:
        moved = [c + d for c, d in zip(centre, rng.uniform(-0.05, 0.05, 3), strict=True)]
        scale = rng.uniform(0.85, 1.15)
        parts = [((axis - c) / (r * scale)) ** 2 for axis, c, r in zip((z, y, x), moved, radii, strict=True)]
        return (parts[0] + parts[1] + parts[2]) < 1

    for centre, radii in LUNGS:
        image[inside(centre, radii)] = -850
    for value, (_, brightness, centre, radii) in enumerate(ORGANS, start=1):
        mask = inside(centre, radii)
        image[mask] = brightness + rng.uniform(-15, 15)
        label[mask] = value
    for plane in image:
        plane += rng.standard_normal(plane.shape, dtype=np.float32) * NOISE_HU
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16), label


def write_slices(folder: Path, cases: int) -> None:
    """A dataset in nnU-Net's layout: magnetic resonance of 20 thick slices, about 6x0.8x0.8 mm, three labels."""
    for number in range(cases):
        rng = np.random.default_rng(100 + number)
        shape = tuple(int(n + rng.integers(-8, 9) // (9 if axis == 0 else 1)) for axis, n in enumerate((20, 200, 220)))
        edge_mm = round(float(rng.uniform(0.7, 0.9)), 3)
        thickness_mm = round(float(rng.uniform(5, 7)), 2)
        image, label = body(100 + number, shape)
        label[label == 4] = 1  # the lesion is part of the liver
        _write_case(folder, f"mr_{number:03d}", image, label, (thickness_mm, edge_mm, edge_mm))
    _write_description(folder, "MRI", [name for name, *_ in ORGANS[:3]], cases)


def _write_case(
    folder: Path, name: str, image: NDArray[np.int16], label: NDArray[np.uint8], spacing_mm: tuple[float, float, float]
) -> None:
    for array, file in ((image, f"imagesTr/{name}_0000.nii.gz"), (label, f"labelsTr/{name}.nii.gz")):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing(spacing_mm[::-1])
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(volume, str(folder / file), useCompression=True, compressionLevel=4)


def _write_description(folder: Path, channel: str, names: list[str], cases: int) -> None:
    description = {
        "channel_names": {"0": channel},
        "labels": {"background": 0} | {name: value for value, name in enumerate(names, start=1)},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1))
