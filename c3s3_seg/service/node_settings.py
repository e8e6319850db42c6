"""The tables of the settings for the sources of studies and the targets of results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from c3s3_seg.errors import InputError
from c3s3_seg.io.pacs.association import Caller
from c3s3_seg.io.pacs.nodes import AssociationListener, Node
from c3s3_seg.io.pacs.receiver import Gate
from c3s3_seg.io.pacs.tls import Tls
from c3s3_seg.service.value_types import Count, Modality, Port, Positive
from c3s3_seg.system.schema import Rule, closed

EVERY_HOST = {"0.0.0.0", "::", "[::]"}  # addresses that stand for all of this machine


@closed
@dataclass(frozen=True)
class WatchSettings:
    """A folder that studies are put into.

    Parameters
    ----------
    folder
        The folder; its files are copied and stay unchanged.
    every_s
        Seconds between two inspections.
    settle_s
        Seconds without a change after which an entry of the folder is taken.
    """

    folder: Path
    every_s: Positive = 5.0
    settle_s: Positive = 10.0


@closed
@dataclass(frozen=True)
class ListenSettings:
    """A DICOM listener (C-STORE SCP).

    Parameters
    ----------
    callers
        AE titles that may send.
    title, host, port
        AE title and address of the listener; default: loopback.
    hosts
        Hosts that may connect; if empty, any host may.
    certificate, trust
        PEM files: the listener's certificate with its key; the authorities of the senders' certificates.
        With both the listener speaks TLS only.
    associations
        Largest number of simultaneous associations.
    timeout_s
        Seconds that a sender may be silent.
    """

    callers: tuple[str, ...]
    title: str = "C3S3SEG"
    host: str = "127.0.0.1"
    port: Port = 11112
    hosts: tuple[str, ...] = ()
    certificate: Path | None = None
    trust: Path | None = None
    associations: Count = 8
    timeout_s: Positive = 60.0

    def gate(self, object_bytes: int) -> Gate:
        """Return the rules for senders and for objects of up to `object_bytes`."""
        listener = AssociationListener(self.title, self.host, self.port, self.hosts)
        tls = Tls(self.trust, self.certificate) if self.certificate or self.trust else None
        return Gate(listener, self.callers, tls, self.associations, object_bytes, self.timeout_s)


@closed
@dataclass(frozen=True)
class NodeSettings:
    """A PACS that results are stored to.

    Parameters
    ----------
    server
        Address as TITLE@host:port.
    title
        AE title of this program, as the server knows it.
    tls, trust, certificate
        Whether to encrypt; PEM files: authorities of the server's certificate, own certificate with its key.
        Either file implies `tls`.
    timeout_s
        Seconds that the server may take to answer.
    """

    server: str
    title: str = "C3S3SEG"
    tls: bool = False
    trust: Path | None = None
    certificate: Path | None = None
    timeout_s: Positive = 30.0

    @property
    def node(self) -> Node:
        """The parsed address of the server."""
        if self.server.lower().startswith(("http://", "https://")):  # may hold a password
            what = "a server is given by its DICOMweb address; the service stores and polls by DIMSE only"
            raise InputError(what, todo="Give TITLE@host:port")
        return Node.parse(self.server)

    @property
    def caller(self) -> Caller:
        """The calling side: AE title, timeout and TLS."""
        encrypted = self.tls or self.trust is not None or self.certificate is not None
        return Caller(self.title, self.timeout_s, Tls(self.trust, self.certificate) if encrypted else None)


@closed
@dataclass(frozen=True)
class PollSettings(NodeSettings):
    """A PACS that is queried for new series (C-FIND), which are fetched (C-GET or C-MOVE).

    Parameters
    ----------
    modalities
        Modalities of the series.
    days
        Number of days that StudyDate may lie before the last poll.
    every_s
        Seconds between two polls.
    move_title, move_listen
        For C-MOVE: own AE title, as the server knows it, and `host:port` to which the server sends.
    """

    modalities: Annotated[tuple[Modality, ...], Rule(bool, "at least one")] = ("MR", "CT")
    days: Annotated[int, Rule(lambda value: 0 <= value <= 3650, "a number of days")] = 1
    every_s: Positive = 60.0
    move_title: str | None = None
    move_listen: str | None = None

    @property
    def listener(self) -> AssociationListener | None:
        """The listener that receives files of a C-MOVE; None without `move_title`."""
        if self.move_title is None:
            return None
        return AssociationListener.parse(self.move_title, self.move_listen)

    def check_move(self, listen: ListenSettings | None) -> None:
        """Raise InputError if the listener for a C-MOVE cannot work beside the listener of the service.

        Parameters
        ----------
        listen
            Listener of the service, which holds its address all the time; None without one.
        """
        if self.move_listen is not None and self.move_title is None:
            raise InputError("poll.move_listen has no effect without poll.move_title", todo="Give both")
        listener = self.listener
        if listener is None:
            return
        if self.caller.tls is not None and (self.trust is None or self.certificate is None):
            raise InputError(
                "poll.move_title with TLS needs a certificate of its own, and one to check the server's by",
                todo="Give both poll.certificate and poll.trust, or fetch without poll.move_title",
            )
        hosts = {listener.host, listen.host} if listen is not None else set()
        same = len(hosts) == 1 or bool(hosts & EVERY_HOST)
        if listen is not None and same and listener.port == listen.port:
            raise InputError(
                f"poll.move_listen is {listener.host}:{listener.port}, which serve.listen holds",
                todo="Give another port in poll.move_listen",
            )
