"""Readers of scores from elsewhere."""

import json

import numpy as np
import pytest

from autoseg.artifacts.geometry import Geometry
from autoseg.errors import ArtifactError, DatasetError, SettingError
from autoseg.evaluate import stage
from autoseg.evaluate.baselines import match_labels, merge, read_scores
from autoseg.images.io import write_label

ROWS = """task,arch,fold,case,label,dice,n_ref,n_pred
004_Hippocampus,Plain,0,h_1,1,0.9,10,11
004_Hippocampus,Plain,0,h_1,2,0.8,10,11
004_Hippocampus,Plain,1,h_2,1,,0,0
004_Hippocampus,Plain,1,h_2,2,nan,0,0
004_Hippocampus,Large,0,h_1,1,0.7,10,11
002_Heart,Plain,0,h_1,1,0.5,10,11
"""


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text(ROWS)
    return file


def nnunet_case(name, labels):
    """One entry of summary.json as nnU-Net writes it."""
    metrics = {
        label: {"Dice": dice, "IoU": dice, "TP": tp, "FP": fp, "FN": fn, "TN": 9, "n_pred": tp + fp, "n_ref": tp + fn}
        for label, (dice, tp, fp, fn) in labels.items()
    }
    return {
        "metrics": metrics,
        "prediction_file": f"/home/user/fold_0/validation/{name}.nii.gz",
        "reference_file": f"/home/user/gt/{name}.nii.gz",
    }


@pytest.fixture
def summary(tmp_path):
    """A summary.json with an undefined score, which nnU-Net writes as NaN."""
    cases = [
        nnunet_case("h_1", {"1": (0.9, 9, 1, 1), "2": (0.5, 2, 0, 4), "(1, 2)": (0.7, 7, 3, 3)}),
        nnunet_case("h_2", {"1": (0.0, 0, 5, 0), "2": (float("nan"), 0, 0, 0), "(1, 2)": (0.0, 0, 5, 0)}),
    ]
    file = tmp_path / "summary.json"
    file.write_text(json.dumps({"foreground_mean": {}, "mean": {}, "metric_per_case": cases}))
    return file


@pytest.fixture
def evaluation(tmp_path):
    """Our own evaluation.json of two cases, with names where the others have values."""
    arrays = {"h_1": [[[0, 1, 1, 2]]], "h_2": [[[0, 1, 0, 0]]]}
    files = {}
    for name, array in arrays.items():
        files[name] = tmp_path / f"{name}.nii.gz"
        write_label(files[name], np.array(array, np.uint8), Geometry(shape=(1, 1, 4), spacing_mm=(1, 1, 1)))
    out = tmp_path / "evaluation.json"
    stage.run(files, files, {"Posterior": 2, "Anterior": 1}, out)
    return out


def test_ours(evaluation):
    scores = read_scores(evaluation, metric="hd95_mm")
    assert scores.scores == {"Anterior": {"h_1": 0.0, "h_2": 0.0}, "Posterior": {"h_1": 0.0, "h_2": None}}
    assert (scores.values, scores.unit) == ({"Anterior": 1, "Posterior": 2}, "mm")


def test_nnunet(summary):
    scores = read_scores(summary)
    assert scores.scores == {
        "1": {"h_1": 0.9, "h_2": 0.0},
        "2": {"h_1": 0.5, "h_2": None},
        "(1, 2)": {"h_1": 0.7, "h_2": 0.0},
    }
    assert (scores.values, scores.unit) == ({"1": 1, "2": 2}, "fraction")


def test_nnunet_counts_give_what_it_does_not_write(summary):
    sensitivity, precision = (read_scores(summary, metric=name).scores for name in ("sensitivity", "precision"))
    assert sensitivity["2"] == {"h_1": 2 / 6, "h_2": None}
    assert precision["2"] == {"h_1": 1.0, "h_2": None}
    assert sensitivity["1"]["h_2"] == precision["1"]["h_2"] == 0.0


@pytest.mark.parametrize("task", ["004_Hippocampus", "Hippocampus", "Task04_Hippocampus", "Dataset004_hippocampus"])
def test_csv(table, task):
    scores = read_scores(table, task=task, arch="Plain")
    assert scores.scores == {"1": {"h_1": 0.9, "h_2": None}, "2": {"h_1": 0.8, "h_2": None}}
    assert scores.source.endswith("scores.csv (004_Hippocampus, Plain)")


