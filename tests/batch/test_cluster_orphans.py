"""Cases that go on after their run has ended, or after their worker was cut off: no result is replaced."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.batches import MODEL, masks
from helpers.service import until

from c3s3_seg.batch import BatchPlan, Job, predict_cases, verify
from c3s3_seg.errors import InputError

pytestmark = pytest.mark.slow

RUN = """
import sys
from pathlib import Path
from c3s3_seg.batch import BatchPlan, Job, Model, predict_cases
from c3s3_seg.inference import BackendRequest
scans, out, bundle, address = sys.argv[1:]
model = Model(Path(bundle), backend=BackendRequest(threads=1))
job = Job(Path(out), html=True, allow_out_of_domain=True)
predict_cases([Path(scans)], model, job, None, BatchPlan(cluster=address))
"""


@contextmanager
def scheduler_elsewhere() -> Iterator[Any]:
    """Run a scheduler that outlives a run."""
    import distributed

    with distributed.LocalCluster(n_workers=0, dashboard_address=None, silence_logs=50) as there:
        yield there


class Line:
    """The way of a worker to the scheduler; while it is cut, neither end learns that the other is gone."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("tcp://").split(":")
        self._to, self._open = (host, int(port)), threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._open.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._open.clear()

    def _accept(self) -> None:
        while True:
            ends = self._server.accept()[0], socket.create_connection(self._to)
            for source, target in (ends, ends[::-1]):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._open.wait()
                target.sendall(data)
            self._open.wait()
            target.shutdown(socket.SHUT_WR)


@contextmanager
def dask_worker(there: Any, address: str = "") -> Iterator[int]:
    """Run a worker that outlives a run and that nobody ends or replaces; yield its process id."""
    words = [sys.executable, "-m", "dask", "worker", address or there.scheduler_address]
    known = len(there.scheduler.workers)
    process = subprocess.Popen([*words, "--no-nanny", "--nthreads", "1", "--no-dashboard"])
    try:
        until(lambda: len(there.scheduler.workers) > known)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def written(out: Path, suffix: str) -> set[str]:
    """Return the cases that have a file with this suffix."""
    return {path.name.split(".")[0] for path in out.glob(f"case-*.{suffix}")}


def idle(out: Path) -> bool:
    """Return whether no task has held its permit for a second."""
    for wait_s in (0.0, 1.0):
        time.sleep(wait_s)
        for path in out.glob(".c3s3-seg.lock-task.*"):
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
    return True


@contextmanager
def stopped_in_a_case(worker: int, out: Path) -> Iterator[None]:
    """Stop a worker during the block: it has written a mask, and not yet the page of that case."""
    end = time.monotonic() + 100
    while True:
        os.kill(worker, signal.SIGSTOP)
        if written(out, "nii.gz") - written(out, "html"):
            break
        os.kill(worker, signal.SIGCONT)
        assert time.monotonic() < end, "no case was begun"
        time.sleep(0.002)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def test_no_run_begins_while_a_case_of_a_killed_run_goes_on(small_scans: Path, tmp_path: Path) -> None:
    """The worker replaced the JSON of a case that the next run had made again and recorded."""
    out, job = tmp_path / "out", Job(tmp_path / "out", html=True, allow_out_of_domain=True)
    with scheduler_elsewhere() as there, dask_worker(there) as worker:
        words = [small_scans, out, MODEL.bundle, there.scheduler_address]
        client = subprocess.Popen([sys.executable, "-c", RUN, *words])
        with stopped_in_a_case(worker, out):
            client.kill()
            client.wait()
            with pytest.raises(InputError, match=rf"of an earlier run .* still writes .*process {worker} on"):
                predict_cases([small_scans], MODEL, job)
        until(lambda: idle(out))
        result = predict_cases([small_scans], MODEL, job, None, BatchPlan(cluster=there.scheduler_address))
    assert not result.failures
    assert len(masks(out)) == 5
    assert verify(out).holds
    assert [path.name for path in out.glob(".c3s3*")] == []


def test_a_worker_that_was_cut_off_replaces_no_result(small_scans: Path, tmp_path: Path) -> None:
    """Dask gives its case to another worker; the first one goes on, since nothing tells it to stop."""
    out, job = tmp_path / "out", Job(tmp_path / "out", html=True, allow_out_of_domain=True)
    run = partial(predict_cases, [small_scans], MODEL, job, None)
    with ExitStack() as stack:
        there, thread = stack.enter_context(scheduler_elsewhere()), stack.enter_context(ThreadPoolExecutor(1))
        line = Line(there.scheduler_address)
        first = stack.enter_context(dask_worker(there, line.address))
        (address,) = there.scheduler.workers
        result = thread.submit(run, BatchPlan(cluster=there.scheduler_address))
        with stopped_in_a_case(first, out):
            stack.enter_context(dask_worker(there))
            line.cut()
            there.sync(there.scheduler.remove_worker, address, stimulus_id="test", close=False)
            wait([result], timeout=20)
            assert not result.done()  # the other worker waits for the first one
        assert not result.result().failures
        time.sleep(5)  # the first worker begins the next case that it was given
    assert len(masks(out)) == 5
    assert verify(out).holds
