"""A PACS over DICOMweb: find a study (QIDO-RS), fetch it (WADO-RS), store results (STOW-RS)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from functools import partial
from http import HTTPStatus
from io import BytesIO
from typing import Any, cast

from c3s3_seg.errors import C3S3Error, InputError, RefusedError, quantity
from c3s3_seg.io.deflated import whole_of
from c3s3_seg.io.pacs.association import DUPLICATE, Caller
from c3s3_seg.io.pacs.connection_limits import largest_file
from c3s3_seg.io.pacs.http_session import ANSWER_BYTES, Wire, client, ending_after, explained, limited
from c3s3_seg.io.pacs.inbox import SUCCESS, Came, Inbox
from c3s3_seg.io.pacs.outbox import ALREADY_THERE, OneFileError, Outgoing, Sent
from c3s3_seg.io.pacs.query import MOST_STUDIES, NAMES, PATIENCE, Wanted, study_keys, study_uids
from c3s3_seg.io.pacs.web_address import Credentials, WebAddress

SENT_BYTES = (1 << 31) - (1 << 20)  # the most that TLS accepts at once
STORE_S = 7200.0
TAIL = 4096
# PS3.10, 7.1: after the preamble the prefix, then (0002,0000) with the length of the rest of the header.
HEADER_BEGINS = b"DICM" + b"\x02\x00\x00\x00UL\x04\x00"
HEADER_BYTES = 1 << 16
# These answers are about the server itself, not about a file.
OF_THE_SERVER = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
COUNTS = ("NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances")


@dataclass(frozen=True)
class WebServer:
    """A PACS that is accessed over DICOMweb; a `Server`.

    Parameters
    ----------
    address
        Address of the server, below which there is `/studies`.
    caller
        Time limit for an answer, and TLS; the title is not used.
    credentials
        Credentials of this client.
    """

    address: WebAddress
    caller: Caller = field(default_factory=Caller)
    credentials: Credentials = field(default_factory=Credentials)

    def __str__(self) -> str:
        return str(self.address)

    def find_studies(self, accession: str, patient: str | None = None) -> list[str]:
        """See `Server`."""
        asked = study_keys(accession, patient)
        wire, late = Wire(limited(ANSWER_BYTES)), list[bool]()

        def end() -> None:
            late.append(True)
            wire.cut()

        with client(self.address, self.caller, self.credentials, wire) as web:
            try:
                with ending_after(PATIENCE * self.caller.timeout_s, end):
                    found = _search(web, asked)
            except C3S3Error:
                raise
            except Exception as error:
                if late:
                    what = f"{self} does not come to an end with its answer"
                    raise InputError(what, todo="Give it longer with --timeout") from error
                raise explained(self.address, error, "the search") from error
        return study_uids(self, found, asked)

    def transfer(self, inbox: Inbox) -> None:
        """See `Server`."""
        wire = Wire(limited(ANSWER_BYTES))
        what = "the search"
        try:
            with (
                client(self.address, self.caller, self.credentials, wire) as web,
                inbox.watching(wire.cut),
            ):
                expected = self._look_up(web, inbox)
                what = "the transfer"
                self._receive(web, wire, inbox)
        except C3S3Error:
            raise
        except Exception as error:
            raise explained(self.address, error, what) from error
        finally:
            if inbox.errors:  # the reason for breaking off says more than the resulting error
                raise inbox.errors[0]
        inbox.check_complete(self, expected)

    def _look_up(self, web: Any, inbox: Inbox) -> int | None:
        """Return how many files the server has of the study or series; None if it does not state it."""
        wanted = inbox.wanted
        found = _search(web, wanted.uids, wanted)
        if not found:
            knows = wanted.series is not None and _search(web, {"StudyInstanceUID": str(wanted.study)})
            raise wanted.unknown(self, series=bool(knows))
        return inbox.look_up(self, found)

    def _receive(self, web: Any, wire: Wire, inbox: Inbox) -> None:
        """Take the parts of the answer one after the other."""
        wanted = inbox.wanted
        series = "" if wanted.series is None else f"/series/{wanted.series}"
        body = _Body(inbox)
        wire.count = body
        # For a study the library returns data sets, which it has decoded; for bulk data it returns the bytes.
        parts = web.iter_bulkdata(f"{self.address}/studies/{wanted.study}{series}")
        end = _closing(wire.media)
        if not end:
            raise RefusedError(f"{self} sent no files, but something else")
        for part in parts:
            body.of_this_file = 0
            if inbox.take(partial(_with_our_header, part)) != SUCCESS:
                return
        if end not in body.tail:
            raise RefusedError(
                f"{self} broke off after {quantity(len(inbox.files), 'file')}", todo="Fetch it again"
            )

    def store(self, files: Sequence[Outgoing]) -> Iterator[Sent]:
        """See `Server`."""
        wire = Wire(limited(ANSWER_BYTES))
        lost: C3S3Error | None = None  # why no more files can be sent
        with client(self.address, self.caller, self.credentials, wire, piece=1 << 40) as web:
            for number, file in enumerate(files):
                sent = self._store(web, wire, file) if lost is None else Sent(file, lost)
                if sent.error is not None and not isinstance(sent.error, OneFileError):
                    if number == 0:
                        raise sent.error
                    lost, sent = sent.error, Sent(file, _about(file, sent.error))
                yield sent

    def _store(self, web: Any, wire: Wire, file: Outgoing) -> Sent:
        """Return the result of sending a file: with a `OneFileError` if the next files may be stored."""
        from requests.exceptions import HTTPError, RequestException

        wire.count = limited(ANSWER_BYTES)
        try:
            with ending_after(STORE_S, wire.cut):
                return _result(self.address, web.store_instances([_whole(file)]), file)
        except C3S3Error as error:
            return Sent(file, _about(file, error) if isinstance(error, OneFileError) else error)
        except HTTPError as error:
            said, answered = explained(self.address, error, "the file"), cast(Any, error.response)
            if answered.status_code in OF_THE_SERVER:
                return Sent(file, said)
            with suppress(Exception):  # the reason is in the body, if the server gives one
                return _failure(self.address, _data_set(answered.json()), file) or Sent(
                    file, _about(file, said)
                )
            return Sent(file, _about(file, said))
        except RequestException as error:
            return Sent(file, explained(self.address, error, "the file"))
        except Exception as error:
            return Sent(file, _about(file, explained(self.address, error, "the file")))


def _about(file: Outgoing, error: C3S3Error) -> OneFileError:
    return OneFileError(error.what, where=file.name, todo=error.todo)


class _Body:
    """A counter for the body of a study, which limits each file to the memory and keeps the end."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._most = largest_file()
        self.of_this_file = 0
        self.tail = b""

    def __call__(self, piece: bytes) -> None:
        self._inbox.count(len(piece))
        if self._inbox.errors:
            raise self._inbox.errors[0]
        self.of_this_file += len(piece)
        if self.of_this_file > self._most:
            what = f"the transfer was stopped: a file of more than {self._most:,} bytes came"
            raise RefusedError(what, todo="Free memory")
        self.tail = (self.tail + piece)[-TAIL:]


