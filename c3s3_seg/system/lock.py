"""Lock a folder for one run at a time; the lock ends with the process that holds it, even after a crash."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError, StorageError
from c3s3_seg.system.shard import Shard

NAME = ".c3s3-seg.lock"
# All signatures have the same length and beginning: shares may sign the same file at the same moment, and its
# content is a signature whichever share was last, and while one is being written.
SIGNED_BYTES = 1000
NO_LOCKS = "Network shares may be mounted without locks: mount it with them, or give a folder on a local disk"
FIRST = b'{"process": '


@contextmanager
def hold(folder: Path, share: Shard | None = None, *, wait: bool = False) -> Iterator[tuple[int, ...]]:
    """Lock a folder for writing; yield the file descriptors, which workers may inherit.

    The kernel frees the lock when the last process that has the descriptor is gone: a crash leaves
    no lock behind, and while an orphaned worker could still write, no other run can. A run with a share
    holds the folder together with the other shares of the same count, and its own share alone.

    Parameters
    ----------
    folder
        Folder that exists.
    share
        Share of the run; None: the whole run.
    wait
        Whether to wait while another run holds the folder.

    Raises
    ------
    InputError
        If another run holds the folder and is not waited for (the message names its process and machine),
        or shares of another count do, or no lock can be made; a `StorageError` without room for the lock.
    """
    with ExitStack() as stack:
        held = [stack.enter_context(_locked(folder / NAME, shared=share is not None, wait=wait))]
        if share is not None:
            held.append(stack.enter_context(_locked(folder / f"{NAME}.{share}", shared=False, wait=wait)))
            # After this lock can be seen: of two runs that begin, one sees the other.
            _refuse_other_counts(folder, share)
        yield tuple(held)


def is_held(folder: Path) -> bool:
    """Return whether a run holds a folder for writing, without making a lock."""
    import fcntl

    with suppress(OSError), _opened(folder / NAME) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _refuse_other_counts(folder: Path, share: Shard) -> None:
    """Refuse shards of another count, which divide the cases differently: some would be processed twice."""
    import fcntl

    for path in sorted(folder.glob(f"{NAME}.*-of-*")):
        if path.name.endswith(f"-of-{share.count}"):
            continue
        with suppress(OSError), _opened(path) as handle:  # gone, or a link: no run holds it
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                other = path.name.removeprefix(f"{NAME}.").replace("-of-", "/")
                what = f"a run with --shard {other} writes into this folder{holder_of(handle)}"
                todo = "Give all shards of a folder the same count, or wait for it to end"
                raise InputError(what, where=folder, todo=todo) from None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a lock file for reading; a link or pipe in its place is neither followed nor waited for."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _locked(path: Path, *, shared: bool, wait: bool) -> Iterator[int]:
    handle = _acquire(path, shared, wait)
    try:
        try:
            sign(handle)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(handle, 0)
            raise StorageError(f"cannot be written ({error.strerror or error})", where=path) from error
        yield handle
    finally:
        if not shared:  # while the lock is held: no other process can hold it
            with suppress(OSError):  # read-only by now: the next run takes the file over
                path.unlink(missing_ok=True)
        os.close(handle)


def _acquire(path: Path, shared: bool, wait: bool) -> int:
    import fcntl

    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)

    while True:
        try:
            # Neither a link nor a pipe in its place may be followed or waited for.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            handle = os.open(path, flags, 0o644)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise _foreign(path) from error
            raise InputError(
                f"the folder cannot be written to ({error.strerror})", where=path.parent
            ) from error
        if not _is_lock(handle):
            os.close(handle)
            raise _foreign(path)
        try:
            fcntl.flock(handle, how)
            if _is_there(handle, path):
                return handle
        except BlockingIOError:
            holder = holder_of(handle)
            os.close(handle)
            todo = "Wait for it to end, or give another folder"
            raise InputError(
                f"another run writes into this folder{holder}", where=path.parent, todo=todo
            ) from None
        except OSError as error:
            os.close(handle)
            what = f"the folder cannot be locked ({error.strerror}), so a second run could not be kept out"
            raise InputError(what, where=path.parent, todo=NO_LOCKS) from error
        os.close(handle)  # its last holder has just removed the file: try the present one


def _is_there(handle: int, path: Path) -> bool:
    """Return whether the locked file is still the one at its path: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _is_lock(handle: int) -> bool:
    """Return whether a file is a regular lock file of this package: signed, or empty before the signature.

    After a power cut a lock file may hold zeros. With a second name (a hard link), a signature would change
    another file.
    """
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or status.st_size > SIGNED_BYTES:
        return False
    content = os.pread(handle, SIGNED_BYTES, 0)
    return content.startswith(FIRST) or not content.strip(b"\0")


def _foreign(path: Path) -> InputError:
    todo = "Move it away, or give another folder with -o"
    return InputError("is not the lock file that c3s3-seg makes here", where=path, todo=todo)


def sign(handle: int) -> None:
    """Write process, machine and time for the message to other runs, without the user's name."""
    who = {"process": os.getpid(), "machine": socket.gethostname(), "since": now()}
    signature = json.dumps(who).encode().ljust(SIGNED_BYTES)
    if os.pwrite(handle, signature, 0) < len(signature):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _who(handle: int) -> dict[str, Any] | None:
    try:
        who = json.loads(os.pread(handle, SIGNED_BYTES, 0))
        return who if {"process", "machine", "since"} <= set(who) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def holder_of(handle: int) -> str:
    """Return the process and the machine that have signed a lock file, for a message; "" if unknown."""
    who = _who(handle)
    return "" if who is None else f": process {who['process']} on {who['machine']}, since {who['since']}"


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
