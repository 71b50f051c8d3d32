"""What rules keep, and what components are worth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.artifacts.selection import Rule
from autoseg.errors import SettingError
from autoseg.postprocess.components import apply_rules, bounding_box, kept_by, measure

LABELS = {"a": 1, "b": 2}
LARGEST = Rule(keep="largest")


def line(*values):
    """A label map of one row."""
    return np.array(values, np.uint8).reshape(1, 1, -1)


def values(label_zyx):
    return label_zyx.ravel().tolist()


def test_only_the_largest_stays():
    before = line(1, 0, 1, 1, 0, 2, 1)
    assert values(apply_rules(before, [Rule(label="a", keep="largest")], LABELS, 1.0)) == [0, 0, 1, 1, 0, 2, 0]
    assert values(before) == [1, 0, 1, 1, 0, 2, 1]


def test_the_whole_foreground_holds_all_labels_together():
    # A tie: the first one stays.
    assert values(apply_rules(line(1, 2, 0, 1, 1, 0, 2), [LARGEST], LABELS, 1.0)) == [1, 2, 0, 0, 0, 0, 0]


def test_small_components_go_by_volume_and_by_share():
    before = line(1, 0, 1, 1, 0, 1, 1, 1)
    at_least = Rule(label="a", keep="min_volume_mm3", threshold=4.0)
    assert values(apply_rules(before, [at_least], LABELS, 2.0)) == [0, 0, 1, 1, 0, 1, 1, 1]
    third = Rule(label="a", keep="min_share", threshold=0.5)
    assert values(apply_rules(before, [third], LABELS, 2.0)) == [0, 0, 1, 1, 0, 1, 1, 1]
    drastic = Rule(label="a", keep="min_volume_mm3", threshold=100.0)
    assert not apply_rules(before, [drastic], LABELS, 2.0).any()


def test_a_share_that_is_just_reached_is_enough():
    before = line(1, 0, 1, 1, 1)
    assert values(apply_rules(before, [Rule(keep="min_share", threshold=1 / 3)], LABELS, 0.7)) == values(before)


def test_rules_follow_each_other():
    rules = [Rule(label="a", keep="largest"), LARGEST]
    assert values(apply_rules(line(1, 1, 2, 0, 1, 2, 2, 2, 2), rules, LABELS, 1.0)) == [0, 0, 0, 0, 0, 2, 2, 2, 2]


def test_a_region_is_all_its_values():
    labels = {"whole": (1, 2), "core": (2,)}
    rule = Rule(label="whole", keep="largest")
    assert values(apply_rules(line(2, 0, 1, 2, 0, 1), [rule], labels, 1.0)) == [0, 0, 1, 2, 0, 0]


def test_an_unknown_label_is_explained():
    with pytest.raises(SettingError, match="unknown label") as caught:
        apply_rules(line(1), [Rule(label="livre", keep="largest")], {"liver": 1}, 1.0)
    assert "liver" in str(caught.value)


def test_nothing_to_tidy_up():
    assert not apply_rules(np.zeros((2, 3, 4), np.uint8), [LARGEST, Rule(label="b", keep="largest")], LABELS, 1.0).any()


def test_boxes():
    mask = np.zeros((4, 5, 6), bool)
    assert all(edge == slice(0, 0) for edge in bounding_box(mask))
    mask[1, 2, 3] = mask[2, 2, 4] = True
    assert bounding_box(mask) == (slice(1, 3), slice(2, 3), slice(3, 5))


@st.composite
def label_maps(draw):
    shape = draw(st.tuples(*[st.integers(1, 6)] * 3))
    seed, density = draw(st.integers(0, 10**6)), draw(st.floats(0, 1))
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 3, shape) * (rng.random(shape) < density)).astype(np.uint8)


rules = st.lists(
    st.one_of(
        st.builds(Rule, label=st.sampled_from([None, "a", "b"]), keep=st.just("largest")),
        st.builds(Rule, label=st.sampled_from([None, "a", "b"]), keep=st.just("min_share"), threshold=st.floats(0, 1)),
        st.builds(
            Rule, label=st.sampled_from([None, "a", "b"]), keep=st.just("min_volume_mm3"), threshold=st.floats(0, 20)
        ),
    ),
    max_size=3,
)


@settings(deadline=None)
@given(label_maps(), rules)
def test_rules_add_and_change_no_voxel(label_zyx, rules):
    after = apply_rules(label_zyx, rules, LABELS, 1.5)
    assert ((after == label_zyx) | (after == 0)).all()


@settings(deadline=None)
@given(label_maps(), rules.filter(lambda rules: len(rules) == 1))
def test_a_rule_is_idempotent(label_zyx, rules):
    once = apply_rules(label_zyx, rules, LABELS, 1.5)
    np.testing.assert_array_equal(apply_rules(once, rules, LABELS, 1.5), once)


@settings(deadline=None)
@given(label_maps(), st.integers(0, 10**6), rules.filter(lambda rules: len(rules) == 1))
def test_dice_from_counts_is_dice_of_the_changed_map(label_zyx, seed, rules):
    truth = np.random.default_rng(seed).integers(0, 4, label_zyx.shape)  # 3: not annotated
    measured = measure(label_zyx, truth, LABELS, ignore=3, voxel_mm3=1.5)
    (rule,) = rules
    after = np.where(truth == 3, 0, apply_rules(label_zyx, rules, LABELS, 1.5))
    for name, value in LABELS.items():
        parts = measured.labels[name]
        if rule.label is None:
            kept = kept_by(rule, measured.foreground_mm3)[parts.parents]
        else:
            kept = kept_by(rule if rule.label == name else None, parts.volumes_mm3)
        found, expected = after == value, truth == value
        size = found.sum() + expected.sum()
        assert parts.dice(kept) == pytest.approx(2 * (found & expected).sum() / size if size else 1.0)


def test_volumes_of_the_reference():
    measured = measure(line(0, 0, 0, 0, 0), line(1, 1, 0, 2, 1), LABELS, voxel_mm3=3.0)
    assert measured.labels["a"].reference_mm3.tolist() == [6.0, 3.0]
    assert measured.foreground_reference_mm3.tolist() == [6.0, 6.0]
    assert measured.foreground_mm3.size == 0
