"""A storage SCP: it accepts objects from known senders for as long as it runs (C-STORE, C-ECHO)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.io.pacs.association import ECHO, PLAIN, REPORTS, STORED, SUCCESS, Caller, addresses
from c3s3_seg.io.pacs.connection_limits import limiting
from c3s3_seg.io.pacs.identity import Identity, identity
from c3s3_seg.io.pacs.inbox import NO_ROOM, NOT_UNDERSTOOD
from c3s3_seg.io.pacs.listener import reject_host, serving
from c3s3_seg.io.pacs.nodes import AssociationListener
from c3s3_seg.io.pacs.tls import Tls

SPARE = 1 << 20  # bytes of a message besides its object
PARTING_S = 5.0  # time that a sender gets at the end to finish an open association


@dataclass(frozen=True)
class Gate:
    """The rules for senders and their objects.

    Parameters
    ----------
    listener
        Own title, address and port; `senders` are the hosts that may connect, any if there are none.
    callers
        Calling titles that are allowed: at least one.
    tls
        TLS, with which a sender must show a certificate that is trusted. None: no encryption.
    associations
        Maximum number at once.
    object_bytes
        Maximum size of one object.
    timeout_s
        Time for which a sender may be silent.
    """

    listener: AssociationListener
    callers: tuple[str, ...]
    tls: Tls | None = None
    associations: int = 8
    object_bytes: int = 1 << 30
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        """Raise InputError unless there are calling titles, and titles and time limit are valid."""
        if not self.callers:
            raise InputError("no calling title is allowed: wanted one at least")
        for title in (self.listener.title, *self.callers):
            Caller(title, self.timeout_s)


Take = Callable[[Identity, bytes, Any], bool]


@dataclass
class _Reception:
    gate: Gate
    take: Take
    refused: Callable[[str], None]
    parted: Callable[[Any], None]
    hosts: frozenset[str]

    def requested(self, event: Any) -> None:
        """Refuse a host that is not listed; pynetdicom itself refuses titles."""
        if self.hosts and event.assoc.requestor.address not in self.hosts:
            self.refused("host")
            reject_host(event.assoc)

    def rejected(self, event: Any) -> None:
        """Report why an association was refused, without repeating text from the sender."""
        asked = event.assoc.requestor
        calling, called = (str(getattr(asked.primitive, f"{name}_ae_title")).strip() for name in _TITLES)
        if calling not in {title.strip() for title in self.gate.callers}:
            self.refused("calling title")
        elif called != self.gate.listener.title.strip():
            self.refused("called title")
        else:
            self.refused("limit")

    def exceeded(self, link: Any) -> None:
        """Report that a connection is closed, because its sender sends more than is allowed."""
        del link
        self.refused("size")

    def too_many(self) -> None:
        """Report that a connection is closed, because there are too many."""
        self.refused("limit")

    def closed(self, event: Any) -> None:
        """Report that the connection is closed, in whatever way."""
        self.parted(event.assoc)

    def store(self, event: Any) -> int:
        """Answer a C-STORE with a status."""
        try:
            content = event.encoded_dataset()
            if len(content) > self.gate.object_bytes + SPARE:  # all of it came before the connection was cut
                return NO_ROOM
            found = identity(content)
            asked = event.request
            named = (str(asked.AffectedSOPInstanceUID or ""), str(asked.AffectedSOPClassUID or ""))
            if named != (found.instance, found.kind):  # PS3.7, 9.1.1.1: both must be of one object
                return NOT_UNDERSTOOD
        except Exception:  # pydicom raises whatever its parser trips over
            return NOT_UNDERSTOOD
        try:
            return SUCCESS if self.take(found, content, event.assoc) else NO_ROOM
        except (C3S3Error, OSError):
            return NO_ROOM


_TITLES = ("calling", "called")


def _nothing(link: Any) -> None:
    del link


@contextmanager
def receiving(
    gate: Gate, take: Take, refused: Callable[[str], None], parted: Callable[[Any], None] = _nothing
) -> Iterator[None]:
    """Listen until the end of the block.

    Parameters
    ----------
    gate
        Address of the listener, and rules for senders.
    take
        Called with each object and the association that it came over, from several threads: returns True once
        it is safe on the disk, False if there is no room for it. Only then is the sender answered.
    refused
        Called with the reason of each refusal: `calling title`, `called title`, `host`, `limit`, `size`.
    parted
        Called with an association whose connection is closed.

    Raises
    ------
    InputError
        If the address is taken, a host is not known, or TLS lacks its certificate or the trusted ones.
    MissingError
        If pynetdicom is not installed.
    """
    listener = gate.listener
    entity = Caller(listener.title, gate.timeout_s).entity([])
    import pynetdicom

    entity.require_called_aet, entity.require_calling_aet = True, list(gate.callers)
    entity.maximum_associations = gate.associations
    for kind, syntaxes in (STORED | REPORTS | {ECHO: PLAIN}).items():
        entity.add_supported_context(kind, syntaxes)
    reception = _Reception(gate, take, refused, parted, addresses(listener.senders))
    events = pynetdicom.evt
    handlers: Any = [
        (events.EVT_REQUESTED, reception.requested), (events.EVT_REJECTED, reception.rejected),
        (events.EVT_CONN_CLOSE, reception.closed), (events.EVT_C_STORE, reception.store),
        *limiting(gate.object_bytes + SPARE, reception.exceeded),
    ]  # fmt: skip
    try:
        todo = "Give another address or port"
        with serving(entity, listener, handlers, gate.tls, todo, reception.too_many):
            yield
    finally:
        _part(entity)


def _part(entity: Any) -> None:
    """Give open associations a moment to end, then abort them; senders repeat unacknowledged objects."""
    end = time.monotonic() + PARTING_S
    while entity.active_associations and time.monotonic() < end:
        time.sleep(0.05)
    for link in entity.active_associations:
        link.abort()
