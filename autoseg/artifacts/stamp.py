"""Whether files are still the ones that something was made from: paths -> text for a digest."""

from collections.abc import Iterable
from pathlib import Path

from autoseg.artifacts.dataset import Case


def stamp(root: Path, files: Iterable[str]) -> str:
    """One line for each file: its path as given, size in bytes, and time of change in ns.

    Parameters
    ----------
    root : Path
        What relative paths start from.
    files : iterable of str

    Returns
    -------
    str
        A file that can't be found is called missing; whoever reads it will say so.
    """
    lines = []
    for file in files:
        try:
            status = (root / file).stat()
        except OSError:
            lines.append(f"{file} missing\n")
        else:
            lines.append(f"{file} {status.st_size} {status.st_mtime_ns}\n")
    return "".join(lines)


def case_stamp(root: Path, case: Case) -> str:
    """The stamp of everything that is read for a case: images, label, and what lies beside them.

    Notes
    -----
    A TIFF's spacing stands in a JSON file, an .mhd's voxels in a .raw or .zraw file.
    """
    files: list[str] = []
    for file in (*case.images, *([case.label] if case.label is not None else [])):
        path = Path(file)
        beside: set[Path] = set()
        match path.suffix.lower():
            case ".tif" | ".tiff":
                beside = {path.with_suffix(".json"), path.with_name(f"{case.name}.json")}
            case ".mhd":
                beside = {path.with_suffix(".raw"), path.with_suffix(".zraw")}
        files += [file, *sorted(extra.as_posix() for extra in beside)]
    return stamp(root, files)
