"""report/CASE.json beside predictions: what a predicted label map holds, for people and for other programs."""

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.bounds import Count, NonNegative, Positive
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import Name


class LabelReport(Record, frozen=True, kw_only=True):
    """What one label, or one region, measures.

    Attributes
    ----------
    voxels : int
    volume_ml : float or None
        None for 2D images, since an area has no volume, and where the file states no spacing.
    components : int
        Parts that do not touch each other, be it by a corner: 26 neighbours, 8 in 2D.
    centroid_zyx : tuple of float or None, length 3
        Mean place of its voxels along (Z, Y, X), in voxels from 0.
    centroid_mm : tuple of float or None, length 3
        The same in space, in ITK's order (x, y, z): to the left, to the back, to the head. None where the file states
        no spacing.
    first_slice, last_slice : int or None
        Along Z, from 0, both inclusive.
    largest_slice : int or None
        Where its section is largest; the first of several.
    largest_area_mm2 : float or None
        Of that section; None where the file states no spacing.

    Notes
    -----
    Of a label that is absent all but the counts and the volume, which are 0, are None.
    """

    voxels: Count
    volume_ml: NonNegative | None
    components: Count
    centroid_zyx: tuple[float, float, float] | None = None
    centroid_mm: tuple[float, float, float] | None = None
    first_slice: Count | None = None
    last_slice: Count | None = None
    largest_slice: Count | None = None
    largest_area_mm2: Positive | None = None


class CaseReport(Artifact, frozen=True, kw_only=True):
    """A predicted case, measured.

    Attributes
    ----------
    case : str
    images : tuple of str
        Files of the image.
    label_file : str
        Name of the label map, in the folder above.
    models : tuple of str
        Folders of the folds whose logits were averaged.
    geometry : Geometry
        Of the image and the label map.
    voxel_volume_mm3 : float or None
        None where `LabelReport.volume_ml` is.
    labels : dict of str to LabelReport
        Every label that the models know but the background; regions may share voxels.
    """

    case: Name
    images: tuple[str, ...]
    label_file: Name
    models: tuple[str, ...]
    geometry: Geometry
    voxel_volume_mm3: Positive | None
    labels: dict[Name, LabelReport]