def _closing(media: str) -> bytes:
    """Return the mark after the last part of an answer; empty if its parts cannot be told apart.

    The library misreads a mark with `"`, `\\` or `;`, which no mark may have (RFC 2046, 5.1.1): the whole
    answer would be one file.
    """
    message = Message()
    message["Content-Type"] = media
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/related" or not isinstance(boundary, str) or not boundary:
        return b""
    if set(boundary) & set('"\\;'):
        return b""
    return f"\r\n--{boundary}--".encode("latin-1", "replace")


def _search(web: Any, asked: dict[str, str], wanted: Wanted | None = None) -> list[dict[str, str]]:
    """Return the studies that the server finds, or the series of a study if a series is requested."""
    from requests.exceptions import HTTPError

    if wanted is None or wanted.series is None:
        fields = ["StudyInstanceUID", "PatientID", "AccessionNumber", COUNTS[0]]
        found = web.search_for_studies(search_filters=asked, fields=fields, limit=MOST_STUDIES + 1)
    else:
        try:
            series = {"SeriesInstanceUID": asked["SeriesInstanceUID"]}
            fields = ["SeriesInstanceUID", COUNTS[1]]
            found = web.search_for_series(str(wanted.study), search_filters=series, fields=fields)
        except HTTPError as error:  # some servers answer this for an unknown study
            if cast(Any, error.response).status_code != HTTPStatus.NOT_FOUND:
                raise
            return []
    if len(found) > MOST_STUDIES:
        raise InputError(f"the server answered with more than {MOST_STUDIES} studies or series")
    return [_texts(item) for item in found]


