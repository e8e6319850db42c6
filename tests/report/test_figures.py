"""Diagrams: every case is shown, numbers are right, names are escaped."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from c3s3_seg.report.figures import Dot, agreement, limits, spread


def dots(*values: float) -> list[Dot]:
    return [Dot(10.0 * n, value, f"case <{n}>", f"case-{n}") for n, value in enumerate(values)]


def parsed(figure: str) -> ElementTree.Element:
    return ElementTree.fromstring(figure)


def circles(figure: str) -> list[tuple[float, float]]:
    found = parsed(figure).iter("circle")
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in found]


def test_spread_shows_the_finite_ones_higher_where_they_are_larger() -> None:
    found = circles(spread(dots(3.0, 1.0, math.inf, 2.0, math.nan), "95HD (mm)"))
    assert len(found) == 3
    heights = [y for _, y in found]
    assert heights == sorted(heights, reverse=True)  # drawn by rising value; a smaller y is higher up


def test_nothing_to_show_is_said() -> None:
    assert "nothing to show" in spread(dots(math.inf), "95HD (mm)")
    assert "nothing to show" in agreement([], "ml")


def test_one_case_and_equal_cases_have_an_axis() -> None:
    for figure in (spread(dots(2.0), "x"), spread(dots(0.0, 0.0), "x"), agreement(dots(0.0), "ml")):
        assert all(math.isfinite(x) and math.isfinite(y) for x, y in circles(figure))


def test_rounding_is_not_drawn_as_a_difference() -> None:
    figure = spread(dots(0.9, 0.9 + 2e-16), "x")
    (_, one), (_, other) = circles(figure)
    assert one == other
    assert max(len(text.text or "") for text in parsed(figure).iter("text")) <= 4


def test_limits_of_agreement_by_hand() -> None:
    mean, upper, lower = limits([1.0, 3.0, 5.0])
    assert mean.y == 3
    assert upper.y == pytest.approx(3 + 1.96 * 2)
    assert lower.y == pytest.approx(3 - 1.96 * 2)
    assert [line.y for line in limits([4.0])] == [4.0]


def test_agreement_has_a_dot_a_case_and_three_lines() -> None:
    values = np.random.default_rng(0).normal(2, 3, 12).tolist()
    figure = agreement(dots(*values), "ml")
    assert len(circles(figure)) == 12
    assert len([e for e in parsed(figure).iter("line") if e.attrib["class"] == "median"]) == 3
    xs = [x for x, _ in circles(figure)]
    assert xs == sorted(xs)


def test_volumes_of_nodules_are_told_as_in_the_tables() -> None:
    """Volumes below 1 ml have three decimals, so that a difference of 0.04 ml is not shown as 0.0."""
    figure = agreement([Dot(0.06, 0.04, "a", "a"), Dot(12.0, -3.0, "b", "b")], "ml")
    assert "a: +0.040 ml at 0.060 ml" in figure
    assert "b: -3.00 ml at 12.0 ml" in figure
    assert "mean +0.020<" in agreement([Dot(0.06, 0.04, "a", "a"), Dot(0.06, 0.0, "b", "b")], "ml")


def test_names_are_text_and_dots_lead_to_their_cases() -> None:
    figure = spread(dots(1.0, 2.0), "a < b")
    assert "<0>" not in figure
    assert [e.attrib["href"] for e in parsed(figure).iter("a")] == ["#case-0", "#case-1"]
    assert re.search("case &lt;0&gt;: 1.000", figure)
    assert "case &lt;0&gt;: 1.0<" in spread(dots(1.04), "x", 1)
