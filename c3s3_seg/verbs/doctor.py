"""`c3s3-seg doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from c3s3_seg.verbs.terminal import say


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line for each check.")] = False,
) -> None:
    """Check this installation: versions, devices, hashes of the bundles, a phantom from end to end."""
    from c3s3_seg.doctor import examine

    bad = 0
    for check in examine():
        bad += not check.good
        line = f"{'ok ' if check.good else 'BAD'}  {check.name}: {check.found}"
        say(json.dumps(asdict(check)) if as_json else line)
    if bad:
        raise typer.Exit(1)
