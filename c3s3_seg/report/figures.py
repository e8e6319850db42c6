"""Draw small SVG diagrams inside a page; they take the page's colours, in dark mode and in print too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from c3s3_seg.report.numbers import in_page, rounded

WIDTH, HEIGHT = 280, 210
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 12, 38
WIDE, NAMES, ROW = 560, 190, 21  # width of a forest plot, width of its names, height of a row


@dataclass(frozen=True)
class Dot:
    """One case in a diagram: its values, its name, and the part of the page that it links to."""

    x: float
    y: float
    name: str
    link: str


@dataclass(frozen=True)
class Line:
    """A horizontal line with a word at its end."""

    y: float
    word: str
    dashed: bool = False


def spread(dots: Sequence[Dot], title: str, decimals: int = 3) -> str:
    """Return a box plot, from quartile to quartile with the median, with every case as a dot.

    Parameters
    ----------
    dots
        Dots whose `y` is shown; `x` is ignored. Values that are not finite are left out.
    title
        Title of the diagram, with the unit.
    decimals
        Decimals of the value in a dot's tooltip.
    """
    finite = sorted((dot for dot in dots if math.isfinite(dot.y)), key=lambda dot: dot.y)
    if not finite:
        return _frame(title, "", "", '<text x="140" y="105" class="middle">nothing to show</text>')
    values = [dot.y for dot in finite]
    axis = _PlotAxis(*_range(values), HEIGHT - BOTTOM, TOP)
    middle = (LEFT + WIDTH - RIGHT) / 2
    low, median, high = (axis.at(float(q)) for q in np.percentile(values, (25, 50, 75)))
    left, right = middle - 60, middle + 60
    box = (
        f'<rect class="box" x="{left:.1f}" y="{high:.1f}" width="120" height="{low - high:.1f}"/>'
        f'<line class="median" x1="{left:.1f}" x2="{right:.1f}" y1="{median:.1f}" y2="{median:.1f}"/>'
    )
    marks = []
    for n, dot in enumerate(finite):
        # The golden ratio spreads neighbours in value over the width, reproducibly.
        x = middle + ((n * 0.618034) % 1 - 0.5) * 110
        marks.append(_dot(x, axis.at(dot.y), dot, rounded(dot.y, decimals)))
    return _frame(title, axis.ticks(), "", box + "".join(marks))


@dataclass(frozen=True)
class Span:
    """One row of a forest plot: a value and its interval. `marked` rows are drawn in full colour."""

    name: str
    value: float
    low: float
    high: float
    marked: bool = True


def forest(spans: Sequence[Span], title: str, decimals: int = 3, *, zero: bool = False) -> str:
    """Return a forest plot: each row's value as a dot on the line of its interval, from top to bottom.

    Parameters
    ----------
    spans
        Rows; without a finite value a row has only its name, and an interval that is not finite is left out.
    title
        Title of the diagram, with the unit.
    decimals
        Decimals of the values in tooltips.
    zero
        Whether values are differences: 0 is on the axis and has a line of its own.
    """
    finite = [v for s in spans for v in (s.low, s.value, s.high) if math.isfinite(v)]
    if not finite:
        return _frame(title, "", "", '<text x="140" y="105" class="middle">nothing to show</text>')
    height = TOP + ROW * len(spans) + BOTTOM
    axis = _PlotAxis(*_range([*finite, *([0.0] if zero else [])]), NAMES, WIDE - 2 * RIGHT)
    across = [
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        f'<text x="{x:.1f}" y="{height - BOTTOM + 15}" class="middle">{word}</text>'
        for x, word in axis.places()
    ]
    if zero:
        x = f"{axis.at(0):.1f}"
        across.append(f'<line class="median" x1="{x}" x2="{x}" y1="{TOP}" y2="{height - BOTTOM}"/>')
    rows = [_span(span, TOP + ROW * (n + 0.5), axis, decimals) for n, span in enumerate(spans)]
    return _frame(title, "".join(across), "", "".join(rows), (WIDE, height))


def _span(span: Span, y: float, axis: _PlotAxis, decimals: int) -> str:
    name = f'<text class="name" x="4" y="{y + 4:.1f}">{escape(span.name)}</text>'
    if not math.isfinite(span.value):
        return name
    words, line = f"{span.name}: {rounded(span.value, decimals)}", ""
    if math.isfinite(span.low) and math.isfinite(span.high):
        words += f", 95 % interval {rounded(span.low, decimals)} to {rounded(span.high, decimals)}"
        ends = f'x1="{axis.at(span.low):.1f}" x2="{axis.at(span.high):.1f}"'
        line = f'<line class="interval" {ends} y1="{y:.1f}" y2="{y:.1f}"/>'
    kind = "" if span.marked else ' class="faint"'
    dot = f'<circle cx="{axis.at(span.value):.1f}" cy="{y:.1f}" r="4.5"/>'
    return f"{name}<g{kind}><title>{escape(words)}</title>{line}{dot}</g>"


def agreement(dots: Sequence[Dot], unit: str) -> str:
    """Return a Bland-Altman plot: difference of two measurements over their mean, its mean and limits.

    Parameters
    ----------
    dots
        `x`: mean of prediction and truth; `y`: prediction minus truth.
    unit
        Unit of both.
    """
    title = f"Volume, prediction \u2212 truth ({unit})"
    if not dots:
        return _frame(title, "", "", '<text x="140" y="105" class="middle">nothing to show</text>')
    lines = limits([dot.y for dot in dots])
    across = _PlotAxis(*_range([dot.x for dot in dots]), LEFT, WIDTH - RIGHT)
    up = _PlotAxis(
        *_range([0.0, *(dot.y for dot in dots), *(line.y for line in lines)]), HEIGHT - BOTTOM, TOP
    )
    drawn = [f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up.at(0):.1f}" y2="{up.at(0):.1f}"/>']
    for line in lines:
        y = up.at(line.y)
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        drawn.append(
            f'<line class="median" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"{dash}/>'
            f'<text class="word" x="{LEFT + 5}" y="{y - 4:.1f}">'
            f"{escape(line.word)} {_signed(line.y)}</text>"
        )
    marks = [_dot(across.at(d.x), up.at(d.y), d, _difference(d, unit)) for d in dots]
    words = f"mean of both ({unit}); Bland-Altman"
    below = f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" class="middle">{escape(words)}</text>'
    return _frame(title, up.ticks(), across.ticks(below=True) + below, "".join(drawn + marks))


def _difference(dot: Dot, unit: str) -> str:
    """Return the tooltip value of a dot of volumes."""
    return f"{_signed(dot.y)} {unit} at {in_page(dot.x, 'volume_ml')} {unit}"


def _signed(volume: float) -> str:
    sign = "+" if volume >= 0 else ""
    return f"{sign}{in_page(volume, 'volume_error_ml')}"


def limits(differences: Sequence[float]) -> tuple[Line, ...]:
    """Return the mean difference and, from two on, the 95 % limits of agreement at 1.96 sd from it."""
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return (Line(mean, "mean"),)
    reach = 1.96 * float(np.std(differences, ddof=1))
    return Line(mean, "mean"), Line(mean + reach, "+1.96 SD", True), Line(mean - reach, "-1.96 SD", True)


@dataclass(frozen=True)
class _PlotAxis:
    """An axis that maps values from `low` to `high` to the pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def places(self) -> list[tuple[float, str]]:
        """Return up to six round numbers, each as a pixel and a text."""
        step = _round_step((self.high - self.low) / 5)
        first, decimals = math.ceil(self.low / step - 1e-9), max(0, -math.floor(math.log10(step) + 1e-9))
        numbers = range(first, math.floor(self.high / step + 1e-9) + 1)
        return [(self.at(n * step), f"{n * step:.{decimals}f}") for n in numbers]

    def ticks(self, *, below: bool = False) -> str:
        """Return round numbers as SVG, each with a thin line, or below the axis without."""
        out = []
        for place, word in self.places():
            if below:
                out.append(f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 15}" class="middle">{word}</text>')
            else:
                out.append(
                    f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>'
                    f'<text x="{LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{word}</text>'
                )
        return "".join(out)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of the values with a little room; for one value, some room around it."""
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    # Values that differ by less than a millionth differ by rounding, and count as one value.
    room = 0.06 * (high - low) if high - low > 1e-6 * largest else max(largest * 0.1, 0.5)
    return low - room, high + room


def _round_step(step: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= step * 0.999)


def _dot(x: float, y: float, dot: Dot, value: str) -> str:
    words = escape(f"{dot.name}: {value}", quote=True)
    return (
        f'<a href="#{escape(dot.link, quote=True)}" aria-label="{words}">'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{words}</title></circle></a>'
    )


def _frame(title: str, ticks: str, across: str, inner: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="group" '
        f'aria-label="{escape(title, quote=True)}">{ticks}{across}{inner}</svg></figure>'
    )
