"""Augmentation, ours beside nnU-Net's (batchgeneratorsv2): how fast on one thread, and whether distributions agree.

usage: augment.py --peer-python PATH [--samples N] [--rounds N] [--quick]

Speed: samples a second of the whole recipe, drawing included, for batches of three plans; ours, the peer's, and that of
our other backend (batchgenerators, in the loader). `ours`, `peer` and `ratio` are of the first plan.

Distributions, on the first plan: each transform alone and always, and the whole recipe. Of each sample moments,
percentiles and the like are taken; `ks` has for each transform the largest Kolmogorov-Smirnov statistic of any figure
between the two programs, its p-value and which figure that was, and for scale what the same test gives between two runs
of the peer (`peer_itself`). `rotation_degrees` and `scale` are of the matrices drawn.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from augment_figures import NAMES, figures, source
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from autoseg.artifacts.augmentation import Augmentation
from autoseg.machine import use_one_blas_thread
from autoseg.networks.device import keep_freed_memory
from autoseg.train.augment import augment, pack
from autoseg.train.classic import farthest_edges, transform
from autoseg.train.draws import draw, planes
from autoseg.train.loading import values_in

PROGRAM = Path(__file__).with_name("peer_augment.py")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
NUM_SOURCES = 4
# Of the other backend: enough for moved samples, which take most of its time, to be among them in proportion.
MOST_CLASSIC = 56
# Name, patch, channels, batch, and samples for each that are asked for.
Plan = tuple[str, tuple[int, ...], int, int, float]
PLANS: list[Plan] = [
    ("batch 7 of 40x56x40", (40, 56, 40), 1, 7, 1.0),
    ("batch 277 of 56x40", (56, 40), 1, 277, 4.0),
    ("batch 2 of 128x128x128, 4 channels", (128, 128, 128), 4, 2, 0.05),
]
# The peer's class, and what in our recipe alone does the same.
TRANSFORMS: dict[str, tuple[str, ...]] = {
    "SpatialTransform": ("rotation_probability", "scaling_probability"),
    "GaussianNoiseTransform": ("noise_probability",),
    "GaussianBlurTransform": ("blur_probability",),
    "MultiplicativeBrightnessTransform": ("brightness_probability",),
    "ContrastTransform": ("contrast_probability",),
    "SimulateLowResolutionTransform": ("low_resolution_probability",),
    "GammaTransformInverted": ("gamma_inverted_probability",),
    "GammaTransform": ("gamma_probability",),
    "MirrorTransform": (),
}
OFF = dict.fromkeys([name for name in Augmentation.__struct_fields__ if name.endswith("_probability")], 0.0)


class Sources:
    """Regions of a plan, from which patches are cut as the loader does."""

    def __init__(self, patch: tuple[int, ...], channels: int) -> None:
        self.patch, self.channels = patch, channels
        self.edges = farthest_edges(Augmentation(), patch)
        self.all = [source(self.edges, channels, seed) for seed in range(NUM_SOURCES)]

    def cut(self, number: int, edges: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """The middle of a region."""
        image, label = self.all[number % NUM_SOURCES]
        box = tuple(slice((n - e) // 2, (n - e) // 2 + e) for n, e in zip(self.edges, edges, strict=True))
        return image[(slice(None), *box)].copy(), label[box].copy()


def ours(
    sources: Sources, recipe: Augmentation, batch: int, samples: int, seed: int
) -> tuple[float, list[list[float]]]:
    """Seconds a sample, and figures of each."""
    patch, mirror = sources.patch, range(len(sources.patch))
    seconds, values = 0.0, []
    for number in range(1 + -(-samples // batch)):
        start = time.perf_counter()
        draws = draw(np.random.default_rng((seed, number)), recipe, batch, sources.channels, patch, mirror)
        cut = [sources.cut(number * batch + i, draws.source_edges(i, patch)) for i in range(batch)]
        moved = values_in([label for (_, label), there in zip(cut, draws.moved, strict=True) if there])
        packed = pack([image for image, _ in cut], [label for _, label in cut], draws, patch, moved)
        images = augment(packed, draws, patch, (False,) * sources.channels).images
        spent = time.perf_counter() - start
        if number:  # the first warms up
            seconds += spent
            values += [figures(image.numpy()) for image in images]
    return seconds / len(values), values


def classic(sources: Sources, batch: int, seed: int) -> float:
    """Seconds a sample of the other backend."""
    recipe = Augmentation(backend="batchgenerators")
    start = time.perf_counter()
    cut = [sources.cut(i, sources.edges) for i in range(batch)]
    images, labels = [image for image, _ in cut], [label for _, label in cut]
    transform(images, labels, recipe, sources.patch, range(len(sources.patch)), seed)
    return (time.perf_counter() - start) / batch


def peer(python: Path, sources: Sources, which: list[str], samples: int, seed: int) -> dict[str, NDArray[Any]]:
    """What nnU-Net's transforms give."""
    with tempfile.TemporaryDirectory() as folder:
        task, result = Path(folder) / "task.json", Path(folder) / "result.npz"
        words = {
            "patch": sources.patch,
            "edges": sources.edges,
            "channels": sources.channels,
            "degrees": planes(Augmentation(), sources.patch)[0][1],
            "which": which,
            "samples": samples,
            "seed": seed,
        }
        task.write_text(json.dumps(words))
        command = [str(python.absolute()), str(PROGRAM), str(task), str(result)]
        subprocess.run(command, check=True, env=os.environ | ONE_THREAD)
        with np.load(result) as arrays:
            return dict(arrays)


