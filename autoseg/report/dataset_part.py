"""What the data are: facts, and how cases differ in grid, labels and intensities."""

from math import prod
from statistics import median

from autoseg.artifacts.fingerprint import CaseMeasure, Fingerprint
from autoseg.artifacts.labels import foreground, values_of
from autoseg.report.found import Found
from autoseg.report.html import Element, Node, element, facts, items, paragraph, section
from autoseg.report.plots import Strip, strip_chart
from autoseg.report.words import by, listed, several, significant

AXES = ("Z (slices)", "Y (rows)", "X (columns)")
MOST_STRIPS = 24


def dataset(found: Found) -> Element:
    """The part."""
    fingerprint = found.fingerprint
    if fingerprint is None:
        return section(
            "Dataset", "dataset", paragraph("No measurements to show: there is no fingerprint.json that can be read.")
        )
    parts: list[Node] = [facts(_facts(found, fingerprint))]
    plots = [_spacings(fingerprint), _shapes(fingerprint), *_volumes(fingerprint), _intensities(fingerprint)]
    parts.append(element("div", *plots, class_="plots"))
    if fingerprint.rejected:
        head = element("summary", f"{several(len(fingerprint.rejected), 'case')} left out")
        parts.append(element("details", head, items(f"{name}: {why}" for name, why in fingerprint.rejected.items())))
    return section("Dataset", "dataset", *parts)


def _facts(found: Found, fingerprint: Fingerprint) -> list[tuple[str, Node]]:
    cases = fingerprint.cases
    spacings = [case.geometry.spacing_mm for case in cases]
    shapes = [case.shape_after_crop for case in cases]
    labels = (f"{name} ({' + '.join(map(str, values_of(value)))})" for name, value in fingerprint.labels.items())
    every_spacing = all(case.geometry.has_spacing for case in cases)
    told: list[tuple[str, Node]] = [
        ("Cases", several(len(cases), "case")),
        ("Channels", listed(fingerprint.channel_names)),
        ("Labels", listed(labels, 30)),
        (
            "Median spacing",
            _edges(spacings, "mm") if every_spacing else "not stated by every file",
        ),
        ("Median shape", f"{_edges(shapes, 'voxels')} (Z × Y × X), cropped to what is not zero"),
        ("Cropping keeps", f"{100 * fingerprint.median_relative_size_after_cropping:.3g} % of the median case"),
    ]
    if found.groups:
        count = several(len(set(found.groups.values())), "group")
        told.append(("Groups", f"{count} of cases that belong together (patients, say)"))
    if found.splits is not None:
        told.append(("Folds", f"{len(found.splits.folds)}: {found.splits.method}"))
    snapped = sum(case.label_grid != "equal" for case in cases)
    if snapped:
        told.append(("Labels on another grid", f"{several(snapped, 'case')}, by rounding or resampled by wish"))
    return told


def _edges(values: list[tuple[int, int, int]] | list[tuple[float, float, float]], unit: str) -> str:
    return by([median(axis) for axis in zip(*values, strict=True)], unit)


def _spacings(fingerprint: Fingerprint) -> Element:
    unit = "mm" if all(case.geometry.has_spacing for case in fingerprint.cases) else "mm, 1 where a file states none"
    rows = [
        _strip(name, [case.geometry.spacing_mm[axis] for case in fingerprint.cases]) for axis, name in enumerate(AXES)
    ]
    return _chart(rows, "spacings", "Spacing", unit)


def _shapes(fingerprint: Fingerprint) -> Element:
    rows = [
        _strip(name, [float(case.shape_after_crop[axis]) for case in fingerprint.cases])
        for axis, name in enumerate(AXES)
    ]
    return _chart(rows, "shapes", "Shape after cropping", "voxels")


def _volumes(fingerprint: Fingerprint) -> list[Element]:
    """Sizes of the labels, where they were counted."""
    counted = [case for case in fingerprint.cases if case.label_voxels]
    if not counted:
        return []
    volumes = all(_has_volume(case) for case in counted)
    rows = []
    for name in list(foreground(fingerprint.labels))[:MOST_STRIPS]:
        sizes = [case.label_voxels.get(name, 0) * (_voxel_ml(case) if volumes else 1.0) for case in counted]
        there = [size for size in sizes if size > 0]
        absent = len(sizes) - len(there)
        middle = f"median {significant(median(there))}" if there else "nowhere"
        rows.append(
            Strip(
                name, there, median(there) if there else None, text=middle + (f", absent in {absent}" if absent else "")
            )
        )
    if not any(row.values for row in rows):
        return []
    return [_chart(rows, "volumes", "Size of the labels", "mL" if volumes else "pixels", logarithmic=True)]


def _has_volume(case: CaseMeasure) -> bool:
    return case.geometry.has_spacing and case.geometry.num_dimensions == 3


def _voxel_ml(case: CaseMeasure) -> float:
    return prod(case.geometry.spacing_mm) / 1000


def _intensities(fingerprint: Fingerprint) -> Element:
    rows = [
        Strip(
            name,
            (),
            each.median,
            each.percentile_00_5,
            each.percentile_99_5,
            f"mean {significant(each.mean)} ± {significant(each.std)}",
        )
        for name, each in list(zip(fingerprint.channel_names, fingerprint.intensities, strict=True))[:MOST_STRIPS]
    ]
    words = "; ".join(
        f"{name}: median {each.median:.4g}, from {each.percentile_00_5:.4g} to {each.percentile_99_5:.4g}"
        for name, each in zip(fingerprint.channel_names, fingerprint.intensities, strict=True)
    )
    return strip_chart(
        rows,
        name="intensities",
        title="Intensities inside the labels",
        description=f"The line goes from the 0.5th to the 99.5th percentile, the bar is the median. {words}.",
        x_label="as in the files",
    )


def _strip(name: str, values: list[float]) -> Strip:
    low, high = min(values), max(values)
    alike = f"{low:.4g} in all cases" if low == high else f"{low:.4g} to {high:.4g}, median {median(values):.4g}"
    return Strip(name, values, median(values), text=alike)


def _chart(rows: list[Strip], name: str, title: str, unit: str, *, logarithmic: bool = False) -> Element:
    words = "; ".join(f"{row.name}: {row.text}" for row in rows)
    return strip_chart(
        rows,
        name=name,
        title=title,
        description=f"A dot for each case, the bar is the median. {words} ({unit}).",
        x_label=unit,
        logarithmic=logarithmic,
    )
