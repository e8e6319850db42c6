"""Write the report of an evaluation as one HTML file that needs no network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from c3s3_seg.errors import quantity
from c3s3_seg.metrics.paired_tests import Paired
from c3s3_seg.metrics.results import CaseScore, Score
from c3s3_seg.metrics.statistics import Cohort, Statistics, cohorts
from c3s3_seg.report.case_view import CaseView
from c3s3_seg.report.figures import Dot, agreement, spread
from c3s3_seg.report.numbers import COLUMNS, column, in_page
from c3s3_seg.report.outlines import TRUTH, label_colours
from c3s3_seg.report.page import failed, folded, image, key, number_cell, page, solid_html, table, text_cell
from c3s3_seg.report.paired_words import counted, empty_of_both
from c3s3_seg.report.rows import Failure
from c3s3_seg.report.tables import CONVENTIONS, PROTOCOLS, definitions_of, notes_of, software_version
from c3s3_seg.report.viewer import viewer_html
from c3s3_seg.system.choices import ScoreProtocol
from c3s3_seg.system.files import write_whole

DETAILED = 20  # number of cases, or of labels in cases, that are drawn, the worst ones; the table has all
BRIEF = ("dice", "hd95_mm", "hd95_vox", "asd_mm", "asd_vox", "volume_error_ml")
FIGURES = ("dice", "hd95_mm", "hd95_vox", "asd_mm", "asd_vox")


@dataclass(frozen=True)
class Report:
    """The result of an evaluation.

    Parameters
    ----------
    title
        Title of the page, written unchanged: no patient's name.
    protocol
        Protocol by which the rows were measured.
    rows, failures, comparison, remarks
        Same as in `tables.write_report_json`.
    sides
        Pairs (kind of masks, name of their folder or file) of the masks that were compared.
    date
        Date of the measurement, as YYYY-MM-DD; empty: not shown.
    """

    title: str
    protocol: ScoreProtocol
    rows: Sequence[CaseScore]
    failures: Sequence[Failure] = ()
    comparison: Sequence[Paired] = ()
    remarks: Sequence[str] = ()
    sides: Sequence[tuple[str, str]] = ()
    date: str = ""


def worst_first(rows: Sequence[CaseScore]) -> list[CaseScore]:
    """Return `DETAILED` cases at most: misses first, then by falling 95HD, two empty masks last."""

    def badness(row: CaseScore) -> tuple[float, float]:
        flat = row.score.flat()
        distance = flat.get("hd95_mm", flat.get("hd95_vox", math.nan))
        if row.score.nothing or math.isnan(distance):
            return -1.0, 0.0
        return (math.inf if flat["dice"] == 0 else distance), -flat["dice"]

    return sorted(rows, key=badness, reverse=True)[:DETAILED]


def write_report_page(path: Path, report: Report, views: Iterable[CaseView]) -> None:
    """Write the report.

    Parameters
    ----------
    path
        HTML file to write or replace. The same input gives the same bytes.
    report
        Result of the evaluation.
    views
        Cases to be shown one by one, in this order.

    Raises
    ------
    InputError
        If the file cannot be written.
    MissingError
        If plotly is not installed.
    """
    links: dict[tuple[str, str], str] = {}
    drawn: list[str] = []
    volumes: dict[str, str] = {}
    for number, view in enumerate(views):
        links[view.row.case, view.row.label] = f"case-{number + 1}"
        drawn.append(_case(view, f"case-{number + 1}", opened=number == 0))
        volumes[view.volume.name] = view.volume.html
    parts = [_head(report), _failures(report.failures)]
    for cohort in cohorts(report.rows):
        parts += [_summary(cohort), _diagrams([r for r in report.rows if r.label == cohort.label], links)]
    parts += [_comparison(report.comparison), _all_cases(report.rows, links)]
    if drawn:
        what = "All cases" if len(drawn) == len(report.rows) else _worst(len(drawn), report.rows)
        order = "a missed label first, then by falling 95HD"
        parts += [f"<h2>{what}, one by one: {order}</h2>", _key(report.rows), *drawn]
    parts += [_definitions(report), *volumes.values()]
    write_whole(path, page(report.title, f"<main>{''.join(parts)}</main>"))


def _worst(drawn: int, rows: Sequence[CaseScore]) -> str:
    cases = quantity(len({row.case for row in rows}), "case")
    by_label = len({row.label for row in rows}) > 1
    return f"The {drawn} worst of {f'{len(rows)} labels in {cases}' if by_label else cases}"


def _head(report: Report) -> str:
    notes = notes_of(report.rows)
    listed = "".join(f"<li>{escape(remark)}</li>" for remark in report.remarks)
    listed += "".join(f"<li><b>{escape(case)}</b>: {escape(note)}</li>" for case, note in notes)
    flags = f'<div class="flags"><b>Notes</b><ul>{listed}</ul></div>' if listed else ""
    return (
        f"<header><h1>{escape(report.title)}</h1>"
        f'<p class="lead">{_sides(report)}Protocol <b>{report.protocol}</b>. '
        f"{escape(PROTOCOLS[report.protocol])} c3s3-seg {escape(software_version())}.</p>"
        f'<p class="research">Research use only. Not a medical device.</p></header>{flags}'
    )


def _sides(report: Report) -> str:
    """Return which masks were compared, and when, as HTML."""
    named = [f"{what} <b>{escape(name)}</b>" for what, name in report.sides]
    dated = [f"measured on {escape(report.date)}"] if report.date else []
    text = ", ".join([*named, *dated])
    return f"{text[0].upper()}{text[1:]}. " if text else ""


def _failures(failures: Sequence[Failure]) -> str:
    if not failures:
        return ""
    return failed(failures, "not measured")


def _summary(cohort: Cohort) -> str:
    tiles = [f'<div class="tile"><b>{cohort.cases}</b><span>cases measured</span></div>']
    numbers = dict(cohort.metrics)
    for name in FIGURES:
        if name in numbers:
            tiles.append(_tile(name, numbers[name]))
    missed = max((found.infinite for found in numbers.values()), default=0)
    empty = f"{cohort.optimistic} empty, counted as 0"
    both = "both masks empty: " + ("counted as 0" if "hd95_vox" in numbers else "Dice 1, no distance")
    counts = ((missed, "one mask empty: infinite"), (cohort.optimistic, empty), (cohort.both_empty, both))
    for count, words in counts:
        if count:
            tiles.append(f'<div class="tile"><b>{count}</b><span>{words}</span></div>')
    return f'<h2>{escape(cohort.label)}</h2><div class="tiles">{"".join(tiles)}</div>'


def _tile(name: str, found: Statistics) -> str:
    title, _ = COLUMNS[name]
    interval = ""
    if math.isfinite(found.low):
        interval = f"<span>95% interval {in_page(found.low, name)} to {in_page(found.high, name)}</span>"
    finite = found.n - found.infinite - found.undefined
    of = f" of {finite} finite" if finite < found.n else ""
    mean = f"<b>{in_page(found.mean, name)}</b><span>{title}, mean{of}</span>"
    if found.infinite and math.isfinite(found.mean_penalised):
        words = "with the image diagonal where one mask is empty"
        interval += f"<span>{in_page(found.mean_penalised, name)} {words}</span>"
    return f'<div class="tile">{mean}{interval}</div>'


def _diagrams(rows: Sequence[CaseScore], links: dict[tuple[str, str], str]) -> str:
    def link(row: CaseScore) -> str:
        return links.get((row.case, row.label), "cases")

    drawn = []
    for name in FIGURES:
        if name in rows[0].score.flat():
            dots = [Dot(0.0, row.score.flat()[name], row.case, link(row)) for row in rows]
            drawn.append(spread(dots, *COLUMNS[name]))
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
        name = COLUMNS[pair.metric][0]
        cells = [
            number_cell(value, pair.metric)
            for value in (pair.mean, pair.against, pair.difference, pair.low, pair.high)
        ]
        rows.append(
            [
                escape(name),
                text_cell(escape(pair.label)),
                *cells,
                number_cell(pair.p, "p"),
                text_cell(counted(pair), order=pair.n),
            ]
        )
    headers = [
        "Metric",
        "Label",
        "This",
        "Against",
        "Difference",
        "95 % from",
        "95 % to",
        "Wilcoxon p",
        "Cases",
    ]
    empty = empty_of_both(pairs)
    lead = f'<div class="flags">{escape(empty)}</div>' if empty else ""
    return f"<h2>Against the other masks</h2>{lead}{table(headers, rows)}"


def _all_cases(rows: Sequence[CaseScore], links: dict[tuple[str, str], str]) -> str:
    if not rows:
        return ""
    columns = [name for name in _columns(rows) if name != "jaccard"]  # redundant with Dice
    several = len({row.label for row in rows}) > 1
    body = []
    for row in rows:
        flat, link = row.score.flat(), links.get((row.case, row.label))
        name = f'<a href="#{link}">{escape(row.case)}</a>' if link else escape(row.case)
        cells = [number_cell(flat.get(header, math.nan), header) for header in columns]
        body.append([name, *([text_cell(escape(row.label))] if several else []), *cells])
    headers = ["Case", *(["Label"] if several else []), *(column(header)[0] for header in columns)]
    return (
        '<h2 id="cases">Every case</h2><p class="lead">In the order of their names; a click on a header '
        f"sorts.</p>{table(headers, body, sortable=True)}"
    )


def _case(view: CaseView, link: str, *, opened: bool) -> str:
    flat, name = view.row.score.flat(), f"{view.row.case}, {view.row.label}"
    shown = [part for part in BRIEF if part in flat]
    brief = "".join(f"<span>{column(part)[0]} {in_page(flat[part], part)}</span>" for part in shown)
    scores = "".join(
        f"<dt>{column(part)[0]}</dt><dd>{in_page(flat[part], part)}</dd>" for part in _columns([view.row])
    )
    solid = solid_html(view.solid, name) if view.solid else "<p>Both masks are empty.</p>"
    still = (
        f'<figure class="planes">{image(view.planes, f"Three planes of {name} with both contours")}'
        f"<figcaption>{escape(view.planes_words)}</figcaption></figure>"
    )
    viewer = viewer_html(
        view.volume, still, f'{solid}<dl class="scores">{scores}</dl>', view.spots, name, view.at
    )
    return (
        f'<details class="case" id="{link}"{" open" if opened else ""}><summary><b>{escape(name)}</b>'
        f"{brief}</summary>{viewer}</details>"
    )


def _key(rows: Sequence[CaseScore]) -> str:
    labels = {row.label: n for n, row in enumerate(rows)}
    keys = "".join(key(name, colour) for name, colour in label_colours(labels).items())
    return f'<p class="lead">Prediction: {keys} {key("truth", TRUTH)} L is the patient\'s left.</p>'


def _definitions(report: Report) -> str:
    terms = {**definitions_of(report.rows, report.comparison), **CONVENTIONS}
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in terms.items())
    return f"<h2>What the numbers mean</h2>{folded('Definitions', f'<dl>{listed}</dl>', 'definitions')}"


def _columns(rows: Sequence[CaseScore]) -> list[str]:
    """Return the columns shown for a case, in order."""
    first = rows[0].score.flat()
    shares = [name for name in first if name.startswith("nsd")]
    overlap = ("dice", "jaccard", "hd95_mm", "hd95_vox", "asd_mm", "asd_vox", "assd_mm", "hd_mm")
    volumes = ("volume_ml", "truth_ml", "volume_error_ml")
    return [name for name in (*overlap, *shares, *volumes) if name in first]
