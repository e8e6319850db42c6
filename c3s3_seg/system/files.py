"""Files and names from outside: written whole or not at all, read only as far as they can be trusted."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c3s3_seg.errors import InputError, StorageError, Told, public

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

JSON_BYTES = 256 << 20  # a batch of 100,000 cases has a provenance of some 100 MB
NAME_BYTES = 255  # what file systems take

# A write that fails so fails for the next file too: no room, a quota, a limit, read-only, denied, broken.
OF_THE_STORAGE = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE)
)


class PlainName(str):
    """One component of a path: no separator, not "." or "..", no control character, at most 255 bytes.

    A name that comes from outside (a case in an index, a task, a label, a network's stem) and becomes part
    of a path is parsed into this type, so that it cannot point out of its folder. Fields of dataclasses
    that `schema.parse` builds may have it as their annotation.

    Raises
    ------
    ValueError
        Saying what is wrong with the name.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> PlainName:
        """Check the name."""
        if text in ("", ".", ".."):
            raise ValueError(f"a plain file name, and {text!r} is none")
        if any(c in "/\\" or not c.isprintable() for c in text):
            raise ValueError("a plain file name without separators (/, \\) and control characters")
        if len(os.fsencode(text)) > NAME_BYTES:
            raise ValueError(f"a file name of at most {NAME_BYTES} bytes")
        return super().__new__(cls, text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


def plain_name(text: str, what: str, where: str | Path) -> PlainName:
    """`text` as a `PlainName`.

    Parameters
    ----------
    text
        The name as it was found.
    what
        What it names, for the message: "the case", "the label".
    where
        The file that it was found in.

    Raises
    ------
    InputError
        If it could point out of its folder, or cannot be a file's name.
    """
    try:
        return PlainName(text)
    except ValueError as error:
        raise InputError(f"{what} {printable(text)!r}: wanted {error}", where=where) from None


def folded(name: str) -> str:
    """A name of a case or a label as a file system compares it that knows neither case nor Unicode forms."""
    return unicodedata.normalize("NFC", name).casefold()


def read_known(path: Path, hashes: Mapping[str, str] | None, limit: int) -> bytes:
    """The content of a file whose sha256 was proven before: what is used is what was proven.

    Parameters
    ----------
    path
        A regular file.
    hashes
        File name -> sha256; None takes the file as it is.
    limit
        As in `read_regular`.

    Raises
    ------
    InputError
        As `read_regular`; or if the file has no hash, or has changed since.
    """
    content = read_regular(path, limit)
    if hashes is not None and hashes.get(path.name) != hashlib.sha256(content).hexdigest():
        what = "has changed since its sha256 was compared" if path.name in hashes else "has no known sha256"
        raise InputError(what, where=path)
    return content


def read_regular(
    path: Path, limit: int = JSON_BYTES, check: Callable[[os.stat_result], None] | None = None
) -> bytes:
    """The content of a regular file of at most `limit` bytes; a FIFO or a device is never read.

    Parameters
    ----------
    path
        The file.
    limit
        Bytes that it may have.
    check
        Called with owner and mode of the file that was opened, before it is read; may raise.

    Raises
    ------
    InputError
        If it is no regular file, is larger, or cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits for its other end.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError("wanted a regular file", where=path)
            if check is not None:
                check(status)
            content = file.read(min(limit, status.st_size) + 1)  # as much memory as it asks for is reserved
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=path) from error
    if len(content) > limit:
        raise InputError(f"is larger than {limit:,} bytes, which no such file should be", where=path)
    return content


def parse_json(text: bytes | str, where: str | Path) -> Any:
    """JSON from outside -> dicts, lists, strings and numbers.

    Raises
    ------
    InputError
        If it is not JSON, not UTF-8, nested too deep, or a table has a key twice: readers differ in which
        of the two values they take.
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


def read_json(path: Path, limit: int = JSON_BYTES) -> Any:
    """The JSON in a file.

    Raises
    ------
    InputError
        If it is no regular file, too large, or not JSON.
    """
    return parse_json(read_regular(path, limit), path)


def write_whole(path: Path, content: bytes) -> None:
    """Write aside, sync, rename: `path` holds all of `content`, or what it held before.

    Raises
    ------
    StorageError
        If the disk is full, or the folder takes no file for another reason that the next file has too.
    InputError
        If it cannot be written.
    """
    # A short random name: the path's own may already be as long as the file system allows.
    aside = path.parent / f".{secrets.token_hex(6)}.part"
    try:
        with aside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise unwritten(f"cannot be written ({error.strerror or error})", path, error) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file, or the entries of a folder, on the disk.

    Raises
    ------
    OSError
        If it cannot be.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritten(what: str, path: Path, error: OSError) -> InputError:
    """The error for a write that failed: one of the storage, or of this file alone."""
    return (StorageError if error.errno in OF_THE_STORAGE else InputError)(what, where=path)


def lack_of_room(folder: Path, size: int) -> str:
    """Why a file of so many bytes cannot be written in a folder, "" if it can: the room is asked for.

    SimpleITK does not say why a write failed, and a quota or a limit is not seen in the free space.
    """
    aside = folder / f".{secrets.token_hex(6)}.part"
    try:
        with aside.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, size))
    except OSError as error:
        return os.strerror(error.errno) if error.errno in OF_THE_STORAGE else ""
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    return ""


