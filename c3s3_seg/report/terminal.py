"""Build tables for the terminal. They are returned, not printed: the command line owns the console."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from c3s3_seg.io.dicom.inspect import SeriesRow
from c3s3_seg.metrics.paired_tests import Paired
from c3s3_seg.metrics.results import CaseScore
from c3s3_seg.metrics.statistics import Cohort, Statistics, cohorts
from c3s3_seg.report.numbers import COLUMNS, in_terminal, probability
from c3s3_seg.report.paired_words import counted, empty_of_both
from c3s3_seg.report.rows import PredictionRow
from c3s3_seg.report.study_table import StudyRow
from c3s3_seg.report.study_words import SHOWN, cases_words, difference_cases, spread_words, study_remarks
from c3s3_seg.system.names import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

MARKS = ("empty", "forced", "uncertain", "warning")  # marks of cases that need review, the most serious first
BRIEFEST = ("dice", "hd95_mm", "asd_mm")  # metrics in the terminal; summary.csv has all
LONGEST_NAME = 60  # columns of a terminal that a name or a path may take before it is folded
BRIEF = ("dice", "jaccard", "hd95_mm", "hd95_vox", "asd_mm", "asd_vox")


def review_first(rows: Sequence[PredictionRow]) -> list[PredictionRow]:
    """Return empty, forced, uncertain, other flagged cases first; then the rest, each in the order given."""
    return sorted(rows, key=lambda row: min(map(MARKS.index, row.marks), default=len(MARKS)))


def prediction_table(rows: Sequence[PredictionRow]) -> Table:
    """Return one line for each case and label, cases that need review first, with the reason in a word.

    Parameters
    ----------
    rows
        Predicted cases; may be empty.

    Returns
    -------
    rich.table.Table
        Volume, seconds, the networks' disagreement if measured, and scores if there was a truth; with a
        line of means below if there are scores of more than one case.
    """
    rows = review_first(rows)
    scores = [score for row in rows for score in row.scores]
    columns = BRIEFEST if scores else ()
    with_label = len({label for row in rows for label, _ in row.volumes_ml}) > 1
    measured = any(row.uncertainty_mm for row in rows)
    headers = ["Volume (ml)", "Time (s)", *(["Uncertain (mm)"] if measured else [])]
    table = _table((), with_label, [])
    for header in [*headers, *(COLUMNS[name][0] for name in columns)]:
        _add_numbers(table, header)
    table.add_column("Check", no_wrap=True)
    for row in rows:
        for number, (label, volume_ml) in enumerate(row.volumes_ml):
            first = number == 0
            cells = [in_terminal(volume_ml, "volume_ml"), f"{row.seconds_s:.1f}" if first else ""]
            cells += [_uncertainty(row, label)] if measured else []
            cells += [*_scores(row, label, columns), _check(row) if first else ""]
            head = _head(row.case if first else "", label, with_label)
            table.add_row(*head, *cells, style="yellow" if row.needs_review else None)
    _add_means(table, scores, columns, with_label, blank=len(headers))
    return table


def _check(row: PredictionRow) -> str:
    """Return the most serious reason for review in one word; without one, whether the scan was checked."""
    return (*row.marks, "unchecked" if row.verdict == "unchecked" else "pass")[0]


def _uncertainty(row: PredictionRow, label: str) -> str:
    found_mm = dict(row.uncertainty_mm).get(label)
    return "" if found_mm is None else in_terminal(found_mm, "uncertainty_mm")


def _scores(row: PredictionRow, label: str, columns: Sequence[str]) -> list[str]:
    values = next((score.score.flat() for score in row.scores if score.label == label), {})
    return [in_terminal(values[name], name) if name in values else "" for name in columns]


def evaluation_table(rows: Sequence[CaseScore]) -> Table:
    """Return one line for each case and label, with units in the headers, and a line of means.

    Parameters
    ----------
    rows
        Scores, all of one protocol; may be empty.

    Returns
    -------
    rich.table.Table
        Means are of the finite values; the numbers of infinite and undefined values stand beside them.
    """
    columns = [name for name in COLUMNS if any(name in row.score.flat() for row in rows)]
    with_label = len({row.label for row in rows}) > 1
    table = _table([row.case for row in rows], with_label, [COLUMNS[name][0] for name in columns])
    for row in rows:
        values = row.score.flat()
        cells = [in_terminal(values[name], name) for name in columns]
        table.add_row(*_head(row.case, row.label, with_label), *cells)
    _add_means(table, rows, columns, with_label, blank=0)
    return table


def comparison_table(pairs: Sequence[Paired]) -> Table:
    """Return both means, their difference with its interval, and the p value, for each metric shown.

    The caption gives the number of predictions of each side that were empty and count as 0.
    """
    with_label = len({pair.label for pair in pairs}) > 1
    headers = ["This", "Against", "Difference", "95% interval", "Wilcoxon p", "Cases"]
    table = _table([COLUMNS[pair.metric][0] for pair in pairs if pair.metric in COLUMNS], with_label, headers)
    table.columns[0].header = "Metric"
    for pair in (pair for pair in pairs if pair.metric in COLUMNS):
        name = pair.metric
        means = [in_terminal(value, name) for value in (pair.mean, pair.against, pair.difference)]
        ends = [in_terminal(value, name) for value in (pair.low, pair.high)]
        interval = "none" if math.isnan(pair.low) else " to ".join(ends)
        cells = [*means, interval, in_terminal(pair.p, "p"), counted(pair)]
        table.add_row(*_head(COLUMNS[name][0], pair.label, with_label), *cells)
    empty = empty_of_both(pairs)
    table.caption = cell(empty) if empty else None
    return table


def series_table(rows: Sequence[SeriesRow]) -> Table:
    """Return one line for each series at a path, with the number that `--series` takes.

    The lines of `series_remarks` stand below the table.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    fixed = {
        "Status": [row.verdict for row in rows],
        "Modality": [row.modality for row in rows],
        "Path": [row.path for row in rows],
    }
    for header in ("No.", "Status", "Modality", "Series", "Size", "Spacing (mm)", "Axes", "Path"):
        width = name_width([header, *fixed[header]]) if header in fixed else None
        table.add_column(header, overflow="fold", width=width)
    for row in rows:
        size = f"{row.size} x {row.slices}" if row.slices else row.size
        texts = (row.verdict, row.modality, row.description, size, row.spacing_mm, row.orientation, row.path)
        table.add_row(str(row.number), *map(cell, texts))
    return table


