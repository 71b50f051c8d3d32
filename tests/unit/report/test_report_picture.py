"""Which slice is shown, which part of it, and what is said of it."""

import numpy as np

from autoseg.artifacts.geometry import Geometry
from autoseg.report.picture import choose_slice, crop_box, draw_case


def maps():
    reference = np.zeros((6, 40, 60), np.uint8)
    reference[1:5, 10:20, 30:40] = 1
    predicted = reference.copy()
    predicted[3, 10:15] = 0
    predicted[3, 25:28, 5:9] = 2
    return reference, predicted


def test_the_slice_where_most_differs_is_shown():
    reference, predicted = maps()
    assert choose_slice(reference, predicted) == 3
    reference[2, :15] = 1
    assert choose_slice(reference, reference) == 2


def test_what_is_labelled_is_cut_out_with_a_margin():
    labelled = np.zeros((100, 200), bool)
    labelled[50:60, 100:110] = True
    assert crop_box(labelled) == (slice(38, 72), slice(88, 122))
    labelled[0, 0] = True
    assert crop_box(labelled) == (slice(0, 100), slice(0, 176))
    assert crop_box(np.zeros((5, 7), bool)) == (slice(0, 5), slice(0, 7))


def test_a_picture_says_what_it_shows():
    reference, predicted = maps()
    image = np.random.default_rng(0).normal(size=reference.shape).astype(np.float32)
    labels = {"liver $x_": 1, "whole": (1, 2)}
    geometry = Geometry(shape=reference.shape, spacing_mm=(3.0, 1.0, 0.5))
    picture = draw_case(image, reference, predicted, labels, geometry, anatomical=True)
    assert picture.png.startswith(b"\x89PNG")
    width, height = (int.from_bytes(picture.png[start : start + 4], "big") for start in (16, 20))
    assert (picture.width, picture.height) == (width, height)
    assert picture.words == (
        "Slice 3 of 0 to 5; liver $x_: 50 voxels missed, 0 too many; whole: 50 voxels missed, 12 too many"
    )
    assert picture.colours.keys() == labels.keys()


def test_a_flat_picture_without_labels_is_drawn():
    nothing = np.zeros((1, 5, 9), np.uint8)
    geometry = Geometry(shape=nothing.shape, spacing_mm=(999, 1, 1), num_dimensions=2, has_spacing=False)
    picture = draw_case(nothing.astype(np.float32), nothing, nothing, {"x": 1}, geometry, anatomical=False)
    assert picture.words == "The picture; no label here"
