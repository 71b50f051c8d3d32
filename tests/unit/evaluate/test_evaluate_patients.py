"""Which cases are of one patient, and means over them."""

import pytest

from autoseg.errors import DatasetError, SettingError
from autoseg.evaluate.patients import by_patient, groups_of_names, patient_means


def test_cases_without_a_patient_stand_alone():
    found = by_patient(["a1", "b", "a2", "a"], {"a1": "a", "a2": "a"})
    assert list(found.values()) == [["a1", "a2"], ["b"], ["a"]]


def test_patients_in_names():
    assert groups_of_names(["pt1_x", "pt1_y", "pt2_x"], "^([^_]+)_") == {"pt1_x": "pt1", "pt1_y": "pt1", "pt2_x": "pt2"}
    assert groups_of_names(["pt1_x"], r"pt\d+") == {"pt1_x": "pt1"}
    with pytest.raises(DatasetError, match="case other"):
        groups_of_names(["pt1_x", "other"], "^([^_]+)_")
    with pytest.raises(SettingError, match="no regular expression"):
        groups_of_names(["pt1_x"], "(")


def test_means_are_over_what_both_have():
    means = patient_means([0.5, 0.7, None, 0.2], [0.6, None, 0.9, 0.4], [[0, 1, 2], [1, 2], [3]])
    assert means == ([0.5, None, 0.2], [0.6, None, 0.4])
