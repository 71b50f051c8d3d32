"""`--preset auto`: plain for small images and small sets, else the largest that the memory allows."""

import pytest

from autoseg.plan.automatic import advise
from autoseg.plan.configurations import target_grid
from autoseg.plan.decide import Wishes, decide, make_plan
from autoseg.plan.presets import PRESETS


def advice(shape, cases, gigabytes, spacing=(1.0, 1.0, 1.0)):
    grid = target_grid([spacing] * 5, [shape] * 5)
    return advise(grid, num_cases=cases, num_labels=3, gpu_memory_gb=gigabytes)


@pytest.mark.parametrize(
    ("gigabytes", "name"), [(8, "resenc-m"), (23, "resenc-m"), (24, "resenc-l"), (80, "resenc-xl")]
)
def test_many_large_images_get_what_the_memory_allows(gigabytes, name):
    assert advice((400, 512, 512), 300, gigabytes).name == name


@pytest.mark.parametrize(
    ("shape", "cases", "gigabytes", "because"),
    [
        ((36, 50, 35), 260, 40, "images that fit a patch"),
        ((400, 512, 512), 99, 40, "fewer than 100 cases"),
        ((400, 512, 512), 300, 7, "8 GB or more"),
        ((1, 120, 120), 300, 40, "images that fit a patch"),
    ],
)
def test_otherwise_plain_and_it_is_said_why(shape, cases, gigabytes, because):
    given = advice(shape, cases, gigabytes)
    assert given.name == "plain"
    assert any(because in reason for reason in given.rejected)


def test_the_cap_stays(build_dataset, build_fingerprint):
    # A little larger than a patch in the plane alone, of which memory would allow many slices.
    fingerprint = build_fingerprint(build_dataset(num_cases=100), shapes=((9, 1000, 1000),), spacing_mm=(9.0, 1.0, 1.0))
    own = make_plan(fingerprint, Wishes(preset="resenc-xl", gpu_memory_gb=4000.0)).configurations["2d"]
    capped = advise(target_grid([(9.0, 1.0, 1.0)], [(9, 1000, 1000)]), num_cases=100, num_labels=2, gpu_memory_gb=40)
    assert capped.name == "resenc-xl"
    assert capped.preset.dataset_share == 0.05 < PRESETS["resenc-xl"].dataset_share
    chosen = make_plan(fingerprint, Wishes(preset="auto", gpu_memory_gb=40.0))
    assert (chosen.preset, chosen.preset_was_chosen) == ("resenc-xl", True)
    # With the cap of the preset itself the whole dataset may be one batch.
    edges = own.patch_size
    assert own.batch_size * edges[0] * edges[1] > 0.5 * 9 * 1000 * 1000 * 100
    wide = decide(fingerprint, Wishes(preset="auto", gpu_memory_gb=4000.0)).plan
    assert wide.preset == "resenc-xl"
    held = wide.configurations["2d"]
    assert held.batch_size * held.patch_size[0] * held.patch_size[1] <= 0.051 * 9 * 1000 * 1000 * 100


def test_a_preset_named_is_no_advice(build_dataset, build_fingerprint):
    decisions = decide(build_fingerprint(build_dataset()))
    assert decisions.advice is None
    assert not decisions.plan.preset_was_chosen
