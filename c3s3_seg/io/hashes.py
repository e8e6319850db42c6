"""sha256 of files, and of all files that make up a scan."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.io.cases import walk_files
from c3s3_seg.io.content import CHANGED, WAIT
from c3s3_seg.io.detect import is_dicom, is_dicomdir
from c3s3_seg.io.image.files import image_stem, image_suffix
from c3s3_seg.io.image.nrrd_mha import data_file_of, sha256_of_list
from c3s3_seg.system.reading import sha256

# Their voxels may be in a file beside them: any header of the two kinds can name one.
DETACHED = (".nhdr", ".mhd", ".nrrd", ".mha")
YOUNG_NS = 2_000_000_000


def scan_sha256(path: Path, files: Sequence[Path] = ()) -> str:
    """Of a scan: the file's own where it is one file, else of the list of its files' names and hashes.

    The names are relative to the folder that all files lie in, so that it does not matter where a series was
    looked for. A DICOM folder's file names may hold what they should not, so they go into the hash and
    nowhere else.

    Parameters
    ----------
    path
        The scan.
    files
        Of a DICOM series all its files, where they are known: others beside them are of no matter.

    Raises
    ------
    InputError
        If the scan is not there or cannot be read.
    """
    every = list(files) or scan_files(path)
    if len(every) == 1 and every[0] == path:
        return sha256(path)
    root = Path(os.path.commonpath([file.parent for file in every])) if every else path
    return sha256_of_list(root, {file: sha256(file) for file in every})


class Watch:
    """A scan, or files, that are about to be read: tells afterwards whether they stayed as they were.

    Parameters
    ----------
    path
        The scan; a truth is one too.
    files
        What it is read from, where that is known; else it is looked up.

    Raises
    ------
    InputError
        If a folder cannot be read.
    """

    def __init__(self, path: Path, files: Sequence[Path] | None = None) -> None:
        self._path, self._files = path, files
        self._before = self._states()
        # A file system's clock ticks: what was written just now may change again and keep its time.
        newest = max((state[-1] for state in self._before.values() if state), default=0)
        young = newest > time.time_ns() - YOUNG_NS
        self._early = self._hashes() if young else None

    def sha256(self) -> str:
        """The `scan_sha256` of what was read since.

        Raises
        ------
        InputError
            If a file changed, came or went, or cannot be read.
        """
        found = scan_sha256(self._path, self._files or ())
        self.check()
        return found

    def check(self) -> None:
        """Refuse a scan that is no longer what it was.

        Raises
        ------
        InputError
            If a file changed, came or went.
        """
        if self._states() != self._before or (self._early is not None and self._hashes() != self._early):
            raise InputError(CHANGED, where=self._path, todo=WAIT)

    def _states(self) -> dict[Path, tuple[int, ...]]:
        files = scan_files(self._path) if self._files is None else self._files
        return {file: _state(file) for file in files}

    def _hashes(self) -> list[str]:
        return [sha256(file) for file, state in self._before.items() if state]


def refuse_changed(path: Path, known: str, files: Sequence[Path] = ()) -> None:
    """Refuse a scan that is no longer the one that was read.

    Raises
    ------
    InputError
        If its `scan_sha256` is not `known`.
    """
    if scan_sha256(path, files) != known:
        raise InputError("it changed after it was read", where=path, todo=WAIT)


def _state(path: Path) -> tuple[int, ...]:
    """What a file system changes when a file is written, replaced or renamed; empty if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


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


def input_sha256(scan: Path, truth: Path | None, files: Sequence[Path] = ()) -> dict[str, str]:
    """Of what a case is made from: its scan, of which these are the files, and its truth where it has one.

    Raises
    ------
    InputError
        If one of them cannot be read.
    """
    hashes = {"scan": scan_sha256(scan, files)}
    if truth is None:
        return hashes
    # One DICOM object is a truth on its own; one slice stands for its series.
    return {**hashes, "truth": scan_sha256(truth) if image_suffix(truth) else sha256(truth)}


def scan_files(path: Path) -> list[Path]:
    """The files that a scan is read from, or may be: more rather than fewer, sorted."""
    if path.is_dir():
        return [file for file in walk_files(path) if is_dicom(file)]
    if path.suffix.lower() in DETACHED:
        return _with_data_file(path)
    if is_dicom(path):
        if is_dicomdir(path):  # what it lists lies in folders below its own
            return sorted({path, *(file for file in walk_files(path.parent) if is_dicom(file))})
        return sorted(p for p in path.parent.iterdir() if is_dicom(p) and not p.name.startswith("."))
    return [path]


def _with_data_file(path: Path) -> list[Path]:
    """A header and the file that it names; if that is not to be had, what is called like the header."""
    try:
        data = data_file_of(path)
    except C3S3Error:
        start = image_stem(path) + "."
        return sorted({path, *(p for p in path.parent.iterdir() if p.name.startswith(start) and p.is_file())})
    return [path] if data is None else sorted([path, data])
