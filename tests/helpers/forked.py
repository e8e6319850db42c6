"""Shared by tests: Process, `c3s3-seg WORDS` in a process of its own that need not import anything first.

A fresh `python -m c3s3_seg` spends over a second on imports. Here one process has done them, and forks at
each request before any thread has started: for signals, limits, locks and pipes, a forked process is like any
other. A test of imports or of how the interpreter starts needs `subprocess`.
"""

import atexit
import importlib
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import IO

PIPE, STDOUT, DEVNULL = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL
PREDICT = (
    "c3s3_seg.cli", "c3s3_seg.commands.help_text", "c3s3_seg.commands.predict",
    "c3s3_seg.batch.predict", "c3s3_seg.batch.overrides", "c3s3_seg.system.config_file", "c3s3_seg.inference",
    "openvino", "pydantic.main", "rich.progress", "rich.status", "rich.table", "scipy.ndimage", "SimpleITK",
)  # fmt: skip
TRAIN = (
    *PREDICT, "c3s3_seg.commands.train", "c3s3_seg.training.train", "torch.utils.tensorboard",
    "torch._dynamo", "torch._inductor.config", "scipy.special",
)  # fmt: skip
PREPARE = (
    "c3s3_seg.cli",
    "c3s3_seg.commands.help_text",
    "c3s3_seg.commands.prepare",
    "c3s3_seg.dataset.prepare.pipeline",
)
_LONGEST = 1 << 17


class Process:
    """The part of `subprocess.Popen` that tests use, in text mode; the exit code is negative for a signal.

    `limits` are soft resource limits by number; `environment` is added to that of the tests; `imports` are
    modules imported beforehand, once for all processes with the same `imports`.
    """

    def __init__(
        self,
        words: Sequence[object],
        *,
        stdout: int = DEVNULL,
        stderr: int = DEVNULL,
        limits: Mapping[int, int] | None = None,
        environment: Mapping[str, str] | None = None,
        imports: tuple[str, ...] = PREDICT,
    ) -> None:
        self.args, self.returncode = [str(word) for word in words], None
        self.stdout, out = _pipe(stdout)
        self.stderr, err = (None, os.dup(out)) if stderr == STDOUT else _pipe(stderr)
        more = {"environment": {**os.environ, **(environment or {})}, "limits": dict(limits or {})}
        request = {"words": self.args, **more}
        self._answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        socket.send_fds(_server(imports), [json.dumps(request).encode()], [theirs.fileno(), out, err])
        theirs.close()
        for descriptor in (out, err):
            os.close(descriptor)
        self.pid = self._answer()

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._answers.settimeout(timeout)
            try:
                self.returncode = self._answer()
            except (TimeoutError, BlockingIOError) as error:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from error
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read the rest of both streams and wait for the end; return both texts."""
        with ThreadPoolExecutor(2) as threads:
            out, err = threads.map(_rest, (self.stdout, self.stderr))
        self.wait(timeout)
        return out, err

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def _answer(self) -> int:
        return int(self._answers.recv(64))


def run(
    words: Sequence[object], limits: Mapping[int, int] | None = None
) -> "subprocess.CompletedProcess[str]":
    process = Process(words, stdout=PIPE, stderr=PIPE, limits=limits)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.wait(), out, err)


def _pipe(wanted: int) -> tuple[IO[str] | None, int]:
    """Return the reading end (None for DEVNULL) and the descriptor of the writing end."""
    if wanted == DEVNULL:
        return None, os.open(os.devnull, os.O_WRONLY)
    ours, theirs = os.pipe()
    return open(ours, encoding="utf-8"), theirs


def _rest(stream: IO[str] | None) -> str:
    if stream is None:
        return ""
    with stream:
        return stream.read()


@cache
def _server(imports: tuple[str, ...]) -> socket.socket:
    """Start the forking process once; return its socket. It ends with this process, or with its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, str(theirs.fileno()), *imports],
        pass_fds=[theirs.fileno()],
        stdin=DEVNULL,
        stdout=DEVNULL,
    )
    theirs.close()
    atexit.register(_end, ours, process)
    return ours


def _end(requests: socket.socket, server: "subprocess.Popen[bytes]") -> None:
    """End the server and wait for it, so that measurements of a test run include its processor time."""
    requests.close()
    server.wait()


def _serve(requests: socket.socket) -> None:
    """Fork at each request; only forked processes return from this function."""
    attending = set()
    while True:
        content, descriptors, *_ = socket.recv_fds(requests, _LONGEST, 3)
        if not content:
            for pid in attending:
                os.waitpid(pid, 0)
            os._exit(0)
        attending = {pid for pid in attending if os.waitpid(pid, os.WNOHANG)[0] == 0}
        pid = os.fork()
        attending.add(pid)
        if pid == 0:
            _attend(json.loads(content), socket.socket(fileno=descriptors[0]), descriptors[1:])
            requests.close()
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _attend(request: "dict[str, object]", answers: socket.socket, streams: list[int]) -> None:
    """Start the requested process, send its number and at last its exit code. Only that process returns."""
    pid = os.fork()
    if pid == 0:
        answers.close()
        _become(request, streams)
        return
    for descriptor in streams:
        os.close(descriptor)
    answers.send(str(pid).encode())
    _, status = os.waitpid(pid, 0)
    answers.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(request: "dict[str, object]", streams: list[int]) -> None:
    for number, descriptor in enumerate(streams, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    for number, limit in request["limits"].items():  # type: ignore[attr-defined]
        resource.setrlimit(int(number), (limit, resource.getrlimit(int(number))[1]))
    sys.argv = ["c3s3-seg", *request["words"]]  # type: ignore[misc]


if __name__ == "__main__":
    for _name in sys.argv[2:]:
        importlib.import_module(_name)
    _serve(socket.socket(fileno=int(sys.argv[1])))
    from c3s3_seg.cli import main

    main()
