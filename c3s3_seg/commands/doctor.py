"""`c3s3-seg doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import say


def doctor(as_json: options.Json = False) -> None:
    """Check this installation: versions, devices, models, and a phantom from end to end.

    Exit code 1: something is not as it should be.
    """
    from c3s3_seg.batch.self_check import check_installation

    bad = 0
    for check in check_installation():
        bad += not check.good
        line = f"{'ok ' if check.good else 'BAD'}  {check.name}: {check.found}"
        say(json.dumps(asdict(check)) if as_json else line)
    if bad:
        raise typer.Exit(1)
