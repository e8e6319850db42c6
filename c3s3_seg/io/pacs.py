"""Talking to a PACS: find a study (C-FIND), fetch it (C-GET), send what was made of it (C-STORE).

C-GET brings the files over the connection that we open ourselves, so nothing here ever listens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError, MissingError, RefusedError
from c3s3_seg.files import make_folder, write_whole

AE_TITLE = "C3S3SEG"
LIMIT_S = 30.0  # for an answer; a server that says nothing for so long is not there
SUCCESS, PENDING, WARNING = 0x0000, 0xFF00, 0xB000
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# CT, MR and PET, classic and enhanced; SEG, its label map, and RTSTRUCT.
STORED = [
    _STORAGE + end
    for end in ("2", "2.1", "2.2", "4", "4.1", "4.4", "128", "128.1", "130", "66.4", "66.7", "481.3")
]
SYNTAXES = [
    "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5",
]  # fmt: skip


@dataclass(frozen=True)
class Node:
    """A server: `TITLE@host:port`."""

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Node:
        """From its text.

        Raises
        ------
        InputError
            If it is not that.
        """
        match = re.fullmatch(r"([^@\\]{1,16})@([^@\s]+):(\d{1,5})", text)
        if match is None or not 0 < int(match[3]) < 65536:
            raise InputError(f"found the server '{text}', wanted TITLE@host:port")
        return cls(match[1], match[2], int(match[3]))

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


def find_studies(node: Node, accession: str) -> list[str]:
    """The study UIDs of an accession number.

    Raises
    ------
    InputError
        If the server cannot be reached or does not answer.
    """
    from pydicom import Dataset

    model = "1.2.840.10008.5.1.4.1.2.2.1"
    query = Dataset()
    query.QueryRetrieveLevel, query.AccessionNumber, query.StudyInstanceUID = "STUDY", accession, ""
    with _association(node, [(model, None)]) as link:
        answers = list(link.send_c_find(query, model))
    _check(node, answers[-1][0] if answers else None, "the search")
    return [str(found.StudyInstanceUID) for _, found in answers if found is not None]


def fetch(node: Node, out: Path, *, study: str, series: str | None = None) -> list[Path]:
    """Fetch a study, or a series of it: `out/<series UID>/<instance UID>.dcm`.

    Raises
    ------
    InputError
        If the server cannot be reached, refuses, or sends something that is no instance.
    RefusedError
        If not all of it came.
    """
    from pydicom import Dataset

    model = "1.2.840.10008.5.1.4.1.2.2.3"
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY" if series is None else "SERIES", study
    if series is not None:
        query.SeriesInstanceUID = series
    written: list[Path] = []

    def store(event: Any) -> int:
        data = event.dataset
        data.file_meta = event.file_meta
        names = [str(data.get(k, "")) for k in ("SeriesInstanceUID", "SOPInstanceUID")]
        if not all(re.fullmatch(r"[0-9.]{1,64}", name) for name in names):
            return 0xC000  # cannot understand; and no file name of ours comes from elsewhere than a UID
        buffer = BytesIO()
        data.save_as(buffer, enforce_file_format=True)
        make_folder(out / names[0])
        path = out / names[0] / f"{names[1]}.dcm"
        write_whole(path, buffer.getvalue())
        written.append(path)
        return SUCCESS

    with _association(node, [(model, None), *((c, SYNTAXES) for c in STORED)], store) as link:
        answers = list(link.send_c_get(query, model))
    status = answers[-1][0] if answers else None
    _check(node, status, "the transfer")
    failed = int(getattr(status, "NumberOfFailedSuboperations", 0) or 0)
    if failed or not written:
        raise RefusedError(f"{node} sent {len(written)} files and failed to send {failed}", where=out)
    return sorted(written)


def send(node: Node, paths: Sequence[Path]) -> int:
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
    with _association(node, [(kind, [syntax]) for kind, syntax in dict.fromkeys(wanted.values())]) as link:
        for path in paths:
            try:
                status = link.send_c_store(path)
            except ValueError as error:  # pynetdicom: no context was accepted for this class and syntax
                raise InputError(f"{node} does not take files of this kind", where=path) from error
            _check(node, status, f"'{path.name}'")
    return len(paths)


@contextmanager
def _association(
    node: Node, contexts: Sequence[tuple[str, list[str] | None]], store: Any = None
) -> Iterator[Any]:
    try:
        import pynetdicom
    except ImportError as error:
        raise MissingError("pynetdicom is not installed", todo="pip install 'c3s3-seg[pacs]'") from error
    entity = pynetdicom.AE(ae_title=AE_TITLE)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = LIMIT_S
    for kind, syntaxes in contexts:
        entity.add_requested_context(kind, syntaxes or SYNTAXES[:2])
    roles: Any = (
        [pynetdicom.build_role(kind, scp_role=True) for kind, _ in contexts if kind in STORED]
        if store
        else []
    )
    handlers: Any = [(pynetdicom.evt.EVT_C_STORE, store)] if store else []
    link = entity.associate(node.host, node.port, ae_title=node.title, ext_neg=roles, evt_handlers=handlers)
    if not link.is_established:
        raise InputError(
            f"{node} cannot be reached, or refuses us ('{AE_TITLE}')", todo="Check title, host and port"
        )
    try:
        yield link
    finally:
        link.release()


def _check(node: Node, status: Any, what: str) -> None:
    code = getattr(status, "Status", None)
    if code is None:
        raise InputError(f"{node} did not answer, or broke the connection, during {what}")
    if code not in (SUCCESS, PENDING, WARNING):
        raise InputError(f"{node} refused {what} (status 0x{code:04X})")
