"""The memory that is predicted for a training step is the memory that one takes."""

import subprocess
import sys

import pytest
import torch

from autoseg.artifacts.model import StepStyle
from autoseg.networks.cost import training_step_memory
from autoseg.networks.unet import build_network
from autoseg.train.measure import measure_step, step_bytes

HALVED_3D, HALVED_2D = (2, 2, 2), (2, 2)
FULL = StepStyle(precision="float32")
MIXED = StepStyle(precision="bfloat16")
APART = StepStyle(precision="bfloat16", sample_by_sample=True, channels_last=True)
# patch, strides after the first, channels, classes, further fields
NETWORKS = {
    "cube": ((40, 40, 40), (HALVED_3D,) * 3, 1, 3, {}),
    "large batch": ((24, 32, 24), (HALVED_3D,) * 2, 1, 2, {"batch_size": 7}),
    "thick slices": (
        (8, 64, 64),
        ((1, 2, 2), (1, 2, 2), HALVED_3D),
        1,
        4,
        {"kernel_sizes": ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))},
    ),
    "four channels": ((32, 32, 32), (HALVED_3D,) * 3, 4, 4, {}),
    "many labels": ((24, 32, 32), (HALVED_3D,) * 2, 1, 100, {}),
    "batch Dice": ((32, 32, 32), (HALVED_3D,) * 3, 1, 3, {"batch_dice": True}),
    "batch Dice, many labels": ((16, 24, 24), (HALVED_3D,), 1, 30, {"batch_dice": True, "batch_size": 5}),
    "batch Dice slices": ((64, 64), (HALVED_2D,) * 3, 1, 3, {"batch_dice": True, "batch_size": 6}),
    "slices": ((128, 96), (HALVED_2D,) * 4, 3, 3, {"batch_size": 6}),
    "residual": ((32, 40, 32), (HALVED_3D,) * 3, 1, 3, {"residual": True}),
    "residual, thick slices": ((8, 48, 48), ((1, 2, 2), HALVED_3D), 2, 3, {"residual": True}),
    "residual slices": ((96, 96), (HALVED_2D,) * 4, 1, 2, {"residual": True, "batch_size": 4}),
    "batch norm": ((24, 24, 24), (HALVED_3D,) * 2, 1, 3, {"norm": "batch"}),
    "layer norm slices": ((64, 64), (HALVED_2D,) * 3, 1, 2, {"norm": "layer", "batch_size": 4}),
    "scse": ((24, 32, 24), (HALVED_3D,) * 2, 1, 3, {"attention": "scse"}),
    "residual, se": ((24, 24, 24), (HALVED_3D,), 1, 3, {"attention": "se", "residual": True}),
    "residual slices, scse": ((64, 64), (HALVED_2D,) * 2, 1, 3, {"attention": "scse", "residual": True}),
    "finest head alone": ((24, 24, 24), (HALVED_3D,) * 2, 1, 30, {"deep_supervision": False}),
    "two stages": ((24, 24, 24), (HALVED_3D,), 1, 2, {}),
    "one stage": ((64, 11, 64), (), 1, 2, {}),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def network(build_configuration, name):
    patch, halved, channels, classes, fields = NETWORKS[name]
    fields = dict(fields)
    strides = ((1,) * len(patch), *halved)
    stages = len(strides)
    if fields.pop("residual", False):
        fields |= {
            "n_conv_per_stage": None,
            "n_blocks_per_stage": (1, 3, 4, 6, 6)[:stages],
            "n_conv_per_stage_decoder": (1,) * (stages - 1),
        }
    features = tuple(32 * 2**stage for stage in range(stages))
    made = build_configuration(patch, strides, channels=channels, features_per_stage=features, **fields)
    return made, channels, classes


@pytest.mark.parametrize("style", [FULL, MIXED, APART], ids=lambda style: f"{style.precision}-{style.sample_by_sample}")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_prediction_is_within_15_percent(name, style, build_configuration):
    configuration, channels, classes = network(build_configuration, name)
    if style.sample_by_sample and configuration.ties_samples:
        pytest.skip("batch norm ties the samples together")
    if name == "one stage" and style != FULL:
        pytest.skip("two feature maps: what oneDNN takes for thin patches, by rules of its own, outweighs them")
    measured = measure_step(configuration, channels, classes, style, torch.device("cpu"))
    memory = training_step_memory(configuration, channels, classes, style, whole_loss=configuration.batch_dice)
    predicted = memory.peak_bytes
    assert predicted == pytest.approx(measured, rel=0.15)
    if style == FULL:
        assert predicted == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("name", ["batch Dice", "batch Dice, many labels"])
def test_a_loss_of_the_whole_batch_keeps_the_maps_of_all_samples(name, build_configuration):
    configuration, channels, classes = network(build_configuration, name)
    apart, whole = (
        training_step_memory(configuration, channels, classes, APART, whole_loss=whole_loss)
        for whole_loss in (False, True)
    )
    assert whole.parameter_bytes == apart.parameter_bytes
    # Of the rounded weights there is one copy all the same.
    most = configuration.batch_size * apart.activation_bytes
    assert most - configuration.batch_size * apart.parameter_bytes / 2 < whole.activation_bytes < most


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_counted_exactly(name, build_configuration):
    configuration, channels, classes = network(build_configuration, name)
    memory = training_step_memory(configuration, channels, classes, FULL)
    built = sum(parameter.numel() for parameter in build_network(configuration, channels, classes).parameters())
    assert memory.parameter_bytes == memory.gradient_bytes == memory.optimizer_bytes == 4 * built


def test_the_batch_is_counted(build_configuration):
    configuration = build_configuration((8, 8, 8), channels=3)
    assert training_step_memory(configuration, 3, 2, FULL).input_bytes == 2 * 512 * (3 * 4 + 8)


def test_a_step_that_can_not_fit_is_not_tried(build_configuration):
    # 4,096 cubed: 8 TiB for one feature map.
    huge = build_configuration((4096, 4096, 4096))
    bytes_needed, measured = step_bytes(huge, 1, 2, torch.device("cpu"), 2**34)
    assert not measured
    assert bytes_needed > 2**42


def test_a_step_that_fits_is_measured(build_configuration):
    configuration = build_configuration((16, 16, 16))
    bytes_needed, measured = step_bytes(configuration, 1, 2, torch.device("cpu"), 2**34)
    assert measured
    assert 2**18 < bytes_needed < 2**26


def test_predicting_does_not_load_torch():
    code = "import sys, autoseg.networks.cost; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
