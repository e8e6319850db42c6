"""sha256 of files, and of all files that make up a scan."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from c3s3_seg.errors import InputError
from c3s3_seg.io.cases import walk_files
from c3s3_seg.io.image import image_stem
from c3s3_seg.io.sniff import is_dicom

DETACHED = (".nhdr", ".mhd")  # their voxels are in a file beside them


def sha256(path: Path) -> str:
    """Of one file, in hexadecimal.

    Raises
    ------
    InputError
        If it cannot be read, or is no regular file: a pipe or a device may never end.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for its other end.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError("wanted a regular file", where=path)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"the file cannot be read: {error.strerror or error}", where=path) from error


def scan_sha256(path: Path) -> str:
    """Of a scan: the file's own where it is one file, else of the list of its files' names and hashes.

    A DICOM folder's file names may hold what they should not, so they go into the hash and nowhere else.

    Raises
    ------
    InputError
        If the scan is not there or cannot be read.
    """
    files = scan_files(path)
    if len(files) == 1 and files[0] == path:
        return sha256(path)
    root = path if path.is_dir() else path.parent
    lines = [os.fsencode(file.relative_to(root)) + b"\0" + sha256(file).encode() + b"\n" for file in files]
    return hashlib.sha256(b"".join(lines)).hexdigest()


def content_sha256(files: Sequence[Path], part: str = "") -> str:
    """Of files whatever they are called and in whatever order: a copy elsewhere is the same.

    Parameters
    ----------
    files
        At least one; of a single one it is the file's own.
    part
        What tells apart two scans in the same files.

    Raises
    ------
    InputError
        If one cannot be read.
    """
    each = sorted(sha256(file) for file in files)
    if len(each) == 1 and not part:
        return each[0]
    return hashlib.sha256("\n".join([*each, part]).encode()).hexdigest()


def input_sha256(scan: Path, truth: Path | None) -> dict[str, str]:
    """Of what a case is made from: its scan and, where it has one, its truth.

    Raises
    ------
    InputError
        If one of them cannot be read.
    """
    hashes = {"scan": scan_sha256(scan)}
    return hashes if truth is None else {**hashes, "truth": sha256(truth)}


def scan_files(path: Path) -> list[Path]:
    """The files that a scan is read from, or may be: more rather than fewer, sorted."""
    if path.is_dir():
        return [file for file in walk_files(path) if is_dicom(file)]
    if path.suffix.lower() in DETACHED:
        start = image_stem(path) + "."
        return sorted(p for p in path.parent.iterdir() if p.name.startswith(start) and p.is_file())
    if is_dicom(path):
        return sorted(p for p in path.parent.iterdir() if is_dicom(p) and not p.name.startswith("."))
    return [path]
