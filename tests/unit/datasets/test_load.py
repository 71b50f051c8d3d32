"""The checks at the border: a case is read whole and consistent, or refused by name."""

import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from autoseg.artifacts.dataset import Case
from autoseg.artifacts.geometry import Geometry
from autoseg.datasets.load import Promises, case_bytes, read_case, read_input
from autoseg.errors import DatasetError
from autoseg.fingerprint.case import measure
from autoseg.images.io import write_label

CASE = Case(name="case7", images=("image.nrrd",), label="label.nrrd")
GRID = Geometry(shape=(6, 7, 8), spacing_mm=(2, 1, 1), origin_mm=(1, 2, 3))
TURN = sitk.Euler3DTransform((4, 5, 8), 0.3, 0.1, 0.2)


def promises(root, values=(0, 1), **changes):
    return Promises(root=root, num_channels=1, label_values=values, **changes)


def save(root, value=1, **changes):
    """An image on GRID and a label of one value on a changed grid."""
    write_label(root / "image.nrrd", np.full(GRID.shape, 7), GRID)
    grid = msgspec.structs.replace(GRID, **changes)
    write_label(root / "label.nrrd", np.full(grid.shape, value), grid)


def test_a_case_is_read_with_its_label(tmp_path, caplog):
    save(tmp_path)
    found = read_case(CASE, promises(tmp_path))
    assert found.image.array_czyx.shape == (1, *GRID.shape)
    assert found.image.geometry == found.label.geometry == GRID
    assert (found.label.array_zyx == 1).all()
    assert found.label_grid == "equal"
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({"origin_mm": (1 + 1e-7, 2, 3)}, "equal"),
        ({"direction": (1, 1e-7, 0, -1e-7, 1, 0, 0, 0, 1)}, "equal"),
        ({"spacing_mm": (2, 1, 1 + 1e-7)}, "equal"),
        ({"origin_mm": (1.001, 2, 3)}, "snapped"),
        ({"spacing_mm": (2, 1, 1.001)}, "snapped"),
        ({"direction": (1, 1e-3, 0, -1e-3, 1, 0, 0, 0, 1)}, "snapped"),
    ],
)
def test_a_grid_that_differs_by_rounding_is_the_images(tmp_path, change, level):
    save(tmp_path, **change)
    found = read_case(CASE, promises(tmp_path))
    assert found.label_grid == level
    assert found.label.geometry == GRID


REAL = {
    "5 mm aside": {"origin_mm": (6, 2, 3)},
    "flipped": {"direction": (-1, 0, 0, 0, 1, 0, 0, 0, 1)},
    "oblique": {"direction": TURN.GetMatrix()},
    "one slice more": {"shape": (7, 7, 8)},
    "coarser": {"spacing_mm": (2, 1, 1.05)},
}


@pytest.mark.parametrize("change", REAL.values(), ids=REAL)
def test_another_grid_is_refused_and_the_way_out_is_told(tmp_path, change):
    save(tmp_path, **change)
    with pytest.raises(DatasetError, match=r"different grids\n.*case7, label.nrrd\n(.|\n)*--repair resample-labels"):
        read_case(CASE, promises(tmp_path))


def blob(root, to_label):
    """An image with a bright box, and the box drawn on a grid of its own: its index moved by a transform."""
    image = np.zeros(GRID.shape, np.int16)
    image[2:4, 2:5, 3:6] = 100
    write_label(root / "image.nrrd", image, GRID)
    picture = sitk.ReadImage(str(root / "image.nrrd"))
    label = sitk.Cast(picture > 50, sitk.sitkUInt8)
    sitk.WriteImage(to_label(label), str(root / "label.nrrd"))
    return image > 50


def flipped(label):
    return sitk.Flip(label, (True, True, False))


def cropped(label):
    return label[1:, 1:, :-1]


def turned(label):
    grid = sitk.Image(30, 30, 20, sitk.sitkUInt8)
    grid.SetDirection(TURN.GetMatrix())
    grid.SetSpacing((0.5, 0.5, 1))
    grid.SetOrigin(TURN.TransformPoint((0.0, 0.0, 0.0)))
    return sitk.Resample(label, grid, sitk.Transform(), sitk.sitkNearestNeighbor)


