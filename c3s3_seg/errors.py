"""The errors of this package: what is wrong, where, and what to do about it.

Exit codes of the command line: 0 success; 1 some cases failed or were empty, or a check failed; 2 the
input or the command is at fault; 3 a requested package or device is missing; 4 a defect of this program;
130 and 143 the command was interrupted (SIGINT, SIGTERM), and finished work is kept.
"""

import errno
import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

# Marks around a file's name in an unfinished message: the name, then its replacement for other places.
_OPEN, _OR, _CLOSE = "\ue0f0", "\ue0f1", "\ue0f2"
_NAME = f"[^{_OPEN}{_OR}{_CLOSE}]*"
_MARKED = re.compile(f"{_OPEN}({_NAME}){_OR}({_NAME}){_CLOSE}")


class FileName(str):
    """The name of a file in a DICOM folder, which may be the name of a patient.

    The string itself is the name. Formatted into a message it also carries its replacement for wherever
    the message is kept, so that `C3S3Error` and the notes of a volume have both: see `Told`.

    Parameters
    ----------
    name
        Name relative to the folder.
    public
        Replacement: `file 3 of 24`, in the order of the names, so that the user finds the file.
    """

    public: str

    def __new__(cls, name: str, public: str) -> "FileName":
        """Create the name with its replacement."""
        made = super().__new__(cls, name)
        made.public = public
        return made

    def __format__(self, spec: str) -> str:
        """Return both, between marks that `Told` resolves."""
        del spec
        return f"{_OPEN}{re.sub(f'[{_OPEN}{_OR}{_CLOSE}]', '?', str(self))}{_OR}{self.public}{_CLOSE}"

    def __getnewargs__(self) -> Any:
        """Return the arguments for copies and other processes."""
        return str(self), self.public


class Told(str):
    """A message in two versions: with the names of files, for a terminal, and without, for all that is kept.

    Parameters
    ----------
    text
        Message that may hold formatted `FileName`s.
    named
        Whether the string itself is the version with names; both are attributes.
    """

    public: str
    named: str

    def __new__(cls, text: str, *, named: bool = False) -> "Told":
        """Resolve the names."""
        versions = (text.named, text.public) if isinstance(text, Told) else _resolved(text)
        return cls.of(*versions, named)

    @classmethod
    def of(cls, named: str, public: str, as_named: bool = False) -> "Told":
        """Create a message from both versions."""
        made = super().__new__(cls, named if as_named else public)
        made.named, made.public = named, public
        return made

    def __reduce__(self) -> Any:
        """Return function and arguments for copies and other processes."""
        return Told.of, (self.named, self.public, str(self) == self.named)


def _resolved(text: str) -> tuple[str, str]:
    if isinstance(text, FileName):
        return str(text), text.public
    if _OPEN not in text:
        return text, text
    return _MARKED.sub(r"\1", text), _MARKED.sub(r"\2", text)


def public(text: str) -> str:
    """Return a message without names of files in DICOM folders, for files, journals and logs."""
    return text.public if isinstance(text, Told) else _resolved(text)[1]


def named(text: str) -> str:
    """Return a message with names of files in DICOM folders, for a terminal."""
    return text.named if isinstance(text, Told) else _resolved(text)[0]


# Options of the command line that have another name in the Python API (`load`, `Settings`, `Predictor`).
_ARGUMENTS = {
    "allow-out-of-domain": "allow_out_of_domain=True",
    "max-memory": "memory_bytes=",
    "set tiling.overlap": "overlap",
    "repair": "repair=",
}
_VALUES = r"\d[\d.]*|tilt|gaps|orthonormal|cpu|onnx|torch|float32"
_OPTION = re.compile(
    rf"--(allow-out-of-domain|roi|series|repair|set tiling\.overlap|max-memory|device|precision|backend)\b"
    rf"(?: ({_VALUES})\b)?"
)


def in_python(text: str) -> str:
    """Return a message in terms of the Python API: `--roi` -> `roi=`, `--repair tilt` -> `repair='tilt'`."""

    def argument(found: re.Match[str]) -> str:
        name, value = _ARGUMENTS.get(found[1], f"{found[1]}="), found[2]
        shown_value = "" if value is None else value if value[0].isdigit() else repr(value)
        of = (
            " of c3s3_seg.load" if found[1] == "series" else ""
        )  # a predictor that loads a path has no such one
        return f"{name}{shown_value}{of}"

    return _OPTION.sub(argument, text)


