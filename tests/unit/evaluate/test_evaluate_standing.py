"""A model beside a published mean: means, intervals that cover, and what is said of the difference."""

from dataclasses import replace

import numpy as np
import pytest

from autoseg.artifacts.base import decode, encode
from autoseg.artifacts.published import Baseline
from autoseg.artifacts.standing import Standing
from autoseg.errors import DatasetError, SettingError
from autoseg.evaluate.baselines import ScoreTable
from autoseg.evaluate.published import find_baseline
from autoseg.evaluate.standing import stand
from autoseg.evaluate.words import render_standing

PLAIN = "msd/Task04_Hippocampus/nnunet-v2-plain"
CASES = [f"c{index:02}" for index in range(40)]


def model(anterior, posterior, cases=CASES):
    noise = np.random.default_rng(0).normal(0, 0.02, (2, len(cases)))
    scores = {
        name: {case: mean + noise[row, index] for index, case in enumerate(cases)}
        for row, (name, mean) in enumerate({"Anterior": anterior, "Posterior": posterior}.items())
    }
    return ScoreTable("W/models/3d_fullres", "dice", "fraction", scores, {"Anterior": 1, "Posterior": 2})


def baseline(**figures):
    return Baseline(source="autonnunet-folds", method="nnU-Net", **figures)


def test_below_within_and_above():
    found = stand(model(0.82, 0.8823), PLAIN, find_baseline(PLAIN))
    assert found.labels["Anterior"].published == 0.8985
    assert found.labels["Anterior"].difference == pytest.approx(0.82 - 0.8985, abs=0.01)
    assert "below the published figure, which lies outside" in found.labels["Anterior"].verdict
    assert "can't tell the two apart" in found.labels["Posterior"].verdict
    assert found.foreground.published == pytest.approx(0.8904)
    assert "above" in stand(model(0.95, 0.95), PLAIN, find_baseline(PLAIN)).foreground.verdict
    assert decode(encode(found), Standing, where="test") == found


def test_what_is_said_beside_the_figures():
    table = replace(model(0.8, 0.8), folds=dict.fromkeys(CASES, 2))
    text = render_standing(stand(table, PLAIN, find_baseline(PLAIN)))
    for part in (
        "not paired",
        "numbers of cases differ: 40 here, 260 there",
        "folds and training sets may differ: here folds 2; there all five",
        "label 1 of msd/Task04_Hippocampus/nnunet-v2-plain is taken for Anterior",
        "best checkpoint",
    ):
        assert part in text
    server = "msd-test/Task04_Hippocampus/nnunet-v2-plain"
    assert "hidden test cases" in render_standing(stand(table, server, find_baseline(server)))


def test_the_foreground_is_the_mean_of_the_labels_means():
    scores = {"1": {"a": 0.5, "b": 0.7, "c": 0.9}, "2": {"a": 0.4, "b": None, "c": None}}
    table = ScoreTable("x", "dice", "fraction", scores, {"1": 1, "2": 2})
    found = stand(table, "name", baseline(labels={"1": 0.6, "2": 0.4}))
    assert found.foreground.mean == pytest.approx((0.7 + 0.4) / 2)
    assert (found.foreground.n, found.labels["2"].n, found.labels["2"].interval) == (3, 1, None)


def test_a_label_without_any_score_has_no_mean():
    scores = {"1": {"a": 0.5, "b": 0.7}, "2": {"a": None, "b": None}}
    table = ScoreTable("x", "dice", "fraction", scores, {"1": 1, "2": 2})
    found = stand(table, "name", baseline(labels={"1": 0.6, "2": 0.4}))
    assert (found.foreground.mean, found.labels["2"].mean) == (None, None)
    assert "not compared" in render_standing(found)


def test_the_interval_covers_the_true_mean_nineteen_times_in_twenty():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(120):
        scores = {"1": dict(zip(CASES, rng.beta(8, 2, 40).tolist(), strict=True))}
        row = stand(ScoreTable("x", "dice", "fraction", scores, {"1": 1}), "n", baseline(labels={"1": 0.8})).labels["1"]
        hits += row.interval.low <= 0.8 <= row.interval.high
    assert 105 <= hits <= 120


def test_cases_of_one_patient_widen_the_interval_and_leave_the_mean():
    cases = [f"p{patient}_{scan}" for patient in range(10) for scan in range(10)]
    level = np.random.default_rng(1).normal(0.8, 0.05, 10)
    scores = {"1": {case: float(level[int(case[1])]) for case in cases}}
    alone = ScoreTable("x", "dice", "fraction", scores, {"1": 1})
    grouped = replace(alone, groups={case: case[:2] for case in cases})
    one, two = (stand(table, "n", baseline(labels={"1": 0.8})) for table in (alone, grouped))
    assert one.labels["1"].mean == pytest.approx(two.labels["1"].mean)
    width, wide = (row.labels["1"].interval.high - row.labels["1"].interval.low for row in (one, two))
    assert wide > 2.5 * width
    assert (two.num_cases, two.num_patients) == (100, 10)
    assert "100 cases of 10 patients" in render_standing(two)


def test_where_only_the_mean_is_published():
    found = stand(model(0.8, 0.8), "revisited/ACDC/resenc-m", find_baseline("revisited/ACDC/resenc-m"))
    assert found.labels == {}
    assert found.foreground.published == 0.9199
    assert any("make sure" in note for note in found.notes)


def test_other_labels_and_metrics():
    plain = find_baseline(PLAIN)
    heart = find_baseline("msd/Task02_Heart/nnunet-v2-plain")
    found = stand(model(0.8, 0.8), "heart", heart)
    assert found.foreground is None
    assert list(found.labels) == ["Anterior"]
    assert any("labels are not the same" in note for note in found.notes)
    with pytest.raises(SettingError, match="of Dice"):
        stand(replace(model(0.8, 0.8), metric="iou"), PLAIN, plain)
    with pytest.raises(DatasetError, match="no label in common"):
        stand(replace(model(0.8, 0.8), values={"Anterior": 7, "Posterior": 8}), PLAIN, plain)
