"""The grid a volume lives on."""

from typing import Annotated

import msgspec

from autoseg.artifacts.base import Record
from autoseg.artifacts.bounds import AtLeastOne, Positive

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


class Geometry(Record, frozen=True, kw_only=True):
    """Shape, spacing and place of a volume.

    Attributes
    ----------
    shape : tuple of int, length 3
        Voxels along (Z, Y, X); a picture has Z = 1.
    spacing_mm : tuple of float, length 3
        Voxel size along (Z, Y, X) in mm. Pictures without spacing get (999, 1, 1), as in nnU-Net, and count
        in pixels; a 2D ITK file gets (999 * max(sy, sx), sy, sx).
    origin_mm : tuple of float, length 3
        Place of the first voxel, in ITK's order (x, y, z).
    direction : tuple of float, length 9
        Direction cosines, ITK's row-major 3x3 matrix; column j is the direction of ITK's axis j (x, y, z).
    num_dimensions : int
        2 when the file is a picture or a 2D ITK image, else 3.
    has_spacing : bool
        False for pictures whose file states no spacing: distances are then in pixels.
    """

    shape: tuple[AtLeastOne, AtLeastOne, AtLeastOne]
    spacing_mm: tuple[Positive, Positive, Positive]
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, float, float, float, float, float, float, float, float] = IDENTITY
    num_dimensions: Annotated[int, msgspec.Meta(ge=2, le=3)] = 3
    has_spacing: bool = True
