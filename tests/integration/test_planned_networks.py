"""The network of every preset and configuration trains a step from the plan alone."""

from typing import get_args

import pytest
import torch

from autoseg.artifacts.plan import PresetName
from autoseg.networks.unet import build_network
from autoseg.plan.decide import Wishes, make_plan
from autoseg.train.losses import Objective, deep_loss, level_weights

LABELS = {"background": 0, "a": 1, "b": 2}


# The larger ones have some hundred million weights, however small the patch.
SHORT = ("plain", "resenc-m")


@pytest.mark.parametrize(
    "preset",
    [preset if preset in SHORT else pytest.param(preset, marks=pytest.mark.long) for preset in get_args(PresetName)],
)
def test_every_configuration_trains(preset, build_dataset, build_fingerprint):
    # Little memory, so that patches stay small and a low resolution is needed.
    fingerprint = build_fingerprint(
        build_dataset(labels=LABELS, num_cases=20), shapes=((20, 96, 96),), spacing_mm=(3.0, 1.0, 1.0)
    )
    gigabytes = {"resenc-l": 0.1, "resenc-xl": 0.1}.get(preset, 0.05)
    plan = make_plan(fingerprint, Wishes(preset=preset, gpu_memory_gb=gigabytes))
    assert set(plan.configurations) == {"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"}
    for name, configuration in plan.configurations.items():
        torch.manual_seed(0)
        network = build_network(configuration, plan.num_inputs(configuration), plan.num_classes)
        image = torch.randn(1, plan.num_inputs(configuration), *configuration.patch_size)
        target = torch.randint(plan.num_classes, (1, *configuration.patch_size))
        weights = level_weights(len(network.heads))
        levels = network.deep_logits(image, len(weights))
        for logits, halved in zip(levels, configuration.strides, strict=False):
            assert logits.shape[1] == 3
            assert len(halved) == logits.ndim - 2
        assert levels[0].shape[2:] == configuration.patch_size
        deep_loss(levels, target, weights, Objective(configuration.batch_dice)).backward()
        unused = {
            id(parameter)
            for head in network.heads[: len(network.heads) - len(weights)]
            for parameter in head.parameters()
        }
        for parameter in network.parameters():
            assert (parameter.grad is None) == (id(parameter) in unused), name
            assert parameter.grad is None or parameter.grad.isfinite().all()
