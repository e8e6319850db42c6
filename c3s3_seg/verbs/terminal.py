"""What every verb needs of the terminal: a status line, a table, a word on what is not installed."""

from __future__ import annotations

import sys


def need(*packages: str, extra: str = "train") -> None:
    """Say what to install before anything is imported that would not be found."""
    import importlib.util

    from c3s3_seg.errors import MissingError

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        todo = f"pip install 'c3s3-seg[{extra}]'"
        raise MissingError(
            f"this needs {', '.join(missing)}, which the base installation leaves out", todo=todo
        )


class Status:
    """A line on stderr that says which case is at work; silent where stderr is no terminal."""

    def __enter__(self) -> Status:
        from rich.console import Console

        self._status = Console(stderr=True).status("starting")
        self._status.start()
        return self

    def __call__(self, what: str) -> None:
        """Say what is at work now."""
        from rich.markup import escape

        self._status.update(escape(what))

    def __exit__(self, *_: object) -> None:
        self._status.stop()


class Bar:
    """A progress bar on stderr with the time that is left; silent where stderr is no terminal."""

    def __enter__(self) -> Bar:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("starting", total=None)
        self._bar.start()
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say what has just been done."""
        from rich.markup import escape

        self._bar.update(self._task, description=escape(what), completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def show(table: object) -> None:
    """Print a table on stdout, as wide as the terminal is."""
    from rich.console import Console

    if sys.stdout is None:  # closed by whoever started us: the files are what counts
        return
    # In a pipe or a log file there is no width to keep to.
    Console(width=None if sys.stdout.isatty() else 160).print(table)