def _texts(item: Any) -> dict[str, str]:
    """Return the relevant attributes from DICOM JSON (PS3.18, F.2): single values, as text."""
    from pydicom.datadict import tag_for_keyword

    found = {}
    for name in (*NAMES, *COUNTS):
        held = item.get(f"{tag_for_keyword(name):08X}")
        values = held.get("Value") if isinstance(held, dict) else None
        if isinstance(values, list) and len(values) == 1 and isinstance(values[0], str | int):
            found[name] = str(values[0])
    return found


def _with_our_header(part: bytes) -> Came:
    """Return a received file with a header as C-GET writes it.

    The preamble and header of the server (programs, titles, anything else) are dropped, so that both
    protocols give the same file.
    """
    from pydicom.filereader import read_dataset
    from pydicom.uid import UID
    from pynetdicom.dsutils import create_file_meta, encode_file_meta

    if part[128:140] != HEADER_BEGINS:
        raise RefusedError("the server sent something that is no DICOM file")
    start = 144 + int.from_bytes(part[140:144], "little")
    if start > min(len(part), HEADER_BYTES):  # a length that lies would pass data off as header
        raise RefusedError("the server sent a file with a header of a wrong length")
    # Up to group 0002, without `dcmread`, which unpacks deflated data.
    meta = read_dataset(BytesIO(part[132:start]), False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    syntax = UID(str(meta.TransferSyntaxUID))
    if not syntax.is_transfer_syntax or syntax.is_deflated:  # its unpacked size is not limited
        raise RefusedError("the server sent a file in a transfer syntax that is not taken (deflated)")
    kind, uid = UID(str(meta.MediaStorageSOPClassUID)), UID(str(meta.MediaStorageSOPInstanceUID))
    made = create_file_meta(sop_class_uid=kind, sop_instance_uid=uid, transfer_syntax=syntax)
    bare = bytes(part[start:])
    content = bytes(128) + b"DICM" + encode_file_meta(made) + bare
    return Came(content, bare, {"SOPClassUID": kind, "SOPInstanceUID": uid})


def _whole(file: Outgoing) -> Any:
    file.check_unchanged()
    try:
        if file.path.stat().st_size > SENT_BYTES:
            what, todo = (
                "is larger than what is sent by DICOMweb (2 GB)",
                "Send it by DIMSE (TITLE@host:port)",
            )
            raise OneFileError(what, where=file.name, todo=todo)
        return whole_of(file.path)
    except C3S3Error:
        raise
    except Exception as error:  # pydicom raises whatever its parser trips over
        raise OneFileError(f"cannot be read ({type(error).__name__})", where=file.name) from error


def _data_set(answer: Any) -> Any:
    from pydicom import Dataset

    return Dataset.from_json(answer)


def _result(address: WebAddress, answer: Any, file: Outgoing) -> Sent:
    """Return whether the server has stored a file, by its answer (PS3.18, 10.5.3).

    Only an answer that names the instance as stored says so: the page of a login has the status 200 as well.
    """
    stored = answer.get("ReferencedSOPSequence") or []
    found = _failure(address, answer, file)
    if found is None and not any(item.get("ReferencedSOPInstanceUID") == file.instance for item in stored):
        what = f"{address} does not say that it has stored the file"
        todo = "Check the path of the address, and whether the server asks for a login"
        found = Sent(file, OneFileError(what, where=file.name, todo=todo))
    return found or Sent(file)


def _failure(address: WebAddress, answer: Any, file: Outgoing) -> Sent | None:
    """Return the failure that an answer reports (PS3.18, 10.5.3.2); None if it reports none."""
    failed = answer.get("FailedSOPSequence") or answer.get("OtherFailuresSequence") or []
    if not failed:
        return None
    reason = failed[0].get("FailureReason")
    if reason == DUPLICATE and failed[0].get("ReferencedSOPInstanceUID") == file.instance:
        return Sent(file, note=ALREADY_THERE)
    why = f" (reason 0x{int(reason):04X})" if reason is not None else ""
    return Sent(file, OneFileError(f"{address} did not store the file{why}", where=file.name))
