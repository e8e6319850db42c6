"""Shared by tests: run, the command line in this process.

A fresh `python -m c3s3_seg` spends seconds on imports, most of them on torch. A test of imports, memory,
signals from outside, or what libraries log needs a process of its own, and `subprocess`.
"""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from subprocess import CompletedProcess
from tempfile import TemporaryFile
from typing import IO, Any

from c3s3_seg.cli import main


def run(*words: object, **environment: str) -> "CompletedProcess[str]":
    """Run `c3s3-seg WORDS` with more environment; return its exit code and its and the libraries' output."""
    given = ["c3s3-seg", *map(str, words)]
    with ExitStack() as stack:
        stdout, stderr = stack.enter_context(TemporaryFile()), stack.enter_context(TemporaryFile())
        with _as_before(), _redirected("stdout", 1, stdout), _redirected("stderr", 2, stderr):
            sys.argv = given
            os.environ.update(environment)
            code = _code_of_main()
        return CompletedProcess(given, code, _text(stdout), _text(stderr))


def _code_of_main() -> int:
    """Run `main` and return the exit code that the process would end with."""
    code: object = None
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code
    assert code is None or isinstance(code, int)
    return code or 0


@contextmanager
def _as_before() -> Iterator[None]:
    """Restore what a command may change in its process: arguments, environment, signals, logs, warnings."""
    words, environment = sys.argv, dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loggers = {name: list(logging.getLogger(name).handlers) for name in ("", "c3s3_seg")}
    try:
        with warnings.catch_warnings():
            yield
    finally:
        sys.argv = words
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, before in loggers.items():
            logging.getLogger(name).handlers[:] = before


@contextmanager
def _redirected(name: str, descriptor: int, file: IO[Any]) -> Iterator[None]:
    """Redirect a stream to a file, whether Python or a library writes to the stream."""
    theirs = getattr(sys, name)
    theirs.flush()
    kept = os.dup(descriptor)
    os.dup2(file.fileno(), descriptor)
    try:
        with open(os.dup(descriptor), "w", encoding="utf-8", errors=theirs.errors, buffering=1) as ours:
            setattr(sys, name, ours)
            yield
    finally:
        setattr(sys, name, theirs)
        os.dup2(kept, descriptor)
        os.close(kept)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8")
