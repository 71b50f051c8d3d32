"""Which kind of file a name promises: name -> ending -> reader."""

from pathlib import Path
from typing import Literal

Kind = Literal["volume", "tiff", "picture", "dicom"]

KINDS: dict[str, Kind] = {
    ".nii.gz": "volume",
    ".nii": "volume",
    ".nrrd": "volume",
    ".mha": "volume",
    ".mhd": "volume",
    ".gipl": "volume",
    ".ome.tiff": "tiff",
    ".ome.tif": "tiff",
    ".tiff": "tiff",
    ".tif": "tiff",
    ".png": "picture",
    ".bmp": "picture",
    ".jpg": "picture",
    ".jpeg": "picture",
    ".dcm": "dicom",
}
DICOM_FOLDER = "/"  # The ending of a folder of DICOM slices, where folders are listed among files: p1/

# JPEG would change label values, BMP holds 8 bits only, a .mhd is two files, which can't be replaced at once, a label
# map is no microscope's, and DICOM labels would need everything that is known about a patient.
LABEL_ENDINGS = {
    ".jpg": ".png",
    ".jpeg": ".png",
    ".bmp": ".png",
    ".mhd": ".mha",
    ".ome.tiff": ".tif",
    ".ome.tif": ".tif",
    ".dcm": ".nii.gz",
    DICOM_FOLDER: ".nii.gz",
}


def file_ending(name: str) -> str | None:
    """The readable ending of a file name as it is written there (``.nii.gz``, ``.BMP``); None for other files."""
    lower = name.lower()
    for ending in (*KINDS, DICOM_FOLDER):
        if lower.endswith(ending) and len(lower) > len(ending):
            return name[-len(ending) :]
    return None


def label_ending(image_ending: str) -> str:
    """The ending of labels beside images with `image_ending`: the same, in lower case, where it can hold labels."""
    lower = image_ending.lower()
    return LABEL_ENDINGS.get(lower, lower)


def with_ending(file: Path, ending: str) -> Path:
    """The path with another ending in place of its readable one (``case.nii.gz`` -> ``case.npz``)."""
    present = file_ending(file.name) or file.suffix
    return file.with_name(file.name.removesuffix(present) + ending)
