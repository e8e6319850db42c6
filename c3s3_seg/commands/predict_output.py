"""The output of `c3s3-seg predict` on stdout, and the choice of files beside the masks."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from c3s3_seg.commands.console import need, report_failures, say, show
from c3s3_seg.errors import InputError, quantity
from c3s3_seg.system.choices import ReportFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from c3s3_seg.batch import BatchPlan, BatchResult, Job
    from c3s3_seg.io import Skipped
    from c3s3_seg.report.rows import PredictionRow
    from c3s3_seg.system.shard import Shard

MOST_REASONS = 4  # listed for inputs that were passed over
LONGEST_TABLE = 200  # cases that a terminal shows one by one; summary.csv has them all


def report_files(given: list[str]) -> set[str]:
    """Parse `--report`: `png,html` -> both; `none` alone -> none, whatever a configuration file states.

    Raises
    ------
    InputError
        If a word is unknown.
    MissingError
        If the HTML report was requested and plotly is not installed.
    """
    words = {word.strip() for text in given for word in text.split(",")}
    wanted = words - {""} or words  # "png, html" of a variable comes as "png," and "html"
    if wanted == {"none"}:
        return set()
    unknown = sorted(wanted - set(get_args(ReportFile)))
    if unknown:
        known = f"{', '.join(get_args(ReportFile))}, or none alone"
        raise InputError(f"there is no --report {unknown[0]!r}; wanted {known}")
    if "html" in wanted:
        need("plotly", extra="report")
    return wanted


def print_cases(
    inputs: list[Path], job: Job, plan: BatchPlan, weights: Mapping[str, str], *, as_json: bool
) -> None:
    """Print the cases and their states, for `--dry-run`."""
    from c3s3_seg.batch.listing import list_cases
    from c3s3_seg.report.terminal import cases_table

    cases, skipped = list_cases(inputs, job, plan, weights)
    if as_json:
        for case in cases:
            say(json.dumps(asdict(case)))
        for item in skipped:
            say(json.dumps({"state": "skipped", **asdict(item)}))
        return
    show(cases_table([(c.name, c.state, c.scan, c.truth or "-", c.mask) for c in cases]))
    for item in skipped:
        say(f"Passed over: {item}.")
    todo = sum(case.to_do for case in cases)
    say(f"Would segment {todo} of {quantity(len(cases), 'case')}. Nothing was written.")
    if any(case.state == "done" for case in cases):
        say("Whether finished cases have changed, or settings, is checked when the run begins.")


def shown_rows(rows: Sequence[PredictionRow]) -> Sequence[PredictionRow]:
    """Return all cases of a small batch; of a larger one the cases to review, up to `LONGEST_TABLE`."""
    from c3s3_seg.report.terminal import review_first

    if len(rows) <= LONGEST_TABLE:
        return rows
    return review_first([row for row in rows if row.needs_review])[:LONGEST_TABLE]


def print_result(result: BatchResult, out: Path, shard: Shard | None = None) -> None:
    """Print the table of cases, and below it failures, notes and counts."""
    from c3s3_seg.batch.summary import table_name
    from c3s3_seg.report.terminal import prediction_table

    rows = shown_rows(result.rows)
    if rows:
        show(prediction_table(rows))
    if len(rows) < len(result.rows):
        more = len(result.rows) - len(rows)
        say(f"Not listed here: {quantity(more, 'more case')}; {table_name(shard)} lists all.")
    report_failures(result.failures)
    for row in rows:
        for note in row.cautions:
            say(f"{row.case}: {note}.")
    if result.stopped:
        say(f"Stopped: {result.stopped}")
        say(f"Not done: {quantity(len(result.undone), 'case')}; the same command does the rest.")
    if result.skipped:
        count = sum(item.inputs for item in result.skipped)
        say(f"{count} passed over: {counted(result.skipped)}.")
    review = result.counts.needs_review
    if review and result.rows:
        say(f"To be reviewed: {review} of {quantity(len(result.rows), 'case')}; see Check, and the notes.")
    _print_places(result, out, shard)


def _print_places(result: BatchResult, out: Path, shard: Shard | None) -> None:
    """Print what was written, and for a share how the files for all cases are made."""
    from c3s3_seg.batch.summary import table_name

    if result.rows:
        say(f"Masks, JSON and {table_name(shard)} are in {out}. Research use only.")
    elif result.failures or result.skipped or shard is None:
        say(f"No mask was written; {table_name(shard)} is in {out}.")
    else:
        say("This share has no case.")
    if result.others.rows:
        count = quantity(len(result.others.rows), "finished case")
        say(f"{table_name(shard)} also lists {count} of earlier runs into this folder.")
    if result.others.left_out:
        count = quantity(result.others.left_out, "earlier case")
        say(
            f"{count} in this folder, not in {table_name(shard)}: of another model or other settings, of a"
            " scan that has another name now, or without a mask."
        )
    if shard is not None:
        say("When all shares are done, the same command without --shard writes the files for all cases.")


def report_new_failures(result: BatchResult) -> None:
    """Print on stderr, with `--quiet`, why the run failed; not failures that an earlier run has printed."""
    if result.new_failures:
        report_failures(result.failures, err=True)
    if result.stopped:
        say(f"Stopped: {result.stopped}", err=True)


def warn_of_empty(result: BatchResult) -> None:
    """Print on stderr how many masks are empty, even with `--quiet`: an empty mask is no success."""
    empty = result.counts.empty
    if empty:
        say(f"Empty masks, nothing was found: {empty} of {quantity(len(result.rows), 'scan')}.", err=True)


def counted(skipped: Iterable[Skipped]) -> str:
    """Return the reasons for passing over, with their numbers: the commonest, after a refusal of a scan."""
    from c3s3_seg.inference.domain_check import NOT_OF_DOMAIN

    counts: Counter[str] = Counter()
    for item in skipped:
        counts[_kind(item.reason)] += item.inputs
    ordered = sorted(counts.items(), key=lambda pair: (pair[0] != NOT_OF_DOMAIN, -pair[1]))
    told = [f"{reason} ({count})" for reason, count in ordered[:MOST_REASONS]]
    rest = sum(count for _, count in ordered[MOST_REASONS:])
    return "; ".join([*told, f"others ({rest})"] if rest else told)


def _kind(reason: str) -> str:
    """Return a reason without what belongs to one input, such as a path."""
    for same in ("the same scan as", "the same folder as"):
        if reason.startswith(same):
            return f"{same} another"
    return reason.partition(": ")[0].partition(" (")[0]
