"""Comparisons and standings in words: plain-text tables, and verdicts."""

from collections.abc import Sequence

from autoseg.artifacts.comparison import Comparison, Comparisons, Interval, PairedResult, Unit
from autoseg.artifacts.selection import SIGNIFICANCE
from autoseg.artifacts.standing import Standing

FOREGROUND = "foreground mean"
LISTED = 10


def render_all(comparisons: Comparisons) -> str:
    """All comparisons as plain text, one table each.

    Parameters
    ----------
    comparisons : Comparisons

    Returns
    -------
    str
        Lines without a final line break.
    """
    blocks = [render(one) for one in comparisons.comparisons]
    if len(blocks) == 1:
        return blocks[0]
    num_labels = sum(len(one.labels) for one in comparisons.comparisons)
    words = (
        f"p-values are corrected after Holm: {num_labels} of labels together, and the {len(blocks)} of foreground means"
    )
    return "\n\n\n".join([*blocks, words])


def render(comparison: Comparison) -> str:
    """The comparison as plain text: a table, then the verdicts and what else is to be known.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    str
        Lines without a final line break; fractions are shown in points (hundredths).
    """
    scale, unit = _scale(comparison.unit)
    results = {FOREGROUND: comparison.foreground, **comparison.labels}
    rows: list[tuple[str, ...]] = [
        ("", "n", "A", "B", "B - A", "median", "95 % interval", "bootstrap", "t", "p (t)", "p (Wilcoxon)", "detectable")
    ]
    rows += [(name, *_cells(result, scale)) for name, result in results.items()]
    lines = [
        f"A: {comparison.a}",
        f"B: {comparison.b}",
        f"{comparison.metric} in {unit}, {comparison.better} is better; p of labels corrected after Holm",
        "",
        *_aligned(rows),
        "",
        *(f"{name}: {result.verdict}" for name, result in results.items()),
    ]
    for side, names in (("A", comparison.only_a), ("B", comparison.only_b)):
        if names:
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            lines.append(f"only in {side}, not compared: {len(names)} cases ({', '.join(names[:LISTED])}{more})")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in comparison.warnings), *comparison.notes])


def render_standing(standing: Standing) -> str:
    """The standing as plain text, Dice in points.

    Parameters
    ----------
    standing : Standing

    Returns
    -------
    str
        Lines without a final line break.
    """
    rows = {} if standing.foreground is None else {FOREGROUND: standing.foreground}
    rows |= standing.labels
    cells: list[tuple[str, ...]] = [("", "n", "this model", "95 % interval", "published", "difference")]
    cells += [
        (
            name,
            str(row.n),
            _points(row.mean),
            "-" if row.interval is None else f"[{_points(row.interval.low)}, {_points(row.interval.high)}]",
            _points(row.published),
            _points(row.difference, "+"),
        )
        for name, row in rows.items()
    ]
    patients = f" of {standing.num_patients} patients" if standing.num_patients != standing.num_cases else ""
    return "\n".join(
        [
            f"this model: {standing.source} ({standing.num_cases} cases{patients})",
            f"published:  {standing.baseline} ({standing.described})",
            "dice in points, higher is better; not paired",
            "",
            *_aligned(cells),
            "",
            *(f"{name}: {row.verdict}" for name, row in rows.items()),
            "",
            *standing.notes,
        ]
    )


def verdict(result: PairedResult, comparison: Comparison) -> str:
    """What the numbers say, and what they can't say.

    Parameters
    ----------
    result : PairedResult
        Of `comparison`; p-values corrected where they are to be.
    comparison : Comparison

    Returns
    -------
    str
        One line.
    """
    better, each = comparison.better, comparison.paired_by
    scale, counted_in = _scale(comparison.unit)
    difference, interval = result.mean_b_minus_a, result.interval_t
    if difference is None:
        return f"nothing to compare: no {each} has a score on both sides"
    winner = "B" if (difference > 0) == (better == "higher") else "A"
    size = f"{abs(difference) * scale:.2f} {counted_in}"
    if interval is None:
        return f"a single {each} tells nothing about the mean"
    if result.sd_of_differences == 0:
        # The t-test's p is 1 for equal scores, and undefined where all differ by the same amount.
        return (
            f"the two are equal in every {each}" if result.p_t == 1 else f"{winner} is better by {size} in every {each}"
        )
    tests = [
        result.p_t if result.p_t_holm is None else result.p_t_holm,
        result.p_wilcoxon if result.p_wilcoxon_holm is None else result.p_wilcoxon_holm,
    ]
    significant = [p is not None and p < SIGNIFICANCE for p in tests]
    span = f"{interval.low * scale:+.2f} to {interval.high * scale:+.2f}"
    if all(significant) and difference * (result.median_b_minus_a or 0.0) < 0:
        other = "A" if winner == "B" else "B"
        return f"{winner} is better by {size} on average (B - A: {span}), but {other} in most {each}s: look at both"
    if all(significant):
        return f"{winner} is better by {size}, a real difference by both tests (B - A: {span} with 95 % confidence)"
    if any(significant):
        which = "t-test" if significant[0] else "Wilcoxon test"
        return f"{winner} may be better by {size} (B - A: {span}), but only the {which} says so"
    detectable = (result.detectable_difference or 0.0) * scale
    # The interval is of this row alone, the tests are not.
    alone = " for this row alone, not once all tests are counted" if interval.low * interval.high > 0 else ""
    return (
        f"not decidable: no difference shown (B - A: {span}{alone}); with these {result.n} {each}s one below "
        f"{detectable:.2f} {counted_in} would probably go unnoticed"
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows as lines, the first column to the left, all others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _cells(result: PairedResult, scale: float) -> tuple[str, ...]:
    """One row of the table, without its name."""

    def number(value: float | None, sign: str = "") -> str:
        return "-" if value is None else f"{value * scale:{sign}.2f}"

    def interval(ends: Interval | None) -> str:
        return "-" if ends is None else f"[{number(ends.low, '+')}, {number(ends.high, '+')}]"

    return (
        str(result.n),
        number(result.mean_a),
        number(result.mean_b),
        number(result.mean_b_minus_a, "+"),
        number(result.median_b_minus_a, "+"),
        interval(result.interval_t),
        interval(result.interval_bootstrap),
        "-" if result.t is None else f"{result.t:.2f}",
        _p(result.p_t if result.p_t_holm is None else result.p_t_holm),
        _p(result.p_wilcoxon if result.p_wilcoxon_holm is None else result.p_wilcoxon_holm),
        number(result.detectable_difference),
    )


def _p(value: float | None) -> str:
    """A p-value for the eye."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _scale(unit: Unit) -> tuple[float, str]:
    """What to multiply by for the eye, and what the result counts in."""
    return (100.0, "points") if unit == "fraction" else (1.0, unit)


def _points(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{100 * value:{sign}.2f}"
