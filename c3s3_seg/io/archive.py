"""A zip file with a DICOM study -> a folder for as long as it is read, if nothing in it is a trap."""

from __future__ import annotations

import fcntl
import lzma
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

from c3s3_seg.errors import C3S3Error, FileName, InputError
from c3s3_seg.io.content import Opened

MOST_FILES = 200_000
# Blank slices compress 1000 : 1, a whole study does not; below the floor nothing can be blown up.
MOST_RATIO, FLOOR = 200, 1 << 28
BLOCK = 1 << 20
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError)
PREFIX = "c3s3-seg-"
NAME = re.compile(rf"{PREFIX}[a-z0-9_]{{8}}")  # as `tempfile` makes it
HELD = ".held-by-c3s3-seg"


@contextmanager
def unpacked(path: Path, digest: _Hash | None = None) -> Iterator[Path]:
    """A temporary folder, readable by this user only, with what the archive holds; removed at the end.

    Parameters
    ----------
    path
        The archive. It is copied first: what is checked, hashed and unpacked are the same bytes.
    digest
        Is told the bytes of the archive.

    Raises
    ------
    InputError
        If the archive is damaged or encrypted, has absolute names, `..` or links in it, unpacks to
        far more than its size or more than fits, or cannot be unpacked. Nothing is unpacked then.
        An error of the block that is about a file in the folder is about the archive.
    """
    sweep_unpacked()
    with _held_folder() as folder:
        try:
            with tempfile.TemporaryFile() as copy:
                _copy(path, copy, digest)
                with zipfile.ZipFile(copy) as archive:
                    entries = [e for e in archive.infolist() if not e.is_dir()]
                    _check(entries, path, copy.tell(), shutil.disk_usage(folder).free)
                    for entry in entries:
                        _extract(archive, entry, folder, path)
        except (*DAMAGED, NotImplementedError, RuntimeError) as error:
            what = f"the archive is damaged, or not one that can be unpacked ({type(error).__name__})"
            raise InputError(what, where=path, todo="Copy or export it again") from error
        except OSError as error:
            what = f"the archive cannot be unpacked: {error.strerror or error}"
            raise InputError(what, where=path) from error
        try:
            yield folder
        except C3S3Error as error:
            if error.where is None or not Path(error.where).is_relative_to(folder):
                raise
            # The temporary folder means nothing to the user.
            raise type(error)(error.what, where=path, todo=error.todo) from error


@contextmanager
def _held_folder() -> Iterator[Path]:
    """A temporary folder with a locked file in it: the kernel frees the lock when this process ends.

    A number of the process in the name would not do: another container that shares the folder has others.
    """
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX))
        handle = os.open(Path(name) / HELD, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_EX)
        folder = Path(name) / "files"
        folder.mkdir(mode=0o700)
        yield folder


def sweep_unpacked() -> None:
    """Remove what killed runs have left of unpacked archives: they are patients' scans.

    Only folders of this user are looked at, that nobody else can write to, with a file of ours in them
    that no process holds. Links are not followed.
    """
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for name in [entry.name for entry in entries if NAME.fullmatch(entry.name)]:
            with suppress(OSError):
                _sweep(Path(tempfile.gettempdir()) / name)


def _sweep(folder: Path) -> None:
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(top)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            return
        handle = os.open(HELD, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=top)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its process lives
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)
    finally:
        os.close(top)


def _told(entry: zipfile.ZipInfo) -> FileName:
    """The name of a file in it, which may be that of a patient."""
    return FileName(entry.filename, "a file in it")


def _copy(path: Path, copy: IO[bytes], digest: _Hash | None) -> None:
    with Opened(path) as file:
        if file.size > shutil.disk_usage(tempfile.gettempdir()).free // 2:
            todo = "Unpack it where there is room, and give the folder"
            what = f"the archive has {file.size} bytes, for which there is no room in {tempfile.gettempdir()}"
            raise InputError(what, where=path, todo=todo)
        for block in file.blocks(BLOCK):
            copy.write(block)
            if digest is not None:
                digest.update(block)


def _check(entries: list[zipfile.ZipInfo], path: Path, size: int, free: int) -> None:
    total = sum(entry.file_size for entry in entries)
    if len(entries) > MOST_FILES:
        raise InputError(f"the archive holds {len(entries)} files; up to {MOST_FILES} are taken", where=path)
    if total > max(FLOOR, MOST_RATIO * size):
        todo = "Unpack it yourself, if you know where it is from"
        raise InputError(
            f"the archive unpacks to {total} bytes, far more than a study", where=path, todo=todo
        )
    if total > free // 2:
        todo = "Unpack it where there is room, and give the folder"
        raise InputError(
            f"the archive unpacks to {total} bytes, for which there is no room", where=path, todo=todo
        )
    for entry in entries:
        if entry.flag_bits & 1:
            raise InputError("the archive is encrypted", where=path, todo="Unpack it, and give the folder")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise InputError(
                f"the archive holds a link ('{_told(entry)}'), which is not followed", where=path
            )
        name = PurePosixPath(entry.filename)
        if name.is_absolute() or ".." in name.parts or set("\\:") & set(entry.filename) or not name.parts:
            raise InputError(
                f"the archive holds a name that leads out of its folder ('{_told(entry)}')", where=path
            )


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, path: Path) -> None:
    target = folder.joinpath(*PurePosixPath(entry.filename).parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise InputError(f"the archive holds '{_told(entry)}' twice", where=path)
    left = entry.file_size
    # Reading to the end checks the CRC; what an entry says of its size is not taken for granted.
    with archive.open(entry) as source, target.open("xb") as file:
        while block := source.read(BLOCK):
            left -= len(block)
            if left < 0:
                raise InputError(f"'{_told(entry)}' unpacks to more than the archive says", where=path)
            file.write(block)
