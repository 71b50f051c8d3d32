"""`--preset auto`: plain for small images and small sets, else the largest that the memory allows."""

import pytest

from autoseg.plan.automatic import advise
from autoseg.plan.configurations import target_grid
from autoseg.plan.decide import Wishes, decide, make_plan


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
    # Images a little larger than a patch, which resenc-m fills with as many as fit.
    dataset = build_dataset(num_cases=100)
    fingerprint = build_fingerprint(dataset, shapes=((20, 200, 200),))
    own = make_plan(fingerprint, Wishes(preset="resenc-m", gpu_memory_gb=16)).configurations["2d"]
    chosen = make_plan(fingerprint, Wishes(preset="auto", gpu_memory_gb=16))
    assert chosen.preset_was_chosen
    voxels = 20 * 200 * 200 * 100
    for configuration in chosen.configurations.values():
        size = configuration.batch_size
        edges = configuration.patch_size
        held = size * edges[0] * edges[1] * (edges[2] if len(edges) == 3 else 1)
        assert size == 2 or held <= 0.051 * voxels
    assert own.batch_size >= chosen.configurations["2d"].batch_size


def test_a_preset_named_is_no_advice(build_dataset, build_fingerprint):
    decisions = decide(build_fingerprint(build_dataset()))
    assert decisions.advice is None
    assert not decisions.plan.preset_was_chosen
