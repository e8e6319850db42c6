"""Detect the type of a file from its first bytes, without heavy imports: searching a folder is cheap."""

from __future__ import annotations

import os
from pathlib import Path

from c3s3_seg.errors import cause_of

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"  # SOP class of a DICOMDIR
# PS3.10, 7.1: 128 bytes of preamble, then the prefix.
PREFIX_END = 132
# PS3.10, 7.1: the meta information begins with its length or, in some files, with its version.
META_BEGINS = (b"\x02\0\0\0UL\4\0", b"\x02\0\1\0OB")


def first_bytes(path: Path, count: int = PREFIX_END) -> bytes:
    """Return the first bytes of a file; empty if the file cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return b""


def begins_as_dicom(head: bytes) -> bool:
    """Return whether the bytes begin a DICOM file: with the prefix or, without one, group 0002 or 0008."""
    if head[128:PREFIX_END] == b"DICM" or (len(head) == PREFIX_END and head.startswith(META_BEGINS)):
        return True
    explicit = head[4:6] in (b"UL", b"CS", b"UI", b"DA", b"SH", b"LO")
    implicit = head[5:8] == bytes(3)
    return (
        len(head) == PREFIX_END
        and head[:2] == b"\x08\x00"
        and head[3:4] == b"\x00"
        and (explicit or implicit)
    )


def is_dicom(path: Path) -> bool:
    """Return whether a file begins like a DICOM file, or has the suffix of one."""
    # Unlike Path.is_file, os.path.isfile does not raise for a name that is too long.
    return os.path.isfile(path) and (
        path.suffix.lower() in DICOM_SUFFIXES or begins_as_dicom(first_bytes(path))
    )


def why_unreadable(path: Path) -> str:
    """Return why a regular file that is there cannot be read, so that its type is not known; "" if it can."""
    try:
        if os.path.isfile(path):  # opening a pipe would block
            with path.open("rb") as file:
                file.read(1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return cause_of(error)
    return ""


def is_zip(path: Path) -> bool:
    """Return whether a file is named like a zip archive and begins like one, as far as it can be read."""
    if path.suffix.lower() != ".zip" or not os.path.isfile(path):
        return False
    return first_bytes(path, 2) == b"PK" or bool(why_unreadable(path))


def is_dicomdir(path: Path) -> bool:
    """Return whether a file is the index (DICOMDIR) of a DICOM medium."""
    return MEDIA_DIRECTORY.encode() in first_bytes(path, 512)
