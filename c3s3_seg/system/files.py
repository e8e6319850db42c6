"""Files written whole or not at all, and the folders that they go to."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from c3s3_seg.errors import InputError, StorageError
from c3s3_seg.system.names import NAME_BYTES, absolute

# Errors that the next file would have too: no room, a quota, a limit, read-only, denied, broken.
OF_THE_STORAGE = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE)
)
PARTIAL = re.compile(r"\.[0-9a-f]{12}\.part")  # names that `write_whole` gives


def write_whole(path: Path, content: bytes, ready: Callable[[Path], None] | None = None) -> None:
    """Write a file aside, sync and rename it: `path` holds all of `content`, or its old content.

    `ready` is called with the complete file under its temporary name, before it is renamed.

    Raises
    ------
    StorageError
        If the disk is full, or the folder takes no file for another reason that affects the next file too.
    InputError
        If the file cannot be written.
    """
    # A short random name: the path's own may already be as long as the file system allows.
    aside = path.parent / f".{secrets.token_hex(6)}.part"
    try:
        with aside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if ready is not None:
            ready(aside)
        aside.replace(path)
    except OSError as error:
        raise unwritten(f"cannot be written ({error.strerror or error})", path, error) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def remove_partial(folder: Path, names: re.Pattern[str] = PARTIAL) -> None:
    """Remove files that a killed process left half written; only the process that holds the folder may.

    `names` are those of such files. A folder that does not exist, or a link, is left alone.
    """
    with suppress(OSError):  # the next run tries again
        if folder.is_symlink():
            return
        for path in folder.iterdir():
            if names.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to the disk.

    Raises
    ------
    OSError
        If that fails.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritten(what: str, path: Path, error: OSError) -> InputError:
    """Return the error for a failed write: StorageError, or InputError for this file alone."""
    return (StorageError if error.errno in OF_THE_STORAGE else InputError)(what, where=path)


def lack_of_room(folder: Path, size: int) -> str:
    """Return why a file of `size` bytes cannot be written in a folder, "" if it can, by allocating it.

    SimpleITK does not report why a write failed, and the free space does not show a quota or a limit.
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
    """Create a folder and its parents, unless the folder exists.

    Raises
    ------
    StorageError
        If the disk is full, read-only or denied.
    InputError
        If the folder cannot be created, or a file is in its place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the folder cannot be made ({error.strerror or error})"
        raise unwritten(what, path, error) from error


def make_own_folder(path: Path) -> None:
    """Create a folder for files of this package inside an output folder; a link there is not followed.

    Raises
    ------
    InputError
        If a symbolic link or a file is in its place, or the folder cannot be created.
    """
    check_own_folder(path)
    make_folder(path)


def check_own_folder(path: Path) -> None:
    """Check, as far as possible, that `make_own_folder` could create a folder; create nothing.

    Raises
    ------
    InputError
        If a symbolic link or a file is in its place, or its name is too long.
    """
    try:
        refuse_link(path, "Remove the link, or give another folder with -o")
        if path.exists() and not path.is_dir():
            raise InputError("the folder cannot be made (there is a file in its place)", where=path)
    except OSError as error:  # the name is too long
        raise InputError(f"the folder cannot be made ({error.strerror or error})", where=path) from error


def refuse_link(folder: Path, todo: str) -> None:
    """Refuse a symbolic link in place of a folder into which this package writes files.

    Raises
    ------
    InputError
        If the folder is a link, with `todo` as advice.
    """
    if folder.is_symlink():
        raise InputError("is a symbolic link, wanted a folder of its own", where=folder, todo=todo)


def check_folder(path: Path) -> None:
    """Check before long work that files can be written in a folder, which may not exist yet; create nothing.

    Raises
    ------
    InputError
        If a file or a dangling link is in its place or above it, a name is too long, or nothing may be
        written there.
    """
    try:
        place = Path(absolute(path))
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
    """Raise the `OSError` of a name too long for any file system, whether or not its folder exists."""
    if len(os.fsencode(path.name)) > NAME_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def check_output_file(path: Path) -> None:
    """Check before long work that a file can be written at `path`; create the folders above it.

    Raises
    ------
    InputError
        If a folder is in its place, or its folder cannot be created or written to.
    """
    make_folder(path.parent)
    try:
        if path.is_dir():
            raise InputError("is a folder, wanted the path of a file to write", where=path)
    except OSError as error:  # the name is too long
        raise InputError(f"cannot be written ({error.strerror or error})", where=path) from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError("the folder cannot be written to (Permission denied)", where=path.parent)
