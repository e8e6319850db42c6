"""Terminal output of every command: a status line, a table, a message on missing packages."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

from c3s3_seg.errors import named, public
from c3s3_seg.system.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

    from c3s3_seg.report.rows import Failure


RESUMES = "what was finished is kept, and the same command goes on from there"
WIDEST = 10_000  # columns of a table
MOST_FAILURES = 20  # listed by `report_failures` where a file has all


def need(*packages: str, extra: str = "train") -> None:
    """Raise MissingError with what to install, before the import of a missing package."""
    import importlib.util

    from c3s3_seg.errors import MissingError, to_install

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        what = f"this needs {', '.join(missing)}, which the base installation leaves out"
        raise MissingError(what, todo=to_install(extra))


def shown(text: str, stream: TextIO | None) -> str:
    """Return a message as a stream may show it: only a terminal gets names of files in DICOM folders.

    A pipe, a log file or a scheduler's output is kept, and there `file 3 of 24` replaces such a name.
    """
    return named(text) if stream is not None and stream.isatty() else public(text)


class Stopped(BaseException):
    """An orderly end by Ctrl-C, or by the SIGTERM that schedulers send before they kill.

    `todo` says what the same command does next: `if_stopped` sets it for a command that resumes.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.todo = "the same command begins anew"
        super().__init__(f"stopped by {signal.Signals(number).name}")


@contextmanager
def if_stopped(todo: str = RESUMES) -> Iterator[None]:
    """Say, if the program is stopped meanwhile, what the same command does next."""
    try:
        yield
    except Stopped as stopped:
        stopped.todo = todo
        raise


class Status:
    """A line on stderr that shows the present step; silent if stderr is no terminal."""

    live = False
    _status: Any = None

    def __enter__(self) -> Status:
        self.live = sys.stderr is not None and sys.stderr.isatty()
        if self.live:  # importing rich takes longer than all else needed to read a scan
            self._status = _console_on_stderr().status("starting")
            self._status.start()
        return self

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        """See `Progress`."""
        if self.live:
            from rich.markup import escape

            self._status.update(escape(printable(counted(what, done, total))))

    def note(self, what: str) -> None:
        """Print a line that stays, in a log file too."""
        if self.live:
            self._status.console.print(printable(what), markup=False, highlight=False, soft_wrap=True)
        else:
            say(what, err=True)

    def __exit__(self, *_: object) -> None:
        if self.live:
            self._status.stop()


class Bar:
    """A progress bar on stderr with the remaining time; silent if stderr is no terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def __enter__(self) -> Bar:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = _console_on_stderr()
        columns = (MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Progress(
            *columns, console=console, transient=True, disable=self._quiet or not console.is_terminal
        )
        self._task = self._bar.add_task("starting", total=None)
        self._bar.start()
        return self

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        """See `Progress`."""
        from rich.markup import escape

        text = escape(printable(what))
        self._bar.update(self._task, description=text, completed=done, total=total or None)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def command_of(*words: object) -> str:
    """Return a command of this program, quoted for a shell, whatever its file names contain.

    A `Path` that begins with a dash, which would be taken for an option, begins with `./`.
    """
    import shlex

    texts = [f"./{word}" if isinstance(word, Path) and str(word)[0] == "-" else str(word) for word in words]
    return shlex.join(["c3s3-seg", *texts])


def counted(what: str, done: int, total: int) -> str:
    """Return `tiles (3 of 12)`; without a total, `what` alone."""
    return f"{what} ({done} of {total})" if total else what


def show(table: RenderableType) -> None:
    """Print a table on stdout, as wide as the terminal, or wider rather than without a part of its cells."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    if sys.stdout is None:  # closed by the parent process: the written files matter
        return
    # In a pipe or a log file there is no width to keep to.
    console = Console(width=None if sys.stdout.isatty() else 160, file=cast("IO[str]", _Tolerant(sys.stdout)))
    unlimited = console.options.update(max_width=WIDEST)
    if isinstance(table, Table):
        _keep_whole(table, console, unlimited)
    console.width = max(console.width, Measurement.get(console, unlimited, table).minimum)
    console.print(table)


def _keep_whole(table: Table, console: Console, unlimited: ConsoleOptions) -> None:
    """Give the columns that are not wrapped the width of their widest cell; rich counts its longest word."""
    from rich.measure import Measurement

    for column in table.columns:
        if column.no_wrap:
            cells = [column.header, *column.cells]
            column.min_width = max(Measurement.get(console, unlimited, cell).maximum for cell in cells)


def _console_on_stderr() -> Console:
    from rich.console import Console

    stream = None if sys.stderr is None else cast("IO[str]", _Tolerant(sys.stderr, messages=True))
    return Console(stderr=True, file=stream)


def say(line: str, *, err: bool = False) -> None:
    """Print one line on stdout, or stderr; a missing reader is no error, on stderr nor is a full disk.

    All output goes through this function or `show`: file names may hold control characters.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is not None:
        _Tolerant(stream, messages=err).write(printable(line) + "\n")


def say_json(content: object) -> None:
    """Print one JSON document on stdout, over several lines."""
    import json

    for line in json.dumps(content, indent=1).splitlines():
        say(line)


def report_failures(
    failures: Sequence[Failure], word: str = "failed", *, err: bool = False, table: str | None = None
) -> None:
    """Print each failed case, below a table or on stderr, with its reason on one line of any length.

    Of more than `MOST_FAILURES`, only the first are printed if the file `table` has all of them.
    """
    stream = sys.stderr if err else sys.stdout
    if failures:
        say(f"{len(failures)} {word}:", err=err)
    shown_ones = failures[:MOST_FAILURES] if table is not None else failures
    for failure in shown_ones:
        reason = " ".join(part.strip() for part in shown(failure.reason, stream).splitlines())
        say(f"  {shown(failure.case, stream)}: {reason}", err=err)
    if len(shown_ones) < len(failures):
        say(f"  and {len(failures) - len(shown_ones)} more; all are in {table}", err=err)


class _Tolerant:
    """A stream that outlives its reader: `c3s3-seg ... | head` fails no case.

    Parameters
    ----------
    stream
        The stream that is written to.
    messages
        Whether it takes messages, not results: then a full disk or a terminal that has gone is no error.
    """

    def __init__(self, stream: TextIO, *, messages: bool = False) -> None:
        self._stream, self._messages = stream, messages
        self.encoding = stream.encoding

    def write(self, text: str) -> int:
        """Write and flush, so that a closed pipe is found here and not at exit."""
        try:
            encoding = self.encoding or "utf-8"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()
        except BrokenPipeError:
            # Python would complain once more at exit, when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        except OSError:
            if not self._messages:
                raise
            with suppress(OSError):
                self._drop()
        return len(text)

    def _drop(self) -> None:
        """Drop the text that could not be written, which Python would write again at exit."""
        place = self._stream.fileno()
        kept, nowhere = os.dup(place), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, place)
            self._stream.flush()
        finally:
            os.dup2(kept, place)
            os.close(kept)
            os.close(nowhere)

    def flush(self) -> None:
        """Do nothing: `write` flushes."""

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        return self._stream.fileno()
