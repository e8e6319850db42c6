"""How long work reports how far it is: one protocol for every package."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called from time to time while something is done."""

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        """Report.

        Parameters
        ----------
        what
            What is being done, or has just been done: a case, a step.
        done, total
            How many parts of it are finished, and how many there are; a total of 0 is not known.
        """


def silent(what: str, done: int = 0, total: int = 0) -> None:
    """Report to nobody."""
    del what, done, total
