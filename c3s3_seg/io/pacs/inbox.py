"""Receive the files of a study from a server: each is compared with the request, counted and written."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from c3s3_seg.errors import C3S3Error, InputError, RefusedError
from c3s3_seg.io.deflated import header_of
from c3s3_seg.io.dicom_objects.codes import Uid
from c3s3_seg.io.pacs.query import NAMES, FetchLimits, Wanted, count_of, may_be_same, text_of
from c3s3_seg.system.files import make_folder, write_whole

SUCCESS, NOT_UNDERSTOOD, NO_ROOM, NOT_ALLOWED = 0x0000, 0xC000, 0xA700, 0x0124
AGAIN = "Nothing was kept: fetch it again"


@dataclass(frozen=True)
class Came:
    """A received file.

    Parameters
    ----------
    content
        The file as it is written.
    bare
        Data set of the file, without its header.
    named
        Identity of the file as stated by the message or the header around it (PS3.7, 9.1.1.1).
    """

    content: bytes
    bare: bytes
    named: Mapping[str, object]


@dataclass
class Inbox:
    """The files of one study as they are received, in a temporary folder.

    Parameters
    ----------
    aside
        The temporary folder; `put_in_place` moves its files.
    wanted, limits
        The request, and the limits of the transfer.
    listening
        Whether the server connects to a listener: a file of another study then belongs to another request,
        and is refused without ending this one.
    """

    aside: Path
    wanted: Wanted
    limits: FetchLimits = field(default_factory=FetchLimits)
    listening: bool = False
    files: dict[Uid, Path] = field(default_factory=dict)  # instance -> its file, aside
    taken: int = 0  # stores that were accepted, identical ones too
    errors: list[C3S3Error] = field(default_factory=list)
    _hashes: dict[Uid, bytes] = field(default_factory=dict)
    _patients: set[str] = field(default_factory=set)
    _told: str = ""  # PatientID as stated by the server; empty if not stated
    _bytes: int = 0
    _on_wire: int = 0
    _cuts: list[Callable[[], None]] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Start the clock."""
        self._end = time.monotonic() + self.limits.seconds_s

    def expect(self, accession: str, patient: str) -> None:
        """Note the study as the server states it before sending; every file must be of the stated patient.

        Raises
        ------
        InputError
            If the study is of another accession number or patient than requested.
        """
        asked, returned = self.wanted, {"accession": accession, "patient": patient}
        for name, value in returned.items():
            if value and getattr(asked, name) not in ("", value):
                raise InputError(f"the study on the server is of another {name}, which was not asked for")
        self._told = patient

    def look_up(self, server: object, found: Sequence[Any]) -> int | None:
        """Note the study as a server states it, and return its number of files; None if it is not stated.

        Raises
        ------
        InputError
            If it is not the requested study.
        """
        item = self.wanted.meant(server, found)
        self.expect(text_of(item, "AccessionNumber"), text_of(item, "PatientID"))
        return count_of(item, self.wanted.count)

    def check_complete(self, server: object, expected: int | None) -> None:
        """Compare the number of received files with the number that the server has.

        Raises
        ------
        RefusedError
            If fewer files came, or none.
        """
        if not self.files:
            raise RefusedError(f"{server} sent no files", todo=AGAIN)
        if expected is not None and len(self.files) < expected:
            what = f"{server} has {expected} files of this study and sent {len(self.files)}"
            raise RefusedError(what, todo=AGAIN)

    def store(self, event: Any) -> int:
        """Answer a C-STORE with a status; a listener has a thread for each connection."""

        def read() -> Came:
            named = {
                "SOPInstanceUID": event.request.AffectedSOPInstanceUID,
                "SOPClassUID": event.request.AffectedSOPClassUID,
            }
            return Came(event.encoded_dataset(), event.encoded_dataset(include_meta=False), named)

        return self.take(read)

    def take(self, read: Callable[[], Came]) -> int:
        """Keep a file of the study, or note in `errors` why not; return the status of a C-STORE."""
        with self._turn:
            try:
                return self._take(read())
            except C3S3Error as error:
                self.errors.append(error)
                return NO_ROOM
            except Exception as error:  # pydicom raises whatever its parser trips over
                self._refuse(f"a file that cannot be read ({type(error).__name__})")
                return NOT_UNDERSTOOD

    def _take(self, came: Came) -> int:
        header = header_of(came.content, specific_tags=list(NAMES))
        reason = self.wanted.objection(header) or self._unlike(header, came.named)
        if reason:
            if not self.listening or text_of(header, "StudyInstanceUID") == self.wanted.study:
                self._refuse(reason)
            return NOT_UNDERSTOOD
        uid, digest = Uid(text_of(header, "SOPInstanceUID")), hashlib.sha256(came.bare).digest()
        if self._hashes.setdefault(uid, digest) != digest:
            self._refuse("two different files of one SOP Instance UID")
            return NOT_UNDERSTOOD
        if uid not in self.files:
            self._keep(uid, text_of(header, "SeriesInstanceUID"), came.content)
        self.taken += 1
        return SUCCESS

    def _unlike(self, header: Any, named: Mapping[str, object]) -> str:
        """Return why a file is not the named one, or not of the patient of the others; empty if it is."""
        if any(text_of(header, name) != str(value or "") for name, value in named.items()):
            return "a file that is not the one that its message names"
        patient = text_of(header, "PatientID")
        if self._told and patient and not may_be_same(patient, self._told):
            return "a file of another patient"
        self._patients |= {patient} - {""}
        return "files of two patients in one study" if len(self._patients) > 1 else ""

    def _keep(self, uid: Uid, series: str, content: bytes) -> None:
        self._bytes += len(content)
        if len(self.files) >= self.limits.files:
            self.stop(f"more than {self.limits.files:,} files came", "--max-files")
        if self._bytes > self.limits.size_bytes:
            self.stop(f"more than {self.limits.size_bytes:,} bytes came", "--max-size")
        if self.errors:
            raise self.errors[0]
        path = self.aside / Uid(series) / f"{uid}.dcm"
        make_folder(path.parent)
        write_whole(path, content)
        self.files[uid] = path

    def _refuse(self, reason: str) -> None:
        self.errors.append(RefusedError(f"the server sent {reason}", todo="Nothing of the study was kept"))

    def received(self, event: Any) -> None:
        """Count the bytes that come over a DIMSE connection."""
        self.count(len(event.data))

    def count(self, size_bytes: int) -> None:
        """Count bytes as they come: the size of a file that never ends is never known."""
        self._on_wire += size_bytes
        # Besides the files there are the messages around them, and refused files.
        if self._on_wire > 2 * self.limits.size_bytes + (1 << 20):
            self.stop(f"more than {self.limits.size_bytes:,} bytes came", "--max-size")

    def exceeded(self, link: Any) -> None:
        """Note why a DIMSE connection is closed: a file larger than `largest_file`, or a PDU that is none."""
        if not link.is_established:  # a stranger must not end the transfer
            return
        what = "the transfer was stopped: the server sent a file that the memory does not hold"
        self.errors.append(RefusedError(what, todo="Free memory"))

    def stop(self, why: str, option: str) -> None:
        """Break every connection, with the reason why."""
        self.errors.append(RefusedError(f"the transfer was stopped: {why}", todo=f"Allow more with {option}"))
        for cut in self._cuts:
            cut()

    @contextmanager
    def watching(self, *cuts: Callable[[], None]) -> Iterator[None]:
        """Call `cuts`, which break connections, if the time is over while the block runs."""
        self._cuts += cuts
        why = f"it took more than {self.limits.seconds_s:g} s"
        left_s = min(max(0.0, self._end - time.monotonic()), threading.TIMEOUT_MAX)
        timer = threading.Timer(left_s, self.stop, (why, "--max-time"))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @property
    def folders(self) -> list[Path]:
        """The folders of the files, one for each series."""
        return sorted({path.parent for path in self.files.values()})

    def follow(self, cut: Callable[[], None]) -> None:
        """Register a connection to the listener, which is broken with the others."""
        self._cuts.append(cut)
