"""Drawings: axes that enclose their values, whatever these are."""

from xml.etree import ElementTree

import pytest

from autoseg.report.html import render
from autoseg.report.plots import Line, Strip, decades, line_chart, short, strip_chart, ticks


@pytest.mark.parametrize(
    ("low", "high"), [(0.62, 0.9), (-1, 1), (0, 283000), (5, 5), (0, 0), (1e-9, 2e-9), (-3.2, -3.1)]
)
def test_ticks_enclose_their_range(low, high):
    found = ticks(low, high)
    assert found[0] <= low + 1e-12
    assert found[-1] >= high - 1e-12
    assert 2 <= len(found) <= 8
    assert found == sorted(set(found))


@pytest.mark.parametrize(("low", "high"), [(0.6, 3), (1, 1), (0.001, 5000), (0.9, 1.1), (5, 5), (1e-8, 1e-8)])
def test_decades_enclose_their_range(low, high):
    found = decades(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert len(found) >= 2


def test_ticks_of_epochs_are_whole():
    assert ticks(1, 7, whole=True) == [2, 4, 6]
    assert ticks(1, 1, whole=True) == [1]


def test_numbers_on_axes_are_short():
    assert [short(value) for value in (-0.2, 0.30000000000000004, 300000, 1)] == ["−0.2", "0.3", "300,000", "1"]


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [Line("<b>", [(1, None)], 0)],
        [Line("fold 0", [(1, 0.5)], 0), Line("", [(1, float("nan")), (2, 0.1), (3, 1e9)], 9, dashed=True, marked=True)],
    ],
)
def test_a_chart_is_xml_that_says_what_it_shows(lines):
    figure = ElementTree.fromstring(  # noqa: S314 - our own
        render(line_chart(lines, name="n", title="<t>", description="d", x_label="epoch"))
    )
    drawing = figure.find("svg")
    assert drawing.get("role") == "img"
    ids = {each.get("id") for each in drawing}
    assert {drawing.get("aria-labelledby"), drawing.get("aria-describedby")} <= ids
    assert figure.find("figcaption").text == "<t>"


@pytest.mark.parametrize(
    "strips", [[], [Strip("x" * 200)], [Strip("a", [1.0] * 3, 1.0), Strip("b", (), 0.5, -2, 3, "t")]]
)
def test_places_of_strips_lie_inside(strips):
    figure = ElementTree.fromstring(  # noqa: S314 - our own
        render(strip_chart(strips, name="n", title="t", description="d", x_label="mm"))
    )
    width = float(figure.find("svg").get("viewBox").split()[2])
    assert all(0 <= float(line.get(key)) <= width for line in figure.iter("line") for key in ("x1", "x2"))
