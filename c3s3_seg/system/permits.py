"""Permits: files by which a run lets tasks on other machines write into its folder.

A task may outlive its run, since no process on another machine inherits the lock of the folder; and a cluster
gives a task to a second machine if the first one is cut off. So a run makes a permit for each task. A task
locks it while it works, and leaves its outcome in it. The next run first removes the permits that it finds. A
task without one writes nothing; while a task still holds one, the run is refused.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from c3s3_seg.errors import InputError
from c3s3_seg.system.files import unwritten
from c3s3_seg.system.lock import NAME, NO_LOCKS, SIGNED_BYTES, holder_of, sign
from c3s3_seg.system.shard import Shard

PERMIT = f"{NAME}-task"
WHOLE = "all"  # in the names of a run without a share
LOOK_S = 1.0  # seconds between two attempts to lock a permit that another task holds
FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NAME = re.compile(rf"{re.escape(PERMIT)}\.({WHOLE}|\d+-of-\d+)\.[0-9a-f]{{16}}\.\d+")


@dataclass(frozen=True)
class Permits:
    """The permits of one run, which holds the folder's lock.

    Parameters
    ----------
    folder
        Folder into which the tasks write; it exists.
    share
        Share of the run; None: the whole run.
    """

    folder: Path
    share: Shard | None = None
    _run: str = field(default_factory=lambda: secrets.token_hex(8))
    _numbers: Iterator[int] = field(default_factory=count)

    def give(self) -> Path:
        """Create the permit of one more task; return its path.

        Raises
        ------
        InputError
            If it cannot be created; a `StorageError` without room.
        """
        path = self.folder / f"{PERMIT}.{self.share or WHOLE}.{self._run}.{next(self._numbers)}"
        try:  # the tasks may run as another user of the same group
            os.close(os.open(path, FLAGS | os.O_CREAT | os.O_EXCL, 0o666))
        except OSError as error:
            raise unwritten(f"cannot be written ({error.strerror or error})", path, error) from error
        return path

    def take_back(self, path: Path) -> None:
        """Remove a permit, unless a task holds it: then it keeps the next run out."""
        with suppress(InputError):
            _remove(path)

    def close(self) -> None:
        """Take all permits back: tasks that have not begun will write nothing."""
        for path in self.folder.glob(f"{PERMIT}.*.{self._run}.*"):
            self.take_back(path)


def withdraw_permits(folder: Path, share: Shard | None) -> None:
    """Remove the permits that earlier runs have left; called by a run that holds the folder's lock.

    Permits of other shares of the same count stay: such runs may be at work.

    Raises
    ------
    InputError
        If a task of an earlier run still holds one (the message names its process and machine), or one cannot
        be removed.
    """
    for path in sorted(folder.glob(f"{PERMIT}.*")):
        found = _NAME.fullmatch(path.name)
        if found is not None and not _is_beside(found[1], share):
            _remove(path)


def _is_beside(name: str, share: Shard | None) -> bool:
    """Return whether a permit is of another share that may run at the same time."""
    return share is not None and name != str(share) and name.endswith(f"-of-{share.count}")


def _remove(path: Path) -> None:
    """Remove a permit while it is locked, so that no task begins with it."""
    import fcntl

    try:
        handle = os.open(path, FLAGS)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _not_removed(path, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        what = f"a task of an earlier run on a cluster still writes into this folder{holder_of(handle)}"
        todo = "Wait for it to end, or end that worker, or give another folder"
        raise InputError(what, where=path.parent, todo=todo) from None
    except OSError as error:
        raise _not_removed(path, error) from error
    finally:
        os.close(handle)


def _not_removed(path: Path, error: OSError) -> InputError:
    todo = "Remove it once no worker of a cluster writes into the folder"
    return InputError(f"cannot be removed ({error.strerror or error})", where=path, todo=todo)


@dataclass(frozen=True)
class HeldPermit:
    """A permit that this task has locked.

    Parameters
    ----------
    path, handle
        Path and file descriptor of the permit.
    """

    path: Path
    handle: int

    @property
    def outcome(self) -> str:
        """The outcome if another machine has finished the task; else ""."""
        content = os.pread(self.handle, os.fstat(self.handle).st_size, SIGNED_BYTES)
        return content[:-1].decode() if content.endswith(b"\n") else ""

    def finish(self, outcome: str) -> None:
        """Leave the outcome, a text of one line, for a machine that is given the same task."""
        content = f"{outcome}\n".encode()
        try:
            is_whole = os.pwrite(self.handle, content, SIGNED_BYTES) == len(content)
        except OSError:
            is_whole = False
        if not is_whole:  # no room: at least no other machine may do it again
            with suppress(OSError):
                self.path.unlink()


@contextmanager
def permitted(path: Path, wait_s: float) -> Iterator[HeldPermit]:
    """Hold the permit of a task during the block.

    Parameters
    ----------
    path
        Path of the permit.
    wait_s
        Seconds to wait while another machine, to which the same task was given, holds it.

    Raises
    ------
    InputError
        If the permit was taken back, another machine holds it for too long, or it cannot be locked.
    """
    import fcntl

    try:
        handle = os.open(path, FLAGS)
    except OSError as error:
        raise _not_permitted(path, error) from error
    try:
        _lock(handle, path, wait_s)
        with suppress(OSError):  # only for the message to a run that is refused
            sign(handle)
        yield HeldPermit(path, handle)
    finally:
        with suppress(OSError):  # a process that was forked meanwhile has the descriptor, too
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _lock(handle: int, path: Path, wait_s: float) -> None:
    """Lock a permit that is still there: its number of links is 0 after the run has removed it."""
    import fcntl

    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_nlink:
                return
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        except BlockingIOError:
            if time.monotonic() >= end:
                what = f"another worker, cut off from the scheduler, still has the case{holder_of(handle)}"
                todo = "The same command again processes it, once that worker has ended"
                raise InputError(what, where=path.parent, todo=todo) from None
        except OSError as error:
            raise _not_permitted(path, error) from error
        time.sleep(LOOK_S)


def _not_permitted(path: Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOENT, errno.ESTALE):
        what = "the case was not processed by this worker: its run has ended"
        return InputError(what, where=path.parent, todo="The same command again processes it")
    what = f"cannot be locked by this worker ({error.strerror or error})"
    return InputError(what, where=path, todo=NO_LOCKS)
