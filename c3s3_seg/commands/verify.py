"""`c3s3-seg verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands.console import say
from c3s3_seg.errors import quantity


def verify(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Output folder of predict.")],
) -> None:
    """Compare masks, scans and weights with the SHA-256 recorded by predict.

    Exit code 1: a file differs from its record, a case was not finished, or a file of an earlier run is left.
    """
    from c3s3_seg.batch import verify as run

    result = run(out)
    for finding in result.wrong:
        say(f"wrong: {finding.where}: {finding.what}")
    for name in result.stale:
        say(f"stale: {name}: written by c3s3-seg, but not by the present run; remove it or move it away")
    for place in result.unreachable:
        say(f"not compared, it is no longer there: {place}")
    for name in result.strangers:
        say(f"not written by c3s3-seg: {name}")
    word = "all as recorded" if not result.wrong else f"{len(result.wrong)} not as recorded"
    stale = f"; {len(result.stale)} stale" if result.stale else ""
    say(f"{quantity(result.checked, 'file')} compared: {word}{stale}.")
    if not result.holds:
        raise typer.Exit(1)
