"""One run in a folder at a time: a lock that ends with the process that holds it, however that ends."""

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
# All signatures have one length and one beginning: shares sign the same file at the same moment, and what is
# there is a signature whichever of them was last, and while one is being written.
SIGNED_BYTES = 1000
NO_LOCKS = "Network shares may be mounted without locks: mount it with them, or give a folder on a local disk"
FIRST = b'{"process": '


@contextmanager
def hold(folder: Path, share: Shard | None = None, *, wait: bool = False) -> Iterator[tuple[int, ...]]:
    """Hold a folder for writing; gives the file descriptors, which workers may inherit.

    The kernel frees the lock when the last process that has the descriptor is gone: a crash leaves
    none behind, and as long as an orphaned worker could still write, nobody else can. Whoever names a
    share of one run holds the folder together with the other shares of as many, and this one alone.

    Parameters
    ----------
    folder
        It is there.
    share
        Of the run; None: all of it.
    wait
        Whether to wait as long as somebody else holds it.

    Raises
    ------
    InputError
        If somebody else holds it, and that is not waited for, with the process and the machine; or if no
        lock can be made there; a `StorageError`, if there is no room for it.
    """
    with ExitStack() as stack:
        held = [stack.enter_context(_locked(folder / NAME, shared=share is not None, wait=wait))]
        if share is not None:
            held.append(stack.enter_context(_locked(folder / f"{NAME}.{share}", shared=False, wait=wait)))
            # Once our own can be seen: of two that begin, one sees the other.
            _refuse_other_counts(folder, share)
        yield tuple(held)


def _refuse_other_counts(folder: Path, share: Shard) -> None:
    """Shards of another count divide the cases in another way: some cases would be in two of them."""
    import fcntl

    for path in sorted(folder.glob(f"{NAME}.*-of-*")):
        if path.name.endswith(f"-of-{share.count}"):
            continue
        with suppress(OSError), _opened(path) as handle:  # gone, or a link: nobody holds it
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                other = path.name.removeprefix(f"{NAME}.").replace("-of-", "/")
                what = f"a run with --shard {other} writes into this folder{_holder(handle)}"
                todo = "Give all shards of a folder the same count, or wait for it to end"
                raise InputError(what, where=folder, todo=todo) from None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """For reading; neither a link nor a pipe in its place may be followed or waited for."""
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
            _sign(handle)
        except OSError as error:
            os.ftruncate(handle, 0)
            raise StorageError(f"cannot be written ({error.strerror or error})", where=path) from error
        yield handle
    finally:
        if not shared:  # while it is still held: nobody else can have this file locked
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
            holder = _holder(handle)
            os.close(handle)
            todo = "Wait for it to end, or give another folder"
            raise InputError(
                f"another run writes into this folder{holder}", where=path.parent, todo=todo
            ) from None
        except OSError as error:
            os.close(handle)
            what = f"the folder cannot be locked ({error.strerror}), so a second run could not be kept out"
            raise InputError(what, where=path.parent, todo=NO_LOCKS) from error
        os.close(handle)  # its last holder has just removed it: again, with the one that is there now


def _is_there(handle: int, path: Path) -> bool:
    """Whether the file that is locked is the one at its place: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _is_lock(handle: int) -> bool:
    """Whether it is a regular file of ours: signed, or empty as one is that is about to be.

    After a power cut one may be of zeros. A second name (a hard link) would have what is written to it appear
    elsewhere.
    """
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or status.st_size > SIGNED_BYTES:
        return False
    content = os.pread(handle, SIGNED_BYTES, 0)
    return content.startswith(FIRST) or not content.strip(b"\0")


def _foreign(path: Path) -> InputError:
    todo = "Move it away, or give another folder with -o"
    return InputError("is not the lock file that c3s3-seg makes here", where=path, todo=todo)


def _sign(handle: int) -> None:
    """Say who holds it, for the message that somebody else gets. No user's name."""
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


def _holder(handle: int) -> str:
    who = _who(handle)
    return "" if who is None else f": process {who['process']} on {who['machine']}, since {who['since']}"


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
