"""Seconds of resampling images and label maps: ours beside scikit-image and nnU-Net, one thread each, in turn.

usage: resample.py [--peer-python PATH] [--rounds N]

Images: `resize` against `skimage.transform.resize` (order 3, edge, no smoothing, clipped) on the same float32 array.
Labels, and an image whose slices lie apart: `resize_labels` and `resize` against nnU-Net's own function, which runs in
its environment; without --peer-python these are left out. Times are medians over the rounds. The last line is a JSON
object: `ratio` is how many times faster ours is in the worst case, whose seconds are `ours` and `peer`; `cases` has
them all, with the largest difference relative to the image's range, or the share of voxels whose label differs.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.transform import resize as skimage_resize

from autoseg.machine import use_one_blas_thread
from autoseg.transforms.resample import Shape, resize, resize_labels

PROGRAM = Path(__file__).with_name("peer_resample.py")
IMAGES: list[tuple[Shape, Shape]] = [((60, 256, 256), (90, 300, 310)), ((200, 512, 512), (150, 400, 400))]
LABELS: tuple[Shape, Shape] = ((100, 192, 192), (120, 230, 240))
SLICES: tuple[Shape, Shape] = ((40, 320, 320), (55, 400, 390))
# Whoever limits threads by these variables must do so before the library is loaded: for the peer alone.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def image(shape: Shape) -> NDArray[np.float32]:
    """Structures of several sizes with noise, about the range of a CT."""
    rng = np.random.default_rng(0)
    coarse = gaussian_filter(rng.standard_normal([max(1, n // 4) for n in shape], dtype=np.float32), 2)
    index = np.ix_(*(np.minimum(np.arange(n) // 4, max(1, n // 4) - 1) for n in shape))
    noise = rng.standard_normal(shape, dtype=np.float32)
    return (coarse[index] * (500 / coarse.std()) + 30 * noise).astype(np.float32)


def cells(shape: Shape, count: int) -> NDArray[np.int16]:
    """A label map without gaps: each voxel has the number of the nearest of `count` points."""
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 1, (count, 3)) * shape
    best = np.full(shape, np.inf, np.float32)
    label = np.zeros(shape, np.int16)
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    for number, point in enumerate(points):
        distance = sum((axis - centre) ** 2 for axis, centre in zip(grid, point, strict=True)).astype(np.float32)
        label[distance < best] = number
        np.minimum(best, distance, out=best)
    return label


def timed(function: Callable[[], NDArray[Any]]) -> tuple[float, NDArray[Any]]:
    """Seconds of a call, and what it gave."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def nnunet(python: Path, array: NDArray[Any], shape: Shape, axis: int | None) -> tuple[float, NDArray[Any]]:
    """Seconds and result of nnU-Net's function."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "source.npy", Path(folder) / "result.npy"
        np.save(source, array)
        words = [source, result, "none" if axis is None else axis, *shape]
        command = [str(python.absolute()), str(PROGRAM), *map(str, words)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | ONE_THREAD)
        return float(json.loads(done.stdout.splitlines()[-1])["seconds"]), np.load(result)


def compare(
    name: str,
    rounds: int,
    ours: Callable[[], NDArray[Any]],
    theirs: Callable[[], tuple[float, NDArray[Any]]],
    difference: Callable[[NDArray[Any], NDArray[Any]], float],
) -> dict[str, Any]:
    """Run both in turn."""
    mine_s, other_s, largest = [], [], 0.0
    for _ in range(rounds):
        mine, array = timed(ours)
        other, expected = theirs()
        mine_s.append(mine)
        other_s.append(other)
        largest = max(largest, difference(array, expected))
    seconds = median(mine_s), median(other_s)
    result = {
        "case": name,
        "ours": round(seconds[0], 4),
        "peer": round(seconds[1], 3),
        "ratio": round(seconds[1] / seconds[0], 1),
        "difference": largest,
    }
    print(result, flush=True)
    return result


def words(old: Shape, new: Shape) -> str:
    """The two shapes for people."""
    return f"{'x'.join(map(str, old))} -> {'x'.join(map(str, new))}"


def image_cases(rounds: int) -> list[dict[str, Any]]:
    """Beside scikit-image."""
    results = []
    for old, new in IMAGES:
        array = image(old)
        span = float(np.ptp(array))
        results.append(
            compare(
                f"image {words(old, new)}",
                rounds,
                lambda array=array, new=new: resize(array[None], new, 3, 0, None)[0],
                lambda array=array, new=new: timed(
                    lambda: skimage_resize(
                        array, new, 3, mode="edge", anti_aliasing=False, clip=True, preserve_range=True
                    )
                ),
                lambda a, b, span=span: float(np.abs(a - b).max()) / span,
            )
        )
    return results


def peer_cases(python: Path, rounds: int) -> list[dict[str, Any]]:
    """Beside nnU-Net."""
    old, new = SLICES
    array = image(old)
    span = float(np.ptp(array))
    results = [
        compare(
            f"image, slices apart, {words(old, new)}",
            rounds,
            lambda: resize(array[None], new, 3, 0, 0)[0],
            lambda: nnunet(python, array, new, 0),
            lambda a, b: float(np.abs(a - b).max()) / span,
        )
    ]
    for title, (old, new), axis in (("labels", LABELS, None), ("labels, slices apart,", SLICES, 0)):
        for count in (10, 100):
            label = cells(old, count)
            results.append(
                compare(
                    f"{count} {title} {words(old, new)}",
                    rounds,
                    lambda label=label, new=new, axis=axis: resize_labels(label, new, 1, 0, axis),
                    lambda label=label, new=new, axis=axis: nnunet(python, label, new, axis),
                    lambda a, b: float(np.mean(a != b)),
                )
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    use_one_blas_thread()
    cases = image_cases(arguments.rounds)
    if arguments.peer_python is not None:
        cases += peer_cases(arguments.peer_python, arguments.rounds)
    worst = min(cases, key=lambda case: case["ratio"])
    packages = ("autoseg", "numpy", "scipy", "scikit-image")
    result = {
        "benchmark": "resample",
        "unit": "seconds",
        "ours": worst["ours"],
        "peer": worst["peer"],
        "ratio": worst["ratio"],
        "image_ratio": min(case["ratio"] for case in cases if case["case"].startswith("image ")),
        "image_difference": max(case["difference"] for case in cases if case["case"].startswith("image")),
        "label_ratio": min((case["ratio"] for case in cases if "labels" in case["case"]), default=None),
        "label_difference": max((case["difference"] for case in cases if "labels" in case["case"]), default=None),
        "cases": cases,
        "rounds": arguments.rounds,
        "versions": {package: version(package) for package in packages},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
