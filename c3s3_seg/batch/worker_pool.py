"""A pool of processes with a model each. A dead one is replaced; if that is impossible, the others continue.

A case that was in a process when it died is tried once more, alone in its process: if that one dies too, the
case is the cause, and fails with the reason of the death.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import IO, Any

from c3s3_seg.batch.executor import Engine
from c3s3_seg.batch.job import CaseTask, Job, Model, refuse_other_model
from c3s3_seg.batch.records import Outcome, Refusal
from c3s3_seg.batch.worker_link import BatchWorker
from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.system.hardware import available_processors
from c3s3_seg.system.schema import parse

AHEAD = 3  # cases that a worker has at a time: one is read, one is in the network, one is written
TRIES = 2
OPEN_S = 120.0  # seconds that a worker may take to open the model if cases have a limit; from measurements
LOOK_S = 1.0  # seconds between checks whether a silent worker is alive
STILLBORN = 3  # workers in a row that die before they are ready; no more are started then
FEWER = "Give fewer --workers, or none"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
HINTS = {
    signal.SIGKILL: "as the system does when memory runs out",
    signal.SIGSEGV: "a fault in a library",
    signal.SIGBUS: "a file that shrank while it was read, or a full disk",
    signal.SIGABRT: "a library gave up",
}


def worker_engine(
    model: Model, job: Job, count: int, held: tuple[int, ...], limit_s: float | None = None
) -> Engine:
    """Start workers and wait until the first one has opened its model.

    Parameters
    ----------
    model, job
        The model that each worker opens, and the options for its cases.
    count
        Number of workers, from 1.
    held
        File descriptors of the folder's lock: workers inherit it, so that no second run can begin
        while one of them could still write.
    limit_s
        Seconds that a case may take; None: no limit.

    Raises
    ------
    C3S3Error
        If the model cannot be opened.
    """
    pool = Pool(model.among(count), job, count, held, limit_s)
    return Engine(pool.run, pool.origin, str(model.bundle), pool.close)


class Pool:
    """The worker processes and the cases that they have.

    Parameters
    ----------
    model, job, count, held, limit_s
        Same as in `worker_engine`.
    """

    def __init__(
        self, model: Model, job: Job, count: int, held: tuple[int, ...], limit_s: float | None = None
    ) -> None:
        self._model, self._job, self._held, self._limit_s = model, job, held, limit_s
        # Workers that fill the machine hide each other's waiting; threads within them would only slow down
        # the network (0.064 against 0.059 s per case with two workers on two processors).
        self._overlap = count < available_processors()
        self._selector = selectors.DefaultSelector()
        self._workers: list[BatchWorker] = []
        self._stillborn = 0
        self.origin: dict[str, Any] = {}
        try:
            for _ in range(count):
                self._start()
            while not self.origin:
                self._listen()
                self._end_late()
        except BaseException:
            self.close()
            raise

    def run(self, tasks: Iterable[CaseTask]) -> Iterator[Outcome]:
        """Process the cases; yield outcomes as they are finished."""
        fresh = iter(tasks)
        again: deque[CaseTask] = deque()
        more = True
        while True:
            for worker in self._workers:
                more = self._feed(worker, fresh, again) and more
            if not any(worker.tasks for worker in self._workers) and not again and not more:
                return
            outcomes, orphans = self._listen()
            # At once: who takes the outcomes may be slow, and a case that is finished by then is not late.
            late, waiting = self._end_late()
            again.extend(waiting)
            yield from (*outcomes, *late)
            for task, refusal in orphans:
                if task.attempt + 1 < TRIES:
                    again.append(replace(task, attempt=task.attempt + 1))
                else:
                    yield Outcome(task.case.name, task.place, refusal=refusal)

    def close(self) -> None:
        """End all workers: idle ones end by themselves, busy and starting ones are terminated now."""
        for worker in self._workers:
            if worker.tasks or not worker.ready:
                worker.process.terminate()
            worker.hang_up()
        for worker in self._workers:
            try:
                worker.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.process.stdout.close()  # type: ignore[union-attr]
            worker.errors.close()
        self._workers.clear()
        self._selector.close()

    def _replace(self) -> None:
        """Start a worker for one that is gone; if the system has no room for it, the others continue.

        Raises
        ------
        InputError
            If there are no others.
        """
        try:
            self._start()
        except OSError as error:
            if not self._workers:
                what = f"no worker can be started: {error.strerror or error}"
                raise InputError(what, todo=FEWER) from error

    def _start(self) -> None:
        threads = str(self._model.backend.threads)
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the worker
        process = subprocess.Popen(
            [sys.executable, "-m", "c3s3_seg.batch.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=self._held,
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, threads)},
        )
        for pipe in (process.stdin, process.stdout):
            os.set_blocking(pipe.fileno(), False)  # type: ignore[union-attr]
        worker = BatchWorker(process, errors)
        worker.send({"model": asdict(self._model), "job": asdict(self._job), "overlap": self._overlap})
        self._workers.append(worker)
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]

    def _feed(self, worker: BatchWorker, fresh: Iterator[CaseTask], again: deque[CaseTask]) -> bool:
        """Give a worker the cases that it can take; return False once there are no fresh cases."""
        if not worker.ready:
            return True
        if again and not worker.tasks:
            worker.give(again.popleft())
        if again or any(task.attempt for task in worker.tasks):
            return True  # a case that is tried again is alone in its worker
        while len(worker.tasks) < AHEAD:
            task = next(fresh, None)
            if task is None:
                return False
            worker.give(task)
        return True

    def _listen(self) -> tuple[list[Outcome], list[tuple[CaseTask, Refusal]]]:
        """Wait for answers; replace workers that died, and return their cases with the reason."""
        outcomes: list[Outcome] = []
        orphans: list[tuple[CaseTask, Refusal]] = []
        for worker in self._workers:
            self._watch_stdin(worker)
        self._selector.select(LOOK_S)
        for worker in list(self._workers):
            worker.flush()
            # First check for death, then read the last answers: a child of the worker may keep the pipe open.
            dead = worker.process.poll() is not None
            for line in worker.lines():
                outcomes += self._receive(worker, json.loads(line))
            if dead:
                orphans += self._bury(worker)
        return outcomes, orphans

    def _watch_stdin(self, worker: BatchWorker) -> None:
        """Watch whether the worker's pipe takes more, as long as there is more to send."""
        stdin = worker.process.stdin
        watched = stdin in self._selector.get_map()
        if worker.unsent and not watched:
            self._selector.register(stdin, selectors.EVENT_WRITE, worker)  # type: ignore[arg-type]
        elif watched and not worker.unsent:
            self._selector.unregister(stdin)  # type: ignore[arg-type]

    def _receive(self, worker: BatchWorker, message: dict[str, Any]) -> list[Outcome]:
        if "refused" in message:
            worker.refusal = parse(Refusal, message["refused"], "worker")
            if not self.origin:
                raise worker.refusal.error()
            return []
        if "origin" in message:
            self._greet(worker, message["origin"])
            return []
        outcome = parse(Outcome, message["outcome"], "worker")
        worker.tasks = deque(task for task in worker.tasks if task.case.name != outcome.case)
        worker.since = time.monotonic()  # cases come out in order: the next one is the first now
        return [outcome]

    def _greet(self, worker: BatchWorker, origin: dict[str, Any]) -> None:
        """Accept a worker that has opened its model; kill it if the model is not that of the first one."""
        self.origin = self.origin or origin
        try:
            refuse_other_model(self.origin, origin, self._model.bundle)
        except C3S3Error as error:
            worker.refusal = Refusal.of(error, "open")
            worker.process.kill()
            return
        worker.ready, self._stillborn = True, 0

    def _end_late(self) -> tuple[list[Outcome], list[CaseTask]]:
        """End cases that exceed the time limit; return their outcomes, and the cases that only waited.

        A call into a library cannot be interrupted, so the process is killed, and another one is started.
        """
        late: list[Outcome] = []
        waiting: list[CaseTask] = []
        for worker in list(self._workers if self._limit_s is not None else ()):
            limit_s = (self._limit_s or 0.0) if worker.ready else max(self._limit_s or 0.0, OPEN_S)
            if time.monotonic() - worker.since <= limit_s or (worker.ready and not worker.tasks):
                continue
            worker.process.kill()
            if worker.ready:  # a worker that is not ready is buried as stillborn
                self._remove(worker)
                self._replace()
                first, *others = worker.tasks
                late.append(_too_late(first, limit_s))
                waiting += others
        return late, waiting

    def _remove(self, worker: BatchWorker) -> str:
        """Remove a worker whose process is dead; return the reason of its death."""
        worker.unsent.clear()
        self._watch_stdin(worker)
        self._selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        self._workers.remove(worker)
        reason = reason_of_death(worker.process.wait(), _tail(worker.errors))
        worker.hang_up()
        worker.process.stdout.close()  # type: ignore[union-attr]
        worker.errors.close()
        return reason

    def _bury(self, worker: BatchWorker) -> list[tuple[CaseTask, Refusal]]:
        reason = self._remove(worker)
        self._stillborn = 0 if worker.ready else self._stillborn + 1
        if self._stillborn < STILLBORN:
            self._replace()
        elif not any(other.ready for other in self._workers):  # else the ready ones do the rest
            if worker.refusal is not None:
                raise worker.refusal.error()
            raise InputError(f"no worker can be started: {reason}", todo=FEWER)
        todo = "Give more memory or fewer --workers; --retry-failed tries again"
        return [(task, _refusal(task, reason, todo)) for task in worker.tasks]


def _too_late(task: CaseTask, limit_s: float) -> Outcome:
    error = InputError(
        f"the case was not finished within {limit_s:g} s",
        where=task.case.path,
        todo="Give it more time with --case-timeout",
    )
    return Outcome(task.case.name, task.place, refusal=Refusal.of(error, "worker"))


def _refusal(task: CaseTask, reason: str, todo: str) -> Refusal:
    error: C3S3Error = InputError(
        f"the worker that had this case died: {reason}", where=task.case.path, todo=todo
    )
    return Refusal.of(error, "worker")


def reason_of_death(code: int, tail: str) -> str:
    """Return the reason from an exit status and the last words on stderr, in one line."""
    if code < 0:
        number = -code
        name = signal.Signals(number).name if number in set(signal.Signals) else "unknown"
        hint = HINTS.get(number)  # type: ignore[call-overload]
        return f"killed by signal {number} ({name}{f', {hint}' if hint else ''})"
    return f"exit code {code}{f', its last words: {tail}' if tail else ''}"


def _tail(errors: IO[bytes]) -> str:
    """Return the last line that is not blank, cut to 300 characters."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 4000))
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
