"""The stage on files: what is written, what is refused, and when work is not repeated."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from autoseg.artifacts.base import read
from autoseg.artifacts.evaluation import Evaluation
from autoseg.artifacts.geometry import Geometry
from autoseg.errors import DatasetError
from autoseg.evaluate import stage
from autoseg.evaluate.lesions import match_lesions
from autoseg.images.io import write_label

LABELS = {"background": 0, "liver": 1, "tumour": 2}


def volume(shape=(4, 6, 5), seed=0):
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


def save(path, array, spacing_mm=(3.0, 1.0, 0.5), **geometry):
    write_label(path, array, Geometry(shape=array.shape, spacing_mm=spacing_mm, **geometry))
    return path


def save_picture(path, array):
    flat = Geometry(shape=array.shape, spacing_mm=(999.0, 1.0, 1.0), num_dimensions=2, has_spacing=False)
    write_label(path, array, flat)
    return path


@pytest.fixture
def files(tmp_path):
    """Three cases, the predictions drawn with other seeds; one file more on the predicted side."""
    names = ["c", "a", "b"]
    predicted = {
        name: save(tmp_path / "p" / f"{name}.nii.gz", volume(seed=index + 10)) for index, name in enumerate(names)
    }
    reference = {name: save(tmp_path / "r" / f"{name}.nrrd", volume(seed=index)) for index, name in enumerate(names)}
    return predicted | {"d": tmp_path / "p" / "absent.nii.gz"}, reference


def test_what_is_written_is_what_is_returned(files, tmp_path):
    out = tmp_path / "out" / "evaluation.json"
    with ThreadPoolExecutor(2) as executor:
        evaluation = stage.run(*files, LABELS, out, tolerance_mm={"liver": 1.0, "tumour": 2.0}, executor=executor)
    assert read(out, Evaluation) == evaluation
    assert list(evaluation.cases) == ["a", "b", "c"]
    assert (evaluation.unit, evaluation.labels) == ("mm", {"liver": 1, "tumour": 2})
    assert evaluation.tolerance_mm == {"liver": 1.0, "tumour": 2.0}
    one, two = volume(seed=0) == 1, volume(seed=10) == 1
    expected = 2 * np.count_nonzero(one & two) / (np.count_nonzero(one) + np.count_nonzero(two))
    assert evaluation.cases["c"]["liver"].dice == pytest.approx(expected)


def test_lesions_are_counted_where_they_are_asked_for(files, tmp_path):
    out = tmp_path / "evaluation.json"
    without = stage.run(*files, LABELS, out).cases["a"]["liver"]
    assert (without.lesion_f1, without.n_reference_lesions) == (None, None)
    # Another question is asked of the same files.
    evaluation = stage.run(*files, LABELS, out, lesion_iou=0.1)
    lesions = match_lesions(volume(seed=1) == 1, volume(seed=11) == 1, 0.1)
    found = evaluation.cases["a"]["liver"]
    assert (found.n_reference_lesions, found.n_found_lesions) == (lesions.n_reference_lesions, lesions.n_found_lesions)
    assert found.lesion_f1 == lesions.f1
    assert evaluation.summary.labels["liver"].lesion_f1 == pytest.approx(
        np.mean([case["liver"].lesion_f1 for case in evaluation.cases.values()])
    )
    assert read(out, Evaluation).lesion_iou == 0.1


def test_fresh_work_is_not_repeated_and_stale_work_is(files, tmp_path, monkeypatch):
    predicted, reference = files
    out = tmp_path / "evaluation.json"
    first = stage.run(predicted, reference, LABELS, out)
    written = out.stat().st_mtime_ns
    assert stage.run(predicted, reference, LABELS, out) == first
    assert out.stat().st_mtime_ns == written
    assert stage.run(predicted, reference, LABELS, out, tolerance_mm=2.0) != first
    assert stage.run(predicted, reference, {"liver": 1}, out).labels == {"liver": 1}
    save(predicted["a"], volume(seed=99))
    changed = stage.run(predicted, reference, LABELS, out)
    assert changed.hashes["predicted"] != first.hashes["predicted"]
    assert changed.hashes["reference"] == first.hashes["reference"]
    assert changed.cases["a"] != first.cases["a"]
    out.write_text("{")
    assert stage.run(predicted, reference, LABELS, out) == changed


def test_cases_that_do_not_fit_in_memory_are_read_one_by_one(files, tmp_path, monkeypatch, caplog):
    predicted, reference = files
    assert stage.case_bytes("a", reference["a"]) == 4 * 6 * 5 * 40
    assert stage.case_bytes("d", tmp_path / "nowhere.nii.gz") == 0
    expected = stage.run(predicted, reference, None, tmp_path / "expected.json")
    assert "runs alone" not in caplog.text
    monkeypatch.setattr("autoseg.executor.memory_budget_bytes", lambda: 1)
    with ThreadPoolExecutor(3) as executor:
        assert stage.run(predicted, reference, None, tmp_path / "e.json", executor=executor) == expected
    assert caplog.text.count("it runs alone") == 6  # to find the labels, and to score


def test_labels_are_named_after_their_values_when_nobody_names_them(files, tmp_path):
    assert stage.run(*files, None, tmp_path / "e.json").labels == {"label_1": 1, "label_2": 2}


def test_pictures_count_in_pixels(tmp_path):
    one, two = np.zeros((2, 1, 8, 8), np.uint8)
    one[0, 2:5, 2:5] = 1
    two[0, 2:5, 4:7] = 1
    predicted = {"a": save_picture(tmp_path / "p.png", two)}
    evaluation = stage.run(predicted, {"a": save_picture(tmp_path / "r.png", one)}, None, tmp_path / "e.json")
    assert evaluation.unit == "pixels"
    assert evaluation.cases["a"]["label_1"].hd_mm == 2.0


def test_one_unit_for_all_when_only_some_state_a_spacing(tmp_path, caplog):
    array = np.zeros((1, 6, 6), np.uint8)
    array[0, 2:4, 2:4] = 1
    moved = np.roll(array, 1, axis=2)
    reference = {"a": save_picture(tmp_path / "a.png", array), "b": save(tmp_path / "b.nii.gz", array, (1.0, 7.0, 7.0))}
    predicted = {
        "a": save_picture(tmp_path / "a2.png", moved),
        "b": save(tmp_path / "b2.nii.gz", moved, (1.0, 7.0, 7.0)),
    }
    evaluation = stage.run(predicted, reference, None, tmp_path / "e.json")
    assert evaluation.unit == "pixels"
    assert [scores["label_1"].hd_mm for scores in evaluation.cases.values()] == [1.0, 1.0]
    assert "only 1 of 2 references state a spacing" in caplog.text


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "found"), [((4, 6, 6), (3.0, 1.0, 0.5), "shape"), ((4, 6, 5), (3.0, 1.0, 0.6), "spacing")]
)
def test_other_grids_are_refused_with_the_case_named(files, tmp_path, shape, spacing_mm, found):
    predicted, reference = files
    save(predicted["b"], volume(shape), spacing_mm)
    with pytest.raises(DatasetError, match=rf"different grids\n(.|\n)*case b,(.|\n)*{found}"):
        stage.run(predicted, reference, LABELS, tmp_path / "e.json")
    assert not (tmp_path / "e.json").exists()


def test_another_place_and_unknown_values_are_logged(files, tmp_path, caplog):
    predicted, reference = files
    save(predicted["b"], volume() + 3, origin_mm=(5.0, 0.0, 0.0))
    stage.run(predicted, reference, LABELS, tmp_path / "e.json")
    assert "case b: prediction and reference are compared voxel by voxel although they differ in origin" in caplog.text
    assert "case b: the prediction holds values that are no label and count as background: [3, 4, 5]" in caplog.text


def test_what_cannot_be_scored_is_refused(files, tmp_path):
    predicted, reference = files
    out = tmp_path / "e.json"
    with pytest.raises(DatasetError, match=r"no prediction\n(.|\n)*a, c"):
        stage.run({"b": predicted["b"]}, reference, LABELS, out)
    with pytest.raises(DatasetError, match="no references"):
        stage.run(predicted, {}, LABELS, out)
    with pytest.raises(DatasetError, match="no label to score"):
        stage.run(predicted, reference, {"background": 0}, out)
    with pytest.raises(DatasetError, match="tumour"):
        stage.run(predicted, reference, LABELS, out, tolerance_mm={"liver": 1.0})
    with pytest.raises(DatasetError, match="case d"):
        stage.run(predicted, reference | {"d": tmp_path / "nowhere.nii.gz"}, LABELS, out)


def test_references_without_foreground_name_no_label(tmp_path):
    file = save(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(DatasetError, match="no label to score"):
        stage.run({"a": file}, {"a": file}, None, tmp_path / "e.json")


def test_regions_are_scored_as_the_union_of_their_values(files, tmp_path):
    whole = {"background": 0, "whole": (1, 2), "tumour": 2}
    found = stage.run(*files, whole, tmp_path / "evaluation.json")
    assert read(tmp_path / "evaluation.json", Evaluation) == found
    one, two = volume(seed=0) > 0, volume(seed=10) > 0
    expected = 2 * np.count_nonzero(one & two) / (np.count_nonzero(one) + np.count_nonzero(two))
    assert found.cases["c"]["whole"].dice == pytest.approx(expected)
    assert found.cases["c"]["whole"].n_reference_voxels == np.count_nonzero(one)
    alone = stage.run(*files, {"tumour": 2}, tmp_path / "alone.json")
    assert found.cases["c"]["tumour"] == alone.cases["c"]["tumour"]


def test_what_is_not_annotated_counts_nowhere(files, tmp_path):
    predicted, reference = files
    truth = volume(seed=0)
    truth[1] = 3
    save(reference["c"], truth)
    found = stage.run(predicted, reference, LABELS | {"ignore": 3}, tmp_path / "evaluation.json")
    assert (found.ignore, list(found.labels)) == (3, ["liver", "tumour"])
    known = np.arange(4) != 1
    one, two = truth[known] == 1, volume(seed=10)[known] == 1
    scores = found.cases["c"]["liver"]
    assert (scores.n_reference_voxels, scores.n_predicted_voxels) == (one.sum(), two.sum())
    assert scores.dice == pytest.approx(2 * (one & two).sum() / (one.sum() + two.sum()))
    again = stage.run(predicted, reference, LABELS, tmp_path / "evaluation.json")
    assert again.cases["c"]["liver"].n_predicted_voxels > two.sum()


def test_a_reference_on_another_grid_is_brought_onto_the_prediction(files, tmp_path):
    predicted, reference = files
    save(reference["c"], volume(seed=0)[:, :5])
    with pytest.raises(DatasetError, match="different grids"):
        stage.run(predicted, reference, LABELS, tmp_path / "evaluation.json")
    found = stage.run(predicted, reference, LABELS, tmp_path / "evaluation.json", repair="resample-labels")
    assert found.cases["c"]["liver"].n_reference_voxels == np.count_nonzero(volume(seed=0)[:, :5] == 1)


def test_rounding_in_a_header_is_passed_over(files, tmp_path, caplog):
    predicted, reference = files
    save(reference["c"], volume(seed=0), spacing_mm=(3.0, 1.0, 0.505))
    found = stage.run(predicted, reference, LABELS, tmp_path / "evaluation.json")
    assert set(found.cases) == {"a", "b", "c"}
    assert "differ in" not in caplog.text


def test_what_a_repaired_reference_does_not_reach_counts_nowhere(files, tmp_path):
    predicted, reference = files
    save(reference["c"], volume(seed=10)[:2])
    labels = LABELS | {"ignore": 3}
    found = stage.run(predicted, reference, labels, tmp_path / "evaluation.json", repair="resample-labels")
    assert found.cases["c"]["liver"].dice == 1.0
    with pytest.raises(DatasetError, match="different grids"):
        stage.run(predicted, reference, labels, tmp_path / "evaluation.json")
    save(reference["c"], volume(seed=10), origin_mm=(999.0, 0.0, 0.0))
    with pytest.raises(DatasetError, match=r"can't be brought onto its prediction\n.*case c"):
        stage.run(predicted, reference, labels, tmp_path / "evaluation.json", repair="resample-labels")
