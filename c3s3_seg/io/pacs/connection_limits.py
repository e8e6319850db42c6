"""Limits that pynetdicom lacks: size and time of a PDU, bytes of a message, number of connections."""

from __future__ import annotations

import socketserver
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from c3s3_seg.system.memory import free_bytes

# The maximum length that we negotiate is 16 kB (PS3.8, D.1). Some senders ignore it, and a request for an
# association has no maximum: 128 contexts with 40 transfer syntaxes each have 160 kB.
PDU_BYTES = 1 << 18
MESSAGE_BYTES = 1 << 12  # memory of a message besides its bytes
BLOCK = 1 << 16
# The peer may send one PDU: a request for an association, the answer to ours, the end (PS3.8, 9.2.1).
AWAITING_REQUEST, AWAITING_ANSWER, AWAITING_CLOSE = "Sta2", "Sta5", "Sta13"
BRIEF = (AWAITING_REQUEST, AWAITING_ANSWER, AWAITING_CLOSE)
FURTHER = 8  # connections besides the allowed associations, so that their senders get the reason in words
# A file is held three times while it is received; an element has at most 4 GB (PS3.5, 7.1.1).
FILE_BYTES, FILE_FLOOR, COPIES = 1 << 32, 1 << 26, 4

Handler = tuple[Any, ...]


def largest_file() -> int:
    """Return the size in bytes of the largest file that the free memory allows."""
    return int(min(FILE_BYTES, max(FILE_FLOOR, free_bytes() / COPIES)))


def limiting(message_bytes: int, exceeded: Callable[[Any], None]) -> list[Handler]:
    """Return event handlers for pynetdicom that limit what a connection holds in memory.

    Parameters
    ----------
    message_bytes
        Maximum size of one message, or of all messages of a connection that wait to be handled.
    exceeded
        Called with the association whose peer sends more; its connection is closed then.
    """
    from pynetdicom import evt

    opened = (evt.EVT_CONN_OPEN, _opened, [message_bytes, exceeded])
    return [opened, (evt.EVT_CONN_CLOSE, _closed)]


def _opened(event: Any, message_bytes: int, exceeded: Callable[[Any], None]) -> None:
    from pynetdicom import evt

    link = event.assoc
    guard = _Guard(link, message_bytes, exceeded)
    link.dul.socket.recv = guard.read  # pynetdicom itself reads a PDU of any size before it raises an event
    link.bind(evt.EVT_DIMSE_RECV, guard.message)


def _closed(event: Any) -> None:
    """End the thread that waits for a request over a connection that is closed; it would wait on."""
    link = event.assoc
    if link.is_acceptor and link.requestor.primitive is None:
        link.dul.to_user_queue.put(None)


class _Guard:
    """The reader of a connection, in place of pynetdicom's, which has no limits of size and time.

    Parameters
    ----------
    link
        The association.
    message_bytes, exceeded
        Same as in `limiting`.
    """

    def __init__(self, link: Any, message_bytes: int, exceeded: Callable[[Any], None]) -> None:
        self._link, self._message_bytes, self._exceeded = link, message_bytes, exceeded
        self._connection, self._limit_s = link.dul.socket.socket, link.network_timeout
        self._unhandled = 0  # bytes of messages that are incomplete, or wait to be handled
        self._connection.settimeout(self._limit_s)

    def read(self, size_bytes: int) -> bytearray:
        """Return so many bytes, fewer if the connection ends; raise OSError beyond the limits."""
        self._check(size_bytes)
        content, end = bytearray(), time.monotonic() + self._limit_s
        while len(content) < size_bytes:
            piece = self._connection.recv(min(BLOCK, size_bytes - len(content)))
            if not piece:
                break
            content += piece
            if time.monotonic() > end:
                raise TimeoutError("the peer takes too long for a PDU")
        return content

    def _check(self, size_bytes: int) -> None:
        self._unhandled += size_bytes
        state = self._link.dul.state_machine.current_state
        most = PDU_BYTES if state in BRIEF else self._message_bytes
        if size_bytes <= PDU_BYTES and self._unhandled <= most:
            return
        if state != AWAITING_CLOSE:
            self._exceeded(self._link)
        raise OSError("the peer sends more than is allowed")

    def message(self, event: Any) -> None:
        """Restart the count when a message is complete, unless earlier ones still wait."""
        del event
        if self._link.dimse.msg_queue.empty():
            self._unhandled = 0
        self._unhandled += MESSAGE_BYTES


class _ConnectionCount:
    """The number of connections that are opening; with the running associations it is limited."""

    def __init__(self, most: int) -> None:
        self._most, self._opening, self._turn = most, 0, threading.Lock()

    def begin(self, running: int) -> bool:
        """Count a connection that opens; return whether it is within the limit, and not counted if not."""
        with self._turn:
            within = self._opening + running < self._most
            self._opening += within
        return within

    def end(self) -> None:
        """Stop counting a connection: it is an association now, or has ended."""
        with self._turn:
            self._opening -= 1


def server_class(context: ssl.SSLContext | None, too_many: Callable[[], None]) -> type[Any]:
    """Return the class of a server whose number of connections is limited.

    Parameters
    ----------
    context
        TLS context. pynetdicom makes the handshake before it accepts the next connection, which must not wait
        for a silent one; so this server makes it in the thread of the connection.
    too_many
        Called for each connection that is closed because there are too many.
    """
    from pynetdicom.transport import ThreadedAssociationServer

    class BoundedServer(ThreadedAssociationServer):
        def __init__(self, entity: Any, *words: Any, **more: Any) -> None:
            self._count = _ConnectionCount(entity.maximum_associations + FURTHER)
            super().__init__(entity, *words, **more)

        def process_request(self, request: Any, client_address: Any) -> None:
            if not self._count.begin(len(self.active_associations)):
                too_many()
                self.shutdown_request(request)
                return
            try:
                super().process_request(request, client_address)
            except RuntimeError:  # no thread can be started
                self._count.end()
                self.shutdown_request(request)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                self._count.end()  # from here on the running association is counted

        def finish_request(self, request: Any, client_address: Any) -> None:
            if context is not None:
                request = context.wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)

        def handle_error(self, request: Any, client_address: Any) -> None:
            del request, client_address  # no handshake: a traceback helps nobody

        def shutdown(self) -> None:
            socketserver.BaseServer.shutdown(self)  # pynetdicom's wants a server that it has started itself
            self.server_close()

    return BoundedServer
