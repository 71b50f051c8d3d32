"""The explanation tells the numbers that the planner really used."""

from math import prod
from pathlib import Path

import pytest

from autoseg.plan.decide import USUAL, Meter, Wishes, decide, fit_to_device
from autoseg.plan.explain import choices, explain

PAGES = Path(__file__).parents[3] / "docs" / "explanation"


@pytest.fixture
def told(build_dataset, build_fingerprint):
    """Callable: title -> choice, for cases of a shape and spacing."""

    def tell(shape, spacing_mm, wishes=USUAL, **dataset):
        found = build_dataset(**dataset)
        fingerprint = build_fingerprint(found, shapes=(shape,), spacing_mm=spacing_mm)
        return {choice.title: choice for choice in choices(fingerprint, decide(fingerprint, wishes))}

    return tell


def text(choice):
    return "\n".join((choice.rule, *choice.saw, *choice.chose, *choice.rejected))


def test_each_step_of_the_patch_search_is_told(told):
    # The worked example of docs/explanation/patch-and-batch.md.
    thick = told((60, 512, 512), (5.0, 0.8, 0.8), num_cases=100, labels={"background": 0, "a": 1, "b": 2})
    patch = thick["3d_fullres: patch"]
    assert len(patch.rejected) == 13
    assert patch.rejected[0].startswith("64 x 512 x 512: estimate 4,9")
    assert patch.rejected[-1].endswith("1.10 of the limit")
    assert patch.chose[0].startswith("28 x 256 x 256: estimate 541.3 million, 0.97 of the limit")
    assert "47 % x 50 % x 50 %" in patch.chose[1]
    assert "after 15 steps of 3 %" in text(thick["Low resolution and cascade"])
    depth = text(thick["3d_fullres: depth and kernels"])
    assert "stage 0: 28 x 256 x 256 at 5 x 0.8 x 0.8 mm, 32 features, kernel 1 x 3 x 3; then strides 1 x 2 x 2" in depth
    assert "Z waits, 5 mm are 6.2 times 0.8 mm" in depth
    assert "Z stops, 7 voxels are fewer than 8" in depth
    assert "7 stages" in depth


def test_small_images(told):
    small = told((36, 50, 35), (1.0, 1.0, 1.0), num_cases=200, labels={"background": 0, "a": 1, "b": 2})
    assert "nothing: the first patch fits" in small["3d_fullres: patch"].rejected
    assert small["3d_fullres: batch size"].chose == ("7, as many as the dataset allows",)
    assert "58: more than the dataset allows" in small["3d_fullres: batch size"].rejected
    assert small["Low resolution and cascade"].chose == ("no 3d_lowres and no cascade",)


def test_axes_are_called_as_in_the_files(told):
    # Slices along X come first in the network's order.
    sagittal = told((320, 320, 30), (0.5, 0.5, 3.0))
    assert "X x Z x Y" in text(sagittal["Axis order and median image"])
    assert "X waits" in text(sagittal["3d_fullres: depth and kernels"])
    assert "2D networks see slices of Z x Y" in text(sagittal["Axis order and median image"])


def test_pictures_have_no_3d_networks(told):
    flat = told((1, 500, 500), (999.0, 1.0, 1.0))
    assert "3d_fullres" in text(flat["No 3D networks"])
    assert "3d_fullres: patch" not in flat


def test_the_thick_slice_rule_says_what_it_saw(told):
    assert "more than 3 times" in text(told((40, 512, 512), (5.0, 0.8, 0.8))["Target spacing"])
    assert "only coarse" in text(told((60, 160, 160), (5.0, 0.8, 0.8))["Target spacing"])
    given = told((60, 160, 160), (5.0, 0.8, 0.8), Wishes(spacing=(1.0, 1.0, 1.0)))["Target spacing"]
    assert given.chose == ("1 x 1 x 1 mm, from --spacing",)


def test_advice_is_told(told):
    chosen = told((36, 50, 35), (1.0, 1.0, 1.0), Wishes(preset="auto"), num_cases=200)["Preset"]
    assert "plain, planned for 8 GB" in chosen.chose[0]
    assert "leave a deeper network nothing to see" in chosen.rejected[0]


def test_what_was_measured_is_told(build_dataset, build_fingerprint):
    fingerprint = build_fingerprint(build_dataset(num_cases=200))
    planned = decide(fingerprint)
    weighed = fit_to_device(planned, Meter("a scale", 4, lambda _plan, configuration: (configuration.batch_size, True)))
    assert {each.batch_size for each in weighed.plan.configurations.values()} == {4}
    written = explain(fingerprint, weighed)
    assert "3d_fullres: batch 7 of 40 x 56 x 40 becomes batch 4 of 40 x 56 x 40" in written
    assert "GiB on a scale" in written


def test_after_a_patch_shrank_its_reasons_are_those_of_the_plan(build_dataset, build_fingerprint):
    fingerprint = build_fingerprint(build_dataset(num_cases=20), shapes=((40, 256, 256),), spacing_mm=(3.0, 1.0, 1.0))
    planned = decide(fingerprint)
    meter = Meter("a scale", 300_000, lambda _plan, configuration: (prod(configuration.patch_size), True))
    weighed = fit_to_device(planned, meter)
    before, after = planned.plan.configurations["3d_fullres"], weighed.plan.configurations["3d_fullres"]
    assert prod(after.patch_size) <= 300_000 < prod(before.patch_size)
    assert after.n_stages < before.n_stages
    told = {choice.title: choice for choice in choices(fingerprint, weighed)}
    convolutions = ", ".join("2" for _ in range(before.n_stages))
    depth = told["3d_fullres: depth and kernels"]
    assert depth.chose[0].startswith(f"{before.n_stages} stages; encoder {convolutions} convolutions")
    assert depth == {choice.title: choice for choice in choices(fingerprint, planned)}["3d_fullres: depth and kernels"]
    becomes = " x ".join(str(edge) for edge in after.patch_size)
    assert any(line.endswith(f"becomes batch 2 of {becomes}") for line in told["Measured"].chose)


def test_every_choice_has_its_rule_and_source(told):
    for choice in told((60, 512, 512), (5.0, 0.8, 0.8)).values():
        assert choice.rule.endswith(".")
        assert choice.chose
        assert (PAGES / choice.source.rpartition("; ")[2]).is_file()
