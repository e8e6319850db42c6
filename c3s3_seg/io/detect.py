"""What a file is, from its first bytes: no heavy imports, so that looking through a folder is cheap."""

from __future__ import annotations

import os
from pathlib import Path

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"  # SOP class of a DICOMDIR
# PS3.10, 7.1: 128 bytes of preamble, then the prefix.
PREFIX_END = 132


def first_bytes(path: Path, count: int = PREFIX_END) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except (OSError, ValueError):  # the latter of a name that no file can have
        return b""


def begins_as_dicom(head: bytes) -> bool:
    """Whether these first bytes are DICOM's: the prefix or, in files without one, group 0008 at once."""
    if head[128:PREFIX_END] == b"DICM":
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
    """Whether a file begins as DICOM does, or says by its name that it is DICOM."""
    # Unlike Path.is_file, it does not raise for a name that is too long.
    return os.path.isfile(path) and (
        path.suffix.lower() in DICOM_SUFFIXES or begins_as_dicom(first_bytes(path))
    )


def is_zip(path: Path) -> bool:
    """Whether a file is named like a zip archive and begins as one."""
    return path.suffix.lower() == ".zip" and os.path.isfile(path) and first_bytes(path, 2) == b"PK"


def is_dicomdir(path: Path) -> bool:
    """Whether a file is the index of a DICOM medium."""
    return MEDIA_DIRECTORY.encode() in first_bytes(path, 512)
