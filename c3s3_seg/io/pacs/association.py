"""The connection to a PACS: the kinds of object, this client, and the reason if there is no connection."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from c3s3_seg.errors import InputError, MissingError, listed, to_install
from c3s3_seg.io.pacs.connection_limits import largest_file, limiting
from c3s3_seg.io.pacs.nodes import Node, is_title
from c3s3_seg.io.pacs.tls import Tls

AE_TITLE = "C3S3SEG"
LIMIT_S = 30.0
SUCCESS, PENDING = 0x0000, 0xFF00
# Stored, but with values changed, left out, or unlike its class (PS3.4, B.2.3). In a transfer, counts decide.
WARNINGS = (0xB000, 0xB006, 0xB007)
# A failure (PS3.7, C.5), which says that the server has an instance with this UID.
DUPLICATE = 0x0111
_STORAGE = "1.2.840.10008.5.1.4.1.1."
DEFAULT = "1.2.840.10008.1.2"  # implicit VR, little endian
PLAIN = ["1.2.840.10008.1.2.1", DEFAULT]
UNPACKED = (*PLAIN, "1.2.840.10008.1.2.1.99")  # can be sent in each other's place; the last is deflated
# JPEG lossless and baseline, JPEG-LS, JPEG 2000, HTJ2K, RLE.
_PACKED = [
    f"1.2.840.10008.1.2.{end}"
    for end in ("4.70", "4.57", "4.50", "4.80", "4.90", "4.91", "4.201", "4.202", "5")
]
# Reports, presentation states, documents, dose and plans: a study comes whole or not at all. With these, the
# scans and the services themselves there are 128 presentation contexts, the maximum (PS3.8, 9.3.2).
_OTHERS = (
    "88.11", "88.22", "88.33", "88.34", "88.59", "88.65", "88.67", "11.1", "11.2", "104.1", "481.2", "481.5",
    "66", "7.2", "7.4",
)  # fmt: skip
_SCANS = ("2", "2.1", "2.2", "4", "4.1", "4.4", "128", "128.1", "130")  # CT, MR and PET, classic and enhanced
_MADE = ("66.4", "66.7", "481.3", "7")  # SEG, its label map, RTSTRUCT, secondary capture
STORED = {_STORAGE + end: [*PLAIN, *_PACKED] for end in _SCANS} | {
    _STORAGE + end: [*PLAIN, _PACKED[-1]] for end in _MADE
}
REPORTS = {_STORAGE + end: PLAIN for end in _OTHERS}
SCANS = frozenset(_STORAGE + end for end in _SCANS)
ECHO = "1.2.840.10008.1.1"

Context = tuple[str, list[str]]


@dataclass(frozen=True)
class Caller:
    """This client: its AE title, the time limit for an answer, and TLS."""

    title: str = AE_TITLE
    timeout_s: float = LIMIT_S
    tls: Tls | None = None

    def __post_init__(self) -> None:
        """Raise InputError unless the title and the time limit are valid."""
        if not is_title(self.title):
            raise InputError(
                "found an AE title that is none, wanted 1 to 16 ASCII characters, not only blanks"
            )
        if not (math.isfinite(self.timeout_s) and 0 < self.timeout_s <= 86_400):
            raise InputError(f"found a timeout of {self.timeout_s} s, wanted up to 86400 s")

    def entity(self, contexts: Sequence[Context]) -> Any:
        """Return the pynetdicom entity that requests these kinds of object.

        Raises
        ------
        MissingError
            If pynetdicom is not installed.
        """
        try:
            import pynetdicom
        except ImportError as error:
            raise MissingError("pynetdicom is not installed", todo=to_install("pacs")) from error
        entity = pynetdicom.AE(ae_title=self.title)
        entity.acse_timeout = entity.dimse_timeout = self.timeout_s
        entity.network_timeout = entity.connection_timeout = self.timeout_s
        for kind, syntaxes in contexts:
            entity.add_requested_context(kind, syntaxes)
        return entity


@contextmanager
def association(
    node: Node,
    caller: Caller,
    contexts: Sequence[Context],
    store: Any = None,
    received: Any = None,
    exceeded: Callable[[Any], None] = lambda _: None,
) -> Iterator[Any]:
    """Open an association that is released at the end of the block.

    Parameters
    ----------
    node, caller, contexts
        The server, this client, and the presentation contexts to request.
    store
        Called with the event of each file that a C-GET sends; returns the status.
    received
        Called with the event of each piece of data that comes.
    exceeded
        Called before the connection is closed because the server sends more than the memory holds.

    Raises
    ------
    InputError
        If the server cannot be reached, or refuses this client: with its reason.
    """
    entity = caller.entity(contexts)
    import pynetdicom

    kinds = dict.fromkeys(kind for kind, _ in contexts if kind in STORED or kind in REPORTS)
    roles: Any = [pynetdicom.build_role(kind, scp_role=True) for kind in kinds] if store else []
    handlers: Any = limiting(largest_file(), exceeded)
    handlers += [(pynetdicom.evt.EVT_C_STORE, store)] if store else []
    handlers += [(pynetdicom.evt.EVT_DATA_RECV, received)] if received else []
    reasons: list[str] = []
    handlers.append((pynetdicom.evt.EVT_PDU_RECV, _note, [reasons]))
    host = node.host.strip("[]")
    tls: Any = (caller.tls.context(), host) if caller.tls else None
    try:
        link = entity.associate(
            host, node.port, ae_title=node.title, ext_neg=roles, evt_handlers=handlers, tls_args=tls
        )
    except (OSError, UnicodeError) as error:  # also for a host name that is not possible
        raise InputError(f"{node} cannot be reached: {error}", todo="Check host and port") from error
    if not link.is_established:
        raise _unoffered(node, contexts) if link.rejected_contexts else _unreached(node, caller, reasons)
    _send_at_once(link)
    try:
        yield link
    except BaseException:
        link.abort()  # a release would wait for the data that the server is still sending
        raise
    link.release()


def _send_at_once(link: Any) -> None:
    """Turn off Nagle's algorithm, which costs 40 ms a file: a second part waits for an acknowledgement."""
    connection = link.dul.socket.socket if link.dul.socket else None
    if connection is not None:
        with suppress(OSError):  # the connection was closed just now: its next use reports it
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _note(event: Any, reasons: list[str]) -> None:
    """Keep the reason why a server refuses this client.

    If the server closes the connection right after its refusal, pynetdicom reports, one time in ten, only a
    closed connection, although the refusal itself was read.
    """
    if type(event.pdu).__name__ == "A_ASSOCIATE_RJ":
        reasons.append(event.pdu.reason_str)


