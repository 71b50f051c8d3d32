"""What cross-validation says: the verdict, the table, and how cases are spread."""

from collections.abc import Mapping
from statistics import fmean

from autoseg.artifacts.evaluation import METRICS, Evaluation
from autoseg.artifacts.selection import Selection
from autoseg.report.found import Found, alike
from autoseg.report.html import Element, Node, element, items, number, paragraph, section, table
from autoseg.report.plots import Strip, strip_chart
from autoseg.report.scores import ALL, Estimate, Row, ScoredCase, pooled, rows
from autoseg.report.words import MEANINGS, TITLES, digits, listed, several, title


def verdict(found: Found) -> Element:
    """The page's first lines: how good, on what, by what."""
    validations = found.validations
    if not validations:
        return element("div", paragraph(_nothing_yet(found), class_="lead"), class_="verdict")
    name, evaluations = next(iter(validations.items()))
    cases, labels = _cases(evaluations)
    overall = rows(cases, labels, found.groups)[0]
    dice = overall.estimates["dice"]
    planned = len(found.splits.folds) if found.splits else None
    folds = list(evaluations)
    which = f"{'fold' if len(folds) == 1 else 'folds'} {listed(folds)}"
    of = f" of {planned}" if planned is not None and planned > len(folds) else ""
    lines: list[Node] = [
        f"Over {several(len(cases), 'case')}, each predicted by a network that was not trained on it; a case counts by "
        f"its mean over {several(len(labels), 'label')}. Configuration {name}, {which}{of}."
    ]
    if found.selection is not None:
        lines.append(f"Selected for new images: {found.selection.words}{_judged(found.selection)}.")
    if of:
        lines.append("Folds that are missing would add cases, and may change the mean.")
    big = [element("span", "Mean Dice", class_="what"), element("strong", _plain(dice, "dice"), id="mean-dice")]
    if dice is not None and dice.low is not None:
        big.append(element("span", f"95 % interval {_span(dice, 3)}", class_="interval"))
    return element("div", element("p", *big, class_="figure"), *map(paragraph, lines), class_="verdict")


def _judged(selection: Selection) -> str:
    """What the selected way reached, where it was judged."""
    judged = next((each for each in selection.candidates if each.words == selection.way.words), None)
    return "" if judged is None else f"; mean Dice before post-processing {judged.mean_dice:.3f}, see Selection"


def cross_validation(found: Found) -> Element:
    """The tables, that of the main configuration first."""
    validations = found.validations
    if not validations:
        return section("Cross-validation", "validation", paragraph(_nothing_yet(found)))
    parts: list[Node] = []
    for place, (name, evaluations) in enumerate(validations.items()):
        block = _configuration(name, evaluations, found, name_of_table="scores" if place == 0 else f"scores-{place}")
        if place == 0:
            parts += block
            continue
        dice = rows(*_cases(evaluations), found.groups)[0].estimates["dice"]
        head = element("summary", f"{name}: mean Dice {_plain(dice, 'dice')}{_in_words(dice)}")
        parts.append(element("details", head, *block))
    drawn = "patients (or other groups of cases)" if found.groups else "cases"
    parts.append(
        paragraph(
            f"Small print below each mean: 95 % bootstrap interval over {drawn}. It tells what other cases of the same "
            "kind may give, not what another scanner or another training would. A label that neither reference nor "
            "prediction has (absent) is in no mean; one that is missed, or found where there is none (a false alarm), "
            "has an overlap of 0 and no distances.",
            class_="small",
        )
    )
    meanings = [f"{TITLES[metric]}: {meaning}" for metric, meaning in MEANINGS.items()]
    parts.append(element("details", element("summary", "What the metrics mean"), items(meanings)))
    return section("Cross-validation", "validation", *parts)


def _configuration(name: str, evaluations: Mapping[int, Evaluation], found: Found, *, name_of_table: str) -> list[Node]:
    used = alike(evaluations)
    first = next(iter(used.values()))
    cases, labels = _cases(evaluations)
    lines = rows(cases, labels, found.groups)
    metrics = [metric for metric in METRICS if any(line.estimates[metric] for line in lines)]
    tolerances = {each.tolerance_mm.get(label) for each in used.values() for label in labels} - {None}
    tolerance = f"; NSD within {listed(f'{value:g}' for value in sorted(filter(None, tolerances)))} {first.unit}"
    folds = f"{'fold' if len(used) == 1 else 'folds'} {listed(used)}"
    parts: list[Node] = [
        table(
            f"{name}, {folds}: means over {several(len(cases), 'case')}{tolerance if tolerances else ''}",
            ["Label", *(title(metric, first.unit) for metric in metrics), "Cases"],
            [_line(line, metrics) for line in lines],
            name=name_of_table,
            class_="scores",
        )
    ]
    if len(used) < len(evaluations):
        parts.append(
            paragraph(
                f"Left out: folds {listed(set(evaluations) - set(used))}, which scored other labels or in another unit."
            )
        )
    spread = [_spread(cases, labels, lines, name_of_table)]
    if len(used) > 1:
        spread.append(_per_fold(used, name_of_table))
    parts.append(element("div", *spread, class_="plots"))
    return parts


