"""Whatever a file says is text on the page."""

import pytest

from autoseg.report.html import element, facts, items, number, page, render, table

HOSTILE = "<script>alert(1)</script>\"' onload=x & </style>"


@pytest.mark.parametrize(
    "node",
    [
        element("p", HOSTILE),
        element("p", "x", title=HOSTILE),
        items([HOSTILE]),
        facts([(HOSTILE, HOSTILE)]),
        table(HOSTILE, [HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]], name="t"),
    ],
)
def test_text_and_attributes_are_escaped(node):
    written = render(node)
    assert "<script" not in written
    assert "</style" not in written
    # No attribute is left by a quote.
    assert '" onload' not in written
    assert "&lt;script&gt;" in written


def test_the_title_is_escaped_and_nothing_may_be_loaded():
    written = page(HOSTILE, "p{}", [element("p", "text")])
    assert "<script" not in written
    assert "default-src &#x27;none&#x27;" in written
    assert written.startswith('<!doctype html>\n<html lang="en">')


def test_a_number_is_short_for_the_eye_and_exact_for_programs():
    assert render(number(-1 / 3, 2)) == f'<data value="{-1 / 3!r}">−0.33</data>'
    assert "undefined" in render(number(None))
