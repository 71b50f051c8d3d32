"""Memory and time of making a label map from the logits of many classes.

usage: export_memory.py [--classes N] [--grid Z Y X] [--original Z Y X] [--folder DIR]

Logits of half precision lie in a memory-mapped file on the network's grid and are brought to the original grid, where
the largest wins: what `autoseg predict` does at the end of each case. The last line is a JSON object: `peak_gib` is the
most anonymous memory of the process (pages of the file are the kernel's, which may drop them), `seconds` the time from
opening the file to the label map. `agreement` is the share of voxels with the same label as by resizing everything at
once, on a case of an eighth of the edges.
"""

import argparse
import json
import math
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from autoseg import __version__
from autoseg.artifacts.base import read
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.plan import Plan
from autoseg.artifacts.preprocessed import Placement
from autoseg.transforms.chain import restore_labels
from autoseg.transforms.resample import resize

PLAN = Path(__file__).parents[2] / "plans" / "liver_ct" / "plan.json"
CONFIGURATION = "3d_fullres"
SAMPLE_S = 0.02
SMALLER = 8
Shape = tuple[int, int, int]


class AnonymousPeak:
    """The most anonymous memory of this process while the block lasts, in bytes; Linux only."""

    def __enter__(self) -> "AnonymousPeak":
        self.bytes, self._ended = 0, threading.Event()
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._sampler.join()

    def _sample(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            now = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
            self.bytes = max(self.bytes, 1024 * now)
            if self._ended.wait(SAMPLE_S):
                return


def write_logits(file: Path, classes: int, grid: Shape) -> None:
    """Smooth random logits, so that regions of many classes meet, class by class."""
    rng = np.random.default_rng(0)
    coarse = [max(2, n // 16) for n in grid]
    logits = np.lib.format.open_memmap(file, "w+", np.float16, (classes, *grid))
    for number in range(classes):
        logits[number] = resize(4 * rng.standard_normal((1, *coarse), dtype=np.float32), grid, 1, 1, None)[0]
    logits.flush()


def placed(plan: Plan, grid: Shape, original: Shape) -> Placement:
    """The whole of a file whose grid is as much finer as it has more voxels."""
    spacing = plan.configurations[CONFIGURATION].spacing
    fine = tuple(edge * n / m for edge, n, m in zip(spacing, grid, original, strict=True))
    geometry = Geometry(shape=original, spacing_mm=fine)
    return Placement(geometry=geometry, crop_start=(0, 0, 0), crop_stop=original, shape=grid)


def labels_at_once(logits: NDArray[np.float16], original: Shape) -> NDArray[np.integer]:
    """The same with all classes on the original grid."""
    return resize(logits.astype(np.float32), original, 1, 1, None).argmax(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=105)
    parser.add_argument("--grid", type=int, nargs=3, default=(250, 260, 260))
    parser.add_argument("--original", type=int, nargs=3, default=(300, 512, 512))
    parser.add_argument("--folder", type=Path, default=None, help="For the file; it takes classes x grid x 2 bytes.")
    arguments = parser.parse_args()
    grid, original = _triple(arguments.grid), _triple(arguments.original)
    names = ("background", *(f"class {number}" for number in range(1, arguments.classes)))
    plan = replace(read(PLAN, Plan), labels={name: number for number, name in enumerate(names)})
    configuration = plan.configurations[CONFIGURATION]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        file = Path(folder) / "small.npy"
        small, small_original = (_triple([n // SMALLER for n in shape]) for shape in (grid, original))
        write_logits(file, arguments.classes, small)
        logits = np.load(file, mmap_mode="r")
        ours = restore_labels(logits, placed(plan, small, small_original), plan, configuration)
        agreement = float(np.mean(ours == labels_at_once(logits, small_original)))
        file = Path(folder) / "logits.npy"
        write_logits(file, arguments.classes, grid)
        with AnonymousPeak() as peak:
            start = time.perf_counter()
            label = restore_labels(np.load(file, mmap_mode="r"), placed(plan, grid, original), plan, configuration)
            seconds = time.perf_counter() - start
    result = {
        "benchmark": "export_memory",
        "classes": arguments.classes,
        "grid": grid,
        "original": original,
        "labels_found": len(np.unique(label)),
        "file_gib": round(arguments.classes * math.prod(grid) * 2 / 2**30, 2),
        "peak_gib": round(peak.bytes / 2**30, 3),
        "seconds": round(seconds, 1),
        "agreement": agreement,
        "versions": {"autoseg": __version__, "numpy": np.__version__},
    }
    print(json.dumps(result))


def _triple(values: Sequence[int]) -> Shape:
    a, b, c = values
    return a, b, c


if __name__ == "__main__":
    main()