def _unreached(node: Node, caller: Caller, reasons: Sequence[str]) -> InputError:
    if reasons:
        return InputError(
            f"{node} refuses us ('{caller.title}'): {reasons[0]}",
            todo="Check both titles, ours (--title) and the server's",
        )
    # The reason of a connection that fails is not known: in the log of a service this line stands alone.
    check = "check that it runs, its host and port, and its TLS"
    how = "with TLS" if caller.tls else "without TLS"
    return InputError(f"{node} cannot be reached {how}: {check}", todo="Options: HOST:PORT and --tls")


def _unoffered(node: Node, contexts: Sequence[Context]) -> InputError:
    """Return the error if a server accepts the connection, and none of the presentation contexts."""
    from pydicom.uid import UID

    kinds = listed(dict.fromkeys(UID(kind).name for kind, _ in contexts))
    return InputError(
        f"{node} accepts the connection and offers nothing of what was asked for: {kinds}",
        todo="Check what the server offers, and permits to our title (--title)",
    )


def cut(link: Any) -> None:
    """Close a connection even while it is read; a release would wait for the other side."""
    with suppress(OSError, AttributeError, ValueError):
        link.dul.socket.socket.shutdown(socket.SHUT_RDWR)


class RefusedRequestError(InputError):
    """A request that a server has answered with a failure; it may take other requests."""


def check_status(node: Node, status: Any, what: str) -> None:
    """Raise InputError unless a status is success or a warning; the server's comment is in the message."""
    code = getattr(status, "Status", None)
    if code is None:
        raise InputError(f"{node} did not answer in time, or broke the connection, during {what}")
    if code not in (SUCCESS, *WARNINGS):
        comment = str(getattr(status, "ErrorComment", "") or "").strip()
        raise RefusedRequestError(
            f"{node} refused {what} (status 0x{code:04X}{': ' + comment if comment else ''})"
        )


def addresses(hosts: Sequence[str]) -> frozenset[str]:
    """Return the IP addresses of hosts.

    Raises
    ------
    InputError
        If a host is not known.
    """
    found = set()
    for host in hosts:
        try:
            found |= {str(entry[4][0]) for entry in socket.getaddrinfo(host.strip("[]"), None)}
        except (OSError, UnicodeError) as error:
            raise InputError(f"the host '{host}' is not known: {error}", todo="Check its name") from error
    return frozenset(found)