@pytest.mark.parametrize(("to_label", "least"), [(flipped, 1.0), (cropped, 1.0), (turned, 0.8)])
def test_a_label_on_another_grid_is_brought_onto_the_image(tmp_path, to_label, least):
    truth = blob(tmp_path, to_label)
    found = read_case(CASE, promises(tmp_path, repair="resample-labels"))
    assert found.label_grid == "resampled"
    assert found.label.geometry == GRID
    there = found.label.array_zyx == 1
    assert 2 * (there & truth).sum() / (there.sum() + truth.sum()) >= least


def test_what_a_resampled_label_does_not_reach_is_not_annotated(tmp_path):
    blob(tmp_path, cropped)
    found = read_case(CASE, promises(tmp_path, (0, 1, 2), repair="resample-labels", ignore=2))
    assert (found.label.array_zyx[-1] == 2).all()
    assert set(found.label.array_zyx[1, 2:, 2:].flat) == {0}


def test_a_label_beside_its_image_is_refused_even_so(tmp_path):
    save(tmp_path, origin_mm=(500, 2, 3))
    with pytest.raises(DatasetError, match=r"can't be brought onto its image\n.*case7(.|\n)*outside the image"):
        read_case(CASE, promises(tmp_path, repair="resample-labels"))


def test_the_values_of_the_files_are_renumbered(tmp_path):
    save(tmp_path, value=255)
    found = read_case(CASE, promises(tmp_path, file_values=(0, 255)))
    assert found.label.values() == [1]
    with pytest.raises(DatasetError, match=r"without a name\n.*\n *found: *255\n *allowed: *0, 128"):
        read_case(CASE, promises(tmp_path, file_values=(0, 128)))


def test_label_values_without_a_name_are_listed(tmp_path):
    save(tmp_path, value=9)
    with pytest.raises(DatasetError, match=r"case7, label.nrrd\n *found: *9\n *allowed: *0, 1, 2"):
        read_case(CASE, promises(tmp_path, (0, 1, 2)))


def test_the_number_of_channels_is_checked(tmp_path):
    save(tmp_path)
    two = Promises(root=tmp_path, num_channels=2, label_values=(0, 1))
    with pytest.raises(DatasetError, match=r"case7.*\n *found: *1 channels\n *allowed: *2 channels"):
        read_case(CASE, two)
    one = Case(name="new", images=(str(tmp_path / "image.nrrd"),))
    assert read_input(one, 1).geometry == GRID
    with pytest.raises(DatasetError, match="case new"):
        read_input(one, 2)
    with pytest.raises(DatasetError, match="no label"):
        read_case(one, promises(Path()))


def test_a_missing_file_is_named(tmp_path):
    save(tmp_path)
    (tmp_path / "label.nrrd").unlink()
    with pytest.raises(DatasetError, match=r"missing\n.*case7, .*label.nrrd"):
        read_case(CASE, promises(tmp_path))


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_a_case_labelled_all_over_takes_no_more_memory_than_estimated(tmp_path, dtype, channels):
    rng = np.random.default_rng(0)
    shape = (20, 128, 128)
    files = [f"{channel}.nii.gz" for channel in range(channels)]
    for file in files:
        sitk.WriteImage(sitk.GetImageFromArray(rng.normal(0, 1000, shape).astype(dtype)), str(tmp_path / file))
    sitk.WriteImage(sitk.GetImageFromArray(np.ones(shape, np.uint8)), str(tmp_path / "label.nii.gz"))
    case = Case(name="a", images=tuple(files), label="label.nii.gz")
    promised = Promises(root=tmp_path, num_channels=channels, label_values=(0, 1))
    read_case(case, promised)  # Libraries are loaded before anything is measured.
    tracemalloc.start()
    try:
        found = read_case(case, promised)
        measure(found.image, found.label)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak > 4 * channels * np.prod(shape)
    assert peak <= case_bytes(case, promised)