def make_folder(path: Path) -> None:
    """Make a folder and those above it; one that is there already is as good.

    Raises
    ------
    StorageError
        If the disk is full, read-only or denied.
    InputError
        If it cannot be made, or a file stands in its place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the folder cannot be made ({error.strerror or error})"
        raise unwritten(what, path, error) from error


def make_own_folder(path: Path) -> None:
    """Make a folder inside an output folder, to write files of ours into; a link there is not followed.

    Raises
    ------
    InputError
        If a symbolic link or a file stands in its place, or it cannot be made.
    """
    check_own_folder(path)
    make_folder(path)


def check_own_folder(path: Path) -> None:
    """Whether `make_own_folder` could make it, as far as can be seen; makes nothing.

    Raises
    ------
    InputError
        If a symbolic link or a file stands in its place.
    """
    try:
        refuse_link(path, "Remove the link, or give another folder with -o")
        if path.exists() and not path.is_dir():
            raise InputError("the folder cannot be made (there is a file in its place)", where=path)
    except OSError as error:  # the name is too long
        raise InputError(f"the folder cannot be made ({error.strerror or error})", where=path) from error


def refuse_link(folder: Path, todo: str) -> None:
    """Refuse a symbolic link in the place of a folder that files of ours are written into.

    Raises
    ------
    InputError
        If it is one; `todo` says what to do then.
    """
    if folder.is_symlink():
        raise InputError("is a symbolic link, wanted a folder of its own", where=folder, todo=todo)


def check_folder(path: Path) -> None:
    """Before long work: could files be written in this folder, which need not be there yet? Makes nothing.

    Raises
    ------
    InputError
        If a file or a link that leads nowhere is in its place or above it, a name is too long, or nothing
        may be written there.
    """
    try:
        place = Path(os.path.abspath(path))
        while not os.path.lexists(place) and place != place.parent:
            check_name(place)
            place = place.parent
        if not place.is_dir():
            raise InputError("the folder cannot be made (Not a directory)", where=place)
    except OSError as error:
        raise InputError(f"the folder cannot be made ({error.strerror or error})", where=path) from error
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError("the folder cannot be written to (Permission denied)", where=place)


def check_name(path: Path) -> None:
    """Raise the `OSError` of a name that no file system takes, whether its folder is there or not."""
    if len(os.fsencode(path.name)) > NAME_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def check_output_file(path: Path) -> None:
    """Before long work: could a file be written at `path`? Makes the folders above it.

    Raises
    ------
    InputError
        If there is a folder in its place, or its folder cannot be made or written to.
    """
    make_folder(path.parent)
    try:
        if path.is_dir():
            raise InputError("is a folder, wanted the path of a file to write", where=path)
    except OSError as error:  # the name is too long
        raise InputError(f"cannot be written ({error.strerror or error})", where=path) from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError("the folder cannot be written to (Permission denied)", where=path.parent)


def printable(text: str) -> str:
    """Fit for one line: a file name need not be Unicode, and may hold line breaks."""
    clean = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in (text if isinstance(text, Told) else public(text))
    )
    return clean.encode("utf-8", "backslashreplace").decode()
