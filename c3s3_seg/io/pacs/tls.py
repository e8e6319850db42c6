"""TLS of connections to a PACS, and of those that a listener accepts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.errors import InputError

HANDSHAKE_S = 5.0


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


class _Hasty(ssl.SSLSocket):
    """A socket whose handshake is limited: a silent connection must not keep its thread."""

    def do_handshake(self, block: bool = False) -> None:
        self.settimeout(HANDSHAKE_S)
        super().do_handshake(block)
        self.settimeout(None)
