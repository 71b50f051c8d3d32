"""Means and intervals over the cases of all folds."""

import numpy as np
import pytest

from autoseg.artifacts.evaluation import METRICS, LabelScores
from autoseg.evaluate.summary import summarize
from autoseg.report.intervals import mean_intervals
from autoseg.report.scores import ScoredCase, rows, worst


def scores(dice, reference=10, predicted=10):
    return LabelScores(
        **{**dict.fromkeys(METRICS), "dice": dice}, n_reference_voxels=reference, n_predicted_voxels=predicted
    )


def test_means_are_those_of_evaluation_json():
    rng = np.random.default_rng(0)
    cases = {f"case_{i}": {"a": scores(float(rng.random())), "b": scores(float(rng.random()))} for i in range(9)}
    cases["case_3"]["b"] = scores(None, 0, 0)
    cases["case_4"]["b"] = scores(0.0, 5, 0)
    cases["case_5"]["b"] = scores(0.0, 0, 5)
    summary = summarize(cases, ["a", "b"])
    table = rows([ScoredCase(name, 0, each) for name, each in cases.items()], ["a", "b"], {})
    assert [row.label for row in table] == [None, "a", "b"]
    expected = [summary.mean.dice, summary.labels["a"].dice, summary.labels["b"].dice]
    assert [row.estimates["dice"].mean for row in table] == pytest.approx(expected)
    counts = (table[2].n_cases, table[2].n_absent, table[2].n_missed, table[2].n_false_alarms)
    assert counts == (9, 1, 1, 1)
    assert table[2].estimates["hd_mm"] is None


def test_an_interval_is_that_of_the_normal_approximation_for_many_cases():
    values = np.random.default_rng(1).normal(0.8, 0.1, (400, 1))
    means, ends = mean_intervals(values, range(400))
    error = values.std() / 20
    assert means[0] == pytest.approx(values.mean())
    assert ends[0] == pytest.approx([values.mean() - 1.96 * error, values.mean() + 1.96 * error], abs=0.1 * error)


def test_cases_of_a_patient_are_drawn_together():
    values = np.repeat(np.random.default_rng(2).normal(0.8, 0.1, (50, 1)), 4, axis=0)
    _, alone = mean_intervals(values, range(200))
    _, grouped = mean_intervals(values, np.arange(200) // 4)
    # Four copies of each case tell no more than one.
    assert np.ptp(grouped) == pytest.approx(2 * np.ptp(alone), rel=0.1)


def test_one_case_has_no_interval_and_none_has_no_mean():
    means, ends = mean_intervals(np.array([[0.5, np.nan], [np.nan, np.nan]]), ["a", "b"])
    assert means[0] == 0.5
    assert np.isnan(means[1])
    assert np.isnan(ends).all()


def test_a_score_that_few_cases_have_still_has_an_interval():
    values = np.full((300, 1), np.nan)
    values[:2, 0] = 0.2, 0.4
    means, ends = mean_intervals(values, range(300))
    assert means[0] == pytest.approx(0.3)
    assert ends[0] == pytest.approx([0.2, 0.4])


def test_the_worst_come_first_and_undefined_ones_not_at_all():
    cases = [
        ScoredCase(name, 0, {"a": scores(dice)}) for name, dice in (("x", 0.9), ("y", None), ("z", 0.1), ("w", 0.5))
    ]
    assert [(case.name, dice) for case, dice in worst(cases, 2)] == [("z", 0.1), ("w", 0.5)]
