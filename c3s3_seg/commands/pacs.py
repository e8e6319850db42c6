"""`c3s3-seg fetch` and `c3s3-seg send`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import say, shown
from c3s3_seg.commands.option_defaults import server_names
from c3s3_seg.errors import listed, quantity

if TYPE_CHECKING:
    from c3s3_seg.io.pacs.association import Caller
    from c3s3_seg.io.pacs.nodes import AssociationListener
    from c3s3_seg.io.pacs.server import Server

LINK, LISTENER, LIMITS = options.CONNECTION, "C-MOVE", "Limits"

ServerText = Annotated[
    str,
    typer.Argument(
        help="Server: TITLE@host:port, https://host/path (DICOMweb), or its name in the configuration file.",
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
    bool | None,
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
Http = Annotated[
    bool,
    typer.Option(
        "--allow-http",
        help="Allow http://, without encryption, to another machine.",
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
    tls: Encrypted = None,
    trust: Trusted = None,
    certificate: Shown = None,
    allow_http: Http = False,
) -> None:
    """Fetch a study from a PACS by DIMSE or DICOMweb, all of it or nothing.

    Only --move listens on this machine; together with --tls it needs --certificate and --trust.
    DICOMweb takes C3S3_SEG_TOKEN, or C3S3_SEG_USER and C3S3_SEG_PASSWORD, from the environment.
    """
    from c3s3_seg.errors import InputError
    from c3s3_seg.io.pacs.connect import server_of
    from c3s3_seg.io.pacs.query import FetchLimits, Wanted
    from c3s3_seg.io.pacs.server import fetch_study
    from c3s3_seg.system.memory import parse_memory

    caller = _caller(title, timeout, tls, trust, certificate)
    listener = _listener(move, listen, sender or ())
    pacs = server_of(server, caller, listener=listener, allow_http=allow_http)
    if (study is None) == (accession is None):
        raise InputError("wanted either --study or --accession")
    limits = FetchLimits(max_time, max_files, parse_memory(max_size))
    _warn(pacs, listener, caller)
    studies = [study] if study is not None else pacs.find_studies(accession or "", patient)
    if not studies:
        raise InputError(f"{pacs} has no study of this accession number")
    fetched = [
        fetch_study(pacs, out, Wanted.parse(uid, series, accession, patient), limits) for uid in studies
    ]
    say(f"Received {quantity(sum(map(len, fetched)), 'file')} in {out}.")


def send(
    server: ServerText,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="DICOM files, and folders whose objects made by c3s3-seg are sent.",
        ),
    ],
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Send all DICOM objects of folders, not only those made by c3s3-seg.",
            rich_help_panel=options.INPUT,
        ),
    ] = False,
    title: Title = "C3S3SEG",
    timeout: Timeout = 30.0,
    tls: Encrypted = None,
    trust: Trusted = None,
    certificate: Shown = None,
    allow_http: Http = False,
) -> None:
    """Send DICOM files to a PACS by DIMSE or DICOMweb; sending them again is safe.

    DICOMweb takes C3S3_SEG_TOKEN, or C3S3_SEG_USER and C3S3_SEG_PASSWORD, from the environment.
    """
    from c3s3_seg.errors import InputError
    from c3s3_seg.io.pacs.connect import server_of
    from c3s3_seg.io.pacs.outbox import collect

    caller = _caller(title, timeout, tls, trust, certificate)
    pacs = server_of(server, caller, allow_http=allow_http)
    outbox = collect(files, every=every)
    for reason, names in outbox.skipped.items():
        say(shown(f"{len(names)} not sent, {reason}: {listed(names)}", sys.stderr), err=True)
    if not outbox.files:
        raise InputError("found nothing to send here")
    _warn(pacs, None, caller)
    failed = 0
    for stored in pacs.store(outbox.files):
        if stored.error is not None:
            failed += 1
            say(shown(f"failed: {stored.error.told}", sys.stderr), err=True)
        elif stored.note:
            say(shown(f"{stored.file.name}: {stored.note}", sys.stderr), err=True)
    sent = len(outbox.files) - failed
    if failed:
        say(f"Sent {quantity(sent, 'file')}, failed {failed}; the same command sends them again.")
        raise typer.Exit(1)
    say(f"Sent {quantity(sent, 'file')}.")


def _listener(move: str | None, listen: str | None, senders: Sequence[str]) -> AssociationListener | None:
    from c3s3_seg.errors import InputError
    from c3s3_seg.io.pacs.nodes import AssociationListener

    if move is not None:
        return AssociationListener.parse(move, listen, senders)
    if listen is not None or senders:
        option = "--listen" if listen is not None else "--sender"
        what = f"{option} is for --move"
        raise InputError(what, todo=f"Give our AE title with --move, or leave {option} out")
    return None


def _warn(pacs: Server, listener: AssociationListener | None, caller: Caller) -> None:
    """Warn of data or ports open to others, before anything goes over the network."""
    from c3s3_seg.io.pacs.connect import warning

    if listener is not None and not listener.is_local:
        how = "" if caller.tls is not None else ", without encryption"
        where = f"{listener.host}:{listener.port}"
        say(f"listening on {where}, which other machines can reach{how}", err=True)
    if text := warning(pacs):
        say(text, err=True)


def _caller(
    title: str, timeout: float, tls: bool | None, trust: Path | None, certificate: Path | None
) -> Caller:
    from c3s3_seg.io.pacs.association import Caller
    from c3s3_seg.io.pacs.tls import Tls

    encrypted = (trust is not None or certificate is not None) if tls is None else tls
    return Caller(title, timeout, Tls(trust, certificate) if encrypted else None)
