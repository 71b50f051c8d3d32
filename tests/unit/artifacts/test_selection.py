"""selection.json: what a person may write there, and what is refused."""

import msgspec
import pytest

from autoseg.artifacts.base import decode, encode
from autoseg.artifacts.selection import Candidate, Difference, Rule, RuleTrial, Selection
from autoseg.errors import ArtifactError

DIFFERENCE = Difference(mean=0.02, num_higher=9, num_lower=1, p_wilcoxon=0.01, rank_biserial=0.9)
SELECTION = Selection(
    configurations=("2d", "3d_fullres"),
    decoding="dice",
    folds=(0, 1, 2),
    rules=(Rule(keep="largest"), Rule(label="liver", keep="min_volume_mm3", threshold=40.0)),
    num_cases=10,
    judged_on=(0, 1, 2),
    candidates=(Candidate(configurations=("2d",), mean_dice=0.8),),
    rule_trials=(
        RuleTrial(
            label=None,
            rule=Rule(keep="largest"),
            dice_before=0.8,
            dice_after=0.82,
            difference=DIFFERENCE,
            accepted=True,
            why="better",
        ),
    ),
    weights_sha256={"2d": {"0": "a"}},
    inputs_sha256="0",
)


def edited(**changes):
    tree = msgspec.to_builtins(SELECTION)
    return decode(msgspec.json.encode({**tree, **changes}), Selection, where="selection.json")


def test_written_and_read_again():
    assert decode(encode(SELECTION), Selection, where="") == SELECTION
    assert SELECTION.way.words == "2d + 3d_fullres, dice"
    assert [rule.words for rule in SELECTION.rules] == [
        "whole foreground: keep largest",
        "liver: keep min_volume_mm3 40",
    ]


def test_a_person_may_change_it():
    changed = edited(configurations=["2d"], decoding="argmax", folds=[1], rules=[])
    assert (changed.way.configurations, changed.folds, changed.rules) == (("2d",), (1,), ())


@pytest.mark.parametrize(
    "changes",
    [
        {"configurations": []},
        {"configurations": ["a", "b", "c"]},
        {"configurations": ["2d", "2d"]},
        {"decoding": "softmax"},
        {"folds": []},
        {"folds": [0, 0]},
        {"folds": [-1]},
        {"rules": [{"keep": "largest", "threshold": 3}]},
        {"rules": [{"keep": "min_share"}]},
        {"rules": [{"keep": "min_share", "threshold": 1.5}]},
        {"rules": [{"keep": "min_volume_mm3", "threshold": -1}]},
        {"rules": [{"keep": "smallest"}]},
        {"rules": [{"keep": "largest", "lable": "liver"}]},
        {"post_processing": []},
    ],
)
def test_what_makes_no_sense_is_refused(changes):
    with pytest.raises(ArtifactError) as caught:
        edited(**changes)
    assert "selection.json" in str(caught.value)


def test_what_is_named_twice_is_told():
    for changes, message in (
        ({"configurations": ["2d", "2d"]}, "2d is named twice"),
        ({"folds": [1, 1]}, "folds names"),
    ):
        with pytest.raises(ArtifactError, match=message):
            edited(**changes)


@pytest.mark.parametrize(
    "changes", [{"mean": -0.01}, {"p_wilcoxon": 0.06}, {"p_wilcoxon": None}, {"rank_biserial": -0.1}]
)
def test_a_gain_is_real_only_where_all_agree(changes):
    assert DIFFERENCE.is_real_gain
    assert not msgspec.structs.replace(DIFFERENCE, **changes).is_real_gain
