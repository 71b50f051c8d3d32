"""`--set`: one value replaced, everything checked again."""

import pytest

from autoseg.artifacts.overlay import overlay
from autoseg.errors import SettingError


@pytest.fixture
def plan(build_plan):
    return build_plan()


def test_values_are_replaced_and_the_given_plan_is_not(plan):
    new = overlay(plan, ["training.epochs=50", "training.max_hours=0.5", "configurations.3d_fullres.batch_size=7"])
    assert (new.training.epochs, new.training.max_hours) == (50, 0.5)
    assert new.configurations["3d_fullres"].batch_size == 7
    assert (plan.training.epochs, plan.training.max_hours) == (1000, None)
    assert overlay(new, ["training.max_hours=null"]).training.max_hours is None


def test_the_last_of_two_settings_counts(plan):
    assert overlay(plan, ["training.seed=1", "training.seed=2"]).training.seed == 2


def test_lists_and_words_can_be_set(plan):
    new = overlay(
        plan,
        [
            "configurations.3d_fullres.patch_size=[16, 8, 4]",
            'configurations.3d_fullres.normalization_schemes=["ct"]',
            "preset=plain",
            "training.augmentation.gamma=[0.5,2]",
        ],
    )
    assert new.configurations["3d_fullres"].patch_size == (16, 8, 4)
    assert new.configurations["3d_fullres"].normalization_schemes == ("ct",)
    assert new.training.augmentation.gamma == (0.5, 2.0)


def test_without_settings_the_plan_stays_itself(plan):
    assert overlay(plan, []) is plan


@pytest.mark.parametrize(
    ("setting", "key", "hint"),
    [
        ("epochs=3", "'epochs'", "'training.epochs'"),
        ("training.epoch=3", "'training.epoch'", "'training.epochs'"),
        ("trainin.epochs=3", "'trainin.epochs'", "'training.epochs'"),
        ("gamma=[1,1]", "'gamma'", "'training.augmentation.gamma'"),
        ("configurations.3d_fullres.batchsize=2", "batchsize", "'configurations.3d_fullres.batch_size'"),
        ("configurations.3d_fulres.batch_size=2", "3d_fulres", "'configurations.3d_fullres.batch_size'"),
        ("training.epochs.first=3", "'training.epochs.first'", None),
    ],
)
def test_an_unknown_key_names_the_nearest(plan, setting, key, hint):
    with pytest.raises(SettingError, match="unknown key") as caught:
        overlay(plan, [setting])
    assert key in caught.value.what
    assert f"--set {setting}" in str(caught.value)
    if hint is not None:
        assert f"did you mean {hint}?" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("training.epochs=0", "training.epochs"),
        ("training.epochs=many", "training.epochs"),
        ("training.epochs=1.5", "training.epochs"),
        ("training.momentum=1", "training.momentum"),
        ("training.foreground_share=1.01", "training.foreground_share"),
        ("training.initial_learning_rate=NaN", "training.initial_learning_rate"),
        ("training.augmentation.gamma=[2,1]", "gamma"),
        ("training=3", "training"),
        ("preset=residual", "preset"),
    ],
)
def test_a_value_out_of_bounds_is_refused(plan, setting, told):
    with pytest.raises(SettingError, match="not allowed") as caught:
        overlay(plan, [setting])
    assert told in caught.value.found
    assert f"--set {setting}" in str(caught.value)


def test_a_patch_that_strides_do_not_divide_is_refused(plan):
    with pytest.raises(SettingError, match=r"patch_size\[2\] = 9 does not divide by the product of its strides, 2"):
        overlay(plan, ["configurations.3d_fullres.patch_size=[8,8,9]"])


@pytest.mark.parametrize("setting", ["training.epochs", "=3", ""])
def test_a_setting_without_key_or_value_is_refused(plan, setting):
    with pytest.raises(SettingError, match="KEY=VALUE"):
        overlay(plan, [setting])


def test_patience_needs_a_validation_to_wait_for(plan):
    assert overlay(plan, ["training.patience=5"]).training.patience == 5
    with pytest.raises(SettingError, match="not allowed") as caught:
        overlay(plan, ["training.patience=5", "training.validation_iterations=0"])
    assert "patience is 5, which needs validation_iterations" in str(caught.value)
