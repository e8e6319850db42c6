"""The configuration file `c3s3-seg.toml`: search for the file, check of its owner, reading."""

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
NO_FILE = "none"  # file name that means: read no file
FILE_BYTES = 1 << 20

Origin = Literal["given", "working folder", "user's folder"]


@dataclass(frozen=True)
class FoundConfig:
    """The configuration file of this run.

    Parameters
    ----------
    path
        Path of the file.
    origin
        Whether the file was given by name, or in which folder it was found.
    """

    path: Path
    origin: Origin


def find(given: str | None, environment: Mapping[str, str]) -> FoundConfig | None:
    """Return the file to use: the given one, else that of the working folder, else the user's, or None.

    Only this file applies. Files are not merged, so that one file states everything.

    Parameters
    ----------
    given
        Value of `--config`. None: value of `C3S3_SEG_CONFIG`, if it is set. `none`: no file is read.
    environment
        `os.environ`.

    Raises
    ------
    InputError
        If the given name is empty, as of a variable of a script that is not set.
    """
    if given == "":
        todo = f"Give a file, or --config {NO_FILE} for none"
        raise InputError("found an empty name in --config, wanted a file", todo=todo)
    name = given or environment.get(VARIABLE)
    if name == NO_FILE:
        return None
    if name:
        return FoundConfig(Path(name), "given")
    # `lexists`: a dangling link, or a file without read permission, is refused later, not skipped.
    if os.path.lexists(FILE_NAME):
        return FoundConfig(Path(FILE_NAME), "working folder")
    folder = user_folder(environment)
    if folder is not None and os.path.lexists(folder / FILE_NAME):
        return FoundConfig(folder / FILE_NAME, "user's folder")
    return None


def user_folder(environment: Mapping[str, str], platform: str = sys.platform) -> Path | None:
    """Return the platform's folder for the user's file; None if the environment names no home.

    Parameters
    ----------
    environment
        `os.environ`.
    platform
        `sys.platform`.
    """
    base = environment.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(base):  # the XDG specification ignores relative paths
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
    """Return the tables of a file, of which only the form is checked: `config_values` checks the keys.

    Raises
    ------
    InputError
        If the file is not regular, is too large, cannot be read or is not TOML; or if it was found, not
        given, and another user owns it or may write to it.
    """
    from c3s3_seg.system.reading import parse_toml, read_regular

    check = None if found.origin == "given" else lambda status: check_owner(status, found.path)
    content = read_regular(found.path, FILE_BYTES, check)
    return parse_toml(content, found.path)


def check_owner(status: os.stat_result, path: Path) -> None:
    """Refuse a file that another user could have written: it names models, servers and files to write.

    Parameters
    ----------
    status
        Status of the opened file.
    path
        Path of the file, for the message.

    Raises
    ------
    InputError
        If the file's owner is neither this user nor root, or others may write to the file.
    """
    if not hasattr(os, "geteuid"):  # Windows: the mode does not hold the rights
        return
    todo = f"If you trust it, give it with --config {path} or {VARIABLE}"
    if status.st_uid not in (0, os.geteuid()):
        what = f"was found, and user {status.st_uid} owns it: wanted a file of this user or of root"
        raise InputError(what, where=path, todo=todo)
    # On many systems each user has a group of the same number, which may write to the user's files.
    private = status.st_gid in (status.st_uid, 0)
    if status.st_mode & (stat.S_IWOTH if private else stat.S_IWOTH | stat.S_IWGRP):
        what = f"was found, and others may write to it (mode {stat.S_IMODE(status.st_mode):03o})"
        raise InputError(what, where=path, todo=f"Run chmod go-w {path}. {todo}")
