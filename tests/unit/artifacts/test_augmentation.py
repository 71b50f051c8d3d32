"""The record of augmentation: what it refuses, and what `strong` stands for."""

import msgspec
import pytest

from autoseg.artifacts.augmentation import EXTRAS, STRONG, Augmentation
from autoseg.artifacts.base import decode, encode
from autoseg.artifacts.plan import Plan


def converted(**fields):
    """As it comes out of a file."""
    return msgspec.convert(fields, Augmentation)


def test_extras_are_off_by_default():
    plain = Augmentation()
    assert plain.backend == "tensor"
    assert not any(getattr(plain, name) for name in EXTRAS)
    assert plain.in_force() is plain


def test_strong_changes_defaults_alone():
    strong = Augmentation(strong=True).in_force()
    assert {name: getattr(strong, name) for name in STRONG} == STRONG
    others = set(Augmentation.__struct_fields__) - set(STRONG) - {"strong"}
    assert all(getattr(strong, name) == getattr(Augmentation(), name) for name in others)
    mine = Augmentation(strong=True, cutout_probability=0.05, gamma=(0.9, 1.1), mixup_probability=0.3).in_force()
    assert (mine.cutout_probability, mine.gamma, mine.mixup_probability) == (0.05, (0.9, 1.1), 0.3)
    assert mine.sharpen_probability == 0.2
    # What it stands for is itself allowed.
    assert converted(**msgspec.to_builtins(strong)) == strong


@pytest.mark.parametrize("name", EXTRAS)
def test_the_classic_transforms_know_no_extras(name):
    value = True if name == "strong" else 0.5
    with pytest.raises(msgspec.ValidationError, match=f"{name}: not with backend batchgenerators"):
        converted(backend="batchgenerators", **{name: value})
    assert getattr(converted(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"backend": "albumentations"}, "backend"),
        ({"backend": "batchgenerators", "mirror_probability": 0.3}, "mirror_probability: 0.3"),
        ({"backend": "batchgenerators", "rotation_probability_per_axis": 0.5}, "rotation_probability_per_axis: not to"),
        ({"backend": "batchgenerators", "scaling_probability_per_axis": 0.5}, "scaling_probability_per_axis: not to"),
        ({"backend": "batchgenerators", "contrast_clip_share": 0.5}, "contrast_clip_share: not to be changed"),
        ({"elastic_magnitude": [0.1, 0.5]}, "folds space"),
        ({"elastic_magnitude": [0.3, 0.1]}, "above the upper end"),
        ({"elastic_cells": 0}, "elastic_cells"),
        ({"median_size_voxels": [1, 3]}, "median_size_voxels"),
        ({"cutout_boxes": [0, 3]}, "cutout_boxes"),
        ({"cutout_edges": [0.1, 1.5]}, "cutout_edges"),
        ({"cutmix_edges": [0.0, 0.5]}, "cutmix_edges: must be above 0"),
        ({"local_gamma": [0.0, 2.0]}, "local_gamma: must be above 0"),
        ({"mixup_alpha": 0.0}, "mixup_alpha"),
        ({"mixup_probability": 1.2}, "mixup_probability"),
    ],
)
def test_what_is_refused(fields, what):
    with pytest.raises(msgspec.ValidationError, match=what):
        converted(**fields)


def test_the_classic_transforms_mirror_by_halves_or_not():
    for probability in (0.0, 0.5):
        assert converted(backend="batchgenerators", mirror_probability=probability).mirror_probability == probability


def test_a_plan_keeps_it(build_plan):
    augmentation = Augmentation(strong=True, mixup_probability=0.5, cutout_boxes=(2, 3))
    plan = build_plan()
    plan = msgspec.structs.replace(plan, training=msgspec.structs.replace(plan.training, augmentation=augmentation))
    assert decode(encode(plan), Plan, where="plan.json").training.augmentation == augmentation
