"""Read files from outside, with checks of kind, size and content."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError
from c3s3_seg.system.names import printable

JSON_BYTES = 256 << 20  # a batch of 100,000 cases has a provenance of some 100 MB


def given_path(path: object) -> Path:
    """Return an argument of the Python API as a path.

    Raises
    ------
    InputError
        If it is no path, holds the character 0, which no file name has, or is empty, as an unset variable
        is: it would be the working folder.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"found {type(path).__name__}, wanted a path")
    if path == "":
        raise InputError("found an empty path; write . for the working folder")
    if "\0" in str(path):
        raise InputError("found a path with the character 0, which no file has in its name")
    return Path(path)


def read_known(path: Path, hashes: Mapping[str, str] | None, limit: int) -> bytes:
    """Return the content of a file whose sha256 was verified before, and verify this content again.

    Parameters
    ----------
    path
        Path of a regular file.
    hashes
        File name -> sha256; None accepts any content.
    limit
        Same as in `read_regular`.

    Raises
    ------
    InputError
        Same as in `read_regular`; or if the file has no hash, or has changed since.
    """
    content = read_regular(path, limit)
    if hashes is not None and hashes.get(path.name) != hashlib.sha256(content).hexdigest():
        what = "has changed since its sha256 was compared" if path.name in hashes else "has no known sha256"
        raise InputError(what, where=path)
    return content


def read_regular(
    path: Path, limit: int = JSON_BYTES, check: Callable[[os.stat_result], None] | None = None
) -> bytes:
    """Return the content of a regular file of at most `limit` bytes; never read a FIFO or a device.

    Parameters
    ----------
    path
        Path of the file.
    limit
        Largest size in bytes.
    check
        Called with owner and mode of the opened file, before the file is read; may raise.

    Raises
    ------
    InputError
        If the file is not regular, is larger, or cannot be read.
    """
    with _opened(path) as file:
        status = os.fstat(file.fileno())
        if check is not None:
            check(status)
        content = file.read(min(limit, status.st_size) + 1)  # `read` reserves all memory that is requested
    if len(content) > limit:
        raise InputError(f"is larger than {limit:,} bytes, which no such file should be", where=path)
    return content


def parse_json(text: bytes | str, where: str | Path) -> Any:
    """Parse JSON from outside into dicts, lists, strings and numbers.

    Raises
    ------
    InputError
        If the text is not JSON, not UTF-8, nested too deep, or a table has a key twice: readers differ in
        which of the two values they take.
    """

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise InputError(f"has the key '{printable(twice[:80])}' twice; wanted it once", where=where)
        return made

    try:
        return json.loads(text, object_pairs_hook=table)
    except RecursionError:
        raise InputError("cannot be read as JSON (it is nested too deep)", where=where) from None
    except ValueError as error:
        raise InputError(f"cannot be read as JSON ({error})", where=where) from error


def parse_toml(content: bytes, where: Path) -> dict[str, Any]:
    """Parse TOML; a byte order mark, which editors on Windows write, is ignored.

    Raises
    ------
    InputError
        If the content is not TOML, not UTF-8, or nested too deep.
    """
    import tomllib

    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except ValueError as error:  # no TOML, no UTF-8, or a whole number of more than 4,300 digits
        raise InputError(f"not valid TOML: {error}", where=where) from error
    except RecursionError:
        raise InputError("not valid TOML: it is nested too deep", where=where) from None


def read_json(path: Path, limit: int = JSON_BYTES) -> Any:
    """Return the parsed JSON of a file.

    Raises
    ------
    InputError
        If the file is not regular, too large, or not JSON.
    """
    return parse_json(read_regular(path, limit), path)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises
    ------
    InputError
        If the file cannot be read, or is not regular: a pipe or a device may never end.
    """
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file; an OSError while the file is open becomes an `InputError` too."""
    try:
        # Without O_NONBLOCK, opening a FIFO waits for its other end.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError("wanted a regular file", where=path)
            yield file
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=path) from error
