"""The service's side of a worker process: started when it is needed, ended when it takes too long."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from threading import Event
from typing import IO, Any

from c3s3_seg.batch.job import Job, Model, sendable
from c3s3_seg.batch.worker_pool import THREAD_VARIABLES, reason_of_death
from c3s3_seg.service.segment import Problem, SegmentedStudy, SegmentTask
from c3s3_seg.system.schema import parse

LOOK_S = 0.2
ANSWER_BYTES = 16 << 20


class BrokenOffError(Exception):
    """The service ends: the study in work is given back to the queue."""


@dataclass
class WorkerProcess:
    """One worker.

    Parameters
    ----------
    model, job
        What it opens, and what it writes of each study.
    limit_s
        What a study may take, the model's opening included.
    stop
        Set when the work is to be broken off.
    """

    model: Model
    job: Job
    limit_s: float
    stop: Event = field(default_factory=Event)
    _process: subprocess.Popen[bytes] | None = None
    _errors: IO[bytes] | None = None
    _rest: bytes = b""

    @property
    def process_id(self) -> int | None:
        """Of the worker that runs now."""
        return None if self._process is None else self._process.pid

    def segment(self, task: SegmentTask) -> SegmentedStudy:
        """Have a study segmented; a worker that dies is a problem of kind `worker`.

        Raises
        ------
        BrokenOffError
            If `stop` was set meanwhile.
        """
        try:
            return self._segment(task, time.monotonic() + self.limit_s)
        except Exception:
            self.close()  # what it answers next may be about this study
            raise

    def _segment(self, task: SegmentTask, end: float) -> SegmentedStudy:
        if self._process is None:
            self._start()
            answer = self._answer(end)
            if "ready" not in answer:
                self.close()
                return _failed(answer)
        self._send(asdict(task))
        answer = self._answer(end)
        if "study" in answer:
            study = parse(SegmentedStudy, answer["study"], "the worker")
            if any(problem.kind in ("memory", "defect") for problem in study.problems):
                self.close()  # what is left in it is not known
            return study
        self.close()
        return _failed(answer)

    def close(self) -> None:
        """End it, now."""
        process, self._process, self._rest = self._process, None, b""
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, self._errors):
            with suppress(OSError):
                if stream is not None:
                    stream.close()

    def _start(self) -> None:
        environment = dict(os.environ)
        if self.model.backend.threads is not None:
            environment |= dict.fromkeys(THREAD_VARIABLES, str(self.model.backend.threads))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", "c3s3_seg.service.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        self._send({"model": asdict(self.model), "job": asdict(self.job)})

    def _send(self, what: Any) -> None:
        stream = self._process.stdin if self._process is not None else None
        with suppress(BrokenPipeError):  # it is gone, which its answer will say
            if stream is not None:
                stream.write(json.dumps(what, default=sendable).encode() + b"\n")
                stream.flush()

    def _answer(self, end: float) -> dict[str, Any]:
        """The next line; or why there is none."""
        process = self._process
        if process is None or process.stdout is None:
            return {"died": "it was not started"}
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if self.stop.is_set():
                    self.close()
                    raise BrokenOffError
                if time.monotonic() > end:
                    return {"died": f"it took more than {self.limit_s:g} s"}
                if not selector.select(LOOK_S):
                    continue
                block = os.read(process.stdout.fileno(), 1 << 16)
                self._rest += block
                if not block or len(self._rest) > ANSWER_BYTES:
                    return {"died": self._reason(process)}
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _reason(self, process: subprocess.Popen[bytes]) -> str:
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return reason_of_death(code, "")  # its last words may quote the scan


def _failed(answer: dict[str, Any]) -> SegmentedStudy:
    if "refused" in answer:
        problem = parse(Problem, answer["refused"], "the worker")
        return SegmentedStudy(problems=(Problem("worker", f"it cannot open the model: {problem.reason}"),))
    return SegmentedStudy(problems=(Problem("worker", f"the worker died: {answer.get('died', '')}"),))
