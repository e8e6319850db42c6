"""The report of an evaluation as one HTML file that needs no network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from c3s3_seg.metrics.paired_tests import Paired
from c3s3_seg.metrics.results import CaseScore
from c3s3_seg.metrics.scoring import Score
from c3s3_seg.metrics.statistics import Cohort, Statistics, cohorts
from c3s3_seg.report.case_view import CaseView
from c3s3_seg.report.figures import Dot, agreement, spread
from c3s3_seg.report.page import image, page, solid_html, table
from c3s3_seg.report.rows import Failure
from c3s3_seg.report.tables import CONVENTIONS, PROTOCOLS, definitions_of, notes_of, software_version
from c3s3_seg.report.terminal import COLUMNS
from c3s3_seg.system.choices import ScoreProtocol
from c3s3_seg.system.files import write_whole

DETAILED = 20  # cases that are drawn: the worst ones; the table has all
FIGURES = ("dice", "hd95_mm", "hd95_vox", "asd_mm", "asd_vox")


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Parameters
    ----------
    title
        Of the page. It is written as it stands: no patient's name.
    protocol
        By which the rows were measured.
    rows, failures, comparison, remarks
        As for `tables.write_report_json`.
    """

    title: str
    protocol: ScoreProtocol
    rows: Sequence[CaseScore]
    failures: Sequence[Failure] = ()
    comparison: Sequence[Paired] = ()
    remarks: Sequence[str] = ()


def worst_first(rows: Sequence[CaseScore]) -> list[CaseScore]:
    """The cases to be drawn: a miss first, then by falling 95HD; at most `DETAILED`."""

    def badness(row: CaseScore) -> tuple[float, float]:
        flat = row.score.flat()
        distance = flat.get("hd95_mm", flat.get("hd95_vox", math.nan))
        missed = flat["dice"] == 0  # in the paper protocol a miss has the distance 0
        return (math.inf if missed else -1.0 if math.isnan(distance) else distance), -flat["dice"]

    return sorted(rows, key=badness, reverse=True)[:DETAILED]


def write_report_page(path: Path, report: Report, views: Iterable[CaseView]) -> None:
    """Write the report.

    Parameters
    ----------
    path
        The HTML file; it is replaced if it is there. The same input gives the same bytes.
    report
        What was found.
    views
        Cases to be shown one by one, in this order.

    Raises
    ------
    InputError
        If it cannot be written.
    MissingError
        If plotly is not installed.
    """
    links: dict[tuple[str, str], str] = {}
    drawn: list[str] = []
    for number, view in enumerate(views):
        links[view.row.case, view.row.label] = f"case-{number + 1}"
        drawn.append(_case(view, f"case-{number + 1}", opened=number == 0))
    parts = [_head(report), _failures(report.failures)]
    for cohort in cohorts(report.rows):
        parts += [_summary(cohort), _diagrams([r for r in report.rows if r.label == cohort.label], links)]
    parts += [_comparison(report.comparison), _all_cases(report.rows, links)]
    if drawn:
        what = "All cases" if len(drawn) == len(report.rows) else f"The {len(drawn)} worst cases"
        parts += [f"<h2>{what}, one by one</h2>", _key(), *drawn]
    parts.append(_definitions(report))
    write_whole(path, page(report.title, f"<main>{''.join(parts)}</main>"))


def _head(report: Report) -> str:
    notes = notes_of(report.rows)
    listed = "".join(f"<li>{escape(remark)}</li>" for remark in report.remarks)
    listed += "".join(f"<li><b>{escape(case)}</b>: {escape(note)}</li>" for case, note in notes)
    flags = f'<div class="flags"><b>Notes</b><ul>{listed}</ul></div>' if listed else ""
    return (
        f"<header><h1>{escape(report.title)}</h1>"
        f'<p class="lead">Protocol <b>{report.protocol}</b>. {escape(PROTOCOLS[report.protocol])} '
        f"c3s3-seg {escape(software_version())}.</p>"
        f'<p class="research">Research use only. Not a medical device.</p></header>{flags}'
    )


def _failures(failures: Sequence[Failure]) -> str:
    if not failures:
        return ""
    listed = "".join(f"<li><b>{escape(f.case)}</b>: {escape(f.reason)}</li>" for f in failures)
    return f'<div class="flags"><b>{len(failures)} not measured</b><ul>{listed}</ul></div>'


def _summary(cohort: Cohort) -> str:
    tiles = [f'<div class="tile"><b>{cohort.cases}</b><span>cases measured</span></div>']
    numbers = dict(cohort.metrics)
    for name in FIGURES:
        if name in numbers:
            tiles.append(_tile(name, numbers[name]))
    missed = max((found.infinite for found in numbers.values()), default=0)
    empty = f"{cohort.optimistic} empty, counted as 0"
    for count, words in ((missed, "one mask empty: infinite"), (cohort.optimistic, empty)):
        if count:
            tiles.append(f'<div class="tile"><b>{count}</b><span>{words}</span></div>')
    return f'<h2>{escape(cohort.label)}</h2><div class="tiles">{"".join(tiles)}</div>'


def _tile(name: str, found: Statistics) -> str:
    title, decimals = COLUMNS[name]
    interval = ""
    if math.isfinite(found.low):
        interval = f"<span>95% interval {found.low:.{decimals}f} to {found.high:.{decimals}f}</span>"
    finite = found.n - found.infinite - found.undefined
    of = f" of {finite} finite" if finite < found.n else ""
    mean = f"<b>{_number(found.mean, decimals)}</b><span>{title}, mean{of}</span>"
    if found.infinite and math.isfinite(found.mean_penalised):
        interval += f"<span>{found.mean_penalised:.{decimals}f} with the image diagonal for a miss</span>"
    return f'<div class="tile">{mean}{interval}</div>'


