"""Makes scans that no intensity threshold can segment: random generator -> image and label map, or a dataset folder.

The scans look like an anisotropic abdominal MRI: a body with a bright rim, a wall, a spine and a vessel, loops of
bowel, two organs and a lesion. Every intensity of an organ occurs outside the organs as well, and more often, so the
classes differ by place, size, shape, texture and neighbourhood alone.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

ORGAN_A, ORGAN_B, LESION = 1, 2, 3
LABELS = {"background": 0, "organ_a": ORGAN_A, "organ_b": ORGAN_B, "lesion": LESION}
CHANNEL_NAME = "MRI"
SPACING_MM = (4.0, 1.5, 1.5)

# Signal of each tissue in arbitrary units. Organs share theirs with the wall, the lesion its own with rim and spine.
DARK, SOFT, PALE, TISSUE, BRIGHT = 110.0, 240.0, 345.0, 450.0, 630.0
NOISE = 13.0

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Points(NamedTuple):
    """Coordinates of every voxel in the undeformed body, in mm from its centre."""

    z: Floats
    y: Floats
    x: Floats


class Anatomy(NamedTuple):
    """Where the tissues of one case lie."""

    signal: Floats
    label: NDArray[np.uint8]
    texture: Floats


def make_phantom(
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.uint8], tuple[float, float, float]]:
    """Make one random scan with its segmentation.

    Parameters
    ----------
    rng : numpy.random.Generator
        The only source of randomness.

    Returns
    -------
    image_zyx : ndarray of float32, shape (Z, Y, X)
        Signal in arbitrary units, about 0 to 900; Z is 15 to 19, Y and X are 48 to 56.
    label_zyx : ndarray of uint8, shape (Z, Y, X)
        0 background, 1 organ_a (the larger one), 2 organ_b, 3 lesion (inside organ_a); each one present.
    spacing_mm : tuple of float, length 3
        Along Z, Y, X.

    Examples
    --------
    >>> image, label, spacing_mm = make_phantom(np.random.default_rng(0))
    >>> np.unique(label).tolist(), spacing_mm
    ([0, 1, 2, 3], (4.0, 1.5, 1.5))
    """
    shape = (int(rng.integers(15, 20)), int(rng.integers(48, 57)), int(rng.integers(48, 57)))
    anatomy = _draw_anatomy(rng, _deformed_points(rng, shape), shape)
    # Voxels at a border hold two tissues; slices are thick, so less of the blur crosses them.
    signal = gaussian_filter(anatomy.signal, sigma=(0.3, 0.6, 0.6)) * anatomy.texture
    bias = np.exp(_smooth_field(rng, shape, num_knots=3, deviation=0.10))
    signal *= bias * np.exp(rng.uniform(-0.15, 0.15))
    # The magnitude of a complex signal, as an MRI scanner reconstructs it: air is dim noise, never below zero.
    image = np.hypot(signal + rng.normal(0, NOISE, shape), rng.normal(0, NOISE, shape))
    return image.astype(np.float32), anatomy.label, SPACING_MM


def write_phantoms(folder: Path, *, num_training: int, num_test: int, seed: int) -> None:
    """Write a dataset of phantoms in nnU-Net's layout.

    Makes ``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz``, the same in ``imagesTs`` and ``labelsTs``, and
    ``dataset.json``. A case depends on `seed` and its own number only, so a larger dataset contains the smaller one.

    Parameters
    ----------
    folder : Path
        Made if missing; files of the same names are overwritten.
    num_training, num_test : int
        Cases in each part.
    seed : int
        Not negative.
    """
    for part, (suffix, num_cases) in enumerate((("Tr", num_training), ("Ts", num_test))):
        for number in range(num_cases):
            rng = np.random.default_rng((seed, part, number))
            image_zyx, label_zyx, spacing_mm = make_phantom(rng)
            origin_mm = tuple(float(value) for value in rng.uniform(-90, -30, 3).round(2))
            name = f"phantom_{'test_' if part else ''}{number:03d}"
            image_path = folder / f"images{suffix}" / f"{name}_0000.nii.gz"
            label_path = folder / f"labels{suffix}" / f"{name}.nii.gz"
            _write_volume(image_path, image_zyx.round().astype(np.int16), spacing_mm, origin_mm)
            _write_volume(label_path, label_zyx, spacing_mm, origin_mm)
    description = {
        "name": "Phantoms",
        "channel_names": {"0": CHANNEL_NAME},
        "labels": LABELS,
        "numTraining": num_training,
        "file_ending": ".nii.gz",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def _write_volume(
    path: Path, array_zyx: NDArray[np.integer], spacing_mm: tuple[float, ...], origin_mm: tuple[float, ...]
) -> None:
    """Write one array; ITK counts axes the other way round."""
    import SimpleITK  # only writing needs it, so that making phantoms loads no image library

    path.parent.mkdir(parents=True, exist_ok=True)
    volume: Any = SimpleITK.GetImageFromArray(array_zyx)
    volume.SetSpacing(spacing_mm[::-1])
    volume.SetOrigin(origin_mm)
    SimpleITK.WriteImage(volume, str(path), useCompression=True)


def _deformed_points(rng: np.random.Generator, shape: tuple[int, int, int]) -> Points:
    """Voxel coordinates after a small rotation and a smooth random displacement."""
    z, y, x = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, SPACING_MM, strict=True)), indexing="ij"
    )
    angle = rng.uniform(-0.15, 0.15)
    turned_y = np.cos(angle) * y - np.sin(angle) * x
    turned_x = np.sin(angle) * y + np.cos(angle) * x
    return Points(
        z + _smooth_field(rng, shape, num_knots=4, deviation=2.0),
        turned_y + _smooth_field(rng, shape, num_knots=5, deviation=1.6),
        turned_x + _smooth_field(rng, shape, num_knots=5, deviation=1.6),
    )


def _smooth_field(rng: np.random.Generator, shape: tuple[int, int, int], *, num_knots: int, deviation: float) -> Floats:
    """A cubic spline through random knots, `num_knots` of them along each axis."""
    values: Floats = rng.normal(0, deviation, (num_knots,) * 3)
    # Splines are separable: one small matrix for each axis, applied to the first axis, which then moves to the end.
    for num_voxels in shape:
        places = np.linspace(0, num_knots - 1, num_voxels)
        matrix = np.stack([map_coordinates(unit, [places], order=3, mode="nearest") for unit in np.eye(num_knots)])
        values = np.tensordot(values, matrix, axes=(0, 0))
    return values


def _ellipsoid(points: Points, centre_mm: Floats, radii_mm: Floats) -> Floats:
    """0 in the centre, 1 on the surface, growing outwards."""
    parts = (((p - c) / r) ** 2 for p, c, r in zip(points, centre_mm, radii_mm, strict=True))
    return np.asarray(np.sqrt(sum(parts)), dtype=np.float64)


def _draw_anatomy(rng: np.random.Generator, points: Points, shape: tuple[int, int, int]) -> Anatomy:
    """Paint the body from the outside inwards."""
    half_mm = np.array([shape[axis] * SPACING_MM[axis] / 2 for axis in range(3)])
    scale = half_mm * np.array([1.0, rng.uniform(0.86, 0.92), rng.uniform(0.90, 0.95)])

    depth = (np.abs(points.y / scale[1]) ** 2.4 + np.abs(points.x / scale[2]) ** 2.4) ** (1 / 2.4)
    wall_outside, wall_inside = rng.uniform(0.90, 0.93), rng.uniform(0.78, 0.81)
    signal = np.select([depth < wall_inside, depth < wall_outside, depth < 1], [SOFT, TISSUE, BRIGHT], 0.0)
    signal[depth < wall_inside] *= 1 + 0.08 * rng.normal()

    organ_a, centre_a, radii_a = _draw_organ_a(rng, points, scale)
    centre_b = np.array([rng.uniform(-6, 6), *(scale[1:] * (0.20, 0.43) + rng.uniform(-1.5, 1.5, 2))])
    radii_b = np.array([rng.uniform(17, 21), *(scale[1:] * (rng.uniform(0.27, 0.32), rng.uniform(0.20, 0.24)))])
    organ_b = _ellipsoid(points, centre_b, radii_b)

    # A dark gap stays around both organs, so that what looks like them can always be told from them.
    clear = (organ_a > 1.2) & (organ_b > 1.35) & (depth < wall_inside - 0.05)
    _draw_spine(rng, points, scale, signal)
    _draw_bowel(rng, points, scale, signal, clear)

    label = np.zeros(shape, np.uint8)
    label[organ_a < 1] = ORGAN_A
    label[organ_b < 1] = ORGAN_B
    signal[label == ORGAN_A] = TISSUE
    signal[label == ORGAN_B] = PALE
    _draw_vessels(rng, points, centre_a, radii_a, signal, label == ORGAN_A)

    radii = np.array([rng.uniform(9.0, 12.0), *rng.uniform(6.3, 8.5, 2)])
    reach = np.maximum(radii_a * 0.9 - radii, 0)
    centre = centre_a + reach * rng.uniform(-0.7, 0.7, 3)
    lesion = (_ellipsoid(points, centre, radii) < 1) & (label == ORGAN_A)
    label[lesion] = LESION
    signal[lesion] = BRIGHT

    texture = np.ones(shape)
    for value, amount, sigma in ((ORGAN_A, 0.07, (0.4, 0.9, 0.9)), (ORGAN_B, 0.10, (0.6, 1.6, 1.6))):
        grain = gaussian_filter(rng.normal(0, 1, shape), sigma)
        texture += np.where(label == value, amount * grain / grain.std(), 0)
    return Anatomy(signal, label, texture)


def _draw_organ_a(rng: np.random.Generator, points: Points, scale: Floats) -> tuple[Floats, Floats, Floats]:
    """A large body with a lobe, as an implicit function that is below 1 inside; centre and radii of the body."""
    centre = np.array([rng.uniform(-5, 5), *(scale[1:] * (-0.08, -0.36) + rng.uniform(-1, 1, 2))])
    radii = np.array([rng.uniform(21, 27), *(scale[1:] * (rng.uniform(0.42, 0.48), rng.uniform(0.34, 0.39)))])
    lobe_centre = centre + np.array([rng.uniform(-6, 6), -0.18 * scale[1], 0.36 * scale[2]])
    lobe_radii = np.array([rng.uniform(12, 17), *(scale[1:] * (0.20, 0.30) * rng.uniform(0.85, 1.1, 2))])
    body, lobe = _ellipsoid(points, centre, radii), _ellipsoid(points, lobe_centre, lobe_radii)
    # A smooth minimum joins the two without a crease.
    return -np.logaddexp(-8 * body, -8 * lobe) / 8, centre, radii


def _draw_spine(rng: np.random.Generator, points: Points, scale: Floats, signal: Floats) -> None:
    """A bright column with a dark canal behind it and a bright vessel in front, through all slices."""
    beside = rng.uniform(-1, 1)
    for behind, radius, value in ((0.56, rng.uniform(0.15, 0.18), BRIGHT), (0.78, 0.07, DARK), (0.30, 0.075, BRIGHT)):
        distance = np.hypot(points.y - behind * scale[1], points.x - beside)
        signal[distance < radius * scale[1]] = value


def _draw_bowel(rng: np.random.Generator, points: Points, scale: Floats, signal: Floats, clear: Mask) -> None:
    """Blobs as bright as the organs, some of them filled with what is as bright as the lesion."""
    for filled in (False, True, False, True, False):
        place = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.6, 0.3), rng.uniform(-0.1, 0.6)]) * scale
        radii = rng.uniform((6.0, 3.5, 3.5), (12.0, 6.0, 6.0))
        distance = _ellipsoid(points, place, radii)
        signal[(distance < 1) & clear] = TISSUE
        if filled:
            signal[(distance < 0.6) & clear] = BRIGHT


def _draw_vessels(
    rng: np.random.Generator, points: Points, centre_mm: Floats, radii_mm: Floats, signal: Floats, organ: Mask
) -> None:
    """Thin dark branches from the middle of organ_a to its surface."""
    where = np.stack(points, axis=-1) - centre_mm
    for _ in range(4):
        tip = rng.normal(0, 1, 3)
        tip *= radii_mm / np.linalg.norm(tip)
        along = np.clip(where @ tip / (tip @ tip), 0, 1)
        distance = np.linalg.norm(where - along[..., None] * tip, axis=-1)
        signal[(distance < 1.4 * (1.2 - 0.6 * along)) & organ] = SOFT
