"""Collect the files to send to a PACS: named files, and DICOM objects of this program in folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.errors import C3S3Error, FileName, InputError
from c3s3_seg.io.cases import is_passed_over, refuse_depth
from c3s3_seg.io.deflated import header_of
from c3s3_seg.io.detect import MEDIA_DIRECTORY, begins_as_dicom, first_bytes
from c3s3_seg.io.dicom_objects.codes import Uid
from c3s3_seg.io.pacs.query import text_of
from c3s3_seg.system.ownership import PROGRAM

NO_DICOM, DIRECTORY = "no DICOM file", "the index of a DICOM medium"
OUTWARD, HIDDEN, TWICE = "a link that leads out of the folder", "hidden", "an instance that is sent already"
FOREIGN = f"a DICOM object that {PROGRAM} did not make (--all sends it too)"
ALREADY_THERE = "the server has an instance with this UID already and kept it"
DAMAGED = (
    "a DICOM file that cannot be sent: it has no preamble, or its header is damaged or contradicts itself"
)


@dataclass(frozen=True)
class Outgoing:
    """A file that can be sent.

    Parameters
    ----------
    path, name
        The file, and its name in messages.
    kind, syntax, instance
        Its SOP class, transfer syntax and SOP instance UIDs.
    maker
        Manufacturer in its header.
    state
        State of the file when it was inspected.
    """

    path: Path
    name: FileName
    kind: Uid
    syntax: Uid
    instance: Uid
    maker: str = ""
    state: tuple[int, ...] = ()

    def check_unchanged(self) -> None:
        """Raise OneFileError if the file has changed since it was inspected, or is a pipe."""
        try:
            same = _state(self.path) == self.state
        except OSError:
            same = False
        if not same:
            what = "it was changed, or removed, after it was looked at"
            raise OneFileError(what, where=self.name, todo="Send it again")


class OneFileError(InputError):
    """A file that was not stored, for a reason that does not affect the next files."""


@dataclass(frozen=True)
class Sent:
    """The result of sending a file.

    Parameters
    ----------
    file
        The file.
    error
        Reason why the server does not have the file now; None if it has.
    note
        Note for the user about a file that the server has.
    """

    file: Outgoing
    error: C3S3Error | None = None
    note: str = ""


@dataclass(frozen=True)
class Outbox:
    """The files to send, and the skipped ones.

    Parameters
    ----------
    files
        Files in the order in which they are sent.
    skipped
        Reason -> names of the skipped files.
    """

    files: tuple[Outgoing, ...]
    skipped: dict[str, tuple[str, ...]]


def collect(paths: Sequence[Path], *, every: bool = False) -> Outbox:
    """Collect the DICOM objects to send from files and folders.

    Parameters
    ----------
    paths
        Files, sent whatever DICOM object they are, except the index of a medium; and folders, from which,
        and from those below, the objects made by this program are sent.
    every
        Whether to send all DICOM objects of folders.

    Raises
    ------
    InputError
        If a named file is not a DICOM file, or a folder cannot be read.
    """
    files: dict[Uid, Outgoing] = {}
    skipped: dict[str, list[str]] = {}
    for path, name, reason, is_named in _every(paths):
        file = None if reason else _outgoing_or_none(path, name, is_named)
        reason = reason or _reason_against(path, file, every or is_named)
        if not reason and file is not None and file.instance in files:
            reason = TWICE
        if reason or file is None:
            skipped.setdefault(reason, []).append(f"{name}")
        else:
            files[file.instance] = file
    return Outbox(tuple(files.values()), {reason: tuple(names) for reason, names in skipped.items()})


def _every(paths: Sequence[Path]) -> Iterator[tuple[Path, FileName, str, bool]]:
    """Yield each file, its name in messages, why it is skipped unread, and whether the user named it."""
    for given in paths:
        if not given.is_dir():
            yield given, FileName(str(given), str(given)), "", True
            continue
        for number, (path, reason) in enumerate(_looked_through(given), 1):
            # The name of a file beside DICOM files may be that of a patient.
            yield path, FileName(str(path), f"{given}: file {number}"), reason, False


def _reason_against(path: Path, file: Outgoing | None, every: bool) -> str:
    if file is None:
        damaged = path.is_file() and begins_as_dicom(first_bytes(path))
        return DAMAGED if damaged else NO_DICOM
    if file.kind == MEDIA_DIRECTORY:
        return DIRECTORY
    return "" if every or file.maker == PROGRAM else FOREIGN


def _looked_through(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files below a folder, sorted, and skipped folders, with the reason for skipping unread."""

    def refuse(error: OSError) -> None:
        raise InputError(f"the folder cannot be read: {error.strerror}", where=folder) from error

    inside = os.path.realpath(folder)
    for root, folders, files in os.walk(folder, onerror=refuse):
        refuse_depth(Path(root), folder)
        below = [Path(root) / name for name in sorted(folders)]
        passed = {path: HIDDEN if is_passed_over(path) else _outward(path, inside) for path in below}
        # A link to a folder inside leads to files that are inspected anyway.
        folders[:] = [path.name for path in below if not passed[path] and not path.is_symlink()]
        yield from ((path, reason) for path, reason in passed.items() if reason)
        for path in (Path(root) / name for name in sorted(files)):
            yield path, HIDDEN if is_passed_over(path) else _outward(path, inside)


def _outward(path: Path, inside: str) -> str:
    if not path.is_symlink():
        return ""
    return "" if os.path.realpath(path).startswith(os.path.join(inside, "")) else OUTWARD


def _outgoing_or_none(path: Path, name: FileName, is_named: bool) -> Outgoing | None:
    try:
        return outgoing(path, name)
    except InputError:
        if is_named:
            raise
        return None


def _state(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_mode, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def outgoing(path: Path, name: FileName | None = None) -> Outgoing:
    """Return a file as one that can be sent.

    Raises
    ------
    InputError
        If it is not a DICOM file, or has no valid UIDs or contradictory ones.
    """
    name = name or FileName(str(path), str(path))
    if not path.exists():
        raise InputError("there is no such file", where=name)
    try:
        if not path.is_file():  # reading a pipe would block
            raise OSError("no regular file")
        state = _state(path)
        wanted = ["SOPClassUID", "SOPInstanceUID", "Manufacturer"]
        data = header_of(path, specific_tags=wanted)
        meta = data.file_meta
        kind, instance = Uid(str(meta.MediaStorageSOPClassUID)), Uid(str(meta.MediaStorageSOPInstanceUID))
        same = (text_of(data, "SOPClassUID"), text_of(data, "SOPInstanceUID")) == (kind, instance)
        if not same and kind != MEDIA_DIRECTORY:
            raise ValueError("two instances in one file")
        syntax = Uid(str(meta.TransferSyntaxUID))
        return Outgoing(path, name, kind, syntax, instance, text_of(data, "Manufacturer"), state)
    except Exception as error:  # pydicom raises whatever its parser trips over
        raise InputError("this is not a DICOM file that can be sent", where=name) from error
