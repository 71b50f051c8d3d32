"""A NIfTI file made in memory is the volume that ITK reads."""

import numpy as np
import pytest

from autoseg.artifacts.geometry import Geometry
from autoseg.images.grids import compare_grids
from autoseg.images.io import read_image, read_label
from autoseg.images.nifti import encode

OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", ">i2"])
def test_itk_reads_what_was_encoded(tmp_path, dtype):
    grid = Geometry(shape=(3, 4, 5), spacing_mm=(2.5, 0.75, 0.5), origin_mm=(-12.5, 30.25, 7), direction=OBLIQUE)
    array = np.arange(60).reshape(grid.shape).astype(dtype)
    file = tmp_path / "case.nii"
    file.write_bytes(encode(array, grid))
    image = read_image([file], case="case")
    np.testing.assert_array_equal(array, image.array_czyx[0])
    assert compare_grids(grid, image.geometry).level == "equal"


def test_a_picture_becomes_one_slice(tmp_path):
    grid = Geometry(shape=(1, 4, 5), spacing_mm=(1998, 2, 1), num_dimensions=2)
    file = tmp_path / "picture.nii"
    file.write_bytes(encode(np.ones(grid.shape, np.uint8), grid))
    assert read_label(file, case="picture").geometry.spacing_mm == (2, 2, 1)


def test_a_grid_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="on a grid"):
        encode(np.ones((1, 2, 3), np.uint8), Geometry(shape=(3, 2, 1), spacing_mm=(1, 1, 1)))