def series_remarks(rows: Sequence[SeriesRow]) -> list[str]:
    """Return each remark once, after the numbers of the series that the remark concerns."""
    of: dict[str, list[int]] = {}
    for row in rows:
        for remark in row.remarks:
            of.setdefault(remark, []).append(row.number)
    return [f"{', '.join(map(str, numbers))}: {remark}" for remark, numbers in of.items()]


def cases_table(rows: Sequence[tuple[str, str, str, str, str]]) -> Table:
    """Return one line for each case of a batch that is only listed."""
    return text_table(("Case", "State", "Scan", "Reference", "Mask"), rows)


def study_table(rows: Sequence[StudyRow], reference: str) -> Table:
    """Return mean and spread over seeds, and the paired difference in Dice from the reference."""
    headers = ["Net", "Seeds", "Minutes", "Dice", "95HD (voxel)", "ASD (voxel)", "Cases", "Empty", "Infinite"]
    headers += [f"Dice - {reference}", "p", "Compared"]
    table = _table([row.entry for row in rows], False, headers)
    table.columns[0].header = "Method"
    for row in rows:
        cells = [row.net, str(row.seeds), f"{row.seconds / 60:.0f}"]
        cells += [spread_words(row, metric, decimals) for metric, decimals in SHOWN]
        cells += [cases_words(row), str(row.missed), str(row.infinite), *_difference_in_dice(row)]
        table.add_row(*_head(row.entry, "", False), *cells)
    table.caption = " ".join(study_remarks(rows)) or None
    return table


