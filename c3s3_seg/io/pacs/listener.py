"""Listeners of this package: the one for the files of a C-MOVE, and the parts that all of them share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from c3s3_seg.errors import InputError
from c3s3_seg.io.pacs.association import REPORTS, STORED, Caller, addresses, cut
from c3s3_seg.io.pacs.connection_limits import largest_file, limiting, server_class
from c3s3_seg.io.pacs.inbox import NOT_ALLOWED, Inbox
from c3s3_seg.io.pacs.nodes import AssociationListener, Node
from c3s3_seg.io.pacs.tls import Tls


@contextmanager
def listening(listener: AssociationListener, node: Node, inbox: Inbox, caller: Caller) -> Iterator[None]:
    """Listen until the end of the block to one server: its title, its hosts and, with TLS, its certificate.

    Raises
    ------
    InputError
        If the address is taken, a host is not known, or TLS lacks its certificate or the trusted ones.
    """
    import pynetdicom

    entity = Caller(listener.title, caller.timeout_s).entity([])
    entity.require_called_aet, entity.require_calling_aet = True, [node.title]
    for kind, syntaxes in (STORED | REPORTS).items():
        entity.add_supported_context(kind, syntaxes)
    allowed = addresses([node.host, *listener.senders])

    def reject(event: Any) -> None:
        if event.assoc.requestor.address not in allowed:
            reject_host(event.assoc)

    def follow(event: Any) -> None:
        # Only now: the inbox would keep the association of every stranger.
        inbox.follow(partial(cut, event.assoc))

    def store(event: Any) -> int:
        asked = event.assoc.requestor
        titles = (str(asked.primitive.calling_ae_title).strip(), str(asked.primitive.called_ae_title).strip())
        ours = titles == (node.title.strip(), listener.title.strip()) and asked.address in allowed
        return inbox.store(event) if ours and _is_ours(event.request, caller, node) else NOT_ALLOWED

    events = pynetdicom.evt
    handlers: Any = [
        (events.EVT_C_STORE, store), (events.EVT_REQUESTED, reject), (events.EVT_ESTABLISHED, follow),
        (events.EVT_DATA_RECV, inbox.received), *limiting(largest_file(), inbox.exceeded),
    ]  # fmt: skip
    with serving(entity, listener, handlers, caller.tls, "Give another address with --listen"):
        yield


@contextmanager
def serving(
    entity: Any,
    listener: AssociationListener,
    handlers: Any,
    tls: Tls | None,
    todo: str,
    too_many: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Accept associations until the end of the block; `too_many` is told of connections beyond the limit.

    Raises
    ------
    InputError
        If the address is taken or is none, with `todo`, or TLS lacks its certificate or the trusted ones.
    """
    context = tls.listening() if tls is not None else None
    place = (listener.host.strip("[]"), listener.port)
    try:
        made = server_class(context, too_many)
        server = entity.make_server(place, evt_handlers=handlers, server_class=made)
    except (OSError, UnicodeError) as error:  # also for a host name that is not possible
        reason = getattr(error, "strerror", None) or error
        what = f"cannot listen on {listener.host}:{listener.port}: {reason}"
        raise InputError(what, todo=todo) from error
    thread = threading.Thread(target=server.serve_forever, name="listener", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


def reject_host(link: Any) -> None:
    """Reject an association for good, and wait until that is sent: else the peer sees a closed connection."""
    link.acse.send_reject(0x01, 0x01, 0x01)  # permanent, by the user of the service, no reason
    link.kill()


def _is_ours(request: Any, caller: Caller, node: Node) -> bool:
    """Return whether a store may be of this C-MOVE; it need not state its origin (PS3.7, 9.1.1.1).

    The stated title should be that of the client that requested the C-MOVE; some servers give their own.
    """
    title = str(request.MoveOriginatorApplicationEntityTitle or "").strip()
    return title in ("", caller.title.strip(), node.title.strip())
