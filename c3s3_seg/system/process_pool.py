"""Run one task for many items in several processes; a process that dies fails only its item."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

from c3s3_seg.system.libraries import leave_out_unused
from c3s3_seg.system.process import quiet_libraries


@dataclass(frozen=True)
class Died:
    """The answer for an item whose process ended before it answered."""

    reason: str


def each(task: Callable[[Any], Any], items: Sequence[Any], workers: int = 1) -> Iterator[tuple[int, Any]]:
    """Run a task for each item and yield (number of the item, answer) in order of completion.

    Parameters
    ----------
    task
        A function of one item that raises nothing; with several workers it must be importable by its name.
    items
        Items to process; with several workers, items and answers are pickled between processes.
    workers
        Number of processes. 1: this process, in the order of the items. More: separate processes, each with
        one item at a time, so that memory does not grow with the number of items.

    Yields
    ------
    tuple
        The item's number, and the answer, or `Died`. After a death a new process takes the next items.
    """
    if workers <= 1 or len(items) <= 1:
        yield from ((number, task(item)) for number, item in enumerate(items))
        return
    waiting = iter(enumerate(items))
    team = [_PoolWorker(task) for _ in range(min(workers, len(items)))]
    try:
        busy = [worker for worker in team if worker.take(next(waiting, None))]
        while busy:
            ready = wait([worker.pipe for worker in busy])
            for worker in [worker for worker in busy if worker.pipe in ready]:
                number, result = worker.number, worker.result()
                if isinstance(result, Died):
                    team.remove(worker)
                    busy.remove(worker)
                    worker = _PoolWorker(task)
                    team.append(worker)
                    busy.append(worker)
                if not worker.take(next(waiting, None)):
                    busy.remove(worker)
                yield number, result
    finally:
        for worker in team:
            worker.stop()


class _PoolWorker:
    """A process that answers one item after another through a pipe, of which this side has one end."""

    def __init__(self, task: Callable[[Any], Any]) -> None:
        # A fresh interpreter: a copy of one with running threads (runtimes, progress bars) may hang.
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.number = -1
        self.process: BaseProcess = context.Process(target=_serve, args=(task, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def take(self, work: tuple[int, Any] | None) -> bool:
        """Begin an item; return False if none is left."""
        if work is None:
            return False
        self.number, item = work
        with suppress(OSError):  # the process died: `result` will report that
            self.pipe.send(item)
        return True

    def result(self) -> Any:
        """Return the answer for the item, once the pipe is ready; `Died` if the pipe has none."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return Died(_why(self.process.exitcode))

    def stop(self) -> None:
        """End the process, whether busy or not."""
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def _serve(task: Callable[[Any], Any], pipe: Connection) -> None:
    """Answer items, in the worker process, until the other end of the pipe is closed."""
    follow_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    quiet_libraries()
    leave_out_unused()
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(task(item))


def follow_parent() -> None:
    """Make this process end with its parent, busy or not, however the parent ends.

    On Linux the kernel does so (prctl, PR_SET_PDEATHSIG = 1), even while a library holds the interpreter;
    elsewhere, and if the parent died just before, a thread does so in a process of multiprocessing.
    """
    started_by, parent = os.getppid(), parent_process()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != started_by:  # the parent died in between
            os._exit(1)
    if parent is not None:
        Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _why(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        number = -exit_code
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        hint = "; that is how the system ends a process when memory runs out" if name == "SIGKILL" else ""
        return f"the process that worked on it was ended by {name}{hint}"
    return f"the process that worked on it ended with exit code {exit_code}"
