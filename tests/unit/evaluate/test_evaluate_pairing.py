"""Which files belong together, and what the labels are called."""

import json

import pytest

from autoseg.errors import DatasetError
from autoseg.evaluate.labels import name_values, read_labels, read_repair
from autoseg.evaluate.pairing import pair_files


@pytest.fixture
def folders(tmp_path):
    """A function that makes two folders of empty files."""

    def make(predicted, reference):
        for folder, names in (("predicted", predicted), ("reference", reference)):
            (tmp_path / folder).mkdir()
            for name in names:
                (tmp_path / folder / name).touch()
        return tmp_path / "predicted", tmp_path / "reference"

    return make


@pytest.mark.parametrize(
    ("predicted", "reference", "cases"),
    [
        (["a_1.nii.gz", "a_2.nii.gz"], ["a_1.nii.gz", "a_2.nii.gz"], ["a_1", "a_2"]),
        (["a_1.nii.gz", "a_2.nii.gz"], ["a_1.nrrd", "a_2.mha"], ["a_1", "a_2"]),
        (["pt_1.nii.gz", "pt_10.nii.gz"], ["pt_1_oar.nii.gz", "pt_10_oar.nii.gz"], ["pt_1", "pt_10"]),
        (["a_seg_v2.png", "b_seg_v2.png"], ["a.png", "b.png"], ["a", "b"]),
        (["a_pred.png", "b_pred.png"], ["a-gt.tif", "b-gt.tif"], ["a", "b"]),
        (["x.y.1.nii", "x.y.2.nii"], ["x.y.1.NII", "x.y.2.NII"], ["x.y.1", "x.y.2"]),
        (["a.png", "evaluation.json", ".b.png", "a.npz"], ["a.png"], ["a"]),
    ],
)
def test_folders_are_matched_by_case(folders, predicted, reference, cases):
    pairing = pair_files(*folders(predicted, reference))
    assert list(pairing.predicted) == list(pairing.reference) == cases
    assert all(pairing.predicted[case].name.startswith(case) for case in cases)
    assert all(pairing.reference[case].name.startswith(case) for case in cases)


def test_predictions_without_reference_are_left_out_and_logged(folders, caplog):
    caplog.set_level("INFO")
    pairing = pair_files(*folders(["a.png", "b.png"], ["a.png"]))
    assert list(pairing.predicted) == ["a"]
    assert [file.name for file in pairing.ignored] == ["b.png"]
    assert "b.png" in caplog.text


def test_references_without_prediction_are_named(folders):
    with pytest.raises(DatasetError, match=r"2 of 3 references(.|\n)*b_gt.png, c_gt.png"):
        pair_files(*folders(["a.png"], ["a_gt.png", "b_gt.png", "c_gt.png"]))


def test_numbers_are_never_taken_for_suffixes(folders):
    with pytest.raises(DatasetError, match="2 of 2 references"):
        pair_files(*folders(["a_2.png", "b_2.png"], ["a_1.png", "b_1.png"]))


def test_two_ways_to_match_are_refused(folders):
    with pytest.raises(DatasetError, match="more than one prediction"):
        pair_files(*folders(["a_raw.png", "a_final.png"], ["a.png"]))


def test_two_files_for_one_case_are_refused(folders):
    with pytest.raises(DatasetError, match="same case"):
        pair_files(*folders(["a.png", "a.nii.gz"], ["a.png"]))


def test_two_files_are_a_pair_whatever_their_names(folders):
    predicted, reference = folders(["x.png"], ["case_7.nii.gz"])
    pairing = pair_files(predicted / "x.png", reference / "case_7.nii.gz")
    assert pairing.predicted == {"case_7": predicted / "x.png"}


@pytest.mark.parametrize("turned", [False, True])
def test_a_file_against_a_folder_is_refused(folders, turned):
    predicted, reference = folders(["a.png"], ["a.png"])
    paths = [predicted / "a.png", reference]
    with pytest.raises(DatasetError, match="a file and a folder"):
        pair_files(*(paths[::-1] if turned else paths))


def test_missing_and_empty_folders_are_named(folders, tmp_path):
    predicted, reference = folders([], ["a.png"])
    with pytest.raises(DatasetError, match="no label files"):
        pair_files(predicted, reference)
    with pytest.raises(DatasetError, match="no such file"):
        pair_files(tmp_path / "nowhere", reference)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "b": 2, "a": 1}, {"a": 1, "b": 2}),
        ({"0": "background", "2": "b", "1": "a"}, {"a": 1, "b": 2}),
    ],
)
def test_labels_of_a_dataset_json(tmp_path, labels, expected):
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps({"labels": labels, "licence": "any"}))
    assert list(read_labels(file).items()) == list(expected.items())


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"labels": []}', '{"labels": {"whole": [1, -2]}}', '{"labels": {"a": -1}}']
)
def test_a_dataset_json_without_plain_labels_is_refused(tmp_path, text):
    file = tmp_path / "dataset.json"
    file.write_text(text)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        read_labels(file)


def test_unnamed_labels_are_called_by_their_value():
    assert name_values([255, 0, 127, 255]) == {"label_127": 127, "label_255": 255}


@pytest.mark.parametrize(("content", "expected"), [({"repair": "resample-labels"}, "resample-labels"), ({}, None)])
def test_what_a_dataset_json_says_of_repair(tmp_path, content, expected):
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert read_repair(tmp_path / "dataset.json") == expected
