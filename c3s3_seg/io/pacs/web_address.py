"""The address of a DICOMweb server, and the credentials, kept out of the command line and of messages."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from c3s3_seg.errors import InputError
from c3s3_seg.io.pacs.nodes import is_loopback

TOKEN, USER, PASSWORD = "C3S3_SEG_TOKEN", "C3S3_SEG_USER", "C3S3_SEG_PASSWORD"
FORM = "https://host/path"


def is_web(text: str) -> bool:
    """Return whether the text of a server is the address of a DICOMweb server."""
    return re.match(r"https?:", text, re.IGNORECASE) is not None


@dataclass(frozen=True)
class WebAddress:
    """The address `https://host:port/path`, without a final `/`, below which a server has `/studies`."""

    url: str

    @classmethod
    def parse(cls, text: str, *, allow_http: bool = False) -> WebAddress:
        """Parse the text of an address.

        Parameters
        ----------
        text
            `https://host/path`, or `http://` to this machine.
        allow_http
            Whether to accept `http://` to other machines: nothing is encrypted then.

        Raises
        ------
        InputError
            If the text has another form, or names a user or a password. The text is not repeated.
        """
        try:
            parts = urlsplit(text)
            host, port, scheme = parts.hostname or "", parts.port, parts.scheme.lower()
        except ValueError:
            host, port, scheme = "", 0, ""
        if "@" in text:
            raise InputError(
                "found a user, a password or another '@' in the address of a server: other users of this"
                f" machine see it there; wanted {FORM}",
                todo=f"Set {USER} and {PASSWORD}, or {TOKEN}, in the environment",
            )
        plain = re.fullmatch(r"https?://[!$&'()*+,;=\-.0-9A-Za-z_~%/:\[\]]+", text, re.IGNORECASE)
        if plain is None or port == 0 or re.fullmatch(r"[0-9A-Za-z._-]+|[0-9A-Fa-f:.]+", host) is None:
            raise InputError(f"found an address of a server that is none, wanted {FORM}")
        if scheme == "http" and not (allow_http or is_loopback(host)):
            raise InputError(
                f"http:// to {host} is not encrypted: whoever is on the way reads the studies",
                todo="Give https://, or allow it with --allow-http",
            )
        shown = f"[{host}]" if ":" in host else host
        place = shown if port is None else f"{shown}:{port}"
        return cls(f"{scheme}://{place}{parts.path.rstrip('/')}")

    @property
    def is_encrypted(self) -> bool:
        """Whether the address is `https://`."""
        return self.url.startswith("https:")

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        return is_loopback(urlsplit(self.url).hostname or "")

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Credentials:
    """The credentials that a server requires: a token, or a user and a password; or nothing."""

    token: str = field(default="", repr=False)
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Raise InputError, without repeating a value, unless the credentials can be sent."""
        if self.token and (self.user or self.password):
            raise InputError(f"found {TOKEN} and {USER} in the environment; wanted one of them")
        if bool(self.user) != bool(self.password) or ":" in self.user:
            raise InputError(f"wanted {USER}, without ':', and {PASSWORD} in the environment, or neither")
        if re.fullmatch(r"[A-Za-z0-9\-._~+/]*=*", self.token) is None:  # RFC 6750, 2.1
            raise InputError(f"{TOKEN} holds characters that no token has, such as blanks or the word Bearer")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Credentials:
        """Read credentials from `C3S3_SEG_TOKEN`, or `C3S3_SEG_USER` and `C3S3_SEG_PASSWORD`."""
        given = os.environ if environment is None else environment
        return cls(*(given.get(name, "") for name in (TOKEN, USER, PASSWORD)))

    @property
    def authorization(self) -> str:
        """The value of the header `Authorization`; empty without credentials."""
        if self.token:
            return f"Bearer {self.token}"
        if self.user:
            return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return ""
