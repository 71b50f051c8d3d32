"""The network that is best in a given time: the choice, the candidates, and what is measured of them."""

from math import prod

import msgspec
import pytest
from msgspec.structs import replace

from autoseg.artifacts.plan import Configuration
from autoseg.plan.budget import USUAL_STEPS, Candidate, choose, record, weigh
from autoseg.plan.budget_reasons import budget_lines
from autoseg.plan.pace import pace, smaller
from autoseg.plan.presets import PRESETS

HALVED = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
HOURS = [10**exponent for exponent in (-4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 5)]


@pytest.fixture
def planned(build_configuration):
    return build_configuration((64, 64, 64), HALVED, batch_size=9, features_per_stage=(32, 64, 128, 256))


@pytest.fixture
def candidates(planned):
    return smaller(planned, num_labels=3, preset=PRESETS["plain"])


def by_work(configuration):
    """A machine on which a step takes a second for each million voxels at a width of 32, and a hundredth more."""
    work = prod(configuration.patch_size) * configuration.batch_size * configuration.features_per_stage[0] ** 1.6
    return work / 1e6 / 32**1.6 + 0.01


def timed(candidates):
    return [Candidate(each, by_work(each), measured=True) for each in candidates]


def given_up(chosen, planned):
    return weigh(chosen, planned, 1).loss_by_size


def test_candidates_are_valid_and_the_first_is_the_plan(planned, candidates):
    assert candidates[0] == planned
    assert len(candidates) == len(set(candidates)) > 20
    for each in candidates:
        # Reading checks what constructing does not.
        assert msgspec.json.decode(msgspec.json.encode(each), type=Configuration) == each
        assert each.batch_size >= 2
        assert all(count % 8 == 0 for count in each.features_per_stage)
        assert prod(each.patch_size) >= prod(planned.patch_size) / 8
    assert {each.features_per_stage[0] for each in candidates} == {32, 24, 16, 8}
    assert {each.batch_size for each in candidates} == {9, 4, 2}
    assert len({each.patch_size for each in candidates}) > 2


def test_more_time_never_gives_up_more(planned, candidates):
    chosen = [choose(timed(candidates), planned, hours) for hours in HOURS]
    losses = [given_up(each, planned) for each in chosen]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) > 3
    work = [by_work(replace(each.configuration, batch_size=2)) for each in chosen]
    assert work == sorted(work)


def test_next_to_no_time_chooses_the_quickest_and_much_the_plan(planned, candidates):
    quickest = min(timed(candidates), key=lambda each: each.seconds_per_step)
    assert choose(timed(candidates), planned, HOURS[0]) == quickest
    assert choose(timed(candidates), planned, HOURS[-1]).configuration == planned


def test_the_plan_stays_when_its_usual_schedule_fits(planned, candidates):
    quick = [replace_seconds(each, 0.01 if each.configuration == planned else 1e-6) for each in timed(candidates)]
    hours = USUAL_STEPS * 0.01 / 3600
    assert choose(quick, planned, 1.2 * hours).configuration == planned
    assert record(quick, quick[0], planned, 1.2 * hours).usual_schedule_fits
    assert not record(quick, quick[0], planned, 1.0 * hours).usual_schedule_fits


def replace_seconds(candidate, seconds):
    return Candidate(candidate.configuration, seconds, measured=True)


def test_a_slower_machine_makes_smaller_networks(planned, candidates):
    fast = choose(timed(candidates), planned, 1.0)
    slow = choose([replace_seconds(each, 20 * each.seconds_per_step) for each in timed(candidates)], planned, 1.0)
    assert given_up(slow, planned) > given_up(fast, planned)


@pytest.mark.parametrize("hours", HOURS)
def test_measuring_few_finds_what_measuring_all_would(planned, candidates, hours):
    measured = []

    def seconds(configuration):
        measured.append(configuration)
        return by_work(configuration)

    paced = pace(candidates, hours, seconds, lambda: 1e9)
    best = weigh(choose(timed(candidates), planned, hours), planned, hours)
    assert weigh(paced.chosen, planned, hours).loss <= 1.05 * best.loss
    assert paced.chosen.measured
    assert len(measured) == len(set(measured)) <= 20
    assert set(candidates) == {each.configuration for each in paced.candidates}


def test_when_the_time_is_up_what_is_known_decides(planned, candidates):
    left = 5.0

    def seconds(configuration):
        nonlocal left
        left -= 5 * by_work(configuration)
        return by_work(configuration)

    paced = pace(candidates, 100.0, seconds, lambda: left)
    assert left > 0
    assert not paced.chosen.measured
    assert paced.chosen.seconds_per_step == pytest.approx(by_work(paced.chosen.configuration), rel=0.3)
    assert pace(candidates, 100.0, seconds, lambda: 0.0) is None


def test_what_does_not_fit_the_memory_is_not_chosen(planned, candidates):
    paced = pace(candidates, 1e5, lambda each: None if each.batch_size > 4 else by_work(each), lambda: 1e9)
    assert paced.chosen.configuration == replace(planned, batch_size=4)
    assert record(paced.candidates, paced.chosen, planned, 1e5).planned is None
    assert pace(candidates, 1.0, lambda _: None, lambda: 1e9) is None


@pytest.mark.parametrize(("batch_size", "expected"), [(2, {2}), (12, {12}), (13, {13, 12}), (50, {50, 25, 12})])
def test_a_batch_never_falls_below_the_planners_reference(build_configuration, batch_size, expected):
    flat = build_configuration((32, 32), ((1, 1), (2, 2)), batch_size=batch_size)
    assert {each.batch_size for each in smaller(flat, num_labels=2, preset=PRESETS["plain"])} == expected


def test_without_a_budget_nothing_is_told():
    assert budget_lines(None) == []
