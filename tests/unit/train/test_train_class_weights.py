"""Class weights from the voxels of the training cases."""

import pytest

from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.preprocessed import Placement, PreprocessedCase
from autoseg.train.class_weights import HEAVIEST, resolve_class_weights

CLASSES = {"background": 0, "organ": 1, "lesion": 2}
REGIONS = {"background": 0, "whole": (1, 2), "core": 2}


def records(*counts, labels=CLASSES, shape=(10, 10, 10)):
    names = [name for name in labels if name not in ("background", "ignore")]
    grid = Geometry(shape=shape, spacing_mm=(1.0, 1.0, 1.0))
    return [
        PreprocessedCase(
            name=str(number),
            inputs_sha256="",
            arrays_sha256="",
            placement=Placement(geometry=grid, crop_start=(0, 0, 0), crop_stop=shape, shape=shape),
            num_channels=1,
            foreground_voxels=dict(zip(names, mine, strict=True)),
        )
        for number, mine in enumerate(counts)
    ]


def test_none_are_none_and_the_users_are_the_users():
    assert resolve_class_weights(None, records((1, 1)), CLASSES) == ()
    assert resolve_class_weights((1.0, 2.0, 3.0), records((1, 1)), CLASSES) == (1.0, 2.0, 3.0)


def test_automatic_weights_go_by_the_root_of_the_voxels_of_all_cases():
    # 2000 voxels: 200 organ, 18 + 0 lesion, so 1782 background.
    weights = resolve_class_weights("automatic", records((150, 18), (50, 0)), CLASSES)
    assert weights == pytest.approx((1.0, (1782 / 200) ** 0.5, (1782 / 18) ** 0.5), abs=1e-4)


def test_the_most_frequent_class_weighs_one_whichever_it_is():
    weights = resolve_class_weights("automatic", records((900, 4)), CLASSES)
    assert weights == pytest.approx((HEAVIEST if 900 / 96 > 100 else (900 / 96) ** 0.5, 1.0, HEAVIEST), abs=1e-4)


@pytest.mark.parametrize("voxels", [0, 1, 5])
def test_weights_are_bounded(voxels):
    assert resolve_class_weights("automatic", records((100, voxels)), CLASSES)[2] == HEAVIEST


def test_regions_are_held_against_what_lies_outside_them():
    weights = resolve_class_weights("automatic", records((600, 100), labels=REGIONS), REGIONS)
    # More inside than outside is no reason to weigh less than 1.
    assert weights == pytest.approx((1.0, 3.0), abs=1e-4)


@pytest.mark.parametrize(("labels", "expected"), [(CLASSES, (1.0, 1.0, 5.0)), (REGIONS, (1.0, 5.0))])
def test_with_an_ignore_label_the_most_frequent_of_the_foreground_is_the_measure(labels, expected):
    sparse = {**labels, "ignore": 3}
    assert resolve_class_weights("automatic", records((100, 4), labels=sparse), sparse) == pytest.approx(expected)
