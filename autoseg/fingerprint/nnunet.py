"""nnU-Net's dataset_fingerprint.json and dataset.json -> a fingerprint."""

from pathlib import Path

import msgspec

from autoseg.artifacts.base import decode, digest, explain, read_json
from autoseg.artifacts.bounds import AtLeastOne, Positive
from autoseg.artifacts.fingerprint import CaseMeasure, Fingerprint, IntensityStatistics
from autoseg.artifacts.geometry import Geometry
from autoseg.datasets.described import described_channels, described_count, described_labels
from autoseg.errors import DatasetError

Triple = tuple[Positive, Positive, Positive]


class _Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What nnU-Net's file holds; further keys are its own affair."""

    spacings: list[Triple]
    shapes_after_crop: list[tuple[AtLeastOne, AtLeastOne, AtLeastOne]]
    median_relative_size_after_cropping: float
    foreground_intensity_properties_per_channel: dict[str, IntensityStatistics]


def read_fingerprint(file: Path, description_file: Path | None) -> Fingerprint:
    """Read a fingerprint, ours or nnU-Net's.

    Parameters
    ----------
    file : Path
        A fingerprint.json of ours, or a dataset_fingerprint.json of nnU-Net's.
    description_file : Path or None
        nnU-Net's dataset.json, which names the channels and labels; ours needs none.

    Returns
    -------
    Fingerprint
        From nnU-Net's, whose cases have no names and no place in space, cases are numbered and stand upright, and
        their shape after cropping is taken for the one before, too.

    Raises
    ------
    DatasetError
        A file can't be read, lacks something, or the two contradict each other.
    ArtifactError
        The file is ours, and no valid fingerprint.
    """
    content = read_json(file)
    if "cases" in content and "intensities" in content:
        if description_file is not None:
            raise DatasetError(
                "dataset.json belongs to nnU-Net's fingerprint, and this one is autoseg's",
                where=str(description_file),
                hint=f"autoseg plan --fingerprint {file}",
            )
        return decode(file.read_bytes(), Fingerprint, where=str(file))
    missing = sorted(set(_Measured.__struct_fields__) - set(content))
    if missing:
        raise DatasetError(
            "a file is no fingerprint",
            where=str(file),
            found=f"{', '.join(list(content)[:5]) or 'no keys'}; no {', '.join(missing)}",
            allowed="autoseg's fingerprint.json, or nnU-Net's dataset_fingerprint.json with --dataset dataset.json",
            hint="autoseg plan RAW makes one",
        )
    if description_file is None:
        raise DatasetError(
            "nnU-Net's fingerprint does not name channels and labels",
            where=str(file),
            hint=f"autoseg plan --fingerprint {file} --dataset dataset.json",
        )
    description = read_json(description_file)
    channels = described_channels(description, str(description_file))
    labels = described_labels(description, str(description_file))
    if channels is None or labels is None:
        raise DatasetError(
            "dataset.json does not name channels and labels",
            where=str(description_file),
            found=", ".join(description) or "nothing",
            allowed="channel_names and labels, as nnU-Net wants them",
        )
    try:
        measured = msgspec.convert(content, _Measured)
    except msgspec.ValidationError as error:
        raise explain(error, _Measured, str(file)) from error
    statistics = measured.foreground_intensity_properties_per_channel
    if sorted(statistics, key=lambda key: (len(key), key)) != [str(number) for number in range(len(channels))]:
        raise DatasetError(
            "the fingerprint's channels are not those of dataset.json",
            where=f"{file}, foreground_intensity_properties_per_channel",
            found=", ".join(statistics),
            allowed=f"0 to {len(channels) - 1}: {', '.join(channels)}",
        )
    spacings, shapes = measured.spacings, measured.shapes_after_crop
    if len(spacings) != len(shapes) or not shapes:
        raise DatasetError(
            "the fingerprint's lists of cases disagree, or are empty",
            where=str(file),
            found=f"{len(spacings)} spacings, {len(shapes)} shapes_after_crop",
        )
    fields = {
        "inputs_sha256": digest(file.read_bytes(), description_file.read_bytes()),
        "channel_names": channels,
        "labels": labels,
        "regions_class_order": description.get("regions_class_order") or (),
        "num_training": described_count(description) or len(shapes),
        "cases": [
            CaseMeasure(
                name=f"{number:04d}", geometry=Geometry(shape=shape, spacing_mm=spacing), shape_after_crop=shape
            )
            for number, (spacing, shape) in enumerate(zip(spacings, shapes, strict=True))
        ],
        "median_relative_size_after_cropping": measured.median_relative_size_after_cropping,
        "intensities": [statistics[str(number)] for number in range(len(channels))],
    }
    return decode(msgspec.json.encode(fields), Fingerprint, where=f"{file} with {description_file}")