class C3S3Error(Exception):
    """An error that a user can cause and correct. The command line prints it as one line, no traceback.

    Parameters
    ----------
    what
        What was found and what was wanted, as a sentence without its full stop.
    where
        The file, the folder or the configuration key of the error.
    todo
        What to do, as a sentence without its full stop; options are those of the command line. The text of
        the error, `str(error)`, names the arguments of the Python API in their place.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | Path | None = None, todo: str | None = None) -> None:
        self.what, self.where, self.todo = Told(what), where, todo
        super().__init__(str(self))

    def __reduce__(self) -> Any:
        """Return function, arguments and state for copies and other processes, in the words of this one."""
        made = partial(type(self), self.what, where=self.where, todo=self.todo)
        return made, (), self.__dict__

    def __str__(self) -> str:
        """Return the message for Python, with arguments of the API in place of options."""
        return in_python(self.told.named)

    @property
    def told(self) -> Told:
        """The whole message; the string is the version without names of files in DICOM folders."""
        where = self.where if isinstance(self.where, str) else str(self.where)
        place = Told.of(f"{named(where)}: ", f"{public(where)}: ") if self.where is not None else Told("")
        end = "." + (f" {self.todo}." if self.todo else "")
        return Told.of(place.named + self.what.named + end, place.public + self.what.public + end)


class InputError(C3S3Error):
    """A file or an argument that cannot be used as it is."""


class GeometryError(InputError):
    """Two grids that should be the same and are not, or an invalid grid."""


class ConfigError(InputError):
    """A configuration key with a value that is not allowed."""


class StorageError(InputError):
    """An output folder in which nothing can be written any more: no room, read-only, denied."""


class RefusedError(C3S3Error):
    """A failed check: the work was done, but its result is not good enough or cannot be used."""

    exit_code = 1


class MemoryLimitError(C3S3Error):
    """A need of more memory than is available or allowed."""


class MissingError(C3S3Error):
    """A package or a device that was requested and is missing."""

    exit_code = 3


class DefectError(C3S3Error):
    """An error that no check foresaw: a defect of this program, which a batch survives."""

    exit_code = 4


def shown(value: object) -> str:
    """Return a value of any kind as messages show it: `1.5`, `(1, 2.5)`, never `np.float64(1.5)`.

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
    """Return the first `most` names, and the number of further ones."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(f"{name}" for name in every[:most]) + more  # formatted: a FileName has two versions


def quantity(count: int, noun: str) -> str:
    """Return a number with its noun: `1 case`, `2 cases`, `2 studies`; `noun` is in the singular."""
    plural = noun if noun.endswith("series") else f"{noun}s"
    if re.search("[^aeiou]y$", noun):
        plural = f"{noun[:-1]}ies"
    return f"{count:,} {noun if count == 1 else plural}"


NO_MEMORY = "the memory did not suffice"
MORE_MEMORY = "Give more memory, or fewer workers"
# Messages of libraries in place of MemoryError: C++ runtimes, torch, the C library; the dynamic linker, when
# a module is imported; OpenVINO, ONNX Runtime, CUDA, cuBLAS and cuDNN. In lower case.
OUT_OF_MEMORY = (
    "bad_alloc",
    "bad alloc",
    "cannot allocate",
    "can't alloc",
    "could not create a memory",
    "device_allocation_failed",
    "failed to allocate",
    "failed to map segment from shared object",
    "memoryallocation",
    "not enough memory",
    "out of memory",
    "out_of_memory",
    "status_alloc_failed",
    "unable to allocate",
)
# Messages if no memory is left for one more thread's stack; from a lock the first is no lack of memory.
NO_THREAD = ("resource temporarily unavailable", "can't start new thread")


def as_c3s3_error(error: BaseException, *, quote: bool = True) -> C3S3Error:
    """Return any exception as a `C3S3Error`: itself, a lack of memory, or a defect of the program.

    Parameters
    ----------
    error
        Exception. A `C3S3Error` stays as it is, unless it was raised from a lack of memory, which a reader or
        an import took for something else.
    quote
        Whether the text of another exception may be kept. For a DICOM scan it may not: libraries quote
        headers and file names.
    """
    if isinstance(error, C3S3Error):
        if isinstance(error, MemoryLimitError) or not is_out_of_memory(error.__cause__):
            return error
        return MemoryLimitError(f"{NO_MEMORY}: {error.what}", where=error.where, todo=MORE_MEMORY)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] if quote else []
    if is_out_of_memory(error):
        relevant = [line for line in lines if any(word in line.lower() for word in OUT_OF_MEMORY + NO_THREAD)]
        first = f": {(relevant or lines)[0]}" if lines else ""
        return MemoryLimitError(f"{NO_MEMORY}{first}", todo=MORE_MEMORY)
    first = f": {lines[0]}" if lines else ""
    todo = "This is a defect of the program: please report it; the journal holds the traceback"
    return DefectError(f"{type(error).__name__}{first}", todo=todo)


def cause_of(error: BaseException) -> str:
    """Return what a message may state about another program's error: the system's words, else the type.

    The text of the error itself may quote a header or a file name. The system's words tell an I/O error,
    which may pass, from a damaged file.
    """
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else type(error).__name__


def refused_by_system(error: BaseException) -> C3S3Error | None:
    """Return an OSError or a lack of memory as a `C3S3Error`; None for any other exception."""
    if is_out_of_memory(error):
        return as_c3s3_error(error)
    if isinstance(error, OSError) and error.strerror:
        return InputError(error.strerror, where=error.filename)
    return None


def _in_an_import(error: SystemError) -> bool:
    """Return whether a SystemError without a cause is from an import, in which a module found no memory."""
    if not re.search("without (exception set|setting an exception)", str(error)):
        return False
    frame = error.__traceback__
    while frame is not None:
        code, names = frame.tb_frame.f_code, frame.tb_frame.f_globals
        if code.co_filename.startswith("<frozen importlib"):  # frames that Python may leave out
            return True
        if code.co_name == "<module>" and names.get("__name__") != "__main__":
            return True
        frame = frame.tb_next
    return False


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an exception, or one that it was raised from or after, is a lack of memory."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        number = error.errno if isinstance(error, OSError) else None
        text = str(error).lower()
        words = OUT_OF_MEMORY + (NO_THREAD if isinstance(error, RuntimeError) else ())
        if isinstance(error, MemoryError) or number == errno.ENOMEM or any(word in text for word in words):
            return True
        if isinstance(error, SystemError) and _in_an_import(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def to_install(extra: str) -> str:
    """Return how to install a missing extra: this program is on no package index."""
    return f"Run pip install '.[{extra}]' in the clone, or add [{extra}] to the wheel (docs/installation.md)"
