"""What a server sends of a study: gathered aside, and put into place when it is whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from c3s3_seg.errors import C3S3Error, InputError, RefusedError
from c3s3_seg.io.dicom_objects.codes import Uid
from c3s3_seg.io.pacs.association import SUCCESS
from c3s3_seg.io.pacs.query import NAMES, FetchLimits, Wanted, text_of
from c3s3_seg.system.files import make_folder, read_regular, write_whole

NOT_UNDERSTOOD, NO_ROOM, NOT_ALLOWED = 0xC000, 0xA700, 0x0124
ASIDE = ".c3s3-seg-fetch-"  # hidden: nothing that looks for scans looks into it


@dataclass
class Inbox:
    """Takes the files of one study into a folder aside.

    Parameters
    ----------
    aside
        The folder; `put_in_place` moves what came.
    wanted, limits
        What may come, and how much.
    listening
        Whether the server connects to us: a file of another study is then somebody else's order, and refused
        without ending ours.
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
    _bytes: int = 0
    _on_wire: int = 0
    _links: list[Any] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """The clock starts."""
        self._end = time.monotonic() + self.limits.seconds_s

    def expect(self, accession: str, patient: str) -> None:
        """What the server says of the study before it sends it; every file must be of that patient.

        Raises
        ------
        InputError
            If it is of another accession number or patient than was asked for.
        """
        asked, returned = self.wanted, {"accession": accession, "patient": patient}
        for name, value in returned.items():
            if value and getattr(asked, name) not in ("", value):
                raise InputError(f"the study on the server is of another {name}, which was not asked for")
        self.wanted = replace(asked, patient=asked.patient or patient)

    def store(self, event: Any) -> int:
        """Answer a C-STORE with a status; a listener has a thread for each connection."""
        with self._turn:
            try:
                return self._take(event)
            except C3S3Error as error:
                self.errors.append(error)
                return NO_ROOM
            except Exception as error:  # pydicom raises whatever its parser trips over
                self._refuse(f"a file that cannot be read ({type(error).__name__})")
                return NOT_UNDERSTOOD

    def _take(self, event: Any) -> int:
        from pydicom import dcmread

        content, bare = event.encoded_dataset(), event.encoded_dataset(include_meta=False)
        header = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=list(NAMES))
        reason = self.wanted.objection(header) or self._unlike_its_message(header, event.request)
        if reason:
            if not self.listening or text_of(header, "StudyInstanceUID") == self.wanted.study:
                self._refuse(reason)
            return NOT_UNDERSTOOD
        uid, digest = Uid(text_of(header, "SOPInstanceUID")), hashlib.sha256(bare).digest()
        if self._hashes.setdefault(uid, digest) != digest:
            self._refuse("two different files of one SOP Instance UID")
            return NOT_UNDERSTOOD
        if uid not in self.files:
            self._keep(uid, text_of(header, "SeriesInstanceUID"), content)
        self.taken += 1
        return SUCCESS

    def _unlike_its_message(self, header: Any, request: Any) -> str:
        """The message around a file names it too (PS3.7, 9.1.1.1): both must be of one object and patient."""
        named = {"SOPInstanceUID": request.AffectedSOPInstanceUID, "SOPClassUID": request.AffectedSOPClassUID}
        if any(text_of(header, name) != str(value or "") for name, value in named.items()):
            return "a file that is not the one that its message names"
        self._patients |= {text_of(header, "PatientID")} - {""}
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
        """Count what comes over a connection: of a file that never ends no size is ever known."""
        self._on_wire += len(event.data)
        # Beside the files there are the messages around them, and what is refused.
        if self._on_wire > 2 * self.limits.size_bytes + (1 << 20):
            self.stop(f"more than {self.limits.size_bytes:,} bytes came", "--max-size")

    def stop(self, why: str, option: str) -> None:
        """Break every connection, with the reason why."""
        self.errors.append(RefusedError(f"the transfer was stopped: {why}", todo=f"Allow more with {option}"))
        for link in self._links:
            cut(link)

    @contextmanager
    def watching(self, *links: Any) -> Iterator[None]:
        """While the block runs, these connections end when the time is over."""
        self._links += links
        why = f"it took more than {self.limits.seconds_s:g} s"
        timer = threading.Timer(max(0.0, self._end - time.monotonic()), self.stop, (why, "--max-time"))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @property
    def folders(self) -> list[Path]:
        """One for each series."""
        return sorted({path.parent for path in self.files.values()})

    def follow(self, link: Any) -> None:
        """A connection to a listener of ours: it is broken with the others."""
        self._links.append(link)


def cut(link: Any) -> None:
    """Close a connection under whoever reads from it; a polite end would wait for the other side."""
    with suppress(OSError, AttributeError, ValueError):
        link.dul.socket.socket.shutdown(socket.SHUT_RDWR)


@contextmanager
def gathering(out: Path) -> Iterator[Path]:
    """A hidden folder in `out`, readable by this user only, until the end of the block.

    What a killed transfer left is removed first. An `out` that was not there goes again if it stays empty.
    """
    made = [path for path in (out, *out.parents) if not path.exists()]
    make_folder(out)
    _sweep(out)
    try:
        aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=out))
    except OSError as error:
        raise InputError(f"the folder cannot be written to ({error.strerror})", where=out) from error
    try:
        with _held(aside):
            yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(OSError):  # not empty: the study is there
            for path in made:
                path.rmdir()


def _sweep(out: Path) -> None:
    for left in out.glob(f"{ASIDE}*"):
        with suppress(OSError), _held(left):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder of ours until the end of the block or of the process; OSError if another process does."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def put_in_place(inbox: Inbox, out: Path) -> list[Path]:
    """Move a whole study to `out/<series UID>/<instance UID>.dcm`; files that are there already are compared.

    Raises
    ------
    InputError
        If another file is in the place of one, or a file cannot be moved: nothing of the study is left then.
    """
    for folder in inbox.folders:
        place = out / folder.name
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise InputError(
                "a link or a file is in the place of a series' folder", where=place, todo="Move it away"
            )
    places = {path: out / path.relative_to(inbox.aside) for path in inbox.files.values()}
    there = {path for path, place in places.items() if _is_there(path, place)}
    done: list[Path] = []
    try:
        for folder in inbox.folders:
            if not (
                out / folder.name
            ).exists():  # the usual case: a series is there as a whole, or not at all
                _move(folder, out / folder.name, done)
                continue
            for path in sorted(folder.iterdir()):
                if path not in there:
                    _move(path, places[path], done)
    except OSError as error:
        for place in done:
            shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)
        what = f"the files cannot be put into place ({error.strerror or error})"
        raise InputError(what, where=out) from error
    return sorted(places.values())


def _move(path: Path, place: Path, done: list[Path]) -> None:
    path.rename(place)
    done.append(place)


def _is_there(path: Path, place: Path) -> bool:
    """Whether the same file is in its place already."""
    if not place.exists() and not place.is_symlink():
        return False
    size = path.stat().st_size
    same = not place.is_symlink() and place.stat().st_size == size
    if not same or read_regular(place, size) != path.read_bytes():
        raise InputError(
            "another file is in the place of one of the study",
            where=place,
            todo="Move it away, or give another folder with -o",
        )
    return True
