"""What a user should know about cases that can be used: measures -> lines."""

from collections.abc import Sequence

from autoseg.artifacts.check import CaseCheck
from autoseg.artifacts.fingerprint import CaseMeasure
from autoseg.datasets.found import some


def case_remarks(cases: Sequence[CaseMeasure | CaseCheck]) -> list[str]:
    """What a user should know about cases that can be used: labels moved onto their image's grid, or empty."""
    remarks = []
    for grid, what in (
        ("snapped", "labels differ from their image's grid by rounding alone, and are taken to lie on it"),
        ("resampled", "labels lie on another grid than their image, and are resampled onto it"),
    ):
        names = [case.name for case in cases if case.label_grid == grid]
        if names:
            remarks.append(f"{len(names)} {what}: {some(names)}")
    empty = [case.name for case in cases if case.label_voxels and not any(case.label_voxels.values())]
    if empty:
        remarks.append(f"{len(empty)} of {len(cases)} cases have no foreground: {some(empty)}")
    return remarks
