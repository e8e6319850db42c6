"""`c3s3-seg fetch` and `c3s3-seg send`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ServerText = Annotated[str, typer.Argument(help="The server: TITLE@host:port.", metavar="SERVER")]


def fetch(
    server: ServerText,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the files.")],
    study: Annotated[str | None, typer.Option(help="Study UID.")] = None,
    accession: Annotated[
        str | None, typer.Option(help="Accession number, in place of the study UID.")
    ] = None,
    series: Annotated[str | None, typer.Option(help="Only the series of this UID.")] = None,
) -> None:
    """Fetch a study from a PACS (C-FIND, C-GET). Nothing listens on this machine."""
    from c3s3_seg.errors import InputError
    from c3s3_seg.io.pacs import Node, find_studies
    from c3s3_seg.io.pacs import fetch as get

    node = Node.parse(server)
    if (study is None) == (accession is None):
        raise InputError("wanted either --study or --accession")
    studies = [study] if study is not None else find_studies(node, accession or "")
    if not studies:
        raise InputError(f"{node} has no study of this accession number")
    files = [path for uid in studies for path in get(node, out, study=uid, series=series)]
    typer.echo(f"{len(files)} files are in {out}.")


def send(
    server: ServerText,
    files: Annotated[list[Path], typer.Argument(help="DICOM files, as `predict --format dicom-seg` writes.")],
) -> None:
    """Send DICOM files to a PACS (C-STORE)."""
    from c3s3_seg.io.pacs import Node
    from c3s3_seg.io.pacs import send as store

    typer.echo(f"{store(Node.parse(server), files)} files were sent.")
