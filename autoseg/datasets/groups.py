"""Which cases belong together and may not be torn apart: a column of a list, or a part of the names -> groups."""

import re
from dataclasses import replace

import msgspec

from autoseg.datasets.found import Found, some
from autoseg.errors import DatasetError


def with_groups(found: Found, group_by: str) -> Found:
    """The cases with their groups.

    Parameters
    ----------
    found : Found
    group_by : str
        A column of the list, else a regular expression that is searched for in the cases' names: its first group,
        or the whole match where it has none.

    Raises
    ------
    DatasetError
        It is no expression, or a case gives no group.
    """
    texts = found.columns.get(group_by)
    if texts is None:
        try:
            pattern = re.compile(group_by)
        except re.error as error:
            raise DatasetError(
                "the groups can't be found by this expression",
                where="--group-by",
                found=f"{group_by}: {error}",
                allowed=_allowed(found),
            ) from error
        matches = {case.name: pattern.search(case.name) for case in found.cases}
        texts = {name: match.group(min(1, pattern.groups)) or "" for name, match in matches.items() if match}
    without = [case.name for case in found.cases if not texts.get(case.name)]
    if without:
        raise DatasetError(
            "a case gives no group",
            where=f"case {some(without)}",
            found=f"--group-by {group_by}",
            allowed=_allowed(found),
            hint=r"for names such as pt1_scan2: --group-by '^([^_]+)_'",
        )
    cases = tuple(msgspec.structs.replace(case, group=texts[case.name]) for case in found.cases)
    return replace(found, cases=cases)


def _allowed(found: Found) -> str:
    columns = f"a column of the list ({', '.join(found.columns)}), or " if found.columns else ""
    return f"{columns}a regular expression that matches every case's name"
