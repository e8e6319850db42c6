"""sha256 of files, and of all files that make up a scan."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.io.cases import visible, walk_files
from c3s3_seg.io.content import CHANGED, WAIT
from c3s3_seg.io.detect import is_dicom, is_dicomdir
from c3s3_seg.io.image.files import image_stem, image_suffix
from c3s3_seg.io.image.nrrd_mha import data_file_of, sha256_of_list
from c3s3_seg.system.reading import sha256

# The voxels may be in a file beside these: any NRRD or MetaImage header can name a data file.
DETACHED = (".nhdr", ".mhd", ".nrrd", ".mha")
YOUNG_NS = 2_000_000_000


def scan_sha256(path: Path, files: Sequence[Path] = ()) -> str:
    """Return the sha256 of a scan: of its only file, or of the list of its files' names and hashes.

    The names are relative to the common folder of all files, so that the hash does not depend on the folder
    that was searched. File names of a DICOM series may identify a patient, so they are used in the hash
    and nowhere else.

    Parameters
    ----------
    path
        The scan.
    files
        All files of a DICOM series, if known; other files beside them are then ignored.

    Raises
    ------
    InputError
        If the scan does not exist or cannot be read.
    """
    every = list(files) or scan_files(path)
    if len(every) == 1 and every[0] == path:
        return sha256(path)
    root = Path(os.path.commonpath([file.parent for file in every])) if every else path
    return sha256_of_list(root, {file: sha256(file) for file in every})


class Watch:
    """The state of a scan's files before they are read, to check afterwards that they did not change.

    Parameters
    ----------
    path
        The scan or truth.
    files
        Files that the scan is read from; None: these are looked up.

    Raises
    ------
    InputError
        If a folder cannot be read.
    """

    def __init__(self, path: Path, files: Sequence[Path] | None = None) -> None:
        self._path, self._files = path, files
        self._before = self._states()
        # File times are coarse: a file that was written just now may change again and keep its time.
        newest = max((state[-1] for state in self._before.values() if state), default=0)
        young = newest > time.time_ns() - YOUNG_NS
        self._early = self._hashes() if young else None

    def sha256(self) -> str:
        """Return the `scan_sha256` of the files, which must not have changed.

        Raises
        ------
        InputError
            If a file changed, appeared, disappeared, or cannot be read.
        """
        found = scan_sha256(self._path, self._files or ())
        self.check()
        return found

    def check(self) -> None:
        """Refuse a scan that has changed.

        Raises
        ------
        InputError
            If a file changed, appeared or disappeared.
        """
        if self._states() != self._before or (self._early is not None and self._hashes() != self._early):
            raise InputError(CHANGED, where=self._path, todo=WAIT)

    def _states(self) -> dict[Path, tuple[int, ...]]:
        files = scan_files(self._path) if self._files is None else self._files
        return {file: _state(file) for file in files}

    def _hashes(self) -> list[str]:
        return [sha256(file) for file, state in self._before.items() if state]


def refuse_changed(path: Path, known: str, files: Sequence[Path] = ()) -> None:
    """Refuse a scan that has changed since it was read.

    Raises
    ------
    InputError
        If the `scan_sha256` of the scan is not `known`.
    """
    if scan_sha256(path, files) != known:
        raise InputError("it changed after it was read", where=path, todo=WAIT)


def _state(path: Path) -> tuple[int, ...]:
    """Return the file status that changes on a write, replacement or rename; empty if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def content_sha256(files: Sequence[Path], part: str = "") -> str:
    """Return the sha256 of files regardless of names and order, so that a copy elsewhere has the same.

    Parameters
    ----------
    files
        At least one file; for a single one without `part`, the result is the file's own sha256.
    part
        Text that distinguishes two scans in the same files.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    each = sorted(sha256(file) for file in files)
    if len(each) == 1 and not part:
        return each[0]
    return hashlib.sha256("\n".join([*each, part]).encode()).hexdigest()


def input_sha256(scan: Path, truth: Path | None, files: Sequence[Path] = ()) -> dict[str, str]:
    """Return the sha256 of the inputs of a case: its scan, made up of `files`, and its truth, if any.

    Raises
    ------
    InputError
        If the scan or the truth cannot be read.
    """
    hashes = {"scan": scan_sha256(scan, files)}
    if truth is None:
        return hashes
    # A DICOM truth is a single file; `scan_sha256` would take it for a slice and hash its whole series.
    return {**hashes, "truth": scan_sha256(truth) if image_suffix(truth) else sha256(truth)}


def scan_files(path: Path) -> list[Path]:
    """Return the files that a scan is, or may be, read from, sorted; rather too many than too few."""
    if os.path.isdir(path):
        return [file for file in walk_files(path) if is_dicom(file)]
    if path.suffix.lower() in DETACHED:
        return _with_data_file(path)
    if is_dicom(path):
        if is_dicomdir(path):  # it lists files in folders below its own
            return sorted({path, *(file for file in walk_files(path.parent) if is_dicom(file))})
        return sorted({path, *filter(is_dicom, visible(path.parent))})
    return [path]


def _with_data_file(path: Path) -> list[Path]:
    """Return a header and its data file; if that cannot be found, all files named like the header."""
    try:
        data = data_file_of(path)
    except C3S3Error:
        start = image_stem(path) + "."
        return sorted({path, *(p for p in path.parent.iterdir() if p.name.startswith(start) and p.is_file())})
    return [path] if data is None else sorted([path, data])
