"""How the result compares with others, or with a published figure, where a comparison was made."""

from autoseg.artifacts.comparison import Comparison, Comparisons, Interval, PairedResult
from autoseg.artifacts.standing import Standing, StandingRow
from autoseg.report.html import Element, Node, element, facts, items, number, paragraph, section, table
from autoseg.report.plots import Strip, strip_chart
from autoseg.report.words import listed, several

FOREGROUND = "mean over labels"
HEAD = ("", "Cases", "A", "B", "B − A", "median", "95 % interval", "p (t)", "p (Wilcoxon)", "Smallest it could show")


def baseline_section(comparison: Comparisons | Standing | None) -> Element:
    """The part.

    Parameters
    ----------
    comparison : Comparisons, Standing or None
        What `autoseg compare` wrote; None: none was given.
    """
    if comparison is None:
        told = paragraph(
            "No comparison was given. ",
            element("code", "autoseg compare A B --json FILE"),
            " makes one, also with published figures, and ",
            element("code", "autoseg report --comparison FILE"),
            " shows it here.",
        )
        return section("Comparison", "comparison", told)
    if isinstance(comparison, Standing):
        return section("Comparison", "comparison", *_standing(comparison))
    pairs = (node for place, pair in enumerate(comparison.comparisons) for node in _pair(pair, place))
    return section("Comparison", "comparison", *pairs)


def _pair(comparison: Comparison, place: int) -> list[Node]:
    """Two results, by one metric."""
    scale, unit = (100.0, "points (hundredths)") if comparison.unit == "fraction" else (1.0, comparison.unit)
    results = {FOREGROUND: comparison.foreground, **comparison.labels}
    lines = [_line(name, result, scale) for name, result in results.items()]
    lonely = [
        f"only in {side}, not compared: {several(len(cases), 'case')} ({listed(cases)})"
        for side, cases in (("A", comparison.only_a), ("B", comparison.only_b))
        if cases
    ]
    remarks = [*comparison.warnings, *lonely, *comparison.notes]
    return [
        facts(
            [
                ("A", comparison.a),
                ("B", comparison.b),
                ("Metric", f"{comparison.metric} in {unit}; {comparison.better} is better"),
                ("Paired by", comparison.paired_by),
            ]
        ),
        items(
            (element("span", element("b", name), f": {result.verdict}") for name, result in results.items()),
            class_="verdicts",
        ),
        element("div", _forest(results, scale, unit, f"differences-{place}"), class_="plots"),
        table(f"B minus A in {unit}; p of labels corrected after Holm", HEAD, lines, name=f"comparison-table-{place}"),
        *([items(remarks)] if remarks else []),
    ]


def _standing(standing: Standing) -> list[Node]:
    """A model beside a published figure."""
    rows = {} if standing.foreground is None else {FOREGROUND: standing.foreground}
    rows |= standing.labels
    return [
        facts(
            [
                ("This model", standing.source),
                ("Published", f"{standing.baseline}: {standing.described}"),
                ("Metric", f"{standing.metric} in points (hundredths)"),
            ]
        ),
        items(
            (element("span", element("b", name), f": {row.verdict}") for name, row in rows.items()), class_="verdicts"
        ),
        table(
            "This model and the published figure, in points; nothing is paired",
            ("", "Cases", "This model", "95 % interval", "Published", "Difference"),
            [_stood(name, row) for name, row in rows.items()],
            name="comparison-table-0",
        ),
        *([items(standing.notes)] if standing.notes else []),
    ]


def _stood(name: str, row: StandingRow) -> list[Node]:
    ends = row.interval
    return [
        name,
        str(row.n),
        number(_scaled(row.mean, 100), 2),
        "–" if ends is None else f"{100 * ends.low:.2f} to {100 * ends.high:.2f}",
        number(100 * row.published, 2),
        number(_scaled(row.difference, 100), 2),
    ]


def _line(name: str, result: PairedResult, scale: float) -> list[Node]:
    p_t = result.p_t if result.p_t_holm is None else result.p_t_holm
    p_wilcoxon = result.p_wilcoxon if result.p_wilcoxon_holm is None else result.p_wilcoxon_holm
    return [
        name,
        str(result.n),
        *(
            number(_scaled(value, scale), 2)
            for value in (result.mean_a, result.mean_b, result.mean_b_minus_a, result.median_b_minus_a)
        ),
        _span(result.interval_bootstrap or result.interval_t, scale),
        _p(p_t),
        _p(p_wilcoxon),
        number(_scaled(result.detectable_difference, scale), 2),
    ]


def _forest(results: dict[str, PairedResult], scale: float, unit: str, name: str) -> Element:
    """Differences with their intervals around 0."""
    rows = []
    for label, result in results.items():
        ends = result.interval_bootstrap or result.interval_t
        low, high = (ends.low * scale, ends.high * scale) if ends is not None else (None, None)
        rows.append(Strip(label, (), _scaled(result.mean_b_minus_a, scale), low, high, _span(ends, scale)))
    known = [value for row in rows for value in (row.middle, row.low, row.high) if value is not None]
    words = "; ".join(f"{row.name}: {row.text}" for row in rows)
    return strip_chart(
        rows,
        name=name,
        title="Difference, B minus A",
        description=f"The bar is the mean difference, the line its 95 % interval; 0 is no difference. {words}.",
        x_label=unit,
        bounds=(min([0.0, *known]), max([0.0, *known])),
        zero=True,
    )


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def _span(ends: Interval | None, scale: float) -> str:
    return "–" if ends is None else f"{ends.low * scale:+.2f} to {ends.high * scale:+.2f}".replace("-", "−")


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
