"""The two ends of a DICOM connection: a server, and the receiver of files of a C-MOVE."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from c3s3_seg.errors import InputError

SERVER_FORMS = "TITLE@host:port, or https://host/path"


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


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its address or by the name `localhost`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def is_title(text: str) -> bool:
    """Return whether a text is an AE title (PS3.5, 6.2, AE): printable ASCII without `\\`, not blank."""
    plain = text.isascii() and text.isprintable() and "\\" not in text
    return plain and 1 <= len(text) <= 16 and bool(text.strip())


def _parse(text: str) -> tuple[str, str, int]:
    match = re.fullmatch(r"([^@]{1,16})@([^@\s]+):([0-9]{1,5})", text)
    if match is None or not 0 < int(match[3]) < 65536 or not is_title(match[1]):
        # A colon before the @ belongs to a login, which is not repeated.
        shown = "" if ":" in text.partition("@")[0] else f" '{text}'"
        raise InputError(f"found the server{shown}, wanted {SERVER_FORMS}")
    return match[1], match[2], int(match[3])
