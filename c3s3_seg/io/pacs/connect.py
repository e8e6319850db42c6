"""Create the PACS that a text names: `TITLE@host:port` or `https://host/path`."""

from __future__ import annotations

from c3s3_seg.errors import InputError
from c3s3_seg.io.pacs.association import Caller
from c3s3_seg.io.pacs.client import DimseServer
from c3s3_seg.io.pacs.dicomweb import WebServer
from c3s3_seg.io.pacs.nodes import AssociationListener, Node
from c3s3_seg.io.pacs.server import Server
from c3s3_seg.io.pacs.web_address import Credentials, WebAddress, is_web


def server_of(
    text: str,
    caller: Caller | None = None,
    *,
    listener: AssociationListener | None = None,
    allow_http: bool = False,
) -> Server:
    """Return the server that a text names.

    Parameters
    ----------
    text
        `TITLE@host:port` for DIMSE, `https://host/path` for DICOMweb. Its token, or user and password, are in
        the environment: see `Credentials`.
    caller
        This client; DICOMweb has no titles.
    listener
        Listener to which the server sends files: C-MOVE, only with DIMSE.
    allow_http
        Whether to accept `http://` to other machines too.

    Raises
    ------
    InputError
        If the text is neither, or an argument does not fit its protocol.
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
    """Return the warning to give before anything goes over the network; empty if there is none."""
    if isinstance(server, WebServer) and not (server.address.is_encrypted or server.address.is_local):
        return f"{server}: studies, and token or password, go over the network without encryption"
    return ""
