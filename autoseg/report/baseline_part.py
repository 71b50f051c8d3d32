"""How the result compares with another one, where a comparison was made."""

from autoseg.artifacts.comparison import Comparison, Interval, PairedResult
from autoseg.report.html import Element, Node, element, facts, items, number, paragraph, section, table
from autoseg.report.plots import Strip, strip_chart
from autoseg.report.words import listed, several

FOREGROUND = "mean over labels"


def baseline_section(comparison: Comparison | None) -> Element:
    """The part.

    Parameters
    ----------
    comparison : Comparison or None
        None: none was given.
    """
    if comparison is None:
        told = paragraph(
            "No comparison was given. ",
            element("code", "autoseg compare A B --json FILE"),
            " makes one, and ",
            element("code", "autoseg report --comparison FILE"),
            " shows it here.",
        )
        return section("Comparison", "comparison", told)
    scale, unit = (100.0, "points (hundredths)") if comparison.unit == "fraction" else (1.0, comparison.unit)
    results = {FOREGROUND: comparison.foreground, **comparison.labels}
    lines = [_line(name, result, scale) for name, result in results.items()]
    head = ["", "Cases", "A", "B", "B − A", "95 % interval", "p (t)", "p (Wilcoxon)", "Smallest it could show"]
    parts: list[Node] = [
        facts(
            [
                ("A", comparison.a),
                ("B", comparison.b),
                ("Metric", f"{comparison.metric} in {unit}; {comparison.better} is better"),
            ]
        ),
        items(
            (element("span", element("b", name), f": {result.verdict}") for name, result in results.items()),
            class_="verdicts",
        ),
        element("div", _forest(results, scale, unit), class_="plots"),
        table(f"B minus A in {unit}; p of labels corrected after Holm", head, lines, name="comparison-table"),
    ]
    lonely = [
        f"only in {side}, not compared: {several(len(cases), 'case')} ({listed(cases)})"
        for side, cases in (("A", comparison.only_a), ("B", comparison.only_b))
        if cases
    ]
    if lonely or comparison.notes:
        parts.append(items([*lonely, *comparison.notes]))
    return section("Comparison", "comparison", *parts)


def _line(name: str, result: PairedResult, scale: float) -> list[Node]:
    p_t = result.p_t if result.p_t_holm is None else result.p_t_holm
    p_wilcoxon = result.p_wilcoxon if result.p_wilcoxon_holm is None else result.p_wilcoxon_holm
    return [
        name,
        str(result.n),
        *(number(_scaled(value, scale), 2) for value in (result.mean_a, result.mean_b, result.mean_b_minus_a)),
        _span(result.interval_bootstrap or result.interval_t, scale),
        _p(p_t),
        _p(p_wilcoxon),
        number(_scaled(result.detectable_difference, scale), 2),
    ]


def _forest(results: dict[str, PairedResult], scale: float, unit: str) -> Element:
    """Differences with their intervals around 0."""
    rows = []
    for name, result in results.items():
        ends = result.interval_bootstrap or result.interval_t
        low, high = (ends.low * scale, ends.high * scale) if ends is not None else (None, None)
        rows.append(Strip(name, (), _scaled(result.mean_b_minus_a, scale), low, high, _span(ends, scale)))
    known = [value for row in rows for value in (row.middle, row.low, row.high) if value is not None]
    words = "; ".join(f"{row.name}: {row.text}" for row in rows)
    return strip_chart(
        rows,
        name="differences",
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
