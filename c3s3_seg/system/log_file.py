"""A log file that several programs and `logrotate` may share: whole lines, appended, opened anew if moved."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from c3s3_seg.errors import InputError
from c3s3_seg.system.files import unwritten
from c3s3_seg.system.lock import NAME as LOCK

FIRST = b'{"event": '  # by which a log of ours is known: nothing is appended to another file
FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would wait for a reader
MODE = 0o640


class LogFile:
    """A file to which lines are appended.

    Parameters
    ----------
    path
        Made if it is not there. A file that is there must be empty or a log of ours.

    Raises
    ------
    InputError
        If it cannot be opened for appending, or is no regular file, or something else is in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole = True
        self._handle = -1
        self._reopen()

    def write(self, line: str) -> None:
        """Append one line in one piece. If the file was moved away, a new one is begun in its place.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        content = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            if self._moved():
                self._reopen()
            written = os.write(self._handle, content if self._whole else b"\n" + content)
        except OSError as error:
            raise unwritten(f"cannot be written ({error.strerror or error})", self.path, error) from error
        self._whole = written >= len(content)  # a full disk takes a part: the next line begins on its own
        if not self._whole:
            raise InputError("cannot be written in full (the disk is full)", where=self.path)

    def close(self) -> None:
        """Nothing more is written."""
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
        self._handle, self._whole = handle, True


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
    """Refuse to append to what is no regular file, or begins in another way than a log of ours.

    Raises
    ------
    InputError
        If it is one.
    """
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise InputError("is no regular file, wanted a log file", where=path)
    head = os.pread(handle, len(first), 0)
    if not first.startswith(head[: len(first)]):
        todo = "Give a new file, or one that an earlier run has begun"
        raise InputError("there is a file that is no log of c3s3-seg", where=path, todo=todo)
