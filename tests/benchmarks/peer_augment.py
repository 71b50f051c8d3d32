"""Runs in nnU-Net's environment: its training transforms on one patch after the other, with one thread.

usage: peer_augment.py TASK.json RESULT.npz

The task has patch, edges (of the region that patches are cut from), channels, samples, and which: names, "recipe" for
all of nnU-Net's transforms, or a class that is made to happen always. The result has for each name the seconds of all
samples together and figures of each; and what SpatialTransform turned and scaled by.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

sys.path.insert(0, str(Path(__file__).parent))
from augment_figures import figures, source

NUM_SOURCES = 4
WARM_UP = 3


def chosen(task, which):
    """The transforms of the recipe, or one of them."""
    patch = tuple(task["patch"])
    limit = np.radians(task["degrees"])
    recipe = nnUNetTrainer.get_training_transforms(
        patch, (-limit, limit), None, tuple(range(len(patch))), False, use_mask_for_norm=[False] * task["channels"]
    )
    if which == "recipe":
        return [recipe]
    spatial = recipe.transforms[0]
    for transform in recipe.transforms:
        inner = transform.transform if isinstance(transform, RandomTransform) else transform
        inverted = bool(getattr(inner, "p_invert_image", 0))
        if type(inner).__name__ + ("Inverted" if inverted else "") == which:
            spatial.p_rotation = spatial.p_scaling = float(inner is spatial)
            return [spatial] if inner is spatial else [spatial, inner]
    raise SystemExit(f"nnU-Net's recipe has no {which}")


def transformed(steps, sources, samples):
    """Seconds of all samples, and figures of each."""
    seconds, values = 0.0, []
    for number in range(samples + WARM_UP):
        image, label = sources[number % NUM_SOURCES]
        # A loader reads a fresh region each time.
        data = {"image": torch.from_numpy(image.copy()), "segmentation": torch.from_numpy(label[None].copy())}
        start = time.perf_counter()
        for step in steps:
            data = step(**data)
        if number >= WARM_UP:
            seconds += time.perf_counter() - start
            values.append(figures(data["image"].numpy()))
    return seconds, np.array(values)


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    np.random.seed(task["seed"])  # noqa: NPY002 - its transforms draw from it
    torch.manual_seed(task["seed"])
    sources = [source(task["edges"], task["channels"], seed) for seed in range(NUM_SOURCES)]
    result = {}
    for which in task["which"]:
        steps = chosen(task, which)
        result[f"{which} seconds"], result[which] = transformed(steps, sources, task["samples"])
        if isinstance(steps[0], SpatialTransform) and len(steps) == 1:
            image = torch.from_numpy(sources[0][0])
            result["affines"] = np.array([steps[0].get_parameters(image=image)["affine"] for _ in range(4000)])
    np.savez(sys.argv[2], **result)


if __name__ == "__main__":
    main()
