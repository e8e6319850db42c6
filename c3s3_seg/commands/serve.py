"""`c3s3-seg serve`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import need, say


def serve(
    config: Annotated[
        Path,
        typer.Option(metavar="FILE", help="TOML file with the table [serve].", rich_help_panel=options.INPUT),
    ] = Path("c3s3-seg.toml"),
    check: Annotated[
        bool,
        typer.Option("--check", help="Check the configuration and end.", rich_help_panel=options.INPUT),
    ] = False,
    retry_dead: Annotated[
        bool,
        typer.Option(
            "--retry-dead", help="Retry studies that were given up before.", rich_help_panel=options.BATCH
        ),
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Segment what comes to a folder or from a PACS, and store the results, until it is stopped.

    SIGTERM ends it once the study in work is finished; what is left is done at the next start.
    """
    need("pynetdicom", "prometheus_client", extra="service")
    import logging

    from c3s3_seg.service.segment import model_of
    from c3s3_seg.service.service import opened
    from c3s3_seg.service.settings import read_settings

    settings = read_settings(config)
    if check:
        model_of(settings)
        say(f"{config}: the table [serve] is good.")
        return
    logging.getLogger("c3s3_seg").setLevel(logging.WARNING if quiet else logging.INFO)
    if settings.listen is not None and not settings.listen.gate(1).listener.is_local:
        how = "" if settings.listen.trust is not None else ", without encryption"
        say(f"the listener can be reached from other machines{how}", err=True)
    with opened(settings) as service:
        if retry_dead:
            say(f"{service.queue.revive()} studies are tried again.", err=True)
        _end_on_signals(service.stopping.set)
        service.run()


def _end_on_signals(stop: Callable[[], None]) -> None:
    """The first signal drains; the second ends at once: the queue is on the disk at any moment."""

    def first(number: int, frame: object) -> None:
        del frame
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, lambda n, _: os._exit(128 + n))
        stop()

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, first)
