"""A DICOMweb server on loopback that can misbehave in ways that no good server does."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

STUDY, SERIES, MR = "1.2.3", "1.2.3.1", "1.2.840.10008.5.1.4.1.1.4"
MARK = "a-mark-between-parts"


def instance(number: int, **change: Any) -> bytes:
    """Return a file of a study as a server stores it, with the server's own preamble and header."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MR, f"{SERIES}.{number}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.SourceApplicationEntityTitle = "SERVER"
    data = FileDataset("", Dataset(), file_meta=meta, preamble=b"MZ" + bytes(126))
    data.SOPClassUID, data.SOPInstanceUID = MR, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = STUDY, SERIES
    data.PatientID, data.AccessionNumber, data.InstanceNumber = "P", "A77", str(number)
    for keyword, value in change.items():
        setattr(data, keyword, value)
    buffer = BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def found(**values: Any) -> dict[str, Any]:
    """Return an item of an answer to a search."""
    data = Dataset()
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return dict(data.to_json_dict())


@dataclass
class Behaviour:
    """The behaviour of the server.

    Parameters
    ----------
    search, series
        Answers to a search for studies, and for series: JSON, or bytes that are sent unchanged.
    parts
        Parts of the answer to a transfer.
    code
        Status of every answer; `store_codes` holds the status of each store in turn.
    headers
        Additional headers of every answer.
    media, ending
        Content type of a transfer, and the bytes behind its last part.
    line
        Bytes repeated for ever in place of the length of a chunk, behind `before_line`.
    endless
        Bytes repeated for ever in place of the parts.
    drip_s
        Seconds between single bytes, sent without end in place of an answer; 0 to answer.
    stored, stored_media
        Body of the answers to a store, and its content type. None: the file is reported as stored.
    """

    search: Any = field(default_factory=lambda: [found(StudyInstanceUID=STUDY)])
    series: Any = field(default_factory=lambda: [found(SeriesInstanceUID=SERIES)])
    parts: list[bytes] = field(default_factory=list)
    code: int = 200
    store_codes: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    media: str = f'multipart/related; type="application/dicom"; boundary={MARK}'
    ending: bytes = f"\r\n--{MARK}--".encode()
    line: bytes = b""
    before_line: bytes = b""
    endless: bytes = b""
    drip_s: float = 0.0
    stored: Any = None
    stored_media: str = "application/dicom+json"
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


def _reported(body: bytes) -> dict[str, Any]:
    """Return the answer to a store by a server that has stored the file (PS3.18, 10.5.3.2)."""
    data = dcmread(BytesIO(body.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]))
    item = found(ReferencedSOPClassUID=data.SOPClassUID, ReferencedSOPInstanceUID=data.SOPInstanceUID)
    return {"00081199": {"vr": "SQ", "Value": [item]}}


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        how = self.server.how
        how.requests.append(("GET", self.path, dict(self.headers.items()), b""))
        path = self.path.partition("?")[0]
        if how.line:
            self._head(how.code, {"Content-Type": how.media, "Transfer-Encoding": "chunked"})
            self.wfile.write(how.before_line)
            while True:
                self.wfile.write(how.line)
        if path.endswith(("/studies", "/series")):
            answer = how.search if path.endswith("/studies") else how.series
            self._answer(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
            return
        self._head(how.code, {"Content-Type": how.media})
        while how.endless:
            self.wfile.write(how.endless)
        for part in how.parts:
            head = f"\r\n--{MARK}\r\nContent-Type: application/dicom\r\n\r\n".encode()
            self.wfile.write(head + part)
        self.wfile.write(how.ending)

    def do_POST(self) -> None:
        how = self.server.how
        body = self.rfile.read(int(self.headers["Content-Length"]))
        how.requests.append(("POST", self.path, dict(self.headers.items()), body))
        stored = _reported(body) if how.stored is None else how.stored
        self._answer(
            stored if isinstance(stored, bytes) else json.dumps(stored).encode(),
            how.store_codes.pop(0) if how.store_codes else how.code,
            how.stored_media,
        )

    def _answer(self, body: bytes, code: int = 0, media: str = "application/dicom+json") -> None:
        how = self.server.how
        if how.drip_s:
            with suppress(OSError):
                self._drip(how.drip_s)
            return
        self._head(code or how.code, {"Content-Type": media})
        self.wfile.write(body)

    def _drip(self, pause_s: float) -> None:
        while True:
            self.wfile.write(b"H")
            self.wfile.flush()
            time.sleep(pause_s)

    def _head(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, **self.server.how.headers}.items():
            self.send_header(name, value)
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    how: Behaviour

    def handle_error(self, *_: object) -> None:
        """Ignore errors: these tests make the client close the connection."""


@contextmanager
def serving(how: Behaviour, certificate: Path | None = None, trusted: Path | None = None) -> Iterator[str]:
    """Run a server until the end of the block and yield its address; with TLS if a certificate is given."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.how = how
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=trusted)
        context.load_cert_chain(certificate)
        context.verify_mode = ssl.CERT_REQUIRED if trusted else ssl.CERT_NONE
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_address[1]}/dicom-web"
    finally:
        server.shutdown()
        server.server_close()
