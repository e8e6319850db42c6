"""The configuration file `c3s3-seg.toml`: where it is looked for, who may have written it, its tables."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from c3s3_seg.errors import InputError

FILE_NAME = "c3s3-seg.toml"
VARIABLE = "C3S3_SEG_CONFIG"
NO_FILE = "none"  # as the name of the file: read none
FILE_BYTES = 1 << 20

Origin = Literal["given", "working folder", "user's folder"]


@dataclass(frozen=True)
class FoundConfig:
    """A configuration file that holds for this run.

    Parameters
    ----------
    path
        The file.
    origin
        Whether it was given by name, or in which folder it was found.
    """

    path: Path
    origin: Origin


def find(given: str | None, environment: Mapping[str, str]) -> FoundConfig | None:
    """The first file that there is: the given one, that of the working folder, that of the user.

    Only this file holds. Files are not merged, so that one file says all.

    Parameters
    ----------
    given
        What `--config` has. None: what `C3S3_SEG_CONFIG` has, if it is set. `none`: no file is read.
    environment
        `os.environ`.
    """
    name = given or environment.get(VARIABLE)
    if name == NO_FILE:
        return None
    if name:
        return FoundConfig(Path(name), "given")
    # `lexists`: a link to nothing, or a file that may not be read, is refused and not passed over.
    if os.path.lexists(FILE_NAME):
        return FoundConfig(Path(FILE_NAME), "working folder")
    folder = user_folder(environment)
    if folder is not None and os.path.lexists(folder / FILE_NAME):
        return FoundConfig(folder / FILE_NAME, "user's folder")
    return None


def user_folder(environment: Mapping[str, str], platform: str = sys.platform) -> Path | None:
    """Where this user's file would be: a folder of the platform; None where the environment names no home.

    Parameters
    ----------
    environment
        `os.environ`.
    platform
        `sys.platform`.
    """
    base = environment.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(base):  # the XDG specification ignores any other
        return Path(base) / "c3s3-seg"
    if platform == "win32":
        roaming = environment.get("APPDATA")
        return Path(roaming) / "c3s3-seg" if roaming else None
    home = environment.get("HOME")
    if not home:
        return None
    parts = ("Library", "Application Support") if platform == "darwin" else (".config",)
    return Path(home, *parts, "c3s3-seg")


def read(found: FoundConfig) -> dict[str, Any]:
    """The tables of a file, of which only the form is checked: `config_values` checks the keys.

    Raises
    ------
    InputError
        If it is no regular file, is too large, cannot be read or is not TOML; or if it was found, not given,
        and somebody else owns it or may write to it.
    """
    import tomllib

    from c3s3_seg.system.reading import read_regular

    check = None if found.origin == "given" else lambda status: check_owner(status, found.path)
    content = read_regular(found.path, FILE_BYTES, check)
    try:
        return tomllib.loads(content.decode("utf-8-sig"))  # editors on Windows put a mark before the text
    except ValueError as error:  # no TOML, no UTF-8, or a whole number of more than 4,300 digits
        raise InputError(f"not valid TOML: {error}", where=found.path) from error
    except RecursionError:
        raise InputError("not valid TOML: it is nested too deep", where=found.path) from None


def check_owner(status: os.stat_result, path: Path) -> None:
    """Refuse a file that somebody else could have put there: it names models, servers and files to write.

    Parameters
    ----------
    status
        Of the opened file.
    path
        Its path, for the message.

    Raises
    ------
    InputError
        If it is owned by another user than this one and root, or others may write to it.
    """
    if not hasattr(os, "geteuid"):  # Windows: its rights are not in the mode
        return
    todo = f"If you trust it, give it with --config {path} or {VARIABLE}"
    if status.st_uid not in (0, os.geteuid()):
        what = f"was found, and user {status.st_uid} owns it: wanted a file of this user or of root"
        raise InputError(what, where=path, todo=todo)
    # On many systems each user has a group of the same number, and files are writable by it.
    private = status.st_gid in (status.st_uid, 0)
    if status.st_mode & (stat.S_IWOTH if private else stat.S_IWOTH | stat.S_IWGRP):
        what = f"was found, and others may write to it (mode {stat.S_IMODE(status.st_mode):03o})"
        raise InputError(what, where=path, todo=f"Run chmod go-w {path}. {todo}")
