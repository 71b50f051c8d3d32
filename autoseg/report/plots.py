"""Small drawings as SVG, which stays sharp on paper and takes its colours from the page: numbers -> elements."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from autoseg.report.html import Element, element

WIDTH = 420.0
LEFT, RIGHT = 46.0, 10.0
ROW_HEIGHT, NAME_HEIGHT = 40.0, 15.0
NUM_COLOURS = 7  # as many as page.css names
LONGEST_NAME = 44
LETTER = 6.6  # width of a digit at the size that page.css sets
Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve.

    Attributes
    ----------
    name : str
        In the legend; empty: it has no line there.
    points : sequence of (x, y)
        Those whose y is None or not finite are left out.
    colour : int
        Which of the page's colours.
    dashed : bool
    marked : bool
        Whether points are marked.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: int
    dashed: bool = False
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """One row: a dot for each value, a line from `low` to `high`, and a mark at `middle`.

    Attributes
    ----------
    name : str
    values : sequence of float
    middle, low, high : float or None
    text : str
        Stands at the right end of the row's name.
    """

    name: str
    values: Sequence[float] = ()
    middle: float | None = None
    low: float | None = None
    high: float | None = None
    text: str = ""


def line_chart(
    lines: Sequence[Line],
    *,
    name: str,
    title: str,
    description: str,
    x_label: str,
    bounds: tuple[float, float] | None = None,
) -> Element:
    """Curves over a common axis, with a legend below.

    Parameters
    ----------
    lines : sequence of Line
    name : str
        Unique on the page; ids begin with it.
    title, description : str
        For those who see the drawing, and for those who do not.
    x_label : str
    bounds : tuple of float, optional
        Ends of the upright axis; default: those of the values.
    """
    height, top, bottom = 230.0, 8.0, 34.0
    drawn = [(line, [(x, y) for x, y in line.points if y is not None and isfinite(y)]) for line in lines]
    xs = [x for _, points in drawn for x, _ in points] or [0.0]
    ys = [y for _, points in drawn for _, y in points] or [0.0]
    x_ticks, y_ticks = ticks(min(xs), max(xs), whole=True), ticks(*(bounds or (min(ys), max(ys))))
    across = _scale(min(xs), max(xs), LEFT + 6, WIDTH - RIGHT - 6)
    up = _scale(y_ticks[0], y_ticks[-1], height - bottom, top)
    parts: list[Element] = []
    for tick in y_ticks:
        parts.append(_line(LEFT, up(tick), WIDTH - RIGHT, up(tick), "grid"))
        parts.append(_text(LEFT - 6, up(tick) + 4, short(tick), "end"))
    for tick in x_ticks:
        parts.append(_below(across(tick), height - bottom + 16, short(tick)))
    parts.append(_text((LEFT + WIDTH) / 2, height - 3, x_label, "middle"))
    for line, points in drawn:
        style = f"line c{line.colour % NUM_COLOURS}{' dashed' if line.dashed else ''}"
        places = [(across(x), up(y)) for x, y in points]
        if len(places) > 1:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.append(element("path", d=path, class_=style))
        if line.marked or len(places) == 1:
            parts.append(_dots(places, f"dot c{line.colour % NUM_COLOURS}"))
    legend = element(
        "ul",
        *(
            element(
                "li",
                element("span", class_=f"key b{line.colour % NUM_COLOURS}{' dashed' if line.dashed else ''}"),
                line.name,
            )
            for line in lines
            if line.name
        ),
        class_="legend",
    )
    return _figure(parts, height, name, title, description, legend)


def strip_chart(
    strips: Sequence[Strip],
    *,
    name: str,
    title: str,
    description: str,
    x_label: str,
    bounds: tuple[float, float] | None = None,
    logarithmic: bool = False,
    zero: bool = False,
) -> Element:
    """Rows of dots over a common axis.

    Parameters
    ----------
    strips : sequence of Strip
    name, title, description, x_label : str
        As for `line_chart`.
    bounds : tuple of float, optional
        Ends of the axis; default: those of the values.
    logarithmic : bool
        Only where every value is above 0.
    zero : bool
        Draw a line at 0.
    """
    left = 10.0
    all_values = [value for strip in strips for value in _numbers(strip)]
    low, high = bounds or (min(all_values, default=0.0), max(all_values, default=1.0))
    marks = decades(low, high) if logarithmic else ticks(low, high)
    first, last = (log10(marks[0]), log10(marks[-1])) if logarithmic else (marks[0], marks[-1])
    linear = _scale(first, last, left + 8, WIDTH - RIGHT - 8)
    across: Scale = (lambda value: linear(log10(value))) if logarithmic else linear
    height = ROW_HEIGHT * len(strips) + 40
    floor_y = height - 34
    parts = [_line(across(mark), 4, across(mark), floor_y, "grid") for mark in marks]
    parts += [_below(across(mark), floor_y + 15, short(mark)) for mark in marks]
    if zero:
        parts.append(_line(across(0), 4, across(0), floor_y, "zero"))
    for row, strip in enumerate(strips):
        top = ROW_HEIGHT * row + 4
        middle = top + NAME_HEIGHT + (ROW_HEIGHT - NAME_HEIGHT) / 2
        colour = row % NUM_COLOURS
        parts.append(_text(left, top + 11, _cut(strip.name), "start", "name"))
        if strip.text:
            parts.append(_text(WIDTH - RIGHT, top + 11, strip.text, "end"))
        dots = [(across(value), middle + 7 * _spread(number)) for number, value in enumerate(strip.values)]
        if dots:
            parts.append(_dots(dots, f"dot c{colour}"))
        if strip.low is not None and strip.high is not None:
            parts.append(_line(across(strip.low), middle, across(strip.high), middle, "span"))
        if strip.middle is not None:
            parts.append(_line(across(strip.middle), middle - 9, across(strip.middle), middle + 9, "mark"))
    parts.append(_text(WIDTH / 2, height - 3, x_label, "middle"))
    return _figure(parts, height, name, title, description, None)


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers that enclose a range; whole ones inside it where `whole`.

    Examples
    --------
    >>> ticks(0.62, 0.9)
    [0.6, 0.7, 0.8, 0.9]
    """
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = (low, low) if whole else (low - pad, low + pad)
    span = max(high - low, 1e-12)
    step = 10 ** floor(log10(span / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    if whole:
        step = max(1.0, step)
        return [value * step for value in range(ceil(low / step), floor(high / step) + 1)] or [low]
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(value * step, 12) for value in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten that enclose a range above 0; where there are few, twice and five times these, too.

    Examples
    --------
    >>> decades(0.6, 3)
    [0.5, 1.0, 2.0, 5.0]
    """
    first, last = floor(log10(low)), ceil(log10(high))
    powers = range(first, max(last, first + 1) + 1)
    if len(powers) > 3:
        return [10.0**power for power in powers]
    every = sorted(factor * 10.0**power for power in powers for factor in (1, 2, 5))
    start = max(i for i, mark in enumerate(every) if mark <= low)
    end = min(i for i, mark in enumerate(every) if mark >= high)
    return every[start : max(end, start + 1) + 1]


def short(value: float) -> str:
    """A number on an axis."""
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}").replace("-", "−")


def _numbers(strip: Strip) -> Iterable[float]:
    yield from strip.values
    yield from (value for value in (strip.middle, strip.low, strip.high) if value is not None)


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    """From a range of values to places."""
    if high <= low:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _spread(number: int) -> float:
    """Places from -1 to 1 that are even and never random: multiples of the golden ratio."""
    return (number * 0.618034) % 1 * 2 - 1


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Element:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _text(x: float, y: float, text: str, anchor: str, class_: str | None = None) -> Element:
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=class_)


def _below(x: float, y: float, text: str) -> Element:
    """A number below an axis, moved in where it would leave the drawing."""
    half = 0.5 * LETTER * len(text)
    return _text(min(max(x, half), WIDTH - half), y, text, "middle")


def _dots(places: Iterable[tuple[float, float]], class_: str) -> Element:
    """Many dots as one path of strokes without length, whose round ends are the dots."""
    return element("path", d="".join(f"M{x:.1f} {y:.1f}h0" for x, y in places), class_=class_)


def _figure(
    parts: Sequence[Element], height: float, name: str, title: str, description: str, legend: Element | None
) -> Element:
    drawing = Element(
        "svg",
        (element("title", title, id=f"{name}-title"), element("desc", description, id=f"{name}-desc"), *parts),
        {
            "viewBox": f"0 0 {WIDTH:g} {height:g}",
            "role": "img",
            "aria-labelledby": f"{name}-title",
            "aria-describedby": f"{name}-desc",
        },
    )
    inside = [element("figcaption", title), drawing] + ([legend] if legend is not None else [])
    return element("figure", *inside, class_="plot", id=name)
