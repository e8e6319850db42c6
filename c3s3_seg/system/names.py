"""Make names from outside safe for a path, for comparison, and for one line."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c3s3_seg.errors import InputError, Told, public

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

NAME_BYTES = 255  # limit of file systems


def absolute(path: str | os.PathLike[str]) -> str:
    """Return the absolute form of a path that names the same file, links kept.

    `os.path.abspath` removes `LINK/..` from the text, and so names another file: the system follows the link
    first. A path with `..` therefore gets the real path of its folder.
    """
    whole = os.path.join(os.getcwd(), os.fspath(path))
    if ".." not in whole.split(os.sep):
        return os.path.normpath(whole)
    folder, name = os.path.split(whole.rstrip(os.sep))
    return os.path.realpath(whole) if name == ".." else os.path.join(os.path.realpath(folder), name)


class PlainName(str):
    """One component of a path: no separator, not "." or "..", no control character, at most 255 bytes.

    A name that comes from outside (a case in an index, a task, a label, a network's stem) and becomes part
    of a path is parsed into this type, so that it cannot point out of its folder. Fields of dataclasses
    that `schema.parse` builds may have it as their annotation.

    Raises
    ------
    ValueError
        If the name is not plain; the message states the wanted form.
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
    """Return `text` as a `PlainName`.

    Parameters
    ----------
    text
        Name as it was found.
    what
        Kind of name, for the message: "the case", "the label".
    where
        File in which the name was found.

    Raises
    ------
    InputError
        If the name could point out of its folder, or cannot be a file's name.
    """
    try:
        return PlainName(text)
    except ValueError as error:
        raise InputError(f"{what} {printable(text)!r}: wanted {error}", where=where) from None


def folded(name: str) -> str:
    """Return a name as compared by a file system that ignores case and Unicode forms."""
    return unicodedata.normalize("NFC", name).casefold()


def printable(text: str) -> str:
    """Escape a text for one line: a file name need not be Unicode, and may hold line breaks."""
    clean = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in (text if isinstance(text, Told) else public(text))
    )
    return clean.encode("utf-8", "backslashreplace").decode()
