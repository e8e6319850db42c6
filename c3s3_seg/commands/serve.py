"""`c3s3-seg serve`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import need, say
from c3s3_seg.errors import quantity

if TYPE_CHECKING:
    from c3s3_seg.system.config_file import FoundConfig


def serve(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with the table [serve]. Default: the configuration file of the other commands.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
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
    """Segment studies from a folder or a PACS and store the results, until it is stopped.

    SIGTERM ends it once the study in work is finished; the next start processes the remaining ones.
    """
    need("pynetdicom", "prometheus_client", extra="service")
    import logging

    from c3s3_seg.service.preflight import check_start
    from c3s3_seg.service.service import opened
    from c3s3_seg.service.settings import read_settings

    file = _found(ctx, config)
    settings = read_settings(file)
    if check:
        check_start(settings)
        say(f"{file.path}: the table [serve] is good.")
        return
    logging.getLogger("c3s3_seg").setLevel(logging.WARNING if quiet else logging.INFO)
    if settings.listen is not None and not settings.listen.gate(1).listener.is_local:
        how = "" if settings.listen.trust is not None else ", without encryption"
        say(f"the listener can be reached from other machines{how}", err=True)
    with opened(settings) as service:
        if retry_dead:
            say(f"Tried again: {quantity(service.queue.revive(), 'dead study')}.", err=True)
            if lacking := service.queue.incomplete():
                say(f"Send again: {quantity(lacking, 'dead study')} that had no room for a file.", err=True)
        _end_on_signals(service.stopping.set)
        service.run()


def _found(ctx: typer.Context, config: Path | None) -> FoundConfig:
    """Return the configuration file: given here, to the program or in the environment, or found.

    Raises
    ------
    InputError
        If there is no file.
    """
    from c3s3_seg.errors import InputError
    from c3s3_seg.system.config_file import FILE_NAME, find

    given = str(config) if config is not None else ctx.find_root().params.get("config")
    found = find(given, os.environ)
    if found is None:
        todo = "Give one with --config; docs/service.md describes its table [serve]"
        raise InputError(f"there is no configuration file {FILE_NAME}", todo=todo)
    return found


def _end_on_signals(stop: Callable[[], None]) -> None:
    """Let the first signal call `stop`, the second end at once: the queue is always on the disk."""

    def first(number: int, frame: object) -> None:
        del frame
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, lambda n, _: os._exit(128 + n))
        stop()

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, first)
