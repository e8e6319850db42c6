"""The log of results: a file of JSON lines, each written exactly once, even after a kill or an error."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from c3s3_seg.errors import InputError
from c3s3_seg.service.deliveries import Deliveries
from c3s3_seg.system.log_file import check_log

FIRST = b'{"id": '  # identifies a log of this package
TAIL_BYTES = 4 << 20  # end of the log, searched for lines that a killed service wrote already


def write_lines(path: Path, deliveries: Deliveries, *, first: bool = False) -> int:
    """Append the lines that wait in the queue; return their number. The log is opened for each line.

    Parameters
    ----------
    path
        Path of the log; created again after a rotation.
    deliveries
        Deliveries that hold the waiting lines.
    first
        Whether the service has just started, or the last call failed: the last line may be half written, or
        be in the log already.

    Raises
    ------
    InputError
        If the log cannot be written, or is another program's; the lines stay in the queue.
    """
    waiting = deliveries.unlogged()
    if not waiting and not first:
        return 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        known = _repair(path) if first else set()
        for name, line in waiting:
            if name not in known:
                _append(path, line)
            deliveries.logged(name)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror or error})", where=path) from error
    return len(waiting)


def check_results_log(path: Path) -> None:
    """Check that lines can be appended to a log that exists; change nothing.

    Raises
    ------
    InputError
        If it cannot be written, or is another program's.
    """
    try:
        with _opened(path):
            pass
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror or error})", where=path) from error


@contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    """Open a log of this package, or an empty file; any other file is refused and stays unchanged."""
    flags |= os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    handle = os.open(path, flags, 0o640)
    try:
        check_log(handle, path, FIRST)
        yield handle
    finally:
        os.close(handle)


def _append(path: Path, line: str) -> None:
    with _opened(path, os.O_CREAT) as handle:
        content, before = line.encode() + b"\n", os.fstat(handle).st_size
        try:
            if os.write(handle, content) < len(content):
                raise OSError("the disk is full")
        except OSError:
            os.ftruncate(handle, before)  # else the next line would continue half of this one
            raise
        os.fsync(handle)


def _repair(path: Path) -> set[str]:
    """Cut off an incomplete line at the end; return the ids of the last lines."""
    if not os.path.lexists(path):
        return set()
    with _opened(path) as handle:
        size = os.fstat(handle).st_size
        tail = os.pread(handle, TAIL_BYTES, max(0, size - TAIL_BYTES))
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail) and (whole or size <= TAIL_BYTES):
            os.ftruncate(handle, size - len(tail) + whole)
    found = set()
    for line in tail[:whole].splitlines():
        with suppress(ValueError, TypeError, KeyError):
            found.add(str(json.loads(line)["id"]))
    return found
