"""The search for patch and batch size under a memory target."""

from math import prod

import pytest

from autoseg.plan.configurations import plan_configurations, plan_geometry, target_grid
from autoseg.plan.patch import features_per_stage, memory_proxy, search
from autoseg.plan.presets import PRESETS
from autoseg.plan.topology import topology

PLAIN = PRESETS["plain"]
SPACING, SIZE = (2.5, 0.8, 0.8), (160.0, 500.0, 500.0)
LARGE = 160 * 500 * 500 * 100.0


def test_the_worked_example_of_the_rules():
    choice = search(SPACING, SIZE, LARGE, 3, PLAIN, 8.0)
    assert choice.topology.patch == (56, 192, 192)
    assert choice.memory_proxy == 555_028_992
    assert choice.batch_size == 2
    assert choice.features == (32, 64, 128, 256, 320, 320)


@pytest.mark.parametrize(
    ("patch", "proxy"), [((128, 384, 384), 5_075_011_584), ((56, 192, 192), 555_028_992)], ids=["start", "end"]
)
def test_the_memory_proxy_of_the_worked_example(patch, proxy):
    assert memory_proxy(patch, topology(patch, SPACING).strides, 3, PLAIN) == proxy


def test_the_memory_proxy_counts_each_convolution_once():
    # Two stages of 32 and 64 features on 8 x 8 and 4 x 4: encoder, decoder with its transposed one, one head.
    expected = 2 * (32 * 64 + 64 * 16) + 3 * 32 * 64 + 5 * 64
    assert memory_proxy((8, 8), ((1, 1), (2, 2)), 5, PLAIN) == expected
    # Without a decoder there is no head either.
    assert memory_proxy((8, 8), ((1, 1),), 5, PLAIN) == 2 * 32 * 64


def test_the_memory_proxy_of_a_residual_encoder():
    # Stem; one block of two convolutions, then three; a shortcut where features change; one decoder convolution.
    fine, coarse = 32 * 64, 64 * 16
    expected = fine + 2 * fine + 2 * 3 * coarse + coarse + 2 * fine + 5 * 64
    assert memory_proxy((8, 8), ((1, 1), (2, 2)), 5, PRESETS["resenc-m"]) == expected


def test_a_residual_preset_leaves_room_for_twelve_pictures():
    choice = search((1.0, 1.0), (2000.0, 2000.0), 1e12, 2, PRESETS["resenc-m"], 8.0)
    assert choice.memory_proxy <= 135e6
    assert choice.batch_size >= 12


def test_the_search_tells_its_steps():
    choice = search(SPACING, SIZE, LARGE, 3, PLAIN, 8.0)
    expected = ["128x384x384", "112x384x384", "112x384x320", "112x320x320", "96x320x320", "96x320x256", "96x256x256"]
    assert ["x".join(map(str, step.patch)) for step in choice.steps[:7]] == expected
    assert choice.steps[0].memory_proxy == 5_075_011_584
    assert choice.steps[-1].patch == choice.topology.patch
    assert all(step.memory_proxy > choice.budget for step in choice.steps[:-1])


def test_features_double_up_to_a_limit():
    assert features_per_stage(7, 3) == (32, 64, 128, 256, 320, 320, 320)
    assert features_per_stage(6, 2) == (32, 64, 128, 256, 512, 512)


@pytest.mark.parametrize("gigabytes", [4.0, 11.0, 24.0, 80.0])
def test_the_choice_keeps_to_the_memory_target(gigabytes):
    choice = search(SPACING, SIZE, LARGE, 3, PLAIN, gigabytes)
    assert choice.memory_proxy <= 560e6 * gigabytes / 8
    assert choice.batch_size >= 2


def test_more_memory_never_gives_a_smaller_patch():
    sizes = [search(SPACING, SIZE, LARGE, 3, PLAIN, gigabytes).memory_proxy for gigabytes in (2, 4, 8, 16, 32, 64)]
    assert sizes == sorted(sizes)


def test_a_small_image_is_taken_whole_and_memory_goes_to_the_batch():
    choice = search((1.0,) * 3, (32.0,) * 3, 1e12, 2, PLAIN, 8.0)
    assert choice.topology.patch == (32, 32, 32)
    assert choice.batch_size == round(560e6 / choice.memory_proxy * 2)


@pytest.mark.parametrize(("images", "batch"), [(100, 5), (50, 2), (10, 2), (70, 4)])
def test_a_batch_holds_at_most_a_twentieth_of_the_dataset_but_two_samples(images, batch):
    # 50 images: 2.5 rounds to the even 2; 70: 3.5 to 4.
    assert search((1.0,) * 3, (32.0,) * 3, images * 32.0**3, 2, PLAIN, 8.0).batch_size == batch


def test_where_axes_are_equally_long_the_last_one_shrinks():
    patch = search((1.0, 1.0), (2000.0, 2000.0), 1e12, 2, PLAIN, 8.0).topology.patch
    assert patch[0] > patch[1]


def test_in_2d_only_a_batch_of_two_has_to_fit():
    choice = search((1.0, 1.0), (2000.0, 2000.0), 1e12, 2, PLAIN, 8.0)
    assert 85e6 < choice.memory_proxy <= 6 * 85e6
    assert choice.batch_size == max(2, round(85e6 / choice.memory_proxy * 12))


def plans_of(shape, spacing=(1.0, 1.0, 1.0), cases=10):
    grid = target_grid([spacing] * cases, [shape] * cases)
    geometry = plan_geometry(grid, num_cases=cases, num_labels=2, preset=PLAIN, gpu_memory_gb=8.0)
    return plan_configurations(geometry, num_labels=2, preset=PLAIN, schemes=("ct",), use_mask=(False,), mirror=(0, 2))


def test_pictures_get_no_3d_configuration():
    assert set(plans_of((1, 500, 500), (999.0, 1.0, 1.0))) == {"2d"}


def test_large_volumes_get_a_low_resolution_and_a_cascade():
    plans = plans_of((500, 500, 500))
    assert list(plans) == ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    low, full, cascade = (plans[name] for name in list(plans)[1:])
    assert (low.next_stage, low.previous_stage, low.batch_dice) == ("3d_cascade_fullres", None, False)
    assert (cascade.previous_stage, cascade.patch_size) == ("3d_lowres", full.patch_size)
    assert low.spacing[0] > 2 ** (1 / 3)
    # At least a quarter of the image is seen there.
    assert prod(low.patch_size) / prod(low.median_image_size_in_voxels) > 0.24


def test_volumes_get_both_and_each_counts_its_own_axes():
    plans = plans_of((20, 60, 60))
    assert set(plans) == {"2d", "3d_fullres"}
    assert plans["3d_fullres"].mirror_axes == (0, 2)
    assert plans["2d"].mirror_axes == (1,)
    assert len(plans["2d"].patch_size) == 2
    assert plans["2d"].n_conv_per_stage_decoder == (2,) * (plans["2d"].n_stages - 1)


@pytest.mark.parametrize(("shape", "pooled"), [((128, 128, 128), False), ((500, 500, 500), True)])
def test_dice_is_pooled_where_a_patch_sees_little_of_the_image(shape, pooled):
    plans = plans_of(shape)
    assert plans["3d_fullres"].batch_dice is pooled
    assert plans["2d"].batch_dice is True
