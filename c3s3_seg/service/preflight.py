"""Check, before the service starts, what would end it or every study: folders, log, model, addresses."""

from __future__ import annotations

import os
from pathlib import Path

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.io.pacs.association import addresses
from c3s3_seg.service.node_settings import EVERY_HOST
from c3s3_seg.service.results_log import check_results_log
from c3s3_seg.service.settings import ServeSettings
from c3s3_seg.service.spool import check_work
from c3s3_seg.system.files import check_folder


def check_start(settings: ServeSettings) -> None:
    """Check the settings against this machine; write nothing, and connect to nothing.

    Whether the addresses are free, and whether a PACS answers, is found at the start and later.

    Raises
    ------
    C3S3Error
        If a folder or the log cannot be used, the model is missing or cannot do what is requested, a
        certificate cannot be read, a host is not known, or monitor and listener have one address.
    """
    for folder in (settings.state, settings.results):
        check_folder(folder)
    check_work(settings.state)
    _check_log(settings.log)
    _check_model(settings)
    _check_addresses(settings)
    for node in (*settings.store, *settings.poll):
        if (tls := node.caller.tls) is not None:
            tls.context()


def _check_log(path: Path) -> None:
    check_folder(path.parent)
    if os.path.lexists(path):
        check_results_log(path)


def _check_model(settings: ServeSettings) -> None:
    bundle = ModelBundle.find(settings.model)
    if settings.output.uncertainty and len(bundle.members()) < 2:
        raise InputError(
            "serve.output.uncertainty needs two networks, but this bundle holds one",
            where=bundle.folder,
            todo="Set it to false, or choose a model with two networks",
        )


def _check_addresses(settings: ServeSettings) -> None:
    listen, monitor = settings.listen, settings.monitor
    if monitor.port:
        addresses([monitor.host])
    if listen is None:
        return
    addresses([listen.host, *listen.hosts])
    if (tls := listen.gate(1).tls) is not None:
        tls.listening()
    hosts = {listen.host, monitor.host}
    if listen.port == monitor.port and (len(hosts) == 1 or hosts & EVERY_HOST):
        what = f"serve.monitor and serve.listen have one address, {listen.host}:{listen.port}"
        raise InputError(what, todo="Give another port to one of them; port 0: no monitor")
