"""HTTP to a DICOMweb server: certificates are checked, redirects refused, bytes counted, time limited."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from typing import Any

from c3s3_seg.errors import InputError, MissingError, RefusedError, to_install
from c3s3_seg.io.pacs.association import Caller
from c3s3_seg.io.pacs.outbox import OneFileError
from c3s3_seg.io.pacs.tls import Tls
from c3s3_seg.io.pacs.web_address import PASSWORD, TOKEN, USER, Credentials, WebAddress

# Loggers of the libraries, which quote addresses with search keys, tracebacks, and the server's answers.
LOGGERS = ("dicomweb_client", "urllib3", "retrying")
ANSWER_BYTES = 16 << 20  # of the answer to a search or to a store
# The files as they are stored: otherwise a server would convert compressed files (PS3.18, 8.7.3.5.2).
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@dataclass
class Wire:
    """The connections of one session: their data are counted, and they can be cut.

    Parameters
    ----------
    count
        Called with each piece of an answer's body; raises if the body is too large.
    media
        Content type of the last answer.
    """

    count: Callable[[bytes], None]
    media: str = ""
    _sockets: list[Any] = field(default_factory=list)

    def opened(self, link: Any) -> None:
        """Register a connection."""
        self._sockets.append(link)

    def cut(self) -> None:
        """Close all connections, even while they are read."""
        for link in self._sockets:
            with suppress(OSError, AttributeError, ValueError):
                link.shutdown(socket.SHUT_RDWR)


def limited(most: int) -> Callable[[bytes], None]:
    """Return a count that raises RefusedError above so many bytes."""
    seen = 0

    def count(piece: bytes) -> None:
        nonlocal seen
        seen += len(piece)
        if seen > most:
            raise RefusedError(f"the server's answer has more than {most:,} bytes, which none should have")

    return count


@contextmanager
def ending_after(seconds_s: float, end: Callable[[], None]) -> Iterator[None]:
    """Call `end` if the block takes longer than so many seconds."""
    timer = threading.Timer(seconds_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def client(
    address: WebAddress, caller: Caller, credentials: Credentials, wire: Wire, piece: int = 1 << 18
) -> Iterator[Any]:
    """Open a `DICOMwebClient` until the end of the block.

    Parameters
    ----------
    address, caller, credentials
        The server, its time limit and TLS, and the credentials of this client.
    wire
        Wire that counts the received data.
    piece
        Number of bytes that are read, or sent, at once.

    Raises
    ------
    MissingError
        If dicomweb-client is not installed.
    InputError
        If a certificate cannot be used.
    """
    try:
        import pynetdicom  # noqa: F401  # writes the headers of files that come
        import requests
        from dicomweb_client.web import DICOMwebClient
    except ImportError as error:
        what = "dicomweb-client or pynetdicom is not installed"
        raise MissingError(what, todo=to_install("pacs")) from error
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    with requests.Session() as session:
        # No proxy, no `.netrc` and no authorities other than the given ones: the environment does not decide
        # who reads the studies.
        session.trust_env = False
        session.headers.update({"Accept": "application/dicom+json", "Accept-Encoding": "identity"})
        session.auth = _signer(credentials)
        session.hooks["response"].append(_checker(address, wire))
        _trust(session, caller.tls or Tls())
        for scheme in ("https://", "http://"):
            session.mount(scheme, _watched(requests.adapters.HTTPAdapter(), wire))
        made = DICOMwebClient(address.url, session, timeout=caller.timeout_s, chunk_size=piece)
        made.set_http_retry_params(retry=False)  # a repeated store would have an empty body
        yield made


def _trust(session: Any, tls: Tls) -> None:
    """Have the session check the server's certificate by the given authorities, or by the system's."""
    import ssl

    tls.context()  # raises with a plain reason if the files are unusable; prompts for no password
    system = ssl.get_default_verify_paths()
    session.verify = str(tls.trusted or system.cafile or system.capath or "") or True
    session.cert = None if tls.certificate is None else str(tls.certificate)


def _signer(credentials: Credentials) -> Callable[[Any], Any]:
    def sign(request: Any) -> Any:
        # The library sends the host without its port, and requests parts as bulk data.
        request.headers.pop("Host", None)
        if request.headers.get("Accept", "").startswith("multipart/"):
            request.headers["Accept"] = AS_STORED
        _check_parts(request)
        if credentials.authorization:
            request.headers["Authorization"] = credentials.authorization
        return request

    return sign


def _check_parts(request: Any) -> None:
    """Raise if a file holds the mark between parts, after which a second file, of any study, could hide."""
    boundary = Message()
    boundary["Content-Type"] = request.headers.get("Content-Type", "")
    mark = boundary.get_param("boundary")
    if isinstance(mark, str) and request.body.count(mark.encode()) != 2:  # before the file, and after it
        raise OneFileError("it holds the mark that separates files in a transfer")


def _checker(address: WebAddress, wire: Wire) -> Callable[..., Any]:
    """Return a hook that checks each answer before its body is read."""

    def check(response: Any, *_: Any, **__: Any) -> Any:
        code = response.status_code
        if 300 <= code < 400:
            raise RefusedError(
                f"{address} sends us elsewhere ({code}), and whoever answers there is not known",
                todo="Give the address at which the server is, if it is a trusted one",
            )
        if code == HTTPStatus.PARTIAL_CONTENT:
            raise RefusedError(f"{address} sent a part of what was asked for (206)")
        if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise RefusedError(f"{address} sent a packed answer, which was not asked for")
        wire.media = response.headers.get("Content-Type", "")
        _leave_out_parameters(response.headers, wire.media)
        response.raw = _Counted(response.raw, wire)
        return response

    return check


def _leave_out_parameters(headers: Any, media: str) -> None:
    """Leave the media type of an answer without its parameters, which keep the library from reading it.

    The library compares the whole header: `application/dicom+json; charset=utf-8` is nothing to it.
    """
    plain = Message()
    plain["Content-Type"] = media
    if media and plain.get_content_maintype() != "multipart":  # its parameters tell the parts apart
        headers["Content-Type"] = plain.get_content_type()


class _Counted:
    """The body of an answer: each piece is counted before it is used."""

    def __init__(self, raw: Any, wire: Wire) -> None:
        self._raw, self._wire = raw, wire

    def stream(self, amount: int, decode_content: bool | None = None) -> Iterator[bytes]:
        for piece in self._raw.stream(amount, decode_content=decode_content):
            self._wire.count(piece)
            yield piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def _watched(adapter: Any, wire: Wire) -> Any:
    """Make an adapter register its connections: one that sends a byte now and then never times out."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            wire.opened(self.sock)

    class Encrypted(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            wire.opened(self.sock)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    adapter.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": EncryptedPool}
    return adapter


def explained(address: WebAddress, error: Exception, what: str) -> InputError:
    """Return the error to raise for an exception of the libraries, whose text quotes the search keys.

    Parameters
    ----------
    address
        The server.
    error
        The exception that was raised.
    what
        The request to the server, such as `the search`.
    """
    import requests

    kinds = requests.exceptions
    if isinstance(error, kinds.HTTPError) and error.response is not None:
        return _refusal(address, error.response.status_code, what)
    chain = _chain(error)
    certificate = [e for e in chain if type(e).__name__ == "SSLCertVerificationError"]
    if certificate:
        why = getattr(certificate[0], "verify_message", "") or "it cannot be verified"
        todo = "Name the authority that vouches for it with --trust"
        return InputError(f"the certificate of {address} is not trusted: {why}", todo=todo)
    if isinstance(error, kinds.SSLError):
        return InputError(f"{address} cannot be reached with TLS", todo="Check host, port and --certificate")
    if any("Timeout" in type(e).__name__ and "Connect" not in type(e).__name__ for e in chain):
        return InputError(f"{address} did not answer {what} in time", todo="Give it longer with --timeout")
    if any(type(e).__name__ in ("NewConnectionError", "ConnectTimeoutError") for e in chain):
        return InputError(f"{address} cannot be reached", todo="Check host and port")
    if isinstance(error, kinds.ConnectionError | kinds.ChunkedEncodingError):
        return InputError(f"{address} broke the connection during {what}")
    return InputError(f"{address} answered {what} with what cannot be read ({type(error).__name__})")


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and the errors from which it was made."""
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting and len(found) < 50:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    return found


def _refusal(address: WebAddress, code: int, what: str) -> InputError:
    try:
        said = f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        said = str(code)
    todo = None
    if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        todo = f"Check {TOKEN}, or {USER} and {PASSWORD}, in the environment"
    elif code == HTTPStatus.NOT_FOUND:
        todo = "Check the path of the address: such as /dicom-web or /dicomweb"
    return InputError(f"{address} refused {what} ({said})", todo=todo)
