"""Run the parts one by one, each in a process of its own with a time limit; no part stops the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from gpu_run.rows import Row, read, table

GRACE_S = 3.0  # between SIGTERM and SIGKILL
LEAST_S = 2.0  # with less time left, no part is started
LONGEST_REMARK = 200  # characters


@dataclass(frozen=True)
class Part:
    """One process of the run.

    Parameters
    ----------
    name
        Name of its log and of its file of rows: letters, digits and dashes.
    row
        Row for the table if the part fails; the failure is filled in.
    command
        Command to run; `--rows FILE` is appended.
    limit_s
        Time limit in seconds; shortened if less time is left.
    """

    name: str
    row: Row
    command: tuple[str, ...]
    limit_s: float


@dataclass
class Runner:
    """A runner of parts until a deadline.

    Parameters
    ----------
    out
        Folder for the logs, the rows of each part, and the table so far.
    environment
        Environment of the parts.
    deadline
        Time of the deadline, as given by `time.monotonic`.
    """

    out: Path
    environment: Mapping[str, str]
    deadline: float
    rows: list[Row] = field(default_factory=list)

    def run(self, part: Part) -> None:
        """Run one part and add its rows, or a row with the reason why there are none."""
        left = self.deadline - time.monotonic()
        if left < LEAST_S:
            self.add(replace(part.row, result="not run: no time was left"))
            return
        limit_s = min(part.limit_s, left)
        print(f"{part.name} (at most {limit_s:.0f} s)", file=sys.stderr, flush=True)
        log, rows = self.out / f"{part.name}.log", self.out / f"{part.name}.jsonl"
        with log.open("wb") as file:
            code = _finished([*part.command, "--rows", str(rows)], file.fileno(), self.environment, limit_s)
        found = read(rows)
        if code is None:
            found.append(replace(part.row, result=f"out of time ({limit_s:.0f} s)"))
        elif code:
            found.append(replace(part.row, result="failed", remark=_last_line(log, code)))
        elif not found:
            found.append(replace(part.row, result="failed", remark="the part measured nothing"))
        self.add(*found)

    def add(self, *rows: Row) -> None:
        """Add rows and write the table so far, as the run may be interrupted."""
        self.rows += rows
        (self.out / "table.md").write_text(table(self.rows), encoding="utf-8")


def _finished(command: list[str], log: int, environment: Mapping[str, str], limit_s: float) -> int | None:
    """Run a command; return its exit code, or None after the time limit. Its child processes end with it."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process group by SIGTERM, then by SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)


def _last_line(log: Path, code: int) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    said = next((line for line in reversed(lines) if line), "it wrote nothing")
    return f"exit code {code}: {said[:LONGEST_REMARK]} ({log.name})"