def _diagrams(rows: Sequence[CaseScore], links: dict[tuple[str, str], str]) -> str:
    def link(row: CaseScore) -> str:
        return links.get((row.case, row.label), "cases")

    drawn = []
    for name in FIGURES:
        if name in rows[0].score.flat():
            dots = [Dot(0.0, row.score.flat()[name], row.case, link(row)) for row in rows]
            drawn.append(spread(dots, COLUMNS[name][0]))
    volumes = [
        Dot((row.score.volume_ml + row.score.truth_ml) / 2, row.score.volume_error_ml, row.case, link(row))
        for row in rows
        if isinstance(row.score, Score)
    ]
    if volumes:
        drawn.append(agreement(volumes, "ml"))
    return f'<div class="diagrams">{"".join(drawn)}</div>'


def _comparison(pairs: Sequence[Paired]) -> str:
    shown = [pair for pair in pairs if pair.metric in COLUMNS]
    if not shown:
        return ""
    rows = []
    for pair in shown:
        name, decimals = COLUMNS[pair.metric]
        cells = [
            _cell(value, decimals)
            for value in (pair.mean, pair.against, pair.difference, pair.low, pair.high)
        ]
        rows.append([escape(name), *_text(pair.label), *cells, _cell(pair.p, 3), _cell(pair.n, 0)])
    headers = ["Metric", "Label", "This", "Against", "Difference", "from", "to", "Wilcoxon p", "Cases"]
    return "<h2>Against the other masks</h2>" + table(headers, rows)


def _all_cases(rows: Sequence[CaseScore], links: dict[tuple[str, str], str]) -> str:
    if not rows:
        return ""
    columns = [name for name in _columns(rows) if name != "jaccard"]  # it says what Dice says
    several = len({row.label for row in rows}) > 1
    body = []
    for row in rows:
        flat, link = row.score.flat(), links.get((row.case, row.label))
        name = f'<a href="#{link}">{escape(row.case)}</a>' if link else escape(row.case)
        cells = [_cell(flat.get(column, math.nan), _column(column)[1]) for column in columns]
        body.append([name, *(_text(row.label) if several else []), *cells])
    headers = ["Case", *(["Label"] if several else []), *(_column(column)[0] for column in columns)]
    return '<h2 id="cases">Every case</h2>' + table(headers, body, sortable=True)


def _case(view: CaseView, link: str, *, opened: bool) -> str:
    flat, name = view.row.score.flat(), f"{view.row.case}, {view.row.label}"
    brief = [
        f"<span>{COLUMNS[column][0]} {_number(flat[column], COLUMNS[column][1])}</span>"
        for column in ("dice", "hd95_mm", "hd95_vox", "asd_mm", "asd_vox", "volume_error_ml")
        if column in flat
    ]
    facts = "".join(
        f"<dt>{_column(column)[0]}</dt><dd>{_number(flat[column], _column(column)[1])}</dd>"
        for column in _columns([view.row])
    )
    solid = solid_html(view.solid, name) if view.solid else "<p>Both masks are empty.</p>"
    return (
        f'<details class="case" id="{link}"{" open" if opened else ""}><summary><b>{escape(name)}</b>'
        f'{"".join(brief)}</summary><div class="views"><figure class="planes">'
        f"{image(view.planes, f'Three planes of {name} with both contours')}"
        f"<figcaption>{escape(view.planes_words)}</figcaption><dl>{facts}</dl></figure>{solid}</div></details>"
    )


def _key() -> str:
    return (
        '<p class="lead"><span class="key p"></span>prediction &nbsp; <span class="key t"></span>truth. '
        "L is the patient's left. Surfaces turn under the mouse or with the arrow keys.</p>"
    )


def _definitions(report: Report) -> str:
    terms = {**definitions_of(report.rows), **CONVENTIONS}
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in terms.items())
    summary = '<details class="definitions"><summary>Definitions</summary>'
    return f"<h2>What the numbers mean</h2>{summary}<dl>{listed}</dl></details>"


def _columns(rows: Sequence[CaseScore]) -> list[str]:
    """What is shown of a case, in this order."""
    first = rows[0].score.flat()
    shares = [name for name in first if name.startswith("nsd")]
    overlap = ("dice", "jaccard", "hd95_mm", "hd95_vox", "asd_mm", "asd_vox", "assd_mm", "hd_mm")
    volumes = ("volume_ml", "truth_ml", "volume_error_ml")
    return [name for name in (*overlap, *shares, *volumes) if name in first]


def _column(name: str) -> tuple[str, int]:
    """Header and decimals."""
    if name.startswith("nsd"):
        kind, _, tolerance = name.removesuffix("mm").rpartition("_")
        return f"NSD{' by area' if kind == 'nsd_area' else ''}, {tolerance} mm", 3
    return {"truth_ml": ("Truth (ml)", 1), "hd_mm": ("HD (mm)", 2)}.get(name) or COLUMNS[name]


def _text(value: str) -> list[str]:
    return [f'<td class="text">{escape(value)}</td>']


def _cell(value: float, decimals: int) -> str:
    plain = {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, str(value))
    bad = ' class="bad"' if math.isinf(value) else ""
    return f'<td data-v="{plain}"{bad}>{_number(value, decimals)}</td>'


def _number(value: float, decimals: int) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.{decimals}f}"
