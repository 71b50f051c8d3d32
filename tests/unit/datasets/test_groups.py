"""Which cases belong together, by a column or by their names."""

import pytest

from autoseg.artifacts.dataset import Case, Naming
from autoseg.datasets.found import Found
from autoseg.datasets.groups import with_groups
from autoseg.errors import DatasetError

NAMES = ("p1_a", "p1_b", "p2_a")
FOUND = Found(
    tuple(Case(name=name, images=("x",), label="y") for name in NAMES),
    Naming(image_suffixes=(".nii",), label_suffix=".nii"),
    columns={"site": dict(zip(NAMES, ("Rome", "Bonn", "Rome"), strict=True)), "day": {"p1_a": "1", "p1_b": ""}},
)


@pytest.mark.parametrize(
    ("group_by", "groups"),
    [
        ("site", ["Rome", "Bonn", "Rome"]),
        ("^[^_]+", ["p1", "p1", "p2"]),
        ("_(.)$", ["a", "b", "a"]),
        (r"p(\d)_(\w)", ["1", "1", "2"]),
    ],
)
def test_groups(group_by, groups):
    assert [case.group for case in with_groups(FOUND, group_by).cases] == groups


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [("day", "case p1_b, p2_a"), ("p1", "case p2_a"), ("p2|(p1)", "case p2_a"), ("(", "site, day")],
)
def test_a_case_without_a_group_is_named(group_by, expected):
    with pytest.raises(DatasetError) as caught:
        with_groups(FOUND, group_by)
    assert expected in str(caught.value)
