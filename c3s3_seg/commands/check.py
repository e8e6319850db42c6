"""`c3s3-seg check`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import Bar, say, show

if TYPE_CHECKING:
    from c3s3_seg.dataset.check.check import DataSetCheck

FACTS, PAGE = "check.json", "check.html"


def check(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of a data set.")],
    out: Annotated[Path | None, options.out("Folder for check.json and check.html.")] = None,
    html: options.Html = False,
    workers: options.Workers = 1,
    as_json: options.Json = False,
) -> None:
    """Check a data set before training: files, grids, masks, intensities, duplicates.

    Exit code 1: the data set has errors. Correct them before training. Warnings alone give 0.
    """
    from c3s3_seg.dataset.check.check import check_data_set
    from c3s3_seg.errors import InputError
    from c3s3_seg.system.files import make_folder
    from c3s3_seg.system.ownership import check_output, remove_ours

    if html and out is None:
        raise InputError("--html needs a folder to write to", todo="Name one with -o")
    if out is not None:
        check_output(out, [FACTS, *([PAGE] if html else [])])
        make_folder(out)
    with Bar() as bar:
        found = check_data_set(dataset, workers=workers, progress=bar)
    _report(found, as_json)  # first: a full disk must not cost the findings
    if out is not None:
        remove_ours(out / PAGE)  # a page of an earlier run would show other findings
        with Bar() as bar:
            _write(found, out, html=html, bar=bar)
        if not as_json:
            say(f"Written to {out}: {FACTS}{f', {PAGE}' if html else ''}.")
    if found.has_errors:
        raise typer.Exit(1)


def _write(found: DataSetCheck, out: Path, *, html: bool, bar: Bar) -> None:
    from c3s3_seg.dataset.check.html import write_check_json, write_check_page

    write_check_json(out / FACTS, found)
    if html:
        write_check_page(out / PAGE, found, progress=bar)


def _report(found: DataSetCheck, as_json: bool) -> None:
    from c3s3_seg.report.findings import findings_table, summary

    if as_json:
        for finding in found.findings:
            say(json.dumps(asdict(finding)))
        return
    if found.findings:
        show(findings_table(found.findings))
    say(f"{summary(len(found.cases), found.findings)}.")