def difference_table(rows: Sequence[StudyRow], reference: str) -> Table:
    """Return the paired difference in Dice from a further reference, of the rows that are compared."""
    compared = [row for row in rows if row.against]
    table = _table([row.entry for row in compared], False, ["Net", f"Dice - {reference}", "p", "Cases"])
    table.columns[0].header = "Method"
    for row in compared:
        table.add_row(*_head(row.entry, "", False), row.net, *_difference_in_dice(row))
    return table


def _difference_in_dice(row: StudyRow) -> list[str]:
    pair = row.against.get("dice")
    if pair is None:
        return [""] * 3
    return [f"{pair.difference:+.3f}", probability(pair.p), difference_cases(row, pair)]


def plan_table(rows: Sequence[tuple[str, object, str]]) -> Table:
    """Return one line for each chosen key of a configuration: its value and the reason."""
    return text_table(("Key", "Value", "Why"), [(key, str(value), reason) for key, value, reason in rows])


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of texts that may come from outside; a text too long for its column is folded."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row))
    return table


def _table(names: Sequence[str], with_label: bool, headers: Sequence[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    width = name_width([f"mean of {len(set(names))}", *names]) if names else None  # None: folded to fit
    table.add_column("Case", overflow="fold", width=width)
    if with_label:
        table.add_column("Label", overflow="fold")
    for header in headers:
        _add_numbers(table, header)
    return table


def name_width(names: Sequence[str], most: int = LONGEST_NAME) -> int:
    """Return the width of a column whose names are copied, so that none is folded unless it is very long.

    A fixed width, because rich cuts cells off if columns with a `min_width` do not fit.
    """
    from rich.cells import cell_len

    return min(most, max(map(cell_len, names), default=1))


def _add_numbers(table: Table, header: str) -> None:
    """Add a column of numbers, which are never folded; the unit goes below the name, so that more fit."""
    name, bracket, unit = header.partition(" (")
    lines = cell(name)
    if bracket:
        lines.append("\n").append_text(cell(f"({unit}"))
    table.add_column(lines, justify="right", no_wrap=True)


def _add_means(
    table: Table, rows: Sequence[CaseScore], columns: Sequence[str], with_label: bool, *, blank: int
) -> None:
    found = cohorts(rows)
    empty = [f"{cohort.label}: {notes}" for cohort in found if (notes := _counted_as_0(cohort, columns))]
    table.caption = cell(", ".join(empty)) if empty else None
    if len({row.case for row in rows}) < 2:
        return
    table.add_section()
    for cohort in found:
        name = f"mean of {cohort.cases}"
        cells = [_mean(cohort.of(column), column) for column in columns]
        table.add_row(*_head(name, cohort.label, with_label), *[""] * blank, *cells, style="bold")


def _counted_as_0(cohort: Cohort, columns: Sequence[str]) -> str:
    """Return how many empty masks count as 0, which the protocol `paper` alone does; "" for none."""
    notes = [f"{cohort.optimistic} empty, counted as 0"] if cohort.optimistic else []
    if cohort.both_empty and "hd95_vox" in columns:  # in mm, the counts of nan show them
        notes.append(f"{cohort.both_empty} empty like the truth, counted as 0")
    return "; ".join(notes)


def cell(text: str) -> Text:
    """Return outside text as a cell: no markup (a file may be called "[red]"), no terminal codes."""
    from rich.text import Text

    return Text(printable(text))


def _head(case: str, label: str, with_label: bool) -> list[Text]:
    return [cell(case), cell(label)] if with_label else [cell(case)]


def _mean(numbers: Statistics, name: str) -> str:
    text = in_terminal(numbers.mean, name)
    counts = ((numbers.infinite, "inf"), (numbers.undefined, "nan"))
    notes = [f"{count} {name}" for count, name in counts if count]
    return f"{text} ({', '.join(notes)})" if notes else text
