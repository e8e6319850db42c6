"""The connection to a PACS: the server, this client, TLS, and the reason if there is no connection."""

from __future__ import annotations

import ipaddress
import math
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError, MissingError, listed, to_install
from c3s3_seg.io.pacs.connection_limits import largest_file, limiting

AE_TITLE = "C3S3SEG"
SERVER_FORMS = "TITLE@host:port, or https://host/path"
LIMIT_S = 30.0
HANDSHAKE_S = 5.0
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


def _parse(text: str) -> tuple[str, str, int]:
    match = re.fullmatch(r"([^@]{1,16})@([^@\s]+):([0-9]{1,5})", text)
    if match is None or not 0 < int(match[3]) < 65536 or not _is_title(match[1]):
        # A colon before the @ belongs to a login, which is not repeated.
        shown = "" if ":" in text.partition("@")[0] else f" '{text}'"
        raise InputError(f"found the server{shown}, wanted {SERVER_FORMS}")
    return match[1], match[2], int(match[3])


def _is_title(text: str) -> bool:
    """Return whether a text is an AE title (PS3.5, 6.2, AE): printable ASCII without `\\`, not blank."""
    plain = text.isascii() and text.isprintable() and "\\" not in text
    return plain and 1 <= len(text) <= 16 and bool(text.strip())


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its address or by the name `localhost`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Node:
    """A server: `TITLE@host:port`."""

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Node:
        """Parse the text of a server.

        Raises
        ------
        InputError
            If the text has another form.
        """
        return cls(*_parse(text))

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


@dataclass(frozen=True)
class AssociationListener:
    """The receiver of the files of a C-MOVE: its title, as the server knows it, an address and a port.

    Parameters
    ----------
    title, host, port
        Title, address and port; loopback, unless another address is given.
    senders
        Hosts that may send files, besides the host of the requested server.
    """

    title: str
    host: str = "127.0.0.1"
    port: int = 11112
    senders: tuple[str, ...] = ()

    @classmethod
    def parse(cls, title: str, address: str | None, senders: Sequence[str] = ()) -> AssociationListener:
        """Return a listener from a title, `host:port` and the hosts of other senders.

        Raises
        ------
        InputError
            If the title or the address is not valid.
        """
        if address is None:
            address = "127.0.0.1:11112"
        return cls(*_parse(f"{title}@{address}"), tuple(senders))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the listener."""
        return is_loopback(self.host)


class _Hasty(ssl.SSLSocket):
    """A socket whose handshake is limited: a silent connection must not keep its thread."""

    def do_handshake(self, block: bool = False) -> None:
        self.settimeout(HANDSHAKE_S)
        super().do_handshake(block)
        self.settimeout(None)


@dataclass(frozen=True)
class Tls:
    """Encryption with TLS: the server must show a certificate that is trusted.

    Parameters
    ----------
    trusted
        PEM file of the authorities, or of the server's own certificate. None: authorities of the system.
    certificate
        PEM file with the certificate and the key of this client, for a server that requests them.
    """

    trusted: Path | None = None
    certificate: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return the TLS context of a client.

        Raises
        ------
        InputError
            If a file cannot be read, or is no certificate.
        """
        return self._made(ssl.Purpose.SERVER_AUTH)

    def listening(self) -> ssl.SSLContext:
        """Return the TLS context of a listener: a sender must show a certificate that `trusted` vouches for.

        Raises
        ------
        InputError
            If `certificate` or `trusted` is missing, or cannot be read.
        """
        if self.certificate is None or self.trusted is None:
            raise InputError(
                "a listener with TLS (--move with --tls or --trust) needs a certificate of its own, and one"
                " to check the server's by",
                todo="Give both --certificate and --trust, or fetch without --move",
            )
        made = self._made(ssl.Purpose.CLIENT_AUTH)
        made.verify_mode = ssl.CERT_REQUIRED
        made.sslsocket_class = _Hasty
        return made

    def _made(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        try:
            made = ssl.create_default_context(purpose, cafile=self.trusted)
            if self.certificate is not None:
                # Without this password OpenSSL would ask for one on the terminal, and wait.
                made.load_cert_chain(self.certificate, password="")
        except OSError as error:  # ssl.SSLError is one
            what = f"the certificates cannot be used: {error.strerror or error}"
            raise InputError(what, where=self.trusted or self.certificate) from error
        return made


@dataclass(frozen=True)
class Caller:
    """This client: its AE title, the time limit for an answer, and TLS."""

    title: str = AE_TITLE
    timeout_s: float = LIMIT_S
    tls: Tls | None = None

    def __post_init__(self) -> None:
        """Raise InputError unless the title and the time limit are valid."""
        if not _is_title(self.title):
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
