"""Paired statistics against scipy, degenerate cases, and a published comparison."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from autoseg.artifacts.base import decode, encode, read
from autoseg.artifacts.comparison import Comparison, Comparisons, Interval
from autoseg.cli import main
from autoseg.errors import DatasetError
from autoseg.evaluate.baselines import ScoreTable, read_scores
from autoseg.evaluate.compare import compare, compare_all, compare_pairs, holm, signed_ranks
from autoseg.evaluate.words import render, render_all

PUBLISHED = Path(__file__).parents[3].parent / "shared" / "baselines" / "msd_nnunet_percase.csv"


def table(scores, source="A", metric="dice", unit="fraction"):
    return ScoreTable(source, metric, unit, scores, {label: int(label) for label in scores})


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    first = rng.uniform(0.7, 0.9, 40)
    return first, first + rng.normal(0.01, 0.03, 40)


def test_agrees_with_scipy(samples):
    first, second = samples
    result = compare_pairs(first.tolist(), second.tolist())
    test = stats.ttest_rel(second, first)
    ends = test.confidence_interval(0.95)
    assert (result.t, result.p_t) == (pytest.approx(test.statistic), pytest.approx(test.pvalue))
    assert result.interval_t == Interval(low=pytest.approx(ends.low), high=pytest.approx(ends.high))
    assert result.p_wilcoxon == pytest.approx(stats.wilcoxon(first, second).pvalue)
    assert result.mean_b_minus_a == pytest.approx(second.mean() - first.mean())
    # With 40 cases both intervals are of the same size.
    assert result.interval_bootstrap.low == pytest.approx(ends.low, abs=0.002)
    assert result.interval_bootstrap.high == pytest.approx(ends.high, abs=0.002)


def test_the_bootstrap_is_seeded(samples):
    first, second = (sample.tolist() for sample in samples)
    assert compare_pairs(first, second, seed=1) == compare_pairs(first, second, seed=1)
    assert compare_pairs(first, second, seed=1) != compare_pairs(first, second, seed=2)


def test_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(1)
    size = compare_pairs([0.0] * 25, rng.normal(0, 1, 25).tolist())
    effect = size.detectable_difference / size.sd_of_differences
    found = stats.ttest_1samp(rng.normal(effect, 1, (4000, 25)), 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def test_undefined_pairs_are_left_out_and_counted():
    result = compare_pairs([0.5, None, 0.7, 0.8], [0.6, 0.9, None, 0.8])
    assert (result.n, result.n_undefined) == (2, 2)
    assert result.mean_a == pytest.approx(0.65)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_cases(n):
    result = compare_pairs([0.5] * n, [0.75] * n)
    assert (result.n, result.t, result.p_t, result.p_wilcoxon, result.interval_t) == (n, None, None, None, None)
    assert result.mean_b_minus_a == (0.25 if n else None)


@pytest.mark.parametrize("n", [2, 3, 5, 9, 40, 60])
def test_small_and_tied_samples_raise_no_warning(n):
    rng = np.random.default_rng(n)
    result = compare_pairs([0.5] * n, np.round(rng.uniform(0.3, 0.8, n), 1).tolist())
    assert 0 <= result.p_wilcoxon <= 1
    assert result.interval_t is not None
    assert result.interval_bootstrap is not None


def test_equal_scores():
    result = compare_pairs([0.5, 0.6, 0.7], [0.5, 0.6, 0.7])
    assert (result.t, result.p_t, result.p_wilcoxon, result.mean_b_minus_a) == (None, 1.0, 1.0, 0.0)
    assert result.interval_t == result.interval_bootstrap == Interval(low=0.0, high=0.0)


def test_scores_that_all_differ_by_the_same_amount_up_to_rounding():
    scores = [0.1, 0.2, 0.3, 0.4, 0.7]
    result = compare_pairs(scores, [score + 0.1 for score in scores])
    assert (result.t, result.p_t, result.sd_of_differences) == (None, None, 0.0)
    assert result.p_wilcoxon < 0.1


def test_one_case_that_differs():
    result = compare_pairs([0.5, 0.6, 0.7], [0.5, 0.6, 0.9])
    assert result.p_wilcoxon == 1.0
    assert result.t == pytest.approx(1.0)


def test_holm():
    assert holm([0.01, 0.04, 0.03, None]) == [0.03, 0.06, 0.06, None]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_comparison_of_two_labels():
    cases = [f"c{index:02}" for index in range(30)]
    noise = np.random.default_rng(0).normal(0, 0.01, (2, 30))
    first = {"1": dict.fromkeys(cases, 0.8), "2": dict.fromkeys(cases, 0.5)}
    second = {
        "1": {case: 0.85 + noise[0, index] for index, case in enumerate(cases)},
        "2": {case: 0.5 + noise[1, index] for index, case in enumerate(cases)},
    }
    first["1"]["only here"] = 0.1
    second["2"]["only there"] = 0.1
    result = compare(table(first), table(second, "B"))
    assert (result.foreground.n, result.only_a, result.only_b) == (30, ("only here",), ("only there",))
    assert result.labels["1"].verdict.startswith("B is better by")
    assert result.labels["2"].verdict.startswith("not decidable: no difference shown")
    assert result.labels["1"].p_t_holm == pytest.approx(2 * result.labels["1"].p_t)
    assert result.foreground.p_t_holm is None
    assert decode(encode(result), Comparison, where="test") == result
    text = render(result)
    assert text.isascii()
    assert "only in A, not compared: 1 cases (only here)" in text
    assert "foreground mean: B is better by" in text


def test_case_means_leave_undefined_labels_out_as_the_summary_does():
    first = table({"1": {"a": 0.8, "b": 0.8}, "2": {"a": None, "b": 0.6}})
    second = table({"1": {"a": 0.8, "b": 0.8}, "2": {"a": 0.0, "b": 0.6}})
    result = compare(first, second)
    assert result.foreground.mean_a == pytest.approx((0.8 + 0.7) / 2)
    assert result.foreground.mean_b == pytest.approx((0.4 + 0.7) / 2)
    assert result.labels["2"].n_undefined == 1


@pytest.mark.parametrize(("metric", "unit", "winner"), [("hd95_mm", "mm", "A"), ("dice", "fraction", "B")])
def test_the_winner_depends_on_the_metric(metric, unit, winner):
    low, high = ({"1": {"a": value, "b": value + 0.1}} for value in (0.3, 0.5))
    result = compare(table(low, "A", metric, unit), table(high, "B", metric, unit))
    assert result.labels["1"].verdict.startswith(f"{winner} is better")


def test_volume_differences_are_compared_by_size():
    first, second = {"1": {"a": -5.0, "b": 5.0}}, {"1": {"a": 1.0, "b": -2.0}}
    result = compare(*(table(scores, "x", "volume_difference_ml", "ml") for scores in (first, second)))
    assert (result.foreground.mean_a, result.foreground.mean_b) == (5.0, 1.5)
    assert any("size" in note for note in result.notes)


def test_what_cannot_be_compared():
    dice = table({"1": {"a": 0.5}})
    with pytest.raises(DatasetError, match="different kinds"):
        compare(dice, table({"1": {"a": 0.5}}, metric="iou"))
    with pytest.raises(DatasetError, match="no case in common"):
        compare(dice, table({"1": {"b": 0.5}}))
    assert compare(dice, dice).foreground.verdict == "a single case tells nothing about the mean"
    undefined = compare(table({"1": {"a": None}}), dice)
    assert undefined.foreground.verdict.startswith("nothing to compare")
    assert "nothing to compare" in render(undefined)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published per-case scores are not beside the project")
@pytest.mark.parametrize(
    ("arch", "points", "t"), [("ResidualEncoderM", -0.30, -4.6), ("ResidualEncoderL", -0.42, -6.4)]
)
def test_published_hippocampus_results(arch, points, t):
    plain, other = (read_scores(PUBLISHED, task="Hippocampus", arch=name) for name in ("ConvolutionalEncoder", arch))
    result = compare(plain, other).foreground
    assert result.n == 260
    assert 100 * result.mean_a == pytest.approx(89.04, abs=0.005)
    assert 100 * result.mean_b_minus_a == pytest.approx(points, abs=0.005)
    assert result.t == pytest.approx(t, abs=0.05)
    assert 100 * result.detectable_difference == pytest.approx(0.18, abs=0.005)
    assert result.verdict.startswith("A is better")


def test_signed_ranks_agree_with_scipy():
    before = np.random.default_rng(0).random(20)
    after = before + np.random.default_rng(1).normal(0.05, 0.1, 20)
    after[3] = before[3]
    found = signed_ranks(list(before), list(after))
    assert found.mean == pytest.approx(float((after - before).mean()))
    assert found.num_higher + found.num_lower == 19
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(np.delete(after - before, 3)).pvalue)
    backwards = signed_ranks(list(after), list(before))
    assert backwards.p_wilcoxon == pytest.approx(found.p_wilcoxon)
    assert backwards.rank_biserial == pytest.approx(-found.rank_biserial)


def test_a_mean_may_rise_while_most_cases_fall():
    found = signed_ranks([0.5] * 12, [1.0] + [0.49 - 0.001 * i for i in range(11)])
    assert found.mean > 0
    assert found.p_wilcoxon < 0.05
    assert found.rank_biserial < 0
    assert not found.is_real_gain


@pytest.mark.parametrize("num_changed", [0, 1, 5])
def test_with_few_changes_there_is_no_test(num_changed):
    found = signed_ranks([0.5] * 30, [0.6] * num_changed + [0.5] * (30 - num_changed))
    assert (found.p_wilcoxon, found.rank_biserial, found.num_higher) == (None, None, num_changed)


def test_scores_of_other_cases_are_refused():
    for before, after in (([0.5], [0.5, 0.6]), ([], [])):
        with pytest.raises(ValueError, match="scores"):
            signed_ranks(before, after)


def noisy(mean, seed, cases=30):
    noise = np.random.default_rng(seed).normal(0, 0.02, cases)
    return {"1": {f"c{index:02}": mean + noise[index] for index in range(cases)}}


def test_each_of_several_is_compared_with_the_first_and_all_are_corrected_together():
    tables = [
        [table(noisy(mean, 2 * i), name), table(noisy(mean, 2 * i + 1), name, "nsd")]
        for i, (mean, name) in enumerate([(0.5, "first"), (0.515, "second"), (0.5, "third")])
    ]
    found = compare_all(tables).comparisons
    assert [(one.a, one.b, one.metric) for one in found] == [
        ("first", "second", "dice"),
        ("first", "second", "nsd"),
        ("first", "third", "dice"),
        ("first", "third", "nsd"),
    ]
    for part in ("foreground", "1"):
        results = [one.foreground if part == "foreground" else one.labels[part] for one in found]
        assert [one.p_t_holm for one in results] == holm([one.p_t for one in results])
        assert [one.p_wilcoxon_holm for one in results] == holm([one.p_wilcoxon for one in results])
    alone = compare(tables[0][0], tables[1][0])
    assert alone.foreground.p_t_holm is None
    assert alone.labels["1"].p_t_holm == alone.labels["1"].p_t
    text = render_all(Comparisons(comparisons=found))
    assert text.count("median") == 4
    assert text.endswith("4 of labels together, and the 4 of foreground means")
    assert render_all(Comparisons(comparisons=(alone,))) == render(alone)
    assert decode(encode(Comparisons(comparisons=found)), Comparisons, where="test").comparisons == found


def test_fewer_than_two_results_are_none_to_compare():
    with pytest.raises(ValueError, match="two"):
        compare_all([[table(noisy(0.5, 0))]])


def test_the_median_is_that_of_the_differences():
    result = compare_pairs([0.5, 0.5, 0.5], [0.9, 0.6, 0.4])
    assert result.median_b_minus_a == pytest.approx(0.1)


def test_a_patient_with_many_cases_counts_once():
    first = {"1": {f"p{i}_{j}": 0.5 for i in range(8) for j in range(1 if i else 9)}}
    # The first patient has nine cases that gain; the seven others have one each, and most lose.
    gains = [0.2, -0.01, -0.02, -0.03, 0.01, -0.02, -0.01, -0.02]
    second = {"1": {case: 0.5 + gains[int(case[1])] for case in first["1"]}}
    groups = {case: case.split("_")[0] for case in first["1"]}
    by_case = compare(table(first), table(second, "B"))
    assert (by_case.paired_by, by_case.foreground.n) == ("case", 16)
    assert by_case.foreground.verdict.startswith("B")
    by_patient = compare(table(first), replace(table(second, "B"), groups=groups))
    assert (by_patient.paired_by, by_patient.foreground.n) == ("patient", 8)
    test = stats.ttest_rel([0.5 + gain for gain in gains], [0.5] * 8)
    assert by_patient.labels["1"].t == pytest.approx(test.statistic)
    assert "these 8 patients" in by_patient.foreground.verdict
    assert any("16 cases of 8 patients" in note for note in by_patient.notes)


def test_groups_of_one_case_change_nothing():
    first, second = table(noisy(0.5, 0)), table(noisy(0.52, 1), "B")
    grouped = replace(first, groups={case: f"patient of {case}" for case in first.cases})
    assert compare(grouped, second) == compare(first, second)


def with_folds(folds, source="A", training=None):
    scores = noisy(0.5, 0, len(folds))
    return replace(
        table(scores, source), folds=dict(zip(sorted(scores["1"]), folds, strict=True)), training=training or {}
    )


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ((0, 0, 1, 1), None),
        ((3, 3, 2, 2), None),  # other numbers, the same cases together
        ((0, 1, 0, 1), "not the same folds"),
        ((0, 0, 1, 2), "2 folds of A and 3 of B"),
        ((0, 0, 0, 0), "2 folds of A and 1 of B"),
    ],
)
def test_other_folds_are_a_warning(folds, words):
    warnings = compare(with_folds((0, 0, 1, 1)), with_folds(folds, "B")).warnings
    assert (not warnings) if words is None else (words in warnings[0])


def test_other_training_cases_of_the_same_fold_are_a_warning():
    few, many = {0: frozenset("xy")}, {0: frozenset("xyz")}
    one, two = with_folds((0, 0, 0), training=few), with_folds((0, 0, 0), "B", many)
    assert "A learned from 2 and B from 3" in compare(one, two).warnings[0]
    assert not compare(one, replace(one, source="B")).warnings


def test_other_cases_and_scores_on_one_side_alone_are_warnings():
    first = table({"1": {"a": 1.0, "b": 2.0, "c": 3.0, "d": 1.0}}, "A", "hd95_mm", "mm")
    second = table({"1": {"a": 1.5, "b": None, "c": 3.5}}, "B", "hd95_mm", "mm")
    cases, undefined = compare(first, second).warnings
    assert "1 are in A alone, 0 in B alone" in cases
    assert "hd95_mm is undefined on one side alone, in 0 cases for A and 1 for B" in undefined
    assert "warning: not the same cases" in render(compare(first, second))


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published per-case scores are not beside the project")
def test_the_command_decides_on_hippocampus_and_not_on_heart(tmp_path):
    archs = [f"--arch={name}" for name in ("ConvolutionalEncoder", "ResidualEncoderM", "ResidualEncoderL")]
    out = tmp_path / "result.json"
    found = {}
    for task in ("Task04_Hippocampus", "Task02_Heart"):
        done = CliRunner().invoke(main, ["compare", str(PUBLISHED), f"--task={task}", *archs, f"--json={out}"])
        assert done.exit_code == 0, done.output
        assert "warning" not in done.output
        found[task] = [one.foreground for one in read(out, Comparisons).comparisons]
    for result, points, t in zip(found["Task04_Hippocampus"], (-0.30, -0.42), (-4.6, -6.4), strict=True):
        assert result.n == 260
        assert 100 * result.mean_b_minus_a == pytest.approx(points, abs=0.005)
        assert result.t == pytest.approx(t, abs=0.05)
        assert "a real difference by both tests" in result.verdict
    for result in found["Task02_Heart"]:
        assert result.n == 20
        assert result.verdict.startswith("not decidable")


def test_a_mean_that_rises_while_most_cases_fall_is_said():
    cases = [f"c{index:03}" for index in range(60)]
    gains = [0.2 + 0.001 * index for index in range(10)] + [-0.005 - 0.0001 * index for index in range(50)]
    first = {"1": dict.fromkeys(cases, 0.5)}
    second = {"1": {case: 0.5 + gain for case, gain in zip(cases, gains, strict=True)}}
    result = compare(table(first), table(second, "B")).foreground
    assert result.p_wilcoxon < 0.05
    assert result.verdict.startswith("B is better by")
    assert "but A in most cases" in result.verdict


def test_an_interval_without_zero_that_the_correction_undoes_is_explained():
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 1, 30)
    gain = 0.0042 + 0.01 * (noise - noise.mean()) / noise.std(ddof=1)
    cases = [f"c{index:02}" for index in range(30)]
    second = {"1": {case: 0.5 + gain[index] for index, case in enumerate(cases)}}
    second |= {
        label: {case: 0.5 + 0.01 * value for case, value in zip(cases, rng.normal(0, 1, 30), strict=True)}
        for label in "23456"
    }
    first = {label: dict.fromkeys(cases, 0.5) for label in second}
    result = compare(table(first), table(second, "B")).labels["1"]
    assert result.p_t < 0.05 < result.p_t_holm
    assert "not once all tests are counted" in result.verdict