def test_an_only_task_need_not_be_chosen(table):
    table.write_text("case,label,dice\na,1,0.5\n")
    assert read_scores(table).scores == {"1": {"a": 0.5}}
    table.write_text("task,case,label,dice\nX,a,1,0.5\n")
    assert read_scores(table).scores == {"1": {"a": 0.5}}


@pytest.mark.parametrize(
    ("choice", "listed"),
    [
        ({}, "002_Heart, 004_Hippocampus"),
        ({"task": "Liver"}, "002_Heart, 004_Hippocampus"),
        ({"task": "Hippocampus"}, "Large, Plain"),
        ({"task": "Hippocampus", "arch": "Tiny"}, "Large, Plain"),
    ],
)
def test_an_ambiguous_choice_lists_what_there_is(table, choice, listed):
    with pytest.raises(SettingError, match=listed):
        read_scores(table, **choice)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("case,label,dice\na,1,0.5\na,1,0.6\n", DatasetError, "twice"),
        ("case,label,dice\na,1,many\n", ArtifactError, "not a number"),
        ("case,label,dice\na\n", ArtifactError, "names no case or no label"),
        ("case,label,iou\na,1,0.5\n", SettingError, "lacks columns"),
        ("case,label,dice\n", DatasetError, "no scores"),
        ("", SettingError, "lacks columns"),
    ],
)
def test_a_csv_that_cannot_be_used(table, text, error, message):
    table.write_text(text)
    with pytest.raises(error, match=message):
        read_scores(table)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", ArtifactError, "can't be read"),
        ('{"results": {"all": []}}', ArtifactError, "neither an evaluation.json nor"),
        ('{"metric_per_case": []}', DatasetError, "no scores"),
        ('{"metric_per_case": [{"metrics": {"1": {}}, "prediction_file": "a.nii.gz"}]}', ArtifactError, "case a"),
        ('{"schema_version": 1}', ArtifactError, "not allowed"),
    ],
)
def test_a_json_that_cannot_be_used(summary, text, error, message):
    summary.write_text(text)
    with pytest.raises(error, match=message):
        read_scores(summary)


def test_metrics_and_paths_are_checked(summary, tmp_path):
    with pytest.raises(SettingError, match="dice, iou"):
        read_scores(summary, metric="Dice")
    with pytest.raises(SettingError, match="dice, iou, sensitivity, precision"):
        read_scores(summary, metric="hd_mm")
    with pytest.raises(DatasetError, match="no such file"):
        read_scores(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no scores"):
        read_scores(tmp_path / "empty")


def test_folds_are_put_together(tmp_path):
    for fold in range(3):
        file = tmp_path / f"fold_{fold}" / "validation" / "summary.json"
        file.parent.mkdir(parents=True)
        cases = [nnunet_case(f"h_{fold}", {"1": (0.1 * fold, 1, 1, 1)})]
        file.write_text(json.dumps({"metric_per_case": cases}))
    assert read_scores(tmp_path).scores == {"1": {"h_0": 0.0, "h_1": 0.1, "h_2": 0.2}}
    one = read_scores(tmp_path / "fold_1" / "validation")
    with pytest.raises(DatasetError, match="scored twice"):
        merge([one, one], source="both")


def test_labels_are_matched_by_name_else_by_value(evaluation, summary, table):
    ours, theirs, published = read_scores(evaluation), read_scores(summary), read_scores(table, task="Heart")
    for turned in (False, True):
        one, two, notes = match_labels(*((theirs, ours) if turned else (ours, theirs)))
        assert set(one.scores) == set(two.scores) == {"Anterior", "Posterior"}
        assert (two if not turned else one).scores["Posterior"] == theirs.scores["2"]
        assert any("label 2 of" in note and "taken for Posterior" in note for note in notes)
        assert any("(1, 2): not compared" in note for note in notes)
    one, two, notes = match_labels(theirs, published)
    assert list(one.scores) == list(two.scores) == ["1"]
    assert not any("taken for" in note for note in notes)


def test_tables_without_a_common_label_are_refused(table, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("case,label,dice\nh_1,spleen,0.5\n")
    with pytest.raises(DatasetError, match="no label in common"):
        match_labels(read_scores(table, task="Heart"), read_scores(other))
