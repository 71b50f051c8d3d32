"""The report of a case: label map and image -> report/CASE.json and report/CASE.png."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.base import atomic_path, write
from autoseg.artifacts.case_report import CaseReport
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.labels import foreground, in_files
from autoseg.images.endings import KINDS, file_ending, with_ending
from autoseg.images.io import read_image
from autoseg.predict.measure import measure_labels, voxel_volume_mm3
from autoseg.predict.models import LoadedModel

# Reports have a folder of their own: a CASE.png among label maps would pass for one when the folder is scored, or is
# the label map itself, and a CASE.json may hold the spacing of a label map that is a TIFF.
REPORT_FOLDER = "report"


def report_files(label_file: Path) -> tuple[Path, Path]:
    """report/CASE.json and report/CASE.png beside CASE's label map."""
    place = label_file.parent / REPORT_FOLDER / label_file.name
    return with_ending(place, ".json"), with_ending(place, ".png")


def write_report(
    label_file: Path,
    label_zyx: NDArray[np.integer],
    geometry: Geometry,
    *,
    case: str,
    images: Sequence[str],
    models: Sequence[LoadedModel],
) -> None:
    """Write the report of a label map.

    Parameters
    ----------
    label_file : Path
        The label map, whether it is written yet or not.
    label_zyx : ndarray of int, shape (Z, Y, X)
        With the values of the dataset's label files.
    geometry : Geometry
    case : str
        Its name.
    images : sequence of str
        Files of its image. The first is read again for the picture, which shows its first channel: kept since the
        network saw it, it would take memory meanwhile.
    models : sequence of LoadedModel

    Raises
    ------
    DatasetError
        The image can't be read any more.
    ArtifactError
        The files can't be written.
    """
    from autoseg.predict.report_picture import draw_report  # matplotlib takes its time to load

    first = models[0]
    labels = foreground(in_files(first.plan.labels, first.manifest.file_values))
    report = CaseReport(
        case=case,
        images=tuple(images),
        label_file=label_file.name,
        models=tuple(str(model.folder) for model in models),
        geometry=geometry,
        voxel_volume_mm3=voxel_volume_mm3(geometry),
        labels=measure_labels(label_zyx, geometry, labels),
    )
    record_file, picture_file = report_files(label_file)
    write(record_file, report)
    image_zyx = read_image([Path(images[0])], case=case).array_czyx[0]
    # The axes of a microscope's stack, or of a picture, are not those of a body.
    is_volume = KINDS.get((file_ending(label_file.name) or "").lower()) == "volume"
    with atomic_path(picture_file) as temporary:
        draw_report(
            temporary, image_zyx, label_zyx, labels, report, anatomical=is_volume and geometry.num_dimensions == 3
        )
