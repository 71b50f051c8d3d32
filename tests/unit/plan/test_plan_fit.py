"""Batches, then patches, become smaller until a training step fits."""

from math import prod

import pytest
from msgspec.structs import replace

from autoseg.errors import SettingError
from autoseg.plan.fit import fit
from autoseg.plan.presets import PRESETS

PLAIN = PRESETS["plain"]
HALVED = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))


def by_voxels(configuration):
    """A scale on which each voxel of a batch weighs a byte."""
    return prod(configuration.patch_size) * configuration.batch_size, True


@pytest.fixture
def planned(build_configuration):
    return build_configuration((64, 64, 64), HALVED, batch_size=40)


def fitted(configuration, limit):
    return fit(configuration, num_labels=2, preset=PLAIN, measure=by_voxels, limit_bytes=limit)


def test_what_fits_stays_as_it_was(planned):
    made = fitted(planned, 40 * 64**3)
    assert made.configuration == planned
    assert len(made.tries) == 1


@pytest.mark.parametrize("allowed", range(2, 40))
def test_the_batch_becomes_smaller_first(planned, allowed):
    made = fitted(planned, allowed * 64**3)
    assert made.configuration.patch_size == (64, 64, 64)
    assert allowed - max(1, allowed // 16) < made.configuration.batch_size <= allowed
    assert len(made.tries) <= 8


def test_below_a_batch_of_two_the_patch_shrinks(planned):
    made = fitted(planned, 64**3)
    assert made.configuration.batch_size == 2
    assert by_voxels(made.configuration)[0] <= 64**3 < by_voxels(planned)[0]
    assert all(
        edge % divisor == 0
        for edge, divisor in zip(made.configuration.patch_size, made.configuration.divisors, strict=True)
    )
    before, last = made.tries[-2:]
    assert before.needed_bytes > 64**3 >= last.needed_bytes
    # One more halving stops where the patch is too small for it.
    assert made.configuration.n_stages == len(made.configuration.features_per_stage)


def test_where_nothing_fits_it_is_said(planned):
    with pytest.raises(SettingError, match="no patch fits the memory") as error:
        fitted(planned, 1)
    assert "GiB" in str(error.value)


@pytest.mark.parametrize("capacity", [3, 50, 190, 275])
def test_where_failing_says_nothing_of_the_size_the_gap_is_halved(planned, capacity):
    def out_of_memory(configuration):
        fits = configuration.batch_size <= capacity
        return (10 * configuration.batch_size, True) if fits else (10 * 277 + 1, False)

    made = fit(
        replace(planned, batch_size=277), num_labels=2, preset=PLAIN, measure=out_of_memory, limit_bytes=10 * 277
    )
    assert capacity - max(1, capacity // 16) <= made.configuration.batch_size <= capacity
    assert len(made.tries) <= 12
