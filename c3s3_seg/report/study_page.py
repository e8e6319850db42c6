"""A study as one HTML page: every method with its intervals, and its differences from the reference."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from c3s3_seg.report.figures import Span, forest
from c3s3_seg.report.numbers import column, rounded
from c3s3_seg.report.page import folded, page, table, text_cell
from c3s3_seg.report.study_table import (
    MIXED,
    StudyRow,
    Trained,
    mixture,
    runs_under,
    study_rows,
)
from c3s3_seg.report.tables import DEFINITIONS, PROTOCOLS, software_version
from c3s3_seg.system.files import write_whole

SHOWN = ("dice", "hd95_vox", "asd_vox")
DECIMALS = {"dice": 3, "hd95_vox": 2, "asd_vox": 2}
READING = {
    "network": "Each network of a method has a row: choosing the better of two would be optimistic.",
    "mean": "Mean over seeds of the mean over cases and labels after the last iteration; \u00b1 the standard "
    "deviation over seeds.",
    "interval": "95 % interval of the mean over cases: percentile bootstrap, 2,000 resamples; each case is "
    "averaged over labels and seeds first. It says how much the choice of cases matters, not that of seeds.",
    "difference": "Row minus reference case by case, with its bootstrap interval; p of the two-sided "
    "Wilcoxon signed-rank test, not corrected for the number of rows.",
    "minutes": "Mean of a run, on the machine that is named below.",
}


def write_study_page(path: Path, title: str, reference: str, runs: Sequence[Trained]) -> None:
    """Write the page.

    Parameters
    ----------
    path
        The HTML file; it is replaced if it is there. The same runs give the same bytes.
    title
        Of the page.
    reference
        The entry that the others are compared with.
    runs
        All finished ones; where there is none the page says so.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    rows = study_rows(runs, reference)
    inner = [_head(title, reference, runs), _mixture(runs), _counted(rows)]
    if rows:
        inner += [_scores(rows, reference), _differences(rows, reference), _meaning(runs)]
    write_whole(path, page(title, f"<main>{''.join(inner)}</main>"))


def _head(title: str, reference: str, runs: Sequence[Trained]) -> str:
    seeds = sorted({run.seed for run in runs})
    cases = {case for run in runs for net in run.nets.values() for case in net}
    counted = (
        f"{len(runs)} runs, seeds {', '.join(map(str, seeds)) or 'none'}, {len(cases)} validation cases."
    )
    return (
        f'<header><h1>{escape(title)}</h1><p class="lead">Reference <b>{escape(reference)}</b>. {counted} '
        f"Protocol <b>paper</b>. {escape(PROTOCOLS['paper'])} c3s3-seg {escape(software_version())}.</p>"
        "</header>"
    )


def _mixture(runs: Sequence[Trained]) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in mixture(runs))
    return f'<div class="flags"><b>{escape(MIXED)}</b><ul>{lines}</ul></div>' if lines else ""


def _counted(rows: Sequence[StudyRow]) -> str:
    """What is in no mean, or in it as 0."""
    counts = {
        "predictions were empty; this protocol counts them as 0 in every column": sum(r.missed for r in rows),
        "distances are infinite (a label that the truth does not have) and in no mean": sum(
            r.infinite for r in rows
        ),
    }
    lines = "".join(f"<li>{count} {words}.</li>" for words, count in counts.items() if count)
    return f'<div class="flags"><ul>{lines}</ul></div>' if lines else ""


def _scores(rows: Sequence[StudyRow], reference: str) -> str:
    diagrams = [
        forest(
            [Span(_name(r), r.mean[m], *r.interval[m], marked=r.entry != reference) for r in rows],
            f"{column(m)[0]}, mean and 95 % interval",
            DECIMALS[m],
        )
        for m in SHOWN
    ]
    headers = ["Method", "Network", "Seeds", "Iterations", "Minutes"]
    headers += [text for m in SHOWN for text in (column(m)[0], "95 % interval")]
    body = []
    for row in rows:
        plain = [_cell(float(n), 0) for n in (row.seeds, row.iterations, row.seconds / 60)]
        scores = [cell for m in SHOWN for cell in (_mean(row, m), _interval(row.interval[m], DECIMALS[m]))]
        body.append([escape(row.entry), text_cell(escape(row.net)), *plain, *scores])
    lead = f'<p class="lead">Faint: {escape(reference)}, the reference.</p>'
    return f"<h2>Scores</h2>{lead}{_diagrams(diagrams)}{table(headers, body, sortable=True)}"


def _differences(rows: Sequence[StudyRow], reference: str) -> str:
    compared = [row for row in rows if row.against]
    if not compared:
        return ""
    diagrams = []
    for m in SHOWN:
        pairs = [(row, row.against[m]) for row in compared]
        spans = [Span(_name(row), p.difference, p.low, p.high, p.low > 0 or p.high < 0) for row, p in pairs]
        diagrams.append(forest(spans, f"{column(m)[0]} minus {reference}", DECIMALS[m], zero=True))
    headers = ["Method", "Network"]
    headers += [text for m in SHOWN for text in (f"{column(m)[0]} minus {reference}", "95 % interval", "p")]
    body = []
    for row in compared:
        cells = []
        for m in SHOWN:
            pair, decimals = row.against[m], DECIMALS[m]
            cells += [_cell(pair.difference, decimals, signed=True)]
            cells += [_interval((pair.low, pair.high), decimals, signed=True), _probability(pair.p)]
        body.append([escape(row.entry), text_cell(escape(row.net)), *cells])
    lead = '<p class="lead">Faint: the interval holds 0. For distances less is better.</p>'
    head = f"<h2>Differences from {escape(reference)}</h2>"
    return f"{head}{lead}{_diagrams(diagrams)}{table(headers, body, sortable=True)}"


def _meaning(runs: Sequence[Trained]) -> str:
    terms = {**READING, **{m: DEFINITIONS[m] for m in SHOWN}}
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in terms.items())
    made = "".join(
        f"<dt>{len(under)} runs</dt><dd>{escape(str(conditions))}</dd>"
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
    if row.seeds > 1:
        text += f" \u00b1 {row.spread[metric]:.{decimals}f}"
    return f'<td data-v="{row.mean[metric]}">{text}</td>'


def _interval(ends: tuple[float, float], decimals: int, *, signed: bool = False) -> str:
    low, high = (_text(end, decimals, signed) for end in ends)
    return f'<td data-v="{ends[0]}">{low} to {high}</td>'


def _cell(value: float, decimals: int, *, signed: bool = False) -> str:
    return f'<td data-v="{value}">{_text(value, decimals, signed)}</td>'


def _probability(p: float) -> str:
    text = "&lt; 0.001" if p < 0.001 else _text(p, 3, signed=False)
    return f'<td data-v="{p}">{text}</td>'


def _text(value: float, decimals: int, signed: bool) -> str:
    text = rounded(value, decimals, infinite="\u221e", undefined="\u2013")
    return f"+{text}" if signed and value >= 0 else text
