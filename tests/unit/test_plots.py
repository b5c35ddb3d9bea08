"""Plots of metrics: whole SVG whatever an app measured, with words that say what they show."""

import math
import xml.etree.ElementTree as ET

import hypothesis
import pytest
from hypothesis import strategies

from flower_agent.reporting import plots
from flower_agent.reporting.plots import Plot, Series

SVG = "{http://www.w3.org/2000/svg}"


def drawn(plot):
    """Return the parsed drawing."""
    text = plots.svg(plot, "p0").replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return ET.fromstring(text)  # noqa: S314  # our own text


def plot_of(*values, title="loss"):
    return Plot(title, (Series("train", tuple(enumerate(values, 1))),))


def test_a_falling_loss_is_a_line_from_top_left_to_bottom_right():
    root = drawn(plot_of(2.0, 1.0, 0.0))
    (line,) = [e for e in root.iter(f"{SVG}path") if e.get("class") == "line"]
    assert line.get("d") == "M64 12L346 110L628 208"
    assert len(list(root.iter(f"{SVG}circle"))) == 3


def test_a_plot_says_in_words_what_it_shows():
    root = drawn(plot_of(0.42, 0.9, 0.88))
    assert root.find(f"{SVG}title").text == "loss by round"
    assert root.find(f"{SVG}desc").text == (
        "train: 0.42 in round 1, 0.88 in round 3; lowest 0.42 in round 1, highest 0.9 in round 2"
    )
    assert root.get("role") == "img"
    assert root.get("aria-labelledby").split() == ["p0t", "p0d"]


def test_a_gap_breaks_the_line():
    root = drawn(plot_of(1.0, None, 2.0, 3.0))
    (line,) = [e for e in root.iter(f"{SVG}path") if e.get("class") == "line"]
    assert line.get("d").count("M") == 2


def test_lines_differ_in_their_marks_too():
    points = ((1, 1.0), (2, 2.0))
    root = drawn(Plot("loss", tuple(Series(name, points) for name in ("a", "b", "c"))))
    assert len(list(root.iter(f"{SVG}circle"))) == 2
    assert len(list(root.iter(f"{SVG}rect"))) == 2
    assert len([e for e in root.iter(f"{SVG}path") if e.get("class") == "mark"]) == 2


@pytest.mark.parametrize(
    "values",
    [
        (0.0,), (7.0, 7.0), (1e308, -1e308), (5e-324, 0.0), (1e-320, 2e-320), (None,), (),
        (2.0**62, 2.0**62 + 1), (1.7976931348623157e308,) * 2, (-1.7976931348623157e308, 0.0),
        (1e308, 1.0000000000000002e308),
    ],
)  # fmt: skip
def test_every_value_has_a_finite_place(values):
    text = plots.svg(plot_of(*values), "p0")
    assert "nan" not in text
    assert "inf" not in text
    drawn(plot_of(*values))


NUMBER = strategies.none() | strategies.floats(allow_nan=False, allow_infinity=False)


@hypothesis.given(strategies.lists(NUMBER | strategies.integers(-(2**63), 2**63 - 1), max_size=20))
@hypothesis.settings(deadline=None, max_examples=200)
def test_no_values_break_a_plot(values):
    text = plots.svg(plot_of(*values), "p0")
    assert "nan" not in text
    assert "inf" not in text
    drawn(plot_of(*values))


def test_five_thousand_rounds_are_a_short_line_with_every_peak():
    values = [0.0] * 5000
    values[1234], values[4321] = 9.0, -9.0
    points = plots.thinned(tuple(enumerate(values, 1)))
    assert len(points) <= plots.POINTS + 2
    assert {(1235, 9.0), (4322, -9.0), (1, 0.0), (5000, 0.0)} <= set(points)
    assert len(plots.svg(plot_of(*values), "p0")) < 20_000


def test_a_title_is_text():
    text = plots.svg(plot_of(1.0, title="</title><script>alert(1)</script>"), "p0")
    assert "<script" not in text
    drawn(plot_of(1.0, title="</title><script>alert(1)</script>"))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (1.0, 3.0, (1.0, 1.5, 2.0, 2.5, 3.0)),
        (-50.0, 60.0, (-50.0, 0.0, 50.0)),
        (3.0, 3.0, (3.0, 3.0)),
        (0.0, math.inf, (0.0, math.inf)),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert plots.ticks(low, high) == pytest.approx(expected)
