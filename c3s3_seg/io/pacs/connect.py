"""Which PACS a text means: `TITLE@host:port` or `https://host/path`."""

from __future__ import annotations

from c3s3_seg.errors import InputError
from c3s3_seg.io.pacs.association import AssociationListener, Caller, Node
from c3s3_seg.io.pacs.client import DimseServer
from c3s3_seg.io.pacs.dicomweb import WebServer
from c3s3_seg.io.pacs.server import Server
from c3s3_seg.io.pacs.web_address import Credentials, WebAddress, is_web


def server_of(
    text: str,
    caller: Caller | None = None,
    *,
    listener: AssociationListener | None = None,
    allow_http: bool = False,
) -> Server:
    """The server that a text means.

    Parameters
    ----------
    text
        `TITLE@host:port` for DIMSE, `https://host/path` for DICOMweb. Its token, or user and password, are in
        the environment: see `Credentials`.
    caller
        How we introduce ourselves; DICOMweb has no titles.
    listener
        Where the server is to send files: C-MOVE, by DIMSE alone.
    allow_http
        Take `http://` to other machines too.

    Raises
    ------
    InputError
        If the text is neither, or what is given with it belongs to the other.
    """
    caller = caller or Caller()
    if not is_web(text):
        if allow_http:
            raise InputError("--allow-http is for http://host/path", todo="Leave it out")
        return DimseServer(Node.parse(text), caller, listener)
    address = WebAddress.parse(text, allow_http=allow_http)
    if listener is not None:
        raise InputError("--move is for a server TITLE@host:port", todo="Leave --move out")
    if caller.tls is not None and not address.is_encrypted:
        raise InputError("http:// has no TLS, which was asked for", todo="Give https://host/path")
    return WebServer(address, caller, Credentials.from_environment())


def warning(server: Server) -> str:
    """What has to be said before anything goes over the network; empty if nothing."""
    if isinstance(server, WebServer) and not (server.address.is_encrypted or server.address.is_local):
        return f"{server}: studies, and token or password, go over the network without encryption"
    return ""
