"""One worker process as the program sees it: its pipes, and the cases that it has."""

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
    """A process that was started.

    Parameters
    ----------
    process, errors
        It, with pipes that never block; an unnamed file with its stderr.
    tasks
        Cases that were sent to it and are not answered.
    rest, unsent
        The beginning of a line that it has said; what its pipe has not taken yet.
    ready, refusal
        Whether it has opened the model; why it cannot.
    since
        When its first case became the first, or it was started: seconds of the monotonic clock.
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
        """What it has said since."""
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
        """One line; a worker that is gone is noticed by its end of file."""
        self.unsent += json.dumps(what, default=sendable).encode() + b"\n"
        self.flush()

    def give(self, task: CaseTask) -> None:
        """Send it one more case."""
        if not self.tasks:
            self.since = time.monotonic()
        self.tasks.append(task)
        self.send(asdict(task))

    def flush(self) -> None:
        """What its pipe takes now: a worker reads when it has time, and a list of slices may fill the pipe.

        Nobody waits for it, since meanwhile the others would stand still, and no time limit would hold.
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
        """Nothing more is sent to it."""
        self.unsent.clear()
        if self.process.stdin is not None:
            self.process.stdin.close()
