"""`c3s3-seg inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands.console import say, show, shown


def inspect(
    path: Annotated[Path, typer.Argument(help="An image file, a DICOM file or folder, a DICOMDIR or a zip.")],
    fix: Annotated[
        list[str] | None, typer.Option(help="As for predict: gaps, tilt, orthonormal. May be repeated.")
    ] = None,
    headers: Annotated[
        bool, typer.Option("--headers", help="Look at headers alone: fast, but blind to damaged pixels.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with the series UIDs.")] = False,
) -> None:
    """Show the series at a path, and which of them can be read. The last column says why not."""
    import sys
    from dataclasses import asdict, replace

    from c3s3_seg.io.dicom.inspect import inspect as look
    from c3s3_seg.io.reading import Reading, fixes
    from c3s3_seg.report.terminal import series_table

    rows = look(path, Reading(fix=fixes(fix or [])), pixels=not headers)
    rows = [replace(row, verdict=shown(row.verdict, None if as_json else sys.stdout)) for row in rows]
    if as_json:
        from json import dumps

        for line in dumps([asdict(row) for row in rows], indent=1).splitlines():
            say(line)
    else:
        show(series_table(rows))
    if not any(row.readable for row in rows):
        raise typer.Exit(1)
