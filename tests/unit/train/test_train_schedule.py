"""The learning rate over a training, by count and by the clock."""

from math import inf
from typing import get_args

import pytest

from autoseg.artifacts.plan import ScheduleName, Training
from autoseg.train.schedule import initial_rate, learning_rate, progress_by_count, progress_by_time

USUAL_STEPS = 250_000
FROM_ONE = Training(initial_learning_rate=1.0)


def test_the_rate_falls_from_its_start_to_zero():
    rates = [learning_rate(Training(), i / 100, USUAL_STEPS) for i in range(101)]
    assert rates[0] == 0.01
    assert rates[50] == pytest.approx(0.01 * 0.5**0.9)
    assert rates[-1] == 0.0
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(("progress", "rate"), [(-0.1, 0.01), (1.2, 0.0)])
def test_beyond_its_ends_the_rate_stays(progress, rate):
    assert learning_rate(Training(), progress, USUAL_STEPS) == rate


def test_the_cosine_is_half_way_down_in_the_middle_and_flat_at_both_ends():
    rates = [learning_rate(Training(schedule="cosine", initial_learning_rate=1.0), i / 100, 1) for i in range(101)]
    assert [rates[i] for i in (0, 25, 50, 100)] == pytest.approx([1.0, (1 + 0.5**0.5) / 2, 0.5, 0.0])
    assert rates[0] - rates[1] < 1e-3 < rates[49] - rates[50]
    assert rates[99] - rates[100] < 1e-3
    assert rates == sorted(rates, reverse=True)


def test_a_short_training_begins_at_a_higher_rate():
    rates = [initial_rate(Training(), steps) for steps in (1, 1000, 1600, 4000, 8000, 25_000, USUAL_STEPS, inf)]
    assert rates == pytest.approx([0.05, 0.05, 0.05, 0.02, 0.01, 0.01, 0.01, 0.01])


@pytest.mark.parametrize("recipe", [Training(initial_learning_rate=0.0003), Training(optimizer="adamw")])
def test_a_rate_of_ones_own_and_that_of_adamw_are_the_same_for_any_length(recipe):
    assert [initial_rate(recipe, steps) for steps in (100, USUAL_STEPS)] == [0.0003, 0.0003]


@pytest.mark.parametrize("schedule", get_args(ScheduleName))
@pytest.mark.parametrize("warmup_share", [0.0, 0.1, 0.5])
def test_each_schedule_rises_to_the_users_rate_and_ends_at_zero(schedule, warmup_share):
    recipe = Training(schedule=schedule, warmup_share=warmup_share, initial_learning_rate=0.02)
    rates = [learning_rate(recipe, i / 1000, 1) for i in range(1001)]
    top = round(1000 * warmup_share)
    assert rates[top] == max(rates) == 0.02
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == 0.0
    if warmup_share:
        assert rates[0] == pytest.approx(0.0002)
        assert rates[top // 2] == pytest.approx(0.0101)
        # The whole schedule in what is left.
        late = learning_rate(recipe, warmup_share + 0.3 * (1 - warmup_share), 1)
        assert late == pytest.approx(learning_rate(Training(schedule=schedule, initial_learning_rate=0.02), 0.3, 1))


def test_progress_by_count():
    assert [progress_by_count(done, 4) for done in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_by_the_clock_the_last_step_ends_with_the_budget():
    # 100 s, 10 s a step: a step that starts after 90 s would not fit.
    assert progress_by_time(0, 100, 10) == 0.0
    assert progress_by_time(45, 100, 10) == 0.5
    assert progress_by_time(89.9, 100, 10) < 1
    assert progress_by_time(90, 100, 10) == 1.0
    assert progress_by_time(500, 100, 10) == 1.0


@pytest.mark.parametrize("slowing", [0.0, 0.05])
def test_a_training_by_the_clock_ends_near_its_budget_at_a_rate_near_zero(slowing):
    spent, step, rates = 0.0, 1.0, []
    while (progress := progress_by_time(spent, 60, step)) < 1:
        rates.append(learning_rate(FROM_ONE, progress, 1))
        spent += step
        step *= 1 + slowing
    assert 60 - 2 * step <= spent <= 60 + step * slowing
    assert rates[-1] < 0.2
    assert learning_rate(FROM_ONE, progress, 1) == 0.0


def test_a_budget_shorter_than_a_step_still_gives_one_step():
    assert progress_by_time(0, 1, 0) == 0.0
    assert progress_by_time(5, 1, 5) == 1.0
