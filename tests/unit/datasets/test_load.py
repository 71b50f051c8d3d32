"""The checks at the border: a case is read whole and consistent, or refused by name."""

import msgspec
import numpy as np
import pytest

from autoseg.artifacts.dataset import Case
from autoseg.artifacts.geometry import Geometry
from autoseg.datasets.load import read_case, read_input
from autoseg.errors import DatasetError
from autoseg.images.io import write_label

CASE = Case(name="case7", images=("image.nrrd",), label="label.nrrd")
GRID = Geometry(shape=(2, 3, 4), spacing_mm=(5, 0.75, 0.5), origin_mm=(1, 2, 3))


def save(root, value=1, **changes):
    """An image on GRID and a label of one value on a changed grid."""
    write_label(root / "image.nrrd", np.full(GRID.shape, 7), GRID)
    grid = msgspec.structs.replace(GRID, **changes)
    write_label(root / "label.nrrd", np.full(grid.shape, value), grid)


def test_a_case_is_read_with_its_label(tmp_path, caplog):
    save(tmp_path)
    image, label = read_case(CASE, tmp_path, 1, {0, 1})
    assert image.array_czyx.shape == (1, *GRID.shape)
    assert image.geometry == label.geometry == GRID
    assert (label.array_zyx == 1).all()
    assert caplog.text == ""


@pytest.mark.parametrize("change", [{"shape": (2, 3, 5)}, {"spacing_mm": (5, 0.75, 0.501)}])
def test_another_grid_is_refused(tmp_path, change):
    save(tmp_path, **change)
    with pytest.raises(DatasetError, match=r"different grids\n.*case7, label.nrrd\n.*(shape|spacing) "):
        read_case(CASE, tmp_path, 1, {0, 1})


def test_rounding_of_the_spacing_is_accepted(tmp_path):
    save(tmp_path, spacing_mm=(5, 0.75, 0.50001))
    read_case(CASE, tmp_path, 1, {0, 1})


@pytest.mark.parametrize(
    ("change", "warns"),
    [
        ({"origin_mm": (1, 2, 3.0005)}, False),
        ({"origin_mm": (1, 2, 8)}, True),
        ({"direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}, True),
    ],
)
def test_another_place_is_a_warning(tmp_path, caplog, change, warns):
    save(tmp_path, **change)
    image, _ = read_case(CASE, tmp_path, 1, {0, 1})
    assert image.geometry == GRID
    assert ("case7" in caplog.text) == warns


def test_label_values_without_a_name_are_listed(tmp_path):
    save(tmp_path, value=9)
    with pytest.raises(DatasetError, match=r"case7, label.nrrd\n *found: *9\n *allowed: *0, 1, 2"):
        read_case(CASE, tmp_path, 1, {0, 1, 2})


def test_the_number_of_channels_is_checked(tmp_path):
    save(tmp_path)
    with pytest.raises(DatasetError, match=r"case7.*\n *found: *1 channels\n *allowed: *2 channels"):
        read_case(CASE, tmp_path, 2, {0, 1})
    one = Case(name="new", images=(str(tmp_path / "image.nrrd"),))
    assert read_input(one, 1).geometry == GRID
    with pytest.raises(DatasetError, match="case new"):
        read_input(one, 2)
    with pytest.raises(DatasetError, match="no label"):
        read_case(one, tmp_path, 1, {0, 1})


def test_a_missing_file_is_named(tmp_path):
    save(tmp_path)
    (tmp_path / "label.nrrd").unlink()
    with pytest.raises(DatasetError, match=r"missing\n.*case7, .*label.nrrd"):
        read_case(CASE, tmp_path, 1, {0, 1})
