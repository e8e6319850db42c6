"""Events as JSON lines: on stdout with `--json`, appended to a file with `--log-file`."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import typer

from c3s3_seg.commands.console import Stopped, say
from c3s3_seg.errors import C3S3Error, DefectError, InputError, as_c3s3_error, public, refused_by_system


class Events:
    """A context manager that writes each event as one line of JSON; docs/operations.md lists the keys.

    Parameters
    ----------
    as_json
        Whether events are written on stdout.
    log_file
        File to which events are appended; None: no file.

    Raises
    ------
    InputError
        If the file cannot be opened for appending.
    """

    def __init__(self, *, as_json: bool, log_file: Path | None = None) -> None:
        self._json, self._log = as_json, None
        if log_file is not None:
            from c3s3_seg.system.log_file import LogFile

            self._log = LogFile(log_file)
        self._complained = False
        self._unprinted: OSError | None = None  # the first error of stdout
        self.ending: dict[str, Any] = {}  # content of the last event
        self.exit_code = 0  # exit code of the command, if nothing is raised
        self._started = time.monotonic()

    @property
    def wanted(self) -> bool:
        """Whether events are written anywhere."""
        return self._json or self._log is not None

    def __call__(self, event: str, content: dict[str, Any], *, logged: bool = True) -> None:
        """Write an event; with `logged` false on stdout alone."""
        line = json.dumps({"event": event, "time": now(), **content})
        if self._json:
            self._print(line)
        if self._log is not None and logged:
            self._append(line)

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the last event, whatever ended the command, with the exit code and the error.

        Raises
        ------
        InputError
            If stdout did not take all events, and nothing else ended the command.
        """
        cause = error or self._lack()
        code = self.exit_code if cause is None else exit_code_of(cause)
        seconds = round(time.monotonic() - self._started, 3)
        reason = None if cause is None else _reason(cause)
        self("end", {**self.ending, "seconds": seconds, "exit_code": code, "error": reason})
        if self._log is not None:
            self._log.close()
            self._log = None
        lack = self._lack()  # the last event may be the first one that was not printed
        if error is None and lack is not None:
            raise lack

    def _print(self, line: str) -> None:
        """Print a line; if that fails, continue: no case is lost for it, and the error comes at the end."""
        try:
            say(line)
        except OSError as error:
            self._unprinted = self._unprinted or error

    def _lack(self) -> InputError | None:
        """Return the error if stdout lacks events."""
        if self._unprinted is None:
            return None
        what = f"stdout lacks events: it cannot be written ({self._unprinted.strerror or self._unprinted})"
        return InputError(what, todo="The files of the command are complete; --log-file takes events too")

    def _append(self, line: str) -> None:
        """Append a line; if that fails, warn once and continue: the next event is tried again."""
        try:
            if self._log is not None:
                self._log.write(line)
        except C3S3Error as error:
            if not self._complained:
                say(f"warning: the log file lacks events: {public(error.told)}", err=True)
            self._complained = True


def now() -> str:
    """Return the time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def exit_code_of(error: BaseException) -> int:
    """Return the exit code of the command line after an error, see `cli.main`."""
    if isinstance(error, Stopped):
        return 128 + error.number
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, C3S3Error):
        return as_c3s3_error(error).exit_code
    refused = refused_by_system(error)
    return DefectError.exit_code if refused is None else refused.exit_code


def _reason(error: BaseException) -> str | None:
    """Return the message without names of DICOM files; only the type if a library, which may quote scans."""
    if isinstance(error, typer.Exit):
        return None
    if isinstance(error, C3S3Error):
        return public(as_c3s3_error(error).told)
    return str(error) if isinstance(error, Stopped) else type(error).__name__
