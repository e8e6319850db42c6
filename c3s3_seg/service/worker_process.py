"""The service's side of a worker process: it starts the worker on demand and kills it after a time limit."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from threading import Event
from typing import Any

from c3s3_seg.batch.job import Job, Model, sendable
from c3s3_seg.batch.worker_pool import THREAD_VARIABLES, reason_of_death
from c3s3_seg.service.segment import Problem, SegmentedStudy, SegmentTask
from c3s3_seg.system.schema import parse

LOOK_S = 0.2
ANSWER_BYTES = 16 << 20


class BrokenOffError(Exception):
    """The end of the service during a study, which is put back into the queue."""


@dataclass
class WorkerProcess:
    """A worker process and the pipes to it.

    Parameters
    ----------
    model, job
        Model that the worker opens, and files that it writes for each study.
    limit_s
        Seconds that a study may take, the opening of the model included.
    stop
        Event that is set to break off the work.
    """

    model: Model
    job: Job
    limit_s: float
    stop: Event = field(default_factory=Event)
    _process: subprocess.Popen[bytes] | None = None
    _rest: bytes = b""

    @property
    def process_id(self) -> int | None:
        """The process id of the running worker; None if none runs."""
        return None if self._process is None else self._process.pid

    def segment(self, task: SegmentTask) -> SegmentedStudy:
        """Segment a study in the worker; a worker that dies is a problem of kind `worker`.

        Raises
        ------
        BrokenOffError
            If `stop` was set meanwhile.
        """
        try:
            return self._segment(task, time.monotonic() + self.limit_s)
        except Exception:
            self.close()  # its next answer may be about this study
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
                self.close()  # the state of the worker is not known
            return study
        self.close()
        return _failed(answer)

    def close(self) -> None:
        """Kill the worker, if one runs."""
        process, self._process, self._rest = self._process, None, b""
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()

    def _start(self) -> None:
        environment = dict(os.environ)
        if self.model.backend.threads is not None:
            environment |= dict.fromkeys(THREAD_VARIABLES, str(self.model.backend.threads))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "c3s3_seg.service.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it would grow for months, and libraries may quote the scan
            env=environment,
        )
        self._send({"model": asdict(self.model), "job": asdict(self.job)})

    def _send(self, what: Any) -> None:
        stream = self._process.stdin if self._process is not None else None
        with suppress(BrokenPipeError):  # the worker died, which `_answer` will report
            if stream is not None:
                stream.write(json.dumps(what, default=sendable).encode() + b"\n")
                stream.flush()

    def _answer(self, end: float) -> dict[str, Any]:
        """Return the worker's next answer, or why there is none (`died`)."""
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
        return reason_of_death(code, "")  # its stderr may quote the scan


def _failed(answer: dict[str, Any]) -> SegmentedStudy:
    if "refused" in answer:
        problem = parse(Problem, answer["refused"], "the worker")
        return SegmentedStudy(problems=(Problem("worker", f"it cannot open the model: {problem.reason}"),))
    return SegmentedStudy(problems=(Problem("worker", f"the worker died: {answer.get('died', '')}"),))
