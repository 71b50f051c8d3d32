"""Memory of a training step: predicted from the plan, and measured by doing one.

usage: step_memory.py [--device cpu] [--most-gib N]

Goes through plans of `plans/` and residual presets, in float32 and mixed precision, leaving out what is predicted to
take more than `--most-gib`. Prints a table in Markdown, and as the last line a JSON object with the largest error of
the prediction in percent.
"""

import argparse
import json
from pathlib import Path

import torch

from autoseg import __version__
from autoseg.artifacts.base import read
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.model import StepStyle
from autoseg.networks.cost import training_step_memory
from autoseg.plan.decide import Wishes, make_plan
from autoseg.train.measure import measure_step

PLANS = Path(__file__).parents[2] / "plans"
# Set, configuration, preset, memory target in GB.
NETWORKS = (
    ("hippocampus", "3d_fullres", "plain", 8),
    ("hippocampus", "2d", "plain", 4),
    ("hippocampus", "3d_fullres", "resenc-m", 1),
    ("sts_pet", "3d_fullres", "plain", 8),
    ("sts_multi", "3d_fullres", "plain", 4),
    ("sts_multi", "2d", "resenc-m", 4),
    ("cardiac_cine_mr", "3d_fullres", "plain", 4),
    ("cardiac_cine_mr", "3d_fullres", "resenc-m", 4),
    ("prostate_mr", "3d_fullres", "plain", 4),
    ("wbc1", "2d", "plain", 8),
    ("brain_mr_regions", "3d_fullres", "plain", 3),
    ("whole_body_ct_105_classes", "3d_fullres", "plain", 3),
    ("liver_ct", "3d_lowres", "plain", 3),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--most-gib", type=float, default=12.0)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    on_cpu = device.type == "cpu"
    print(
        "| plan | configuration | preset, target | patch | batch | precision | predicted, GiB | measured, GiB | error |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    errors = []
    for name, configuration_name, preset, gigabytes in NETWORKS:
        fingerprint = read(PLANS / name / "fingerprint.json", Fingerprint)
        plan = make_plan(fingerprint, Wishes(preset=preset, gpu_memory_gb=gigabytes))
        configuration = plan.configurations[configuration_name]
        channels, classes = plan.num_inputs(configuration), plan.num_classes
        for style in (
            StepStyle(precision="float32"),
            StepStyle(precision="bfloat16"),
            StepStyle(precision="bfloat16", sample_by_sample=True, channels_last=True),
        ):
            if style.sample_by_sample and not on_cpu:
                continue
            predicted = training_step_memory(
                configuration, channels, classes, style, on_cpu=on_cpu, whole_loss=configuration.batch_dice
            ).peak_bytes
            if predicted > arguments.most_gib * 2**30:
                continue
            measured = measure_step(configuration, channels, classes, style, device)
            errors.append(100 * (predicted / measured - 1))
            patch = " x ".join(str(edge) for edge in configuration.patch_size)
            how = f"{style.precision}{', sample by sample' if style.sample_by_sample else ''}"
            what = f"{name} | {configuration_name} | {preset}, {gigabytes} GB | {patch}"
            sizes = f"{predicted / 2**30:.3f} | {measured / 2**30:.3f} | {errors[-1]:+.1f} %"
            print(f"| {what} | {configuration.batch_size} | {how} | {sizes} |", flush=True)
    result = {
        "benchmark": "step_memory",
        "device": str(device),
        "steps": len(errors),
        "largest_error_percent": round(max(errors, key=abs), 1),
        "mean_absolute_error_percent": round(sum(map(abs, errors)) / len(errors), 1),
        "versions": {"autoseg": __version__, "torch": torch.__version__},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
