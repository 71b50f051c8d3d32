"""Several cases of one patient are not independent: which cases belong together, and means over them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from autoseg.errors import DatasetError, SettingError


def by_patient(cases: Iterable[str], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """The cases of each patient.

    Parameters
    ----------
    cases : iterable of str
    groups : mapping of str to str
        Case to patient; a case that is not in it stands by itself.

    Returns
    -------
    dict of str to list of str
        In the order of the cases. A case without a patient is under its own name, marked so that no patient of that
        name takes it in.
    """
    patients: dict[str, list[str]] = {}
    for case in cases:
        key = groups.get(case)
        patients.setdefault(f"case {case}" if key is None else f"patient {key}", []).append(case)
    return patients


def groups_of_names(cases: Iterable[str], pattern: str) -> dict[str, str]:
    """The patient in each case's name.

    Parameters
    ----------
    cases : iterable of str
    pattern : str
        A regular expression: its first group, or the whole match where it has none.

    Returns
    -------
    dict of str to str

    Raises
    ------
    SettingError
        It is no expression.
    DatasetError
        A case does not match.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise SettingError("this is no regular expression", where="--group-by", found=f"{pattern}: {error}") from error
    groups = {}
    for case in cases:
        match = expression.search(case)
        text = match.group(min(1, expression.groups)) if match else None
        if not text:
            raise DatasetError(
                "a case's name gives no patient",
                where=f"case {case}",
                found=f"--group-by {pattern}",
                hint=r"for names such as pt1_scan2: --group-by '^([^_]+)_'",
            )
        groups[case] = text
    return groups


def patient_means(
    scores_a: Sequence[float | None], scores_b: Sequence[float | None], members: Sequence[Sequence[int]]
) -> tuple[list[float | None], list[float | None]]:
    """Means over each patient's cases.

    Parameters
    ----------
    scores_a, scores_b : sequence of float or None
        Case by case.
    members : sequence of sequence of int
        For each patient, which of them are theirs.

    Returns
    -------
    list of float or None
        Of A and of B, over those cases that are defined in both; None where there is none.
    """
    means: tuple[list[float | None], list[float | None]] = ([], [])
    for indices in members:
        pairs = [(scores_a[i], scores_b[i]) for i in indices]
        both = [(one, two) for one, two in pairs if one is not None and two is not None]
        for side, mean in enumerate(means):
            mean.append(fmean(pair[side] for pair in both) if both else None)
    return means
