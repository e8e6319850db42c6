"""The log of results: a file of JSON lines, each written once, whatever happens in between."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from c3s3_seg.errors import InputError
from c3s3_seg.service.deliveries import Deliveries

TAIL_BYTES = 4 << 20  # in it the lines are looked for that a killed service may have written already


def write_lines(path: Path, deliveries: Deliveries, *, first: bool = False) -> int:
    """Append the lines that wait in the queue; gives how many. The file is opened anew each time.

    Parameters
    ----------
    path
        The log; a rotated one is made anew.
    deliveries
        Where the lines wait.
    first
        Whether the service has just started: the last line may be half written, or be there already.

    Raises
    ------
    InputError
        If it cannot be written; the lines stay in the queue.
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


def _append(path: Path, line: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    handle = os.open(path, flags, 0o640)
    try:
        content, before = line.encode() + b"\n", os.fstat(handle).st_size
        try:
            if os.write(handle, content) < len(content):
                raise OSError("the disk is full")
        except OSError:
            os.ftruncate(handle, before)  # the next line is not to be added to half of this one
            raise
        os.fsync(handle)
    finally:
        os.close(handle)


def _repair(path: Path) -> set[str]:
    """Cut off half a line at the end; gives the ids of the last lines."""
    if not path.exists():
        return set()
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        tail = file.read()
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail) and (whole or size <= TAIL_BYTES):
            file.truncate(size - len(tail) + whole)
    found = set()
    for line in tail[:whole].splitlines():
        with suppress(ValueError, TypeError, KeyError):
            found.add(str(json.loads(line)["id"]))
    return found
