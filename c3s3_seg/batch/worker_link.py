"""One worker process as seen by its parent: its pipes, and the cases that it has."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from c3s3_seg.batch.job import CaseTask, sendable
from c3s3_seg.batch.records import Refusal

BLOCK = 1 << 16  # bytes at a time through a pipe


@dataclass
class BatchWorker:
    """A worker process that was started.

    Parameters
    ----------
    process, errors
        The process, with pipes that never block; an unnamed file with its stderr.
    tasks
        Cases that were sent and are not answered.
    rest, unsent
        The beginning of a received line; data that the pipe has not taken yet.
    ready, refusal
        Whether the worker has opened the model; the reason why it cannot.
    since
        Time when its first case became the first, or it was started: seconds of the monotonic clock.
    """

    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    tasks: deque[CaseTask] = field(default_factory=deque)
    rest: bytes = b""
    unsent: bytearray = field(default_factory=bytearray)
    ready: bool = False
    refusal: Refusal | None = None
    since: float = field(default_factory=time.monotonic)

    def lines(self) -> list[bytes]:
        """Return the complete lines received since the last call."""
        stream = self.process.stdout
        while stream is not None:
            try:
                block = os.read(stream.fileno(), BLOCK)
            except BlockingIOError:
                break
            if not block:
                break
            self.rest += block
        *lines, self.rest = self.rest.split(b"\n")
        return lines

    def send(self, what: Any) -> None:
        """Send one line; a worker that is gone is noticed by its end of file."""
        self.unsent += json.dumps(what, default=sendable).encode() + b"\n"
        self.flush()

    def give(self, task: CaseTask) -> None:
        """Send one more case to the worker."""
        if not self.tasks:
            self.since = time.monotonic()
        self.tasks.append(task)
        self.send(asdict(task))

    def flush(self) -> None:
        """Write what the pipe takes now: a worker reads when it has time, and a list of slices may fill it.

        This call does not wait: the other workers would stand still, and no time limit would hold.
        """
        stream = self.process.stdin
        try:
            while self.unsent and stream is not None:
                del self.unsent[: os.write(stream.fileno(), self.unsent[:BLOCK])]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.unsent.clear()

    def hang_up(self) -> None:
        """Drop unsent data and close the worker's stdin."""
        self.unsent.clear()
        if self.process.stdin is not None:
            self.process.stdin.close()
