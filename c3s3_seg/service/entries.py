"""The entries of a watched folder: their files, and whether all of their DICOM files can be taken."""

from __future__ import annotations

import filecmp
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.io.cases import is_passed_over, walk_files
from c3s3_seg.io.detect import DICOM_SUFFIXES, PREFIX_END, begins_as_dicom, is_dicomdir
from c3s3_seg.io.pacs.identity import Identity, identity

UNREADABLE = "an entry has files or folders that cannot be read: none of it is taken until they can be"
TOO_LARGE = "an entry has a file larger than serve.limits.object: none of it is taken"
DAMAGED = (
    "an entry has a DICOM file that is empty, damaged or without valid UIDs: none of it is taken until that"
    " file is replaced or removed"
)


REPEATED = (
    "an entry has two different DICOM files of a series with one SOPInstanceUID: none of it is taken until"
    " one is removed"
)


class HeldUpError(InputError):
    """A file of an entry that cannot be taken now: without it a partial study would pass for a whole one."""


def entries_of(folder: Path) -> list[Path]:
    """Return the entries of a watched folder, sorted, without hidden ones and links.

    Raises
    ------
    InputError
        If the folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            names = sorted(e.name for e in found if not e.is_symlink() and not is_passed_over(Path(e.path)))
    except OSError as error:
        what = f"the watched folder cannot be read ({error.strerror or error})"
        raise InputError(what, where=folder) from error
    return [folder / name for name in names]


def files_of(entry: Path) -> Iterator[Path]:
    """Yield the regular files of an entry; links are not followed."""
    paths = walk_files(entry) if entry.is_dir() else [entry]
    yield from (path for path in paths if not path.is_symlink() and path.is_file())


def signature_of(entry: Path) -> str:
    """Return a hash of an entry's paths, sizes and times; UNREADABLE if they cannot be inspected."""
    digest = hashlib.sha256()
    try:
        for path in files_of(entry):
            status = path.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                digest.update(os.fsencode(path) + f"|{status.st_size}|{status.st_mtime_ns}\n".encode())
    except (OSError, C3S3Error):
        return UNREADABLE
    return digest.hexdigest()


def checked_files(entry: Path, object_bytes: int) -> list[Path]:
    """Return the files of an entry, after the headers of its DICOM files were read.

    They are listed once: if the folder could not be listed later, after some of them were taken, the rest
    would be missing.

    Raises
    ------
    HeldUpError
        If a file cannot be read, a DICOM file is larger than `object_bytes`, empty, damaged or without
        valid UIDs, or two different ones have the same UIDs.
    """
    try:
        paths = list(files_of(entry))
        _check_files(paths, object_bytes)
        return paths
    except HeldUpError:
        raise
    except (OSError, C3S3Error) as error:
        raise HeldUpError(UNREADABLE) from error


def _check_files(paths: list[Path], object_bytes: int) -> None:
    suffixes, stubs = set(DICOM_SUFFIXES), set()
    known: dict[tuple[str, str, str], Path] = {}  # as the spool places them
    for path in paths:
        suffix = path.suffix.lower()
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            head = file.read(PREFIX_END)
            if not begins_as_dicom(head):
                if len(head) < PREFIX_END and not head.strip(b"\0DICM"):
                    stubs.add(suffix)
                continue
            if is_dicomdir(path):  # the index of a medium, which states no study
                continue
            if os.fstat(file.fileno()).st_size > object_bytes:
                raise HeldUpError(TOO_LARGE)
            suffixes.add(suffix)
            found = _identity(file)
            other = known.setdefault((found.study, found.series, found.instance), path)
            if other != path and not filecmp.cmp(other, path, shallow=False):
                raise HeldUpError(REPEATED)
    if stubs & suffixes:  # the suffix decides, as when a folder is read: the content shows no kind
        raise HeldUpError(DAMAGED)


def _identity(file: BinaryIO) -> Identity:
    file.seek(0)
    try:
        return identity(file)
    except InputError as error:
        raise HeldUpError(DAMAGED) from error
