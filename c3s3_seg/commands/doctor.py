"""`c3s3-seg doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from c3s3_seg.commands.console import Bar, say, show

if TYPE_CHECKING:
    from c3s3_seg.dataset.check.check import DataSetCheck


def doctor(
    dataset: Annotated[
        Path | None, typer.Argument(help="A data set's folder. Without it the installation is checked.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for doctor.json, and doctor.html.")
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write doctor.html too: one file with pictures, no network.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line for each finding or check.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read the data set.")] = 1,
) -> None:
    """Check a data set before training, or this installation.

    Of a data set: files, grids, masks, orientations, intensities, scans that are there twice. Exit code 1:
    errors, from which nothing can be learnt; warnings alone give 0.
    """
    if dataset is None:
        _installation(as_json)
        return
    from c3s3_seg.dataset.check.check import check_data_set
    from c3s3_seg.errors import InputError
    from c3s3_seg.system.files import make_folder
    from c3s3_seg.system.ownership import check_output, remove_ours

    if html and out is None:
        raise InputError("--html needs a folder to write to", todo="Name one with -o")
    if out is not None:
        check_output(out, ["doctor.json", *(["doctor.html"] if html else [])])
        make_folder(out)
    with Bar() as bar:
        found = check_data_set(dataset, workers=workers, progress=bar)
        if out is not None:
            remove_ours(out / "doctor.html")  # of an earlier run, it would show other findings
            _write(found, out, html=html, bar=bar)
    _say(found, as_json)
    if out is not None and not as_json:
        say(f"doctor.json{' and doctor.html are' if html else ' is'} in {out}.")
    if found.has_errors:
        raise typer.Exit(1)


def _write(found: DataSetCheck, out: Path, *, html: bool, bar: Bar) -> None:
    from c3s3_seg.dataset.check.html import write_doctor_json, write_doctor_page

    write_doctor_json(out / "doctor.json", found)
    if html:
        write_doctor_page(out / "doctor.html", found, progress=bar)


def _say(found: DataSetCheck, as_json: bool) -> None:
    from c3s3_seg.report.findings import findings_table, summary

    if as_json:
        for finding in found.findings:
            say(json.dumps(asdict(finding)))
        return
    if found.findings:
        show(findings_table(found.findings))
    say(f"{summary(len(found.cases), found.findings)}.")


def _installation(as_json: bool) -> None:
    from c3s3_seg.batch.self_check import check_data_set

    bad = 0
    for check in check_data_set():
        bad += not check.good
        line = f"{'ok ' if check.good else 'BAD'}  {check.name}: {check.found}"
        say(json.dumps(asdict(check)) if as_json else line)
    if bad:
        raise typer.Exit(1)
