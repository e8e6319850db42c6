"""Write a study as one HTML page: every method with its intervals and differences from the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from c3s3_seg.errors import quantity
from c3s3_seg.metrics.paired_tests import Paired
from c3s3_seg.report.figures import Span, forest
from c3s3_seg.report.numbers import column, rounded
from c3s3_seg.report.page import folded, number_cell, page, table, text_cell
from c3s3_seg.report.study_table import StudyRow, Trained, mixture, runs_under, study_rows
from c3s3_seg.report.study_words import MIXED, cases_words, difference_cases, study_remarks
from c3s3_seg.report.tables import CONVENTIONS, DEFINITIONS, PAPER_DEFINITIONS, PROTOCOLS, software_version
from c3s3_seg.system.files import write_whole

SHOWN = ("dice", "hd95_vox", "asd_vox")
DECIMALS = {"dice": 3, "hd95_vox": 2, "asd_vox": 2}
READING = {
    "network": "Each network of a method has a row: choosing the better of two would be optimistic.",
    "mean": "Mean over cases after the last iteration, each averaged over its finite values of all labels "
    "and seeds; \u00b1 the standard deviation over seeds.",
    "interval": f"Of the mean over the same cases. {CONVENTIONS['interval']} It says how much the choice of "
    "cases matters, not that of seeds.",
    "difference": "Row minus reference case by case, with its interval: of the values that are finite in "
    "both for the same case, label and seed. p of the two-sided Wilcoxon signed-rank test, not corrected for "
    "the number of rows and metrics.",
    "cases": "Cases in the mean or the difference; left out are values of a case, label and seed that are "
    "not finite.",
    "minutes": "Mean of a run, on the machine that is named below.",
}


def write_study_page(path: Path, title: str, references: Sequence[str], runs: Sequence[Trained]) -> None:
    """Write the page.

    Parameters
    ----------
    path
        HTML file to write or replace. The same runs give the same bytes.
    title
        Title of the page.
    references
        Entries that the others are compared with, one at least.
    runs
        All finished runs; if there are none, the page states it.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    rows = study_rows(runs, references[0])
    inner = [_head(title, references, runs), _mixture(runs), _counted(rows)]
    if rows:
        inner.append(_scores(rows, references))
        inner += [_differences(study_rows(runs, reference), reference) for reference in references]
        inner.append(_meaning(runs))
    write_whole(path, page(title, f"<main>{''.join(inner)}</main>"))


def _head(title: str, references: Sequence[str], runs: Sequence[Trained]) -> str:
    seeds = sorted({run.seed for run in runs})
    cases = {case for run in runs for net in run.nets.values() for case in net}
    drawn = ", ".join(map(str, seeds)) or "none"
    scored = quantity(len(cases), "validation case")
    counted = f"{quantity(len(runs), 'run')}, seeds {drawn}, {scored}."
    noun = "Reference" if len(references) == 1 else "References"
    named = f"{noun} <b>{escape(', '.join(references))}</b>."
    return (
        f'<header><h1>{escape(title)}</h1><p class="lead">{named} {counted} '
        f"Protocol <b>paper</b>. {escape(PROTOCOLS['paper'])} c3s3-seg {escape(software_version())}.</p>"
        "</header>"
    )


def _mixture(runs: Sequence[Trained]) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in mixture(runs))
    return f'<div class="flags"><b>{escape(MIXED)}</b><ul>{lines}</ul></div>' if lines else ""


def _counted(rows: Sequence[StudyRow]) -> str:
    """Return the remarks on values in no mean, or in the means as 0, as HTML; empty without any."""
    lines = "".join(f"<li>{escape(line)}</li>" for line in study_remarks(rows))
    return f'<div class="flags"><ul>{lines}</ul></div>' if lines else ""


