"""Keys of the training recipe that are held against each other and against the labels."""

import pytest

from autoseg.artifacts.overlay import overlay
from autoseg.errors import SettingError

REGIONS = {"background": 0, "whole": (1, 2), "core": 2}


@pytest.fixture
def plan(build_plan):
    return build_plan()


def test_choices_can_be_set(plan):
    settings = ["loss=dice_focal", "class_weights=automatic", "optimizer=adamw", "adamw_betas=[0.8,0.9]"]
    training = overlay(plan, [f"training.{setting}" for setting in settings]).training
    assert (training.loss, training.class_weights) == ("dice_focal", "automatic")
    assert (training.optimizer, training.adamw_betas) == ("adamw", (0.8, 0.9))
    assert overlay(plan, ["training.class_weights=[1, 2.5]"]).training.class_weights == (1.0, 2.5)
    assert overlay(plan, ["training.class_weights=null"]).training.class_weights is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["loss=dicece"], "dicece"),
        (["class_weights=auto"], "auto"),
        (["class_weights=[1, 0]"], "class_weights"),
        (["class_weights=[1, 2, 3]"], "has 3 numbers, needs 2: one for each class, the background first"),
        (["loss=dice", "class_weights=automatic"], "which loss dice does not have"),
        (["loss=tversky", "class_weights=[1, 2]"], "which loss tversky does not have"),
        (["tversky_alpha=0", "tversky_beta=0"], "tversky_alpha and tversky_beta are both 0"),
        (["topk_share=0"], "topk_share"),
        (["warmup_share=1"], "warmup_share"),
        (["adamw_betas=[0.9, 1]"], "adamw_betas"),
        (["rare_class_sampling=1.5"], "rare_class_sampling"),
    ],
)
def test_what_does_not_fit_is_refused(plan, settings, told):
    with pytest.raises(SettingError) as caught:
        overlay(plan, [f"training.{setting}" for setting in settings])
    assert told in str(caught.value)


def test_class_weights_of_regions_leave_the_background_out(build_plan):
    plan = build_plan(labels=REGIONS, regions_class_order=(1, 2))
    assert overlay(plan, ["training.class_weights=[1, 2]"]).training.class_weights == (1.0, 2.0)
    with pytest.raises(SettingError, match="one for each region"):
        overlay(plan, ["training.class_weights=[1, 2, 3]"])


def test_samples_that_a_norm_ties_together_do_not_pass_one_by_one(plan):
    name = next(iter(plan.configurations))
    tied = f"configurations.{name}.norm=batch"
    assert overlay(plan, [tied, "training.sample_by_sample=false"]).configurations[name].norm == "batch"
    with pytest.raises(SettingError, match=f"sample_by_sample is true, and configurations.{name}.norm is batch"):
        overlay(plan, [tied, "training.sample_by_sample=true"])
