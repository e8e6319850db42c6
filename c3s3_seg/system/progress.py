"""The protocol for progress reports of long work, one for every package."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A callable that receives progress reports during work."""

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        """Report progress.

        Parameters
        ----------
        what
            Name of the present, or just finished, work: a case, a step.
        done, total
            Number of finished parts, and of all parts; a total of 0 is unknown.
        """


def silent(what: str, done: int = 0, total: int = 0) -> None:
    """Ignore the report."""
    del what, done, total
