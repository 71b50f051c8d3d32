"""Numbers and names as a reader wants them."""

from collections.abc import Iterable, Sequence
from math import floor, log10

TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "sensitivity": "Sensitivity",
    "precision": "Precision",
    "volume_difference_ml": "Volume difference",
    "hd_mm": "HD",
    "hd95_mm": "HD95",
    "assd_mm": "ASSD",
    "nsd": "NSD",
}
MEANINGS = {
    "dice": "overlap, 0 to 1; 1 is best",
    "iou": "intersection over union, 0 to 1; 1 is best",
    "sensitivity": "share of the reference that is found; 1 is best",
    "precision": "share of the prediction that is right; 1 is best",
    "volume_difference_ml": "predicted minus reference; 0 is best",
    "hd_mm": "Hausdorff distance, the largest between the surfaces; 0 is best",
    "hd95_mm": "95th percentile of the distances between the surfaces; 0 is best",
    "assd_mm": "mean distance of the surfaces; 0 is best",
    "nsd": "surface Dice, the share of the surfaces within the tolerance; 1 is best",
}


def title(metric: str, unit: str) -> str:
    """The heading of a metric's column, with its unit where it has one (``mm`` or ``pixels`` for distances)."""
    name = TITLES.get(metric, metric.replace("_", " "))
    if metric.endswith("_ml"):
        return f"{name} ({'pixels' if unit == 'pixels' else 'mL'})"
    return f"{name} ({unit})" if metric.endswith("_mm") else name


def digits(metric: str) -> int:
    """Decimals that are worth showing."""
    return 2 if metric.endswith(("_mm", "_ml")) else 3


def several(count: int, noun: str) -> str:
    """A number and what it counts: ``1 case``, ``2 cases``.

    Examples
    --------
    >>> several(2, "case")
    '2 cases'
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Iterable[object], most: int = 10) -> str:
    """Names in a row, and how many more there are."""
    every = [str(name) for name in names]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def by(values: Sequence[float], unit: str = "") -> str:
    """Edges, as 64 × 64 × 64."""
    return " × ".join(f"{value:.4g}" for value in values) + (f" {unit}" if unit else "")


def significant(value: float) -> str:
    """Three digits that count, without an exponent."""
    if value == 0:
        return "0"
    decimals = max(0, 2 - floor(log10(abs(value))))
    return f"{value:,.{decimals}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """A time for the eye.

    Examples
    --------
    >>> duration(5400)
    '1 h 30 min'
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