def _line(line: Row, metrics: list[str]) -> list[Node]:
    """The cells of one label."""
    return [
        line.label if line.label is not None else element("em", ALL),
        *(_cell(line.estimates[metric], digits(metric)) for metric in metrics),
        _counts(line),
    ]


def _counts(line: Row) -> Node:
    """How many cases, and in how many of them a mask is empty."""
    found = {"missed": line.n_missed, "false alarms": line.n_false_alarms, "absent": line.n_absent}
    cases = element("data", f"{line.n_cases:,}", value=str(line.n_cases))
    parts = (
        element("small", element("data", str(count), value=str(count)), f" {name}")
        for name, count in found.items()
        if count or name != "absent"
    )
    return element("span", cases, *parts, class_="estimate counts")


def _cell(estimate: Estimate | None, places: int) -> Node:
    if estimate is None:
        return number(None)
    if estimate.low is None:
        return number(estimate.mean, places)
    return element("span", number(estimate.mean, places), element("small", _span(estimate, places)), class_="estimate")


def _per_fold(evaluations: Mapping[int, Evaluation], name: str) -> Element:
    """Mean Dice of each fold, to see whether one stands out."""
    labels = list(next(iter(evaluations.values())).labels)
    lines: list[list[Node]] = [
        [
            f"fold\N{NO-BREAK SPACE}{fold}",
            number(each.summary.mean.dice),
            *(number(each.summary.labels[label].dice) for label in labels),
            str(len(each.cases)),
        ]
        for fold, each in evaluations.items()
    ]
    return table("Dice fold by fold", ["Fold", element("em", ALL), *labels, "Cases"], lines, name=f"{name}-folds")


def _spread(cases: tuple[ScoredCase, ...], labels: list[str], lines: list[Row], name: str) -> Element:
    """Dice of every case, label by label."""
    strips = []
    for line in lines:
        values = [case.mean("dice") if line.label is None else case.scores[line.label].dice for case in cases]
        known = [value for value in values if value is not None]
        estimate = line.estimates["dice"]
        strips.append(
            Strip(
                line.label if line.label is not None else ALL,
                known,
                estimate.mean if estimate else None,
                estimate.low if estimate else None,
                estimate.high if estimate else None,
                _plain(estimate, "dice"),
            )
        )
    lowest = min((value for strip in strips for value in strip.values), default=0.0)
    words = "; ".join(
        f"{strip.name}: mean {fmean(strip.values):.3f}, from {min(strip.values):.3f} to {max(strip.values):.3f}"
        for strip in strips
        if strip.values
    )
    return strip_chart(
        strips,
        name=f"{name}-spread",
        title="Dice of each case",
        description=f"A dot for each case; bar and line are the mean and its interval. {words}.",
        x_label="Dice",
        bounds=(min(lowest, 0.9), 1.0),
    )


def _cases(evaluations: Mapping[int, Evaluation]) -> tuple[tuple[ScoredCase, ...], list[str]]:
    used = alike(evaluations)
    return pooled(used), list(next(iter(used.values())).labels)


def _nothing_yet(found: Found) -> str:
    if not found.folds:
        return "Nothing is trained yet, so there is nothing to say about how well it works."
    return "No fold is validated yet, so there is nothing to say about how well it works."


def _plain(estimate: Estimate | None, metric: str) -> str:
    return "undefined" if estimate is None else f"{estimate.mean:.{digits(metric)}f}"


def _span(estimate: Estimate, places: int) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    between = "–" if estimate.low >= 0 else " to "  # a dash beside a minus would be hard to read
    return f"{estimate.low:.{places}f}{between}{estimate.high:.{places}f}".replace("-", "−")


def _in_words(estimate: Estimate | None) -> str:
    return f" ({_span(estimate, 3)})" if estimate is not None and estimate.low is not None else ""
