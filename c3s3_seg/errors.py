"""One error family: what is wrong, where, and what to do about it.

Exit codes of the command line: 0 all went well; 1 some cases failed, or a check said no; 2 the
input or the command is at fault; 3 a package or a device that was asked for is not there; 4 a
defect of this program. 130 and 143: it was interrupted (SIGINT, SIGTERM); what was finished is kept.
"""

import errno
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


class StorageError(InputError):
    """Where the output goes, nothing can be written any more: no room, read-only, denied."""


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


NO_MEMORY = "the memory did not suffice"
MORE_MEMORY = "Give more memory, or fewer workers, or smaller tiles with --overlap 0.25"
# What libraries say in place of a MemoryError: C++ runtimes, torch, the C library; the dynamic linker, when a
# module is imported.
OUT_OF_MEMORY = (
    "bad_alloc",
    "cannot allocate memory",
    "failed to map segment from shared object",
    "out of memory",
    "not enough memory",
    "unable to allocate",
    "can't alloc",
)
# Where there is no memory for the stack of one more thread; of a lock the first is no lack of memory.
NO_THREAD = ("resource temporarily unavailable", "can't start new thread")


def unforeseen(error: BaseException) -> C3S3Error:
    """What no check foresaw, as an error of ours: the memory ran out, or a defect of the program."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    if is_out_of_memory(error):
        telling = [line for line in said if any(word in line.lower() for word in OUT_OF_MEMORY + NO_THREAD)]
        first = f": {(telling or said)[0]}" if said else ""
        return MemoryLimitError(f"{NO_MEMORY}{first}", todo=MORE_MEMORY)
    first = f": {said[0]}" if said else ""
    todo = "This is a defect of the program: please report it; the journal holds the traceback"
    return DefectError(f"{type(error).__name__}{first}", todo=todo)


def foreseen(error: C3S3Error) -> C3S3Error:
    """An error of ours as it is; but a lack of memory that a reader or an import took for something else."""
    if isinstance(error, MemoryLimitError) or not is_out_of_memory(error.__cause__):
        return error
    return MemoryLimitError(f"{NO_MEMORY}: {error.what}", where=error.where, todo=MORE_MEMORY)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised from or after, is a lack of memory."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        number = error.errno if isinstance(error, OSError) else None
        said = str(error).lower()
        words = OUT_OF_MEMORY + (NO_THREAD if isinstance(error, RuntimeError) else ())
        if isinstance(error, MemoryError) or number == errno.ENOMEM or any(word in said for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False
