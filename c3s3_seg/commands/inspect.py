"""`c3s3-seg inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import say, say_json, show, shown


def inspect(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Image file, DICOM file or folder, DICOMDIR or zip file."),
    ],
    series: options.Series = None,
    repair: options.Repair = None,
    headers: Annotated[
        bool,
        typer.Option(
            "--headers",
            help="Read headers only: faster, but damaged pixels are not noticed.",
            rich_help_panel=options.INPUT,
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List the series at a path, and why some of them cannot be read.

    With --series it says which of them are taken, and why the others are not. Exit code 1: none can be read.
    """
    import sys
    from dataclasses import asdict, replace

    from c3s3_seg.io.dicom.inspect import inspect as look
    from c3s3_seg.io.reading import Reading, parse_series, repairs
    from c3s3_seg.report.terminal import series_remarks, series_table

    rows = look(path, Reading(parse_series(series), repairs(repair or [])), pixels=not headers)
    stream = None if as_json else sys.stdout
    rows = [
        replace(row, path=shown(row.path, stream), remarks=tuple(shown(r, stream) for r in row.remarks))
        for row in rows
    ]
    if as_json:
        say_json([asdict(row) for row in rows])
    else:
        show(series_table(rows))
        for line in series_remarks(rows):
            say(line)
    if not any(row.readable for row in rows):
        raise typer.Exit(1)
