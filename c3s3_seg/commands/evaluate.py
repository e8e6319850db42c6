"""`c3s3-seg evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import Bar, need, report_failures, say, show
from c3s3_seg.commands.events import Events
from c3s3_seg.commands.option_defaults import refuse_beside
from c3s3_seg.commands.options import INPUT
from c3s3_seg.errors import public
from c3s3_seg.system.choices import ScoreProtocol
from c3s3_seg.version import __version__

if TYPE_CHECKING:
    from c3s3_seg.batch.evaluate import EvaluationResult

METRICS = "Metrics"
MOST_NOTES = 5  # on single cases, in the terminal


def evaluate(
    ctx: typer.Context,
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS",
            help="A mask (image file, DICOM SEG or RTSTRUCT), or a folder of masks.",
        ),
    ],
    truth: Annotated[
        Path,
        typer.Argument(metavar="REFERENCE", help="Reference mask, or a folder of masks of the same names."),
    ],
    out: Annotated[Path, options.out("Folder for report.json and cases.csv.")],
    html: options.Html = False,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Scan, or folder of scans: for the images of the HTML report, and for the grid where both"
            " masks are DICOM SEG or RTSTRUCT.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="Labels to score, such as left_atrium=1. Default: every label of the reference, named as in"
            " DICOM or in the JSON that predict wrote.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Other masks of the same cases, compared case by case.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    resample: Annotated[
        bool,
        typer.Option(
            "--resample",
            help="Resample masks on another grid to that of the reference; the report records it.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    protocol: Annotated[
        ScoreProtocol,
        typer.Option(
            metavar=options.one_of(ScoreProtocol),
            help="clinical: in mm. paper: in voxels, as in the published evaluations.",
            rich_help_panel=METRICS,
        ),
    ] = "clinical",
    tolerance: Annotated[
        list[float] | None,
        typer.Option(
            metavar="MM",
            help="Tolerance of the normalised surface distance. May be repeated. Default: 1 and 2.",
            rich_help_panel=METRICS,
        ),
    ] = None,
    area_nsd: Annotated[
        bool,
        typer.Option(
            "--area-nsd",
            help="Measure that surface distance by area too, as the package surface-distance does.",
            rich_help_panel=METRICS,
        ),
    ] = False,
    workers: options.Workers = 1,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print a JSON line for each event, such as a score, in place of the table.",
            rich_help_panel=options.MESSAGES,
        ),
    ] = False,
    log_file: options.LogFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Score masks against reference masks: Dice, 95HD, ASD and more."""
    from c3s3_seg.batch.evaluate import EvaluationSettings
    from c3s3_seg.batch.evaluate import evaluate as run
    from c3s3_seg.dataset.labels import Labels
    from c3s3_seg.metrics.scoring import check_tolerances

    with Events(as_json=as_json, log_file=log_file) as events:
        events.ending = {"cases": 0, "failed": 0}  # if the run ends early
        if protocol == "paper":
            refuse_beside(ctx, "--protocol paper", ("tolerance", "area_nsd"))
        if html:
            need("plotly", extra="report")
        tolerances_mm = tuple(tolerance or (1.0, 2.0))
        check_tolerances(tolerances_mm)  # checked here, else every case would fail
        named = Labels.parse(labels).values if labels is not None else None
        settings = EvaluationSettings(
            protocol,
            labels=named,
            tolerances_mm=tolerances_mm,
            area_nsd=area_nsd,
            resample=resample,
            workers=workers,
            html=html,
            images=images,
        )
        events("start", {"version": __version__, "protocol": protocol})
        with Bar(quiet=quiet) as bar:
            result = run(predictions, truth, out, settings, against=against, progress=bar)
        _report(result, events)
    if not (as_json or quiet):
        _show(result)
        written = "report.json, cases.csv and report.html" if html else "report.json and cases.csv"
        say(f"{written} are in {out}.")
        if result.page_removed:
            what = "report.html of an earlier evaluation was removed, since it showed other scores"
            say(f"{what}; --html writes one.")
    if quiet and not as_json:
        report_failures(result.failures, err=True)
    if result.failures:
        raise typer.Exit(1)


def _show(result: EvaluationResult) -> None:
    from c3s3_seg.report.tables import notes_of
    from c3s3_seg.report.terminal import comparison_table, evaluation_table

    if result.rows:
        show(evaluation_table(result.rows))
    if result.comparison:
        show(comparison_table(result.comparison))
    say(f"Labels: {', '.join(f'{name} = {value}' for name, value in result.labels)}.")
    report_failures(result.failures, table="report.json")
    for remark in result.remarks:
        say(f"Note: {remark}.")
    notes = notes_of(result.rows)
    for case, note in notes[:MOST_NOTES]:
        say(f"Note: {case}: {note}.")
    if len(notes) > MOST_NOTES:
        say(f"{len(notes) - MOST_NOTES} further notes are in report.json.")


def _report(result: EvaluationResult, events: Events) -> None:
    """Write the events: scores, notes, failed cases, means of each label."""
    from c3s3_seg.report.tables import notes_of
    from c3s3_seg.system.schema import plain

    for row in result.rows:
        events("score", {"case": row.case, "label": row.label, **plain(row.score.flat())})
    for case, note in notes_of(result.rows):
        events("note", {"case": case, "note": note})
    for remark in result.remarks:
        events("note", {"note": remark})
    for failure in result.failures:
        events("failed", {"case": failure.case, "reason": public(failure.reason)})
    for cohort in result.cohorts:
        means = {name: plain(statistics.mean) for name, statistics in cohort.metrics}
        counts = {
            "cases": cohort.cases,
            "infinite": max(statistics.infinite for _, statistics in cohort.metrics),
            "optimistic": cohort.optimistic,
            "both_empty": cohort.both_empty,
        }
        events("mean", {"label": cohort.label, **counts, **means})
    events.ending = {"cases": len({row.case for row in result.rows}), "failed": len(result.failures)}
    events.exit_code = int(bool(result.failures))
