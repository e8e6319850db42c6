"""One error family: what is wrong, where, and what to do about it.

Exit codes of the command line: 0 all went well; 1 some cases failed, or a check said no; 2 the
input or the command is at fault; 3 a package or a device that was asked for is not there; 4 a
defect of this program. 130 and 143: it was interrupted (SIGINT, SIGTERM); what was finished is kept.
"""

from collections.abc import Iterable
from pathlib import Path


class C3S3Error(Exception):
    """What a user can cause and mend. The command line prints it as one line, without a traceback.

    Parameters
    ----------
    what
        What was found and what was wanted, as a sentence without its full stop.
    where
        The file, the folder or the configuration key that it is about.
    todo
        What to do, as a sentence without its full stop.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | Path | None = None, todo: str | None = None) -> None:
        self.what, self.where, self.todo = what, where, todo
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where is not None else ""
        return f"{place}{self.what}." + (f" {self.todo}." if self.todo else "")


class InputError(C3S3Error):
    """A file or an argument that cannot be used as it is."""


class GeometryError(InputError):
    """Two grids that should be the same and are not, or a grid that cannot be."""


class ConfigError(InputError):
    """A configuration key with a value that is not allowed."""


class RefusedError(C3S3Error):
    """A check that said no: the work was done, and its result is not good enough to be written."""

    exit_code = 1


class MemoryLimitError(C3S3Error):
    """More memory would be needed than there is, or than was allowed."""


class MissingError(C3S3Error):
    """A package or a device that was asked for and is not there."""

    exit_code = 3


class DefectError(C3S3Error):
    """What no check foresaw: a defect of this program, which a batch survives."""

    exit_code = 4


def shown(value: object) -> str:
    """A value of any kind as messages show it: `1.5`, `(1, 2.5)`, never `np.float64(1.5)`.

    Parameters
    ----------
    value
        A number or text of Python or numpy, an array, or a list, tuple, set or dict of them.

    Returns
    -------
    str
        Numbers with up to 6 significant digits where they are not whole; text in quotes within a list.
    """
    plain = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(plain, float):
        return f"{plain:.0f}" if plain.is_integer() and abs(plain) < 1e15 else f"{plain:.6g}"
    if isinstance(plain, list | tuple):
        items = ", ".join(_within(item) for item in plain)
        return f"[{items}]" if isinstance(plain, list) else f"({items})"
    if isinstance(plain, set | frozenset):
        return f"{{{', '.join(sorted(_within(item) for item in plain))}}}"
    if isinstance(plain, dict):
        return f"{{{', '.join(f'{_within(k)}: {_within(v)}' for k, v in plain.items())}}}"
    return str(plain)


def _within(item: object) -> str:
    return repr(str(item)) if isinstance(item, str) else shown(item)


def listed(names: Iterable[str], most: int = 3) -> str:
    """A few of the names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
