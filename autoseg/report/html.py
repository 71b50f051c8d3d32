"""Elements of a page as values, so that all text is escaped in one place: tag, children, attributes -> HTML."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

VOID = ("meta", "img", "br")


@dataclass(frozen=True, slots=True)
class Element:
    """One element.

    Attributes
    ----------
    tag : str
    children : tuple of Element or str
        Text is escaped when the page is written.
    attributes : dict of str to str
    """

    tag: str
    children: "tuple[Node, ...]"
    attributes: dict[str, str]


Node = Element | str


def element(tag: str, *children: Node, **attributes: str | float | None) -> Element:
    """One element.

    Parameters
    ----------
    tag : str
    *children : Element or str
    **attributes : str, float or None
        An underscore in a name is a hyphen, one at the end is left away (``class_``); None: no such attribute. Numbers
        are written to a hundredth, which is enough for places in a drawing.
    """
    named = {
        name.rstrip("_").replace("_", "-"): value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
        for name, value in attributes.items()
        if value is not None
    }
    return Element(tag, children, named)


def render(node: Node) -> str:
    """The HTML of an element and all in it.

    Examples
    --------
    >>> render(element("p", "a < b", class_="note"))
    '<p class="note">a &lt; b</p>'
    """
    if isinstance(node, str):
        return escape(node, quote=False)
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in node.attributes.items())
    if node.tag in VOID:
        return f"<{node.tag}{attributes}>"
    inside = "".join(map(render, node.children))
    return f"<{node.tag}{attributes}>{inside}</{node.tag}>"


def page(title: str, style: str, body: Iterable[Node]) -> str:
    """A whole page that may load nothing and run nothing.

    Parameters
    ----------
    title : str
    style : str
        CSS of our own: it is not escaped.
    body : iterable of Element or str
    """
    head = (
        element("meta", charset="utf-8"),
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
    )
    inside = "\n".join(map(render, body))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n{"".join(map(render, head))}\n<style>\n{style}</style>\n</head>\n'
        f"<body>\n{inside}\n</body>\n</html>\n"
    )


def section(title: str, name: str, *children: Node) -> Element:
    """A part of the page under a heading, which links lead to by its name."""
    heading = f"{name}-heading"
    return element("section", element("h2", title, id=heading), *children, id=name, aria_labelledby=heading)


def paragraph(*children: Node, class_: str | None = None) -> Element:
    """Running text."""
    return element("p", *children, class_=class_)


def items(lines: Iterable[Node], *, class_: str | None = None) -> Element:
    """A list."""
    return element("ul", *(element("li", line) for line in lines), class_=class_)


def table(
    caption: str, head: Sequence[Node], rows: Iterable[Sequence[Node]], *, name: str, class_: str | None = None
) -> Element:
    """A table whose first column names its rows; on narrow screens it scrolls by itself.

    Parameters
    ----------
    caption : str
    head : sequence of Element or str
        One a column.
    rows : iterable of sequence of Element or str
        As long as `head`.
    name : str
        Its id.
    class_ : str, optional
    """
    columns = element("tr", *(element("th", cell, scope="col") for cell in head))
    lines = (
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest))
        for first, *rest in rows
    )
    inside = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", columns),
        element("tbody", *lines),
        id=name,
        class_=class_,
    )
    return element("div", inside, class_="scroll", tabindex="0", role="region", aria_label=caption)


def facts(pairs: Iterable[tuple[str, Node]]) -> Element:
    """Terms and what they are."""
    return element(
        "dl", *(element("div", element("dt", term), element("dd", value)) for term, value in pairs), class_="facts"
    )


def number(value: float | None, digits: int = 3) -> Element:
    """A number for the eye, with the exact one for programs."""
    if value is None:
        return element("span", "–", title="undefined")
    return element("data", f"{value:.{digits}f}".replace("-", "−"), value=repr(float(value)))
