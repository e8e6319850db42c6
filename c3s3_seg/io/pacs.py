"""Talking to a PACS: find a study (C-FIND), fetch it (C-GET or C-MOVE), send what was made of it (C-STORE).

C-GET brings the files over the connection that we open ourselves. Only C-MOVE, where it is asked for,
makes us listen: on loopback unless told otherwise, to the one server, for the one study.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from c3s3_seg.errors import C3S3Error, InputError, RefusedError
from c3s3_seg.files import make_folder, write_whole
from c3s3_seg.io.pacs_link import (
    PLAIN,
    STORED,
    SUCCESS,
    Caller,
    Context,
    Listener,
    Node,
    association,
    check_status,
)

FIND, GET, MOVE = (f"1.2.840.10008.5.1.4.1.2.2.{n}" for n in (1, 3, 2))
# One for each syntax: of several in one context a server takes one, and could send nothing else.
RECEIVED: list[Context] = [(kind, [syntax]) for kind, several in STORED.items() for syntax in several]
NOT_UNDERSTOOD, NO_ROOM = 0xC000, 0xA700


def find_studies(node: Node, accession: str, caller: Caller | None = None) -> list[str]:
    """The study UIDs of an accession number.

    Raises
    ------
    InputError
        If the server cannot be reached or does not answer.
    """
    query = _query("STUDY", AccessionNumber=accession, StudyInstanceUID="")
    with association(node, caller or Caller(), [(FIND, PLAIN)]) as link:
        answers = list(link.send_c_find(query, FIND))
    check_status(node, answers[-1][0] if answers else None, "the search")
    return [str(found.StudyInstanceUID) for _, found in answers if found is not None]


def fetch(
    node: Node,
    out: Path,
    *,
    study: str,
    series: str | None = None,
    caller: Caller | None = None,
    listener: Listener | None = None,
) -> list[Path]:
    """Fetch a study, or a series of it: `out/<series UID>/<instance UID>.dcm`.

    Parameters
    ----------
    node, caller
        The server, and how we introduce ourselves.
    out
        The folder.
    study, series
        UIDs. Without a series all series of the study are fetched.
    listener
        Where the server is to send them (C-MOVE). None: over the connection that we open (C-GET).

    Raises
    ------
    InputError
        If the server cannot be reached, refuses, or sends something that cannot be written.
    RefusedError
        If not all of it came.
    """
    found = {"StudyInstanceUID": study} | ({} if series is None else {"SeriesInstanceUID": series})
    query = _query("STUDY" if series is None else "SERIES", **found)
    caller, inbox = caller or Caller(), _Inbox(out, study)
    if listener is None:
        with association(node, caller, [(GET, PLAIN), *RECEIVED], inbox.store) as link:
            answers = list(link.send_c_get(query, GET))
    else:
        with _listening(listener, node, inbox), association(node, caller, [(MOVE, PLAIN)]) as link:
            answers = list(link.send_c_move(query, listener.title, MOVE))
    if inbox.errors:
        raise inbox.errors[0]
    status = answers[-1][0] if answers else None
    check_status(node, status, "the transfer")
    failed = int(getattr(status, "NumberOfFailedSuboperations", 0) or 0)
    if failed or not inbox.written:
        raise RefusedError(f"{node} sent {len(inbox.written)} files and failed to send {failed}", where=out)
    return sorted(inbox.written)


def send(node: Node, paths: Sequence[Path], caller: Caller | None = None) -> int:
    """Send DICOM files, and return how many.

    Raises
    ------
    InputError
        If a file is no DICOM file, or the server cannot be reached or refuses one.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    wanted = {}
    for path in paths:
        try:
            meta = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).file_meta
            wanted[path] = (str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))
        except (InvalidDicomError, OSError, AttributeError) as error:
            raise InputError("this is not a DICOM file that can be sent", where=path) from error
    contexts = [(kind, [syntax]) for kind, syntax in dict.fromkeys(wanted.values())]
    with association(node, caller or Caller(), contexts) as link:
        for path in paths:
            try:
                status = link.send_c_store(path)
            except ValueError as error:  # pynetdicom: no context was accepted for this class and syntax
                raise InputError(f"{node} does not take files of this kind", where=path) from error
            check_status(node, status, f"'{path.name}'")
    return len(paths)


class _Inbox:
    """Writes what a server sends, if it is of the study that was asked for."""

    def __init__(self, out: Path, study: str) -> None:
        self.out, self.study = out, study
        self.written: list[Path] = []
        self.errors: list[C3S3Error] = []

    def store(self, event: Any) -> int:
        """Answer a C-STORE with a status."""
        data = event.dataset
        data.file_meta = event.file_meta
        study, *names = [
            str(data.get(k, "")) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        ]
        # No file name of ours comes from elsewhere than a UID.
        if study != self.study or not all(re.fullmatch(r"[0-9.]{1,64}", name) for name in names):
            return NOT_UNDERSTOOD
        buffer = BytesIO()
        data.save_as(buffer, enforce_file_format=True)
        path = self.out / names[0] / f"{names[1]}.dcm"
        try:
            make_folder(path.parent)
            write_whole(path, buffer.getvalue())
        except C3S3Error as error:
            self.errors.append(error)
            return NO_ROOM
        self.written.append(path)
        return SUCCESS


@contextmanager
def _listening(listener: Listener, node: Node, inbox: _Inbox) -> Iterator[None]:
    import pynetdicom

    entity = Caller(listener.title).entity([])
    entity.require_called_aet, entity.require_calling_aet = True, [node.title]
    for kind, syntaxes in STORED.items():
        entity.add_supported_context(kind, syntaxes)
    handlers: Any = [(pynetdicom.evt.EVT_C_STORE, inbox.store)]
    try:
        server = entity.start_server((listener.host, listener.port), block=False, evt_handlers=handlers)
    except OSError as error:
        what = f"cannot listen on {listener.host}:{listener.port}: {error.strerror or error}"
        raise InputError(what, todo="Give another address with --listen") from error
    try:
        yield
    finally:
        server.shutdown()


def _query(level: str, **attributes: str) -> Any:
    from pydicom import Dataset

    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in attributes.items():
        setattr(query, keyword, value)
    return query
