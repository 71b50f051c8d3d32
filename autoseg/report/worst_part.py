"""The cases that went worst, with pictures."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoseg.artifacts.evaluation import LabelScores
from autoseg.report.html import Element, element, number, paragraph, section
from autoseg.report.scores import ScoredCase
from autoseg.report.words import several


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a case.

    Attributes
    ----------
    png : bytes
    width, height : int
        In pixels, so that the page does not jump while it loads.
    words : str
        Which slice, and what is drawn.
    colours : dict of str to str
        Of the labels' outlines, as ``#rrggbb``.
    """

    png: bytes
    width: int
    height: int
    words: str
    colours: dict[str, str]


def worst_cases(
    cases: Sequence[tuple[ScoredCase, float]], pictures: Mapping[tuple[str, int], Picture | str], count: int, unit: str
) -> Element:
    """The part.

    Parameters
    ----------
    cases : sequence of (ScoredCase, float)
        Lowest mean Dice first.
    pictures : mapping of (str, int) to Picture or str
        By case and fold; text is why there is none.
    count : int
        Of all scored cases.
    unit : str
        Of distances.
    """
    if not cases:
        return section("Worst cases", "worst", paragraph("There are no scored cases to look at."))
    told = paragraph(
        f"The {several(len(cases), 'case')} of {count} with the lowest mean Dice, each on the slice where prediction "
        "and reference differ most. Left: the image. Right: the reference as a solid line, the prediction dashed, in "
        "the label's colour. Look for a pattern: a scanner, a pathology, a reference that is wrong."
    )
    cards = (
        _card(case, dice, pictures.get((case.name, case.fold), "no picture was made"), unit) for case, dice in cases
    )
    return section("Worst cases", "worst", told, element("div", *cards, class_="cards"))


def _card(case: ScoredCase, dice: float, picture: Picture | str, unit: str) -> Element:
    head = element("h3", case.name)
    overall = element("p", "Dice ", number(dice), f", fold {case.fold}", class_="overall")
    colours = {} if isinstance(picture, str) else picture.colours
    lines = element(
        "ul",
        *(element("li", *_key(colours.get(name)), *_scores(name, each, unit)) for name, each in case.scores.items()),
        class_="per-label",
    )
    if isinstance(picture, str):
        shown = paragraph(f"No picture: {picture}", class_="missing")
        return element("article", head, overall, shown, lines, class_="card")
    image = element(
        "img",
        src=f"data:image/png;base64,{b64encode(picture.png).decode()}",
        alt=f"{case.name}: {picture.words}",
        width=picture.width,
        height=picture.height,
    )
    figure = element("figure", image, element("figcaption", picture.words))
    return element("article", head, overall, figure, lines, class_="card")


def _key(colour: str | None) -> list[Element]:
    """A patch of the label's colour in the picture."""
    return [] if colour is None else [element("span", class_="patch", style=f"background:{colour}")]


def _scores(name: str, scores: LabelScores, unit: str) -> list[Element | str]:
    if scores.n_reference_voxels == 0:
        return [f"{name}: rightly absent" if scores.n_predicted_voxels == 0 else f"{name}: false alarm"]
    if scores.n_predicted_voxels == 0:
        return [f"{name}: missed"]
    parts: list[Element | str] = [f"{name}: Dice ", number(scores.dice)]
    if scores.hd95_mm is not None:
        parts += [", HD95 ", number(scores.hd95_mm, 1), f" {unit}"]
    return [*parts, f"; {_change(scores)}"]


def _change(scores: LabelScores) -> str:
    """How much too large or too small it is."""
    ratio = scores.n_predicted_voxels / scores.n_reference_voxels - 1
    return (
        f"{abs(100 * ratio):.0f} % too {'large' if ratio > 0 else 'small'}" if abs(ratio) >= 0.005 else "the right size"
    )
