"""`c3s3-seg fetch` and `c3s3-seg send`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import say
from c3s3_seg.commands.option_defaults import server_names

if TYPE_CHECKING:
    from c3s3_seg.io.pacs.association import Caller

LINK, LISTENER, LIMITS = options.CONNECTION, "C-MOVE", "Limits"

ServerText = Annotated[
    str,
    typer.Argument(
        help="Server: TITLE@host:port, or its name in the configuration file.",
        metavar="SERVER",
        autocompletion=server_names,
    ),
]
Title = Annotated[
    str,
    typer.Option(metavar="TITLE", help="Our own AE title, as the server knows it.", rich_help_panel=LINK),
]
Timeout = Annotated[
    float,
    typer.Option(
        min=1.0, metavar="SECONDS", help="How long the server may take to answer.", rich_help_panel=LINK
    ),
]
Encrypted = Annotated[
    bool,
    typer.Option("--tls/--no-tls", help="Encrypt, and check the server's certificate.", rich_help_panel=LINK),
]
Trusted = Annotated[
    Path | None,
    typer.Option(
        "--trust",
        metavar="FILE",
        help="PEM file of the authorities trusted for the server. Implies --tls.",
        rich_help_panel=LINK,
    ),
]
Shown = Annotated[
    Path | None,
    typer.Option(
        "--certificate",
        metavar="FILE",
        help="PEM file with our certificate and key. Implies --tls.",
        rich_help_panel=LINK,
    ),
]


def fetch(
    server: ServerText,
    out: Annotated[Path, options.out("Folder for the files.")],
    study: Annotated[
        str | None, typer.Option(metavar="UID", help="Study to fetch.", rich_help_panel=options.INPUT)
    ] = None,
    accession: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER",
            help="Accession number, in place of --study.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(metavar="UID", help="Fetch only this series.", rich_help_panel=options.INPUT),
    ] = None,
    patient: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="PatientID that the study must have. Files of another are refused.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    move: Annotated[
        str | None,
        typer.Option(
            metavar="TITLE",
            help="Listen under this AE title, and let the server send to it (C-MOVE).",
            rich_help_panel=LISTENER,
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where to listen for --move. Default: 127.0.0.1:11112.",
            rich_help_panel=LISTENER,
        ),
    ] = None,
    sender: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Host that the server sends from, besides its own. May be repeated.",
            rich_help_panel=LISTENER,
        ),
    ] = None,
    max_time: Annotated[
        float,
        typer.Option(min=1.0, metavar="SECONDS", help="How long a study may take.", rich_help_panel=LIMITS),
    ] = 7200.0,
    max_files: Annotated[
        int,
        typer.Option(min=1, metavar="NUMBER", help="Files that a study may have.", rich_help_panel=LIMITS),
    ] = 100_000,
    max_size: Annotated[
        str,
        typer.Option(metavar="SIZE", help="What the files of a study may take.", rich_help_panel=LIMITS),
    ] = "64GB",
    title: Title = "C3S3SEG",
    timeout: Timeout = 30.0,
    tls: Encrypted = False,
    trust: Trusted = None,
    certificate: Shown = None,
) -> None:
    """Fetch a study from a PACS (C-FIND with C-GET or C-MOVE), all of it or nothing.

    Only --move listens on this machine; together with --tls it needs --certificate and --trust.
    """
    from c3s3_seg.errors import InputError
    from c3s3_seg.io.pacs.association import AssociationListener, Node
    from c3s3_seg.io.pacs.client import fetch as get
    from c3s3_seg.io.pacs.client import find_studies
    from c3s3_seg.io.pacs.query import FetchLimits
    from c3s3_seg.system.hardware import parse_memory

    node, caller = Node.parse(server), _caller(title, timeout, tls, trust, certificate)
    if (study is None) == (accession is None):
        raise InputError("wanted either --study or --accession")
    if move is None and (listen is not None or sender):
        option = "--listen" if listen is not None else "--sender"
        raise InputError(
            f"{option} is for --move", todo=f"Give our AE title with --move, or leave {option} out"
        )
    listener = None if move is None else AssociationListener.parse(move, listen, sender or ())
    limits = FetchLimits(max_time, max_files, parse_memory(max_size))
    if listener is not None and not listener.is_local:
        how = "" if caller.tls is not None else ", without encryption"
        where = f"{listener.host}:{listener.port}"
        say(f"listening on {where}, which other machines can reach{how}", err=True)
    studies = [study] if study is not None else find_studies(node, accession or "", caller, patient=patient)
    if not studies:
        raise InputError(f"{node} has no study of this accession number")
    fetched = [
        get(
            node,
            out,
            study=uid,
            series=series,
            accession=accession,
            patient=patient,
            caller=caller,
            listener=listener,
            limits=limits,
        )
        for uid in studies
    ]
    say(f"{sum(map(len, fetched))} files are in {out}.")


def send(
    server: ServerText,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="DICOM files, such as predict --format dicom-seg writes."),
    ],
    title: Title = "C3S3SEG",
    timeout: Timeout = 30.0,
    tls: Encrypted = False,
    trust: Trusted = None,
    certificate: Shown = None,
) -> None:
    """Send DICOM files to a PACS (C-STORE)."""
    from c3s3_seg.io.pacs.association import Node
    from c3s3_seg.io.pacs.client import send as store

    caller = _caller(title, timeout, tls, trust, certificate)
    say(f"{store(Node.parse(server), files, caller)} files were sent.")


def _caller(title: str, timeout: float, tls: bool, trust: Path | None, certificate: Path | None) -> Caller:
    from c3s3_seg.io.pacs.association import Caller, Tls

    encrypted = tls or trust is not None or certificate is not None
    return Caller(title, timeout, Tls(trust, certificate) if encrypted else None)
