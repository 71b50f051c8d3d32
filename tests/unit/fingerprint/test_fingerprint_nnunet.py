"""nnU-Net's fingerprint becomes ours, or one clear error."""

import json

import pytest
from msgspec.structs import replace

from autoseg.artifacts.base import write
from autoseg.errors import AutosegError, DatasetError
from autoseg.fingerprint.nnunet import read_fingerprint
from autoseg.plan.decide import make_plan

STATISTICS = {
    "max": 9.0,
    "mean": 1.0,
    "median": 1.0,
    "min": -3.0,
    "percentile_00_5": -2.0,
    "percentile_99_5": 8.0,
    "std": 2.0,
}
MEASURED = {
    "spacings": [[1.0, 1.0, 1.0]] * 3,
    "shapes_after_crop": [[36, 50, 35]] * 3,
    "median_relative_size_after_cropping": 1.0,
    "foreground_intensity_properties_per_channel": {"0": STATISTICS},
}
DESCRIBED = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
    "numTraining": 200,
    "file_ending": ".nii.gz",
}


@pytest.fixture
def read(tmp_path):
    """Callable: the fingerprint of the two files with these keys changed; None takes a key out."""

    def made(measured=None, described=None):
        paths = []
        for name, content, changes in (("f.json", MEASURED, measured), ("d.json", DESCRIBED, described)):
            merged = {key: value for key, value in (content | (changes or {})).items() if value is not None}
            paths.append(tmp_path / name)
            paths[-1].write_text(json.dumps(merged))
        return read_fingerprint(*paths)

    return made


def test_it_is_planned_as_if_measured_here(read):
    fingerprint = read()
    assert fingerprint.num_training == 200
    assert fingerprint.channel_names == ("MRI",)
    assert make_plan(fingerprint).configurations["3d_fullres"].batch_size == 7


def test_without_a_count_the_cases_count(read):
    assert read(described={"numTraining": None}).num_training == 3


def test_regions_and_the_ignore_label_count_as_labels(read):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3], "ignore": 4}
    fingerprint = read(described={"labels": labels, "regions_class_order": [1, 2, 3]})
    assert fingerprint.labels["whole"] == (1, 2, 3)
    plan = make_plan(fingerprint)
    assert plan.labels == fingerprint.labels
    assert plan.regions_class_order == (1, 2, 3)
    # No output for the background, which regions don't need, nor for what is ignored.
    assert plan.num_classes == 3
    # A cascade's second stage is also given a channel for each of the values 1, 2 and 3.
    full = plan.configurations["3d_fullres"]
    assert plan.num_inputs(full) == 1
    assert plan.num_inputs(replace(full, previous_stage="3d_lowres")) == 4


def test_the_older_word_for_channels(read):
    assert read(described={"channel_names": None, "modality": {"0": "CT"}}).channel_names == ("CT",)


def test_ours_needs_no_description(tmp_path, build_dataset, build_fingerprint):
    ours = build_fingerprint(build_dataset())
    write(tmp_path / "fingerprint.json", ours)
    assert read_fingerprint(tmp_path / "fingerprint.json", None) == ours


def test_nnunets_needs_one(tmp_path):
    (tmp_path / "f.json").write_text(json.dumps(MEASURED))
    with pytest.raises(DatasetError, match="does not name channels and labels") as error:
        read_fingerprint(tmp_path / "f.json", None)
    assert "--dataset" in str(error.value)


@pytest.mark.parametrize(
    ("measured", "described", "message"),
    [
        ({"spacings": None}, {}, "spacings"),
        ({"spacings": [[1.0, 1.0, 1.0]] * 2}, {}, "2 spacings, 3 shapes_after_crop"),
        ({"spacings": [], "shapes_after_crop": []}, {}, "0 spacings"),
        ({"spacings": [[1.0, 1.0, 0.0]] * 3}, {}, r"> 0"),
        ({"spacings": [[1.0, 1.0]] * 3}, {}, "length 3"),
        ({"shapes_after_crop": [[36, 0, 35]] * 3}, {}, r">= 1"),
        ({"shapes_after_crop": [[36.5, 50, 35]] * 3}, {}, "int"),
        ({"median_relative_size_after_cropping": 0.0}, {}, "median_relative_size_after_cropping"),
        ({"median_relative_size_after_cropping": 1.5}, {}, "median_relative_size_after_cropping"),
        ({"foreground_intensity_properties_per_channel": {}}, {}, "channels are not those of dataset.json"),
        ({}, {"channel_names": {"0": "A", "1": "B"}}, "channels are not those of dataset.json"),
        ({}, {"channel_names": None}, "does not name channels and labels"),
        ({}, {"labels": None}, "does not name channels and labels"),
        ({}, {"labels": {"background": 0, "a": "x"}}, "no whole number"),
        ({}, {"labels": {"background": 0, "a": "\u00b2"}}, "no whole number"),
        ({}, {"labels": {"background": 0, "a": []}}, "no whole number"),
        ({}, {"labels": {"background": 0, "a": 2}}, "without a gap"),
        ({}, {"labels": {"a": 1}}, "background: 0"),
        ({}, {"labels": {"background": 0, "a": 1, "b": 1}}, "two names"),
        ({}, {"labels": {"background": 0, "a": [1, 2], "b": [2]}}, "regions_class_order"),
        ({}, {"labels": {"background": 0, "a": [1, 2], "b": [2]}, "regions_class_order": [1, 9]}, "no label's"),
        ({}, {"labels": {"background": 0, "a": [1, 2], "b": [2]}, "regions_class_order": [1, -1]}, ">= 0"),
        ({}, {"labels": {"background": 0, "\ud800": 1}}, "can't be read"),
        ({}, {"labels": {"background": 0, "a": [0, 1]}, "regions_class_order": [1]}, "holds the background"),
        ({}, {"labels": {"background": 0, "ignore": 1, "a": 2}}, "highest value"),
        ({}, {"regions_class_order": [1, 2]}, "for regions alone"),
        ({}, {"regions_class_order": "x"}, "regions_class_order"),
    ],
)
def test_invalid_ones_are_one_clear_error(read, measured, described, message):
    with pytest.raises(AutosegError, match=message) as error:
        read(measured, described)
    assert "json" in str(error.value)


def test_no_json_at_all(tmp_path):
    (tmp_path / "f.json").write_text("[")
    with pytest.raises(AutosegError, match="can't be read"):
        read_fingerprint(tmp_path / "f.json", None)


@pytest.mark.parametrize("content", [{}, {"configurations": {}, "dataset_name": "x"}, DESCRIBED])
def test_a_file_that_is_no_fingerprint(tmp_path, content):
    (tmp_path / "f.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="a file is no fingerprint") as error:
        read_fingerprint(tmp_path / "f.json", None)
    assert "dataset_fingerprint.json" in str(error.value)


def test_ours_takes_no_description(tmp_path, build_dataset, build_fingerprint):
    write(tmp_path / "fingerprint.json", build_fingerprint(build_dataset()))
    (tmp_path / "d.json").write_text(json.dumps(DESCRIBED))
    with pytest.raises(DatasetError, match="this one is autoseg's"):
        read_fingerprint(tmp_path / "fingerprint.json", tmp_path / "d.json")
