"""A case as the page shows it."""

from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import msgspec
import numpy as np
import pytest
from matplotlib.colors import to_hex

from autoseg.artifacts.geometry import Geometry
from autoseg.images.io import read_image, read_label, write_label
from autoseg.images.overlay import colours_of
from autoseg.view import volumes
from autoseg.view.cases import ViewCase, workspace_cases
from autoseg.view.volumes import legend_of, load


@pytest.fixture
def bad(workspace):
    return workspace_cases(workspace, None, None, ["bad"])[0]


def read_back(content, tmp_path):
    file = Path(tmp_path / "sent.nii")
    file.write_bytes(content)
    return read_image([file], case="sent")


def test_volumes_are_those_of_the_files(bad, tmp_path):
    loaded = load(bad)
    for channel, file in enumerate(bad.images):
        there, sent = read_image([file], case="bad"), read_back(loaded.image_bytes(channel), tmp_path)
        np.testing.assert_array_equal(there.array_czyx, sent.array_czyx)
        assert sent.geometry.spacing_mm == pytest.approx(there.geometry.spacing_mm)
        assert sent.geometry.origin_mm == pytest.approx(there.geometry.origin_mm)
    for path, array in ((bad.reference, loaded.reference_zyx), (bad.predicted, loaded.predicted_zyx)):
        sent = read_back(loaded.label_bytes(array), tmp_path).array_czyx[0]
        np.testing.assert_array_equal(read_label(path, case="bad").array_zyx, sent)


def test_what_the_page_is_told(bad):
    page = load(bad).page
    assert page.channels == ("T1", "T2")
    assert [(entry.name, entry.dice) for entry in page.legend] == list(bad.dice.items())
    assert {entry.name: to_hex([c / 255 for c in entry.colour]) for entry in page.legend} == colours_of(bad.dice)
    assert (page.has_reference, page.has_predicted, page.is_flat, page.is_anatomical) == (True, True, False, True)
    x, y, z = page.place
    assert (
        read_label(bad.reference, case="bad").array_zyx[z, y, x]
        or read_label(bad.predicted, case="bad").array_zyx[z, y, x]
    )
    assert all(0 <= low < high <= 200 for low, high in page.windows)
    assert page.notes == ()


def test_the_window_is_that_of_the_surroundings(bad, tmp_path):
    array = np.full((40, 10, 12), 0, np.uint16)  # air
    array[1:30] = 900 + np.arange(120).reshape(10, 12)
    label = np.zeros(array.shape, np.uint8)
    label[2:4, 3:6, 3:6] = 1  # values from 939 to 965
    grid = Geometry(shape=array.shape, spacing_mm=(1, 1, 1))
    files = tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", tmp_path / "nothing.nii.gz"
    for file, content in zip(files, (array, label, 0 * label), strict=True):
        write_label(file, content, grid)
    ((low, high),) = load(ViewCase(name="ct", images=files[:1], reference=files[1], predicted=files[2])).page.windows
    assert (low, high) == pytest.approx((939 - 13, 965 + 13), abs=1)
    ((low, high),) = load(ViewCase(name="ct", images=files[:1], predicted=files[2])).page.windows
    assert (low, high) == pytest.approx((0, 1019), abs=10)


def test_regions_and_what_is_not_annotated():
    legend, lookup = legend_of({"background": 0, "tumour": (1, 2), "core": (2,), "ignore": 3}, {"tumour": 0.5})
    assert [(entry.name, entry.dice) for entry in legend] == [("tumour", 0.5), ("core", None), ("not annotated", None)]
    assert lookup == {1: 1, 2: 2, 3: 3}


def test_values_without_a_name(bad):
    named = load(replace(bad, labels={"left": 1}, dice={})).page
    assert [entry.name for entry in named.legend] == ["left", "other values"]
    assert named.notes == ("a label map holds values that are no label",)
    unnamed = load(replace(bad, labels=None, dice={})).page
    assert [entry.name for entry in unnamed.legend] == ["label_1", "label_2"]


def test_sparse_values_become_those_of_the_legend(bad, tmp_path):
    label = read_label(bad.predicted, case="bad")
    write_label(tmp_path / "mask.nii.gz", np.where(label.array_zyx == 1, 40000, 0), label.geometry)
    loaded = load(
        replace(bad, labels={"background": 0, "left": 40000}, predicted=tmp_path / "mask.nii.gz", reference=None)
    )
    assert loaded.predicted_zyx.dtype == np.uint8
    np.testing.assert_array_equal(label.array_zyx == 1, loaded.predicted_zyx)


def test_a_label_map_on_another_grid_is_shown_where_it_lies(bad, tmp_path):
    label = read_label(bad.predicted, case="bad")
    moved = msgspec.structs.replace(label.geometry, origin_mm=(6.0, -7.0, 11.0))
    write_label(tmp_path / "moved.nii.gz", label.array_zyx, moved)
    loaded = load(replace(bad, predicted=tmp_path / "moved.nii.gz"))
    np.testing.assert_array_equal(label.array_zyx[:, :, :-2], loaded.predicted_zyx[:, :, 2:])  # by 1 mm
    assert "prediction lies on another grid" in loaded.page.notes[0]


def test_a_picture(tmp_path):
    rng = np.random.default_rng(3)
    picture, mask = rng.integers(0, 255, (20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8)
    mask[5:9, 7:20] = 255
    imageio.imwrite(tmp_path / "a.png", picture)
    imageio.imwrite(tmp_path / "mask.png", mask)
    case = ViewCase(name="a", images=(tmp_path / "a.png",), reference=tmp_path / "mask.png", labels={"cell": 255})
    loaded = load(case)
    assert (loaded.page.is_flat, loaded.page.is_anatomical, loaded.page.has_predicted) == (True, False, False)
    assert loaded.page.channels == ("channel 0", "channel 1", "channel 2")
    np.testing.assert_array_equal(picture[..., 1], read_back(loaded.image_bytes(1), tmp_path).array_czyx[0, 0])
    np.testing.assert_array_equal(mask > 0, loaded.reference_zyx[0])


def test_fractions_are_kept(bad, tmp_path):
    loaded = load(bad)
    halves = replace(loaded.image, array_czyx=loaded.image.array_czyx + np.float32(0.5))
    sent = read_back(replace(loaded, image=halves).image_bytes(0), tmp_path)
    np.testing.assert_array_equal(halves.array_czyx[:1], sent.array_czyx)


def test_what_is_too_large_for_a_browser_is_thinned_out(bad, monkeypatch):
    monkeypatch.setattr(volumes, "MOST_VOXELS", 6)
    loaded, whole = load(bad), read_image(bad.images, case="bad")
    np.testing.assert_array_equal(whole.array_czyx[:, :, ::2, ::2], loaded.image.array_czyx)
    assert loaded.reference_zyx.shape == loaded.image.geometry.shape == (6, 5, 6)
    assert loaded.image.geometry.spacing_mm == (3.0, 2.0, 1.0)
    assert "n = 1, 2, 2" in loaded.page.notes[0]
