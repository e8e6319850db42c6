"""`c3s3-seg evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands.console import Bar, need, say, show
from c3s3_seg.system.choices import ScoreProtocol


def evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="A mask (image file, DICOM SEG or RTSTRUCT), or a folder of masks.")
    ],
    truth: Annotated[Path, typer.Argument(help="The truth: a mask, or a folder of masks of the same names.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for report.json and cases.csv.")],
    protocol: Annotated[
        ScoreProtocol, typer.Option(help="clinical: mm. paper: voxels, as published evaluations count.")
    ] = "clinical",
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="What to measure, and what the names in DICOM SEG and RTSTRUCT mean. Default: every label of"
            " the truth.",
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Other masks of the same cases, compared case by case.")
    ] = None,
    tolerance: Annotated[
        list[float] | None,
        typer.Option(
            metavar="MM", help="Of the normalised surface distance; may be repeated. Default: 1, 2."
        ),
    ] = None,
    area_nsd: Annotated[
        bool, typer.Option("--area-nsd", help="Measure it by surface area too, as surface-distance does.")
    ] = False,
    resample: Annotated[
        bool,
        typer.Option("--resample", help="Put masks on another grid onto the truth's; the report says so."),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that measure.")] = 1,
    html: Annotated[
        bool, typer.Option("--html", help="Write report.html too: one file, no network, surfaces that turn.")
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option(
            help="The scans, a file or a folder: for the pictures of the HTML report, and for the grid where"
            " both masks are DICOM SEG or RTSTRUCT."
        ),
    ] = None,
) -> None:
    """Score masks against the truth: Dice, Jaccard, 95HD, ASD and more."""
    if html:
        need("plotly", extra="report")
    from c3s3_seg.batch.evaluate import EvaluationSettings
    from c3s3_seg.batch.evaluate import evaluate as run
    from c3s3_seg.dataset.labels import Labels
    from c3s3_seg.report.terminal import comparison_table, evaluation_table

    tolerances_mm = tuple(tolerance or (1.0, 2.0))
    named = Labels.parse(labels).values if labels is not None else None
    settings = EvaluationSettings(protocol, named, tolerances_mm, area_nsd, resample, workers, html, images)
    with Bar() as bar:
        result = run(predictions, truth, out, settings, against=against, progress=bar)
    show(evaluation_table(result.rows, result.failures))
    if result.comparison:
        show(comparison_table(result.comparison))
    for remark in result.remarks:
        say(f"Note: {remark}.")
    written = "report.json, cases.csv and report.html" if html else "report.json and cases.csv"
    say(f"{written} are in {out}.")
    if result.failures:
        raise typer.Exit(1)