def _scores(rows: Sequence[StudyRow], references: Sequence[str]) -> str:
    diagrams = [
        forest(
            [Span(_name(r), r.mean[m], *r.interval[m], marked=r.entry not in references) for r in rows],
            f"{column(m)[0]}, mean and 95 % interval",
            DECIMALS[m],
        )
        for m in SHOWN
    ]
    headers = ["Method", "Network", "Seeds", "Iterations", "Minutes"]
    headers += [text for m in SHOWN for text in (column(m)[0], "95 % interval")]
    headers += ["Cases", "Empty", "Infinite"]
    body = []
    for row in rows:
        plain = [_cell(float(n), 0) for n in (row.seeds, row.iterations, row.seconds / 60)]
        scores = [cell for m in SHOWN for cell in (_mean(row, m), _interval(row.interval[m], DECIMALS[m]))]
        counts = [text_cell(escape(cases_words(row)), order=row.n["hd95_vox"])]
        counts += [_cell(float(n), 0) for n in (row.missed, row.infinite)]
        body.append([escape(row.entry), text_cell(escape(row.net)), *plain, *scores, *counts])
    named = "the reference" if len(references) == 1 else "the references"
    lead = f'<p class="lead">Faint: {escape(", ".join(references))}, {named}.</p>'
    return f"<h2>Scores</h2>{lead}{_diagrams(diagrams)}{table(headers, body, sortable=True)}"


def _differences(rows: Sequence[StudyRow], reference: str) -> str:
    compared = [row for row in rows if row.against]
    if not compared:
        return ""
    diagrams = []
    for m in SHOWN:
        pairs = [(row, row.against[m]) for row in compared]
        spans = [Span(_name(row), p.difference, p.low, p.high, _beyond_chance(p)) for row, p in pairs]
        diagrams.append(forest(spans, f"{column(m)[0]} minus {reference}", DECIMALS[m], zero=True))
    headers = ["Method", "Network"]
    for m in SHOWN:
        headers += [f"{column(m)[0]} minus {reference}", "95 % interval", "p", "Cases"]
    body = []
    for row in compared:
        cells = []
        for m in SHOWN:
            pair, decimals = row.against[m], DECIMALS[m]
            cells += [_cell(pair.difference, decimals, signed=True)]
            cells += [_interval((pair.low, pair.high), decimals, signed=True), number_cell(pair.p, "p")]
            cells += [text_cell(difference_cases(row, pair), order=pair.n)]
        body.append([escape(row.entry), text_cell(escape(row.net)), *cells])
    faint = "Faint: the interval holds 0 or there is none, or p is 0.05 or more."
    lead = f'<p class="lead">{faint} For distances less is better.</p>'
    head = f"<h2>Differences from {escape(reference)}</h2>"
    return f"{head}{lead}{_diagrams(diagrams)}{table(headers, body, sortable=True)}"


def _beyond_chance(pair: Paired) -> bool:
    """Return whether the mean's interval excludes 0 and the rank test's p is below 0.05; they may differ."""
    return (pair.low > 0 or pair.high < 0) and pair.p < 0.05


def _meaning(runs: Sequence[Trained]) -> str:
    terms = {**READING, **{m: (DEFINITIONS | PAPER_DEFINITIONS)[m] for m in SHOWN}, "p": CONVENTIONS["p"]}
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in terms.items())
    made = "".join(
        f"<dt>{quantity(len(under), 'run')}</dt><dd>{escape(str(conditions))}</dd>"
        for conditions, under in runs_under(runs).items()
    )
    return (
        f"<h2>What the numbers mean</h2>{folded('Definitions', f'<dl>{listed}</dl>', 'definitions')}"
        f"{folded('Conditions', f'<dl>{made}</dl>', 'provenance')}"
    )


def _name(row: StudyRow) -> str:
    return f"{row.entry}, {row.net}"


def _diagrams(figures: Sequence[str]) -> str:
    return f'<div class="diagrams forests">{"".join(figures)}</div>'


def _mean(row: StudyRow, metric: str) -> str:
    decimals = DECIMALS[metric]
    text = rounded(row.mean[metric], decimals, infinite="\u221e", undefined="\u2013")
    if not math.isnan(row.spread[metric]):
        text += f" \u00b1 {row.spread[metric]:.{decimals}f}"
    return f'<td data-v="{row.mean[metric]}">{text}</td>'


def _interval(ends: tuple[float, float], decimals: int, *, signed: bool = False) -> str:
    low, high = (_text(end, decimals, signed) for end in ends)
    text = "\u2013" if math.isnan(ends[0]) else f"{low} to {high}"
    return f'<td data-v="{ends[0]}">{text}</td>'


def _cell(value: float, decimals: int, *, signed: bool = False) -> str:
    return f'<td data-v="{value}">{_text(value, decimals, signed)}</td>'


def _text(value: float, decimals: int, signed: bool) -> str:
    text = rounded(value, decimals, infinite="\u221e", undefined="\u2013")
    return f"+{text}" if signed and value >= 0 else text
