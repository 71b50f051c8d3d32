"""Means over cases and labels, worked out by hand."""

import numpy as np
import pytest

from autoseg.evaluate.score import Ruler, score_labels
from autoseg.evaluate.summary import summarize

LABELS = {"liver": 1, "tumour": 2}


def scores(reference, predicted, ruler=None):
    """Scores of one-row label maps."""
    arrays = [np.array([[row]], dtype=np.uint8) for row in (reference, predicted)]
    return score_labels(
        *arrays, LABELS, ruler or Ruler.millimetres((2.0, 1.0, 1.0), flat=False), dict.fromkeys(LABELS, 1.0)
    )


def test_every_label_of_a_hand_sized_case():
    result = scores([0, 1, 1, 0, 2, 0], [0, 1, 0, 0, 2, 2])
    liver, tumour = result["liver"], result["tumour"]
    assert (liver.dice, liver.sensitivity, liver.precision) == (2 / 3, 0.5, 1.0)
    assert (liver.n_reference_voxels, liver.n_predicted_voxels) == (2, 1)
    assert (liver.hd_mm, liver.assd_mm, liver.nsd) == (1.0, 1 / 3, 1.0)
    assert liver.volume_difference_ml == pytest.approx(-0.002)
    assert tumour.volume_difference_ml == pytest.approx(0.002)


def test_an_absent_label_is_undefined_and_a_missed_one_is_zero():
    result = scores([0, 1, 1], [0, 0, 0])
    assert {getattr(result["tumour"], name) for name in ("dice", "volume_difference_ml", "hd_mm", "nsd")} == {None}
    missed = result["liver"]
    assert (missed.dice, missed.precision, missed.nsd, missed.hd_mm, missed.hd95_mm, missed.assd_mm) == (
        0,
        0,
        0,
        None,
        None,
        None,
    )
    assert missed.volume_difference_ml == pytest.approx(-0.004)


def test_a_flat_image_with_spacing_has_no_volume_and_a_picture_counts_pixels():
    flat = scores([0, 1, 1], [0, 1, 0], Ruler.millimetres((999.0, 1.0, 0.5), flat=True))["liver"]
    assert (flat.volume_difference_ml, flat.hd_mm) == (None, 0.5)
    picture = scores([0, 1, 1], [0, 1, 0], Ruler.pixels())["liver"]
    assert (picture.volume_difference_ml, picture.hd_mm) == (-1.0, 1.0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        scores([0, 1], [0, 1, 1])


def test_means_leave_undefined_values_out_and_weigh_cases_alike():
    summary = summarize(
        {
            "both": scores([1, 1, 2], [1, 0, 2]),  # liver 2/3, tumour 1
            "liver only": scores([1, 1, 0], [1, 1, 0]),  # liver 1, tumour undefined
            "false alarm": scores([1, 1, 0], [1, 1, 2]),  # liver 1, tumour 0
            "empty": scores([0, 0, 0], [0, 0, 0]),  # all undefined: in no mean
        },
        LABELS,
    )
    assert summary.mean.dice == pytest.approx((5 / 6 + 1 + 0.5) / 3)
    assert summary.labels["liver"].dice == pytest.approx((2 / 3 + 1 + 1) / 3)
    tumour = summary.labels["tumour"]
    assert tumour.dice == 0.5
    assert (tumour.n_cases, tumour.n_both_empty, tumour.n_false_alarms, tumour.n_missed) == (4, 2, 1, 0)
    assert tumour.n_distances_undefined == 1
    assert (tumour.dice_where_present, tumour.specificity_where_absent) == (1.0, 2 / 3)
    assert tumour.hd_mm == 0.0


def test_half_the_cases_without_foreground():
    cases = {f"full {index}": scores([1, 1, 0], [1, 1, 0]) for index in range(3)}
    cases |= {f"empty {index}": scores([0, 0, 0], [0, index == 2, 0]) for index in range(3)}
    liver = summarize(cases, LABELS).labels["liver"]
    assert (liver.dice, liver.dice_where_present) == (0.75, 1.0)
    assert liver.specificity_where_absent == pytest.approx(2 / 3)
    # One voxel of 2 mm3 in one of three cases.
    assert liver.false_positive_ml_where_absent == pytest.approx(0.002 / 3)


def test_a_false_alarm_has_no_volume_where_voxels_have_none():
    flat = Ruler.millimetres((999.0, 1.0, 0.5), flat=True)
    alarm, none = scores([0, 0], [1, 0], flat), scores([0, 0], [0, 0], flat)
    assert summarize({"alarm": alarm, "none": none}, LABELS).labels["liver"].false_positive_ml_where_absent is None
    assert summarize({"none": none}, LABELS).labels["liver"].false_positive_ml_where_absent == 0
    present = scores([1, 0], [1, 0])
    assert summarize({"present": present}, LABELS).labels["liver"].false_positive_ml_where_absent is None


def test_no_case_has_anything():
    summary = summarize({"empty": scores([0, 0], [0, 0])}, LABELS)
    assert summary.mean.dice is None
    assert summary.labels["liver"].dice_where_present is None
    assert summary.labels["liver"].specificity_where_absent == 1.0
