"""Normalization from channel names, and whether the mask counts."""

import pytest

from autoseg.plan.normalization import masked, normalization_schemes


def test_each_known_name_has_its_scheme_and_any_other_is_z_scored():
    names = ("CT", "noNorm", "rescale_to_0_1", "rgb_to_0_1", "zscore", "T1", "PET", "R", "")
    assert normalization_schemes(names) == (
        "ct",
        "none",
        "rescale_to_0_1",
        "rgb_to_0_1",
        "zscore",
        "zscore",
        "zscore",
        "zscore",
        "zscore",
    )


@pytest.mark.parametrize("name", ["ct", "Ct", "cT"])
def test_capitals_do_not_matter(name):
    assert normalization_schemes([name]) == ("ct",)


@pytest.mark.parametrize("name", ["CTA", "CT ", "ct_1"])
def test_a_name_counts_only_as_a_whole(name):
    assert normalization_schemes([name]) == ("zscore",)


@pytest.mark.parametrize(("share", "used"), [(0.7499, True), (0.75, False), (1.0, False)])
def test_the_mask_counts_when_more_than_a_quarter_was_cropped(share, used):
    assert masked(("zscore", "ct", "none", "rescale_to_0_1"), share) == (used, False, False, False)
