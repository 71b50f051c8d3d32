"""The page: its parts in order."""

from collections.abc import Mapping, Sequence
from importlib.resources import files

from autoseg.report.baseline_part import baseline_section
from autoseg.report.dataset_part import dataset
from autoseg.report.found import Found
from autoseg.report.html import Element, element, items, page, section
from autoseg.report.origin_part import origin
from autoseg.report.plan_part import planned
from autoseg.report.scores import ScoredCase
from autoseg.report.selection_part import selected
from autoseg.report.training_part import training
from autoseg.report.validation_part import cross_validation, verdict
from autoseg.report.words import listed, several
from autoseg.report.worst_part import Picture, worst_cases


def whole_page(
    found: Found,
    worst: Sequence[tuple[ScoredCase, float]],
    pictures: Mapping[tuple[str, int], Picture | str],
    *,
    num_scored: int,
    versions: Mapping[str, str],
    made: str,
) -> str:
    """The HTML of the report.

    Parameters
    ----------
    found : Found
    worst : sequence of (ScoredCase, float)
        The cases to be shown, with their mean Dice.
    pictures : mapping of (str, int) to Picture or str
        Of these cases, by name and fold; text is why there is none.
    num_scored : int
        Of all scored cases.
    versions : mapping of str to str
    made : str
        Date of the page.
    """
    unit = next((each.unit for scored in found.validations.values() for each in scored.values()), "mm")
    sections = [
        cross_validation(found),
        worst_cases(worst, pictures, num_scored, unit),
        training(found),
        dataset(found),
        planned(found),
        baseline_section(found.comparison),
        selected(found.selection),
        origin(found, versions, made),
    ]
    title = f"{found.name}: segmentation report"
    told = [section("What to know first", "notes", items(found.notes))] if found.notes else []
    header = element(
        "header", element("h1", found.name), element("p", _subject(found), class_="subject"), verdict(found)
    )
    main = element("main", *told, *sections)
    footer = element(
        "footer",
        element(
            "p", f"Made by autoseg {versions.get('autoseg', '')} on {made}. This file is complete: it loads nothing."
        ),
    )
    style = files("autoseg.report").joinpath("page.css").read_text(encoding="utf-8")
    return page(title, style, (header, _contents(sections), main, footer))


def _contents(sections: Sequence[Element]) -> Element:
    """Links to the parts."""
    links = []
    for part in sections:
        heading = part.children[0]
        if isinstance(heading, Element):
            links.append(element("a", *heading.children, href=f"#{part.attributes['id']}"))
    return element("nav", items(links), aria_label="Parts of this page")


def _subject(found: Found) -> str:
    """What is segmented in what."""
    source = found.fingerprint or found.plan
    if source is None:
        return "Segmentation report"
    labels = [name for name, value in source.labels.items() if value != 0 and name != "ignore"]
    count = f", {several(len(found.fingerprint.cases), 'case')}" if found.fingerprint else ""
    return f"Segmentation report: {listed(labels, 6)} in {listed(source.channel_names, 6)}{count}"