def speed(
    python: Path, plan: tuple[str, tuple[int, ...], int, int, float], samples: int, rounds: int
) -> dict[str, Any]:
    """Samples a second of each, in turn."""
    name, patch, channels, batch, share = plan
    sources = Sources(patch, channels)
    wanted = max(2 * batch, int(samples * share))
    taken: list[tuple[float, float, float]] = []
    for number in range(rounds):
        mine = ours(sources, Augmentation(), batch, wanted, number)[0]
        other = float(peer(python, sources, ["recipe"], wanted, number)["recipe seconds"]) / wanted
        taken.append((mine, other, classic(sources, min(wanted, MOST_CLASSIC), number)))
    mine, other, loader = (median(each) for each in zip(*taken, strict=True))
    case = {
        "case": name,
        "ours": round(1 / mine, 2),
        "peer": round(1 / other, 2),
        "ratio": round(other / mine, 2),
        "batchgenerators": round(1 / loader, 2),
    }
    print(case, flush=True)
    return case


def furthest(one: NDArray[np.float64], other: NDArray[np.float64]) -> dict[str, Any]:
    """The figure in which two sets of samples differ most."""
    tests = [ks_2samp(np.round(a, 4), np.round(b, 4)) for a, b in zip(one.T, other.T, strict=True)]
    worst = max(range(len(tests)), key=lambda i: tests[i].statistic)
    means = [float(each[:, worst].mean()) for each in (one, other)]
    deviations = [float(each[:, worst].std()) for each in (one, other)]
    return {
        "statistic": round(float(tests[worst].statistic), 4),
        "pvalue": round(float(tests[worst].pvalue), 4),
        "figure": NAMES[worst],
        "means": [round(value, 4) for value in means],
        "deviations": [round(value, 4) for value in deviations],
    }


def angles_and_scales(matrices: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far each matrix turns, in degrees, and scales."""
    d = matrices.shape[1]
    scales = np.linalg.det(matrices) ** (1 / d)
    cosines = (np.trace(matrices, axis1=1, axis2=2) / scales - (d - 2)) / 2
    return np.degrees(np.arccos(np.clip(cosines, -1, 1))), scales


def distributions(python: Path, samples: int) -> dict[str, Any]:
    """Each transform of both programs."""
    _, patch, channels, batch, _ = PLANS[0]
    sources = Sources(patch, channels)
    # Twice as many, to hold the peer against itself.
    theirs = peer(python, sources, [*TRANSFORMS, "recipe"], 2 * samples, 21)
    results: dict[str, Any] = {}
    for which in (*TRANSFORMS, "recipe"):
        always = dict.fromkeys(TRANSFORMS.get(which, ()), 1.0)
        mirrored = {"mirror_probability": 0.5} if which == "MirrorTransform" else {}
        recipe = Augmentation() if which == "recipe" else Augmentation(**{**OFF, **always, **mirrored})
        values = np.array(ours(sources, recipe, batch, samples, 11)[1])
        one, other = theirs[which][:samples], theirs[which][samples:]
        results[which] = furthest(values, one) | {"peer_itself": furthest(other, one)["statistic"]}
        print(which, results[which], flush=True)
    moved = Augmentation(**{**OFF, **dict.fromkeys(TRANSFORMS["SpatialTransform"], 1.0)})
    drawn = draw(np.random.default_rng(11), moved, len(theirs["affines"]), channels, patch, ())
    both = zip(angles_and_scales(drawn.matrices), angles_and_scales(theirs["affines"]), strict=True)
    for title, (mine, other) in zip(("rotation_degrees", "scale"), both, strict=True):
        test = ks_2samp(mine, other)
        results[title] = {
            "statistic": round(float(test.statistic), 4),
            "pvalue": round(float(test.pvalue), 4),
            "means": [round(float(x.mean()), 3) for x in (mine, other)],
            "deviations": [round(float(x.std()), 3) for x in (mine, other)],
        }
        print(title, results[title], flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=400, help="Of each transform, for the distributions.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="Without the largest plan.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    use_one_blas_thread()
    keep_freed_memory()
    plans = PLANS[:-1] if arguments.quick else PLANS
    cases = [speed(arguments.peer_python, plan, arguments.samples // 2, arguments.rounds) for plan in plans]
    tests = distributions(arguments.peer_python, arguments.samples)
    code = "from importlib.metadata import version as v; print(v('batchgeneratorsv2'), v('nnunetv2'), v('torch'))"
    printed = subprocess.run(
        [str(arguments.peer_python.absolute()), "-c", code], check=True, capture_output=True, text=True
    )
    packages = ("autoseg", "torch", "batchgenerators")
    result = {
        "benchmark": "augment",
        "unit": "samples per second, one thread",
        "ours": cases[0]["ours"],
        "peer": cases[0]["peer"],
        "ratio": cases[0]["ratio"],
        "largest_ks": max(test["statistic"] for test in tests.values()),
        "ks": tests,
        "cases": cases,
        "samples": arguments.samples,
        "rounds": arguments.rounds,
        "versions": {package: version(package) for package in packages}
        | dict(zip(("batchgeneratorsv2", "nnunetv2", "torch_peer"), printed.stdout.split(), strict=True)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
