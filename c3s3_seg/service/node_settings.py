"""The tables of the settings that say where studies come from and where results go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from c3s3_seg.io.pacs.association import AssociationListener, Caller, Node, Tls
from c3s3_seg.io.pacs.receiver import Gate
from c3s3_seg.service.value_types import Count, Modality, Port, Positive
from c3s3_seg.system.schema import Rule, closed


@closed
@dataclass(frozen=True)
class WatchSettings:
    """A folder that studies are put into.

    Parameters
    ----------
    folder
        Its files are copied and stay as they are.
    every_s
        How often it is looked at.
    settle_s
        An entry of it is taken once nothing in it has changed for so long.
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
        Our own title, and the address: loopback unless another is given.
    hosts
        Hosts that may connect; any if there are none.
    certificate, trust
        PEM files: our certificate with its key; the authorities of the senders' certificates. With both
        the listener speaks TLS only.
    associations
        How many at once.
    timeout_s
        How long a sender may be silent.
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
        """Who may send what."""
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
        TITLE@host:port.
    title
        Our own title, as it knows us.
    tls, trust, certificate
        Whether to encrypt; PEM files: authorities of the server's certificate, our certificate with its key.
        A file implies `tls`.
    timeout_s
        How long it may take to answer.
    """

    server: str
    title: str = "C3S3SEG"
    tls: bool = False
    trust: Path | None = None
    certificate: Path | None = None
    timeout_s: Positive = 30.0

    @property
    def node(self) -> Node:
        """The server."""
        return Node.parse(self.server)

    @property
    def caller(self) -> Caller:
        """How we introduce ourselves."""
        encrypted = self.tls or self.trust is not None or self.certificate is not None
        return Caller(self.title, self.timeout_s, Tls(self.trust, self.certificate) if encrypted else None)


@closed
@dataclass(frozen=True)
class PollSettings(NodeSettings):
    """A PACS that is asked for new series (C-FIND), which are fetched (C-GET or C-MOVE).

    Parameters
    ----------
    modalities
        Of the series.
    days
        How many days before the last poll StudyDate may lie.
    every_s
        How often it is asked.
    move_title, move_listen
        To fetch by C-MOVE: our title, as the server knows it, and `host:port` that it sends to.
    """

    modalities: tuple[Modality, ...] = ("MR", "CT")
    days: Annotated[int, Rule(lambda value: 0 <= value <= 3650, "a number of days")] = 1
    every_s: Positive = 60.0
    move_title: str | None = None
    move_listen: str | None = None

    @property
    def listener(self) -> AssociationListener | None:
        """Where files of a C-MOVE are received."""
        if self.move_title is None:
            return None
        return AssociationListener.parse(self.move_title, self.move_listen)
