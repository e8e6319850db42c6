"""A log file that several programs and `logrotate` may share: appends whole lines, reopens if moved."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from c3s3_seg.errors import InputError
from c3s3_seg.system.files import make_folder, unwritten
from c3s3_seg.system.lock import NAME as LOCK

FIRST = b'{"event": '  # identifies a log of this package: nothing is appended to another file
FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would wait for a reader
MODE = 0o640


class LogFile:
    """A file to which lines are appended.

    Parameters
    ----------
    path
        Path of the file; created with its folder if missing. An existing file must be empty or a log of this
        package.

    Raises
    ------
    InputError
        If the file cannot be created or opened for appending, is not regular, or has other content.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = -1
        with suppress(InputError):  # which the opening reports
            make_folder(path.parent)  # it may be the output folder, which the run makes later
        self._reopen()

    def write(self, line: str) -> None:
        """Append one line in a single write. If the file was moved away, create a new one in its place.

        Raises
        ------
        InputError
            If the line cannot be written in full.
        """
        content = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            if self._moved():
                self._reopen()
            if _ends_within_line(self._handle):
                content = b"\n" + content
            written = os.write(self._handle, content)
        except OSError as error:
            raise unwritten(f"cannot be written ({error.strerror or error})", self.path, error) from error
        if written < len(content):
            raise InputError("cannot be written in full (the disk is full)", where=self.path)

    def close(self) -> None:
        """Close the file."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def _moved(self) -> bool:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return True
        ours = os.fstat(self._handle)
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def _reopen(self) -> None:
        handle = _opened(self.path)
        self.close()
        self._handle = handle


def _ends_within_line(handle: int) -> bool:
    """Return whether half a line is at the end, which a full disk, a kill or another program left."""
    size = os.fstat(handle).st_size
    return size > 0 and os.pread(handle, 1, size - 1) != b"\n"


def _opened(path: Path) -> int:
    if ".sqlite" in path.name or path.name.startswith(LOCK):
        raise InputError("has the name of a journal or a lock", where=path, todo="Call the log file x.log")
    try:
        handle = os.open(path, FLAGS, MODE)
    except OSError as error:
        raise InputError(f"the log file cannot be opened ({error.strerror or error})", where=path) from error
    try:
        check_log(handle, path, FIRST)
    except BaseException:
        with suppress(OSError):
            os.close(handle)
        raise
    return handle


def check_log(handle: int, path: Path, first: bytes) -> None:
    """Refuse to append to a file that is not regular, or begins differently from a log of this package.

    Raises
    ------
    InputError
        If the file is refused.
    """
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise InputError("is no regular file, wanted a log file", where=path)
    head = os.pread(handle, len(first), 0)
    if not first.startswith(head[: len(first)]):
        todo = "Give a new file, or one that an earlier run has begun"
        raise InputError("there is a file that is no log of c3s3-seg", where=path, todo=todo)
