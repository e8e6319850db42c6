"""Writing files so that they are whole or not there at all."""

import os
import secrets
from pathlib import Path

from c3s3_seg.errors import InputError


def write_whole(path: Path, content: bytes) -> None:
    """Write aside, sync, rename: `path` holds all of `content`, or what it held before.

    Raises
    ------
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
        raise InputError(f"cannot be written ({error.strerror or error})", where=path) from error
    finally:
        aside.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it; one that is there already is as good.

    Raises
    ------
    InputError
        If it cannot be made, or a file stands in its place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder cannot be made ({error.strerror or error})", where=path) from error


def printable(text: str) -> str:
    """Fit for one line: a file name need not be Unicode, and may hold line breaks."""
    clean = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )
    return clean.encode("utf-8", "backslashreplace").decode()
