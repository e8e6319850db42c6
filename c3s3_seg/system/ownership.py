"""Recognise files of this package by their content, not their names. No other is replaced or removed."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.system.files import check_folder, refuse_link, write_whole
from c3s3_seg.system.reading import read_json, sha256

MARK = "c3s3_seg"  # the key that identifies a JSON of this package
FILES = "files_sha256"  # in the JSON of a case: files written with it, the mask first
PROGRAM = "c3s3-seg"  # the maker that pages, pictures and images name
GENERATOR = f'<meta name="generator" content="{PROGRAM}">'
# A private chunk, which programs that do not know it drop when they change a picture (PNG, 4.7.2).
PNG_CHUNK = b"seGM"
HEAD_BYTES = 4096
# Exists while the files of a bundle or an export are written. A text: whatever lies there is of this package.
# JSON: the sha256 that each file which is replaced may have.
UNFINISHED = ".c3s3-seg.unfinished"
# What an index of a bundle and of an export has beside `files`: other programs have files of these names too.
INDEX_KEYS = {
    "manifest.json": ("task", "networks", "format"),
    "export.json": ("format", "properties", "parity"),
}
PROPERTIES_KEY = "c3s3.task"  # among the `properties` of an export
_SHA256 = re.compile("[0-9a-f]{64}")
TODO = "Move it away, or give another folder with -o"

_PAGES = (
    f'<!DOCTYPE html>\n<html lang="en"><head>{GENERATOR}'.encode(),
    # Pages of versions that did not name the maker.
    b'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta '
    b'http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data: blob:;',
)
_TABLES = b"CREATE TABLE runs (id INTEGER PRIMARY KEY, started TEXT, ended TEXT, details TEXT)"
_PROVENANCE = "Every file that c3s3-seg wrote here"
_SUMMARY = ("case,label,volume_ml,seconds,", ",error")
_SCORES = ("case,label,dice,jaccard,hd95_mm,", "case,label,dice,jaccard,hd95_vox,")
_STUDY = b"| method | net | seeds | iterations |"


def is_ours(path: Path) -> bool:
    """Return whether a JSON(L), HTML, PNG, CSV, SQLite or Markdown file is, by its content, of this package.

    The content of a mask is no proof: a program that edits a mask may keep its header. The hashes of masks
    are in the JSON beside them and in the journal.
    """
    look = _LOOKS.get(path.suffix.lower())
    if look is None or not _is_regular(path):
        return False
    with suppress(C3S3Error, OSError, ValueError, RecursionError):
        return look(path)
    return False


def check_place(path: Path, *, ours: bool = False) -> None:
    """Refuse to write over anything that this package did not write.

    Parameters
    ----------
    path
        Path of the file to write.
    ours
        Whether a regular file there is known from elsewhere to be of this package.

    Raises
    ------
    InputError
        If there is a link, a folder, or a foreign file; or if the name is too long.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror or error})", where=path) from error
    if not _is_regular(path):
        if path.is_dir() and not path.is_symlink():
            raise InputError("is a folder, wanted the path of a file to write", where=path, todo=TODO)
        what = "is a symbolic link" if path.is_symlink() else "is no regular file"
        raise InputError(f"{what}, wanted a place to write to", where=path, todo=TODO)
    if not (ours or is_ours(path)):
        raise InputError(f"there is a file that {PROGRAM} did not write", where=path, todo=TODO)


def check_output(folder: Path, names: Iterable[str]) -> None:
    """Check before long work that a folder can be written to, without a foreign file in the way.

    Raises
    ------
    InputError
        If the folder cannot be written to, or has such a file.
    """
    check_folder(folder)
    for name in names:
        check_place(folder / name)


def check_set(folder: Path, names: Iterable[str], index: str) -> None:
    """Refuse to replace a file of a set (a bundle, an export) that differs from the set's index.

    Parameters
    ----------
    folder
        Folder of the set; may be missing.
    names
        Files that will be written, with or without the index.
    index
        JSON with `files`, name -> sha256, and the keys of `INDEX_KEYS`. A file that it does not list with
        this hash is foreign, unless a run of this package was killed while it wrote the set, or this file
        of it.

    Raises
    ------
    InputError
        If there is a foreign file, a link or a folder.
    """
    is_index, known = _indexed(folder / index) is not None, _own_hashes(folder, index)
    unfinished = _is_regular(folder / UNFINISHED) and announced(folder) is None
    for name in dict.fromkeys([index, *names]):
        path = folder / name
        if path.parent != folder:
            refuse_link(path.parent, TODO)
        ours = is_index if name == index else _is_regular(path) and sha256(path) in known.get(name, ())
        check_place(path, ours=ours or unfinished)


@contextmanager
def replacing(folder: Path, names: Iterable[str], index: str) -> Iterator[None]:
    """Replace a set of files: its index is removed first and written last; after an error no file stays.

    Raises
    ------
    InputError
        Same as in `check_set`; or if nothing can be written.
    """
    names = list(names)
    check_set(folder, names, index)
    _drop(folder, names, index)
    write_whole(folder / UNFINISHED, b"c3s3-seg is writing here, or was ended while it did.\n")
    try:
        (folder / index).unlink(missing_ok=True)
        yield
    except BaseException:
        for name in [index, *names]:
            with suppress(OSError):
                (folder / name).unlink(missing_ok=True)
        raise
    finally:
        with suppress(OSError):
            (folder / UNFINISHED).unlink(missing_ok=True)


def _drop(folder: Path, names: Iterable[str], index: str) -> None:
    """Remove unchanged files of the old index that no new file replaces: they would stay beside the new."""
    for name, known in _own_hashes(folder, index).items():
        path = folder / name
        inside = not PurePath(name).is_absolute() and ".." not in PurePath(name).parts
        if inside and name not in names and not path.parent.is_symlink() and _is_regular(path):
            with suppress(OSError, InputError):
                if sha256(path) in known:
                    path.unlink()


@contextmanager
def amending(folder: Path, files: Mapping[str, bytes], index: str) -> Iterator[None]:
    """Write these files of a set, then its index, in the block; restore their old content if it fails.

    The hashes are noted first: after a kill in the block, `check_set` knows the files that were written, and
    `announced` tells a reader of the set why they do not fit the index.
    """
    mark = folder / UNFINISHED
    before = {path: _content(path) for path in (mark, folder / index, *(folder / name for name in files))}
    both = {name: (before[folder / name], content) for name, content in files.items()}
    hashes = {
        name: [hashlib.sha256(c).hexdigest() for c in pair if c is not None] for name, pair in both.items()
    }
    try:
        write_whole(mark, json.dumps(hashes).encode())
        yield
    except BaseException:
        for path in (path for path, content in before.items() if content is None):  # first: it makes room
            with suppress(OSError):
                path.unlink(missing_ok=True)
        for path, content in before.items():
            with suppress(C3S3Error, OSError):
                if content is not None and _content(path) != content:
                    write_whole(path, content)
        raise
    with suppress(OSError):
        mark.unlink(missing_ok=True)


def announced(folder: Path) -> dict[str, set[str]] | None:
    """Return the hashes that each file may have which a killed `amending` was to write; None without one."""
    with suppress(C3S3Error):
        found = read_json(folder / UNFINISHED)
        if isinstance(found, dict) and all(isinstance(hashes, list) for hashes in found.values()):
            return {
                name: {item for item in hashes if isinstance(item, str)} for name, hashes in found.items()
            }
    return None


def _own_hashes(folder: Path, index: str) -> dict[str, set[str]]:
    """Return the hashes that each file of a set has, by its index or by a run that was killed."""
    known = {name: {hashed} for name, hashed in (_indexed(folder / index) or {}).items()}
    for name, hashes in (announced(folder) or {}).items():
        known.setdefault(name, set()).update(hashes)
    return known


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if _is_regular(path) else None


def _indexed(path: Path) -> dict[str, str] | None:
    """Return the files of an index, name -> sha256; None if the path is no index that this package wrote."""
    if not _is_regular(path):
        return None
    with suppress(C3S3Error):
        document = read_json(path)
        if isinstance(document, dict) and _is_index(document, path.name):
            files: dict[str, str] = document["files"]
            return files
    return None


def _is_index(document: dict[str, Any], name: str) -> bool:
    """Return whether a JSON has what an index of this name has: a table of files alone is no proof."""
    if not all(key in document for key in INDEX_KEYS.get(name, ())):
        return False
    properties = document.get("properties")
    if name == "export.json" and not (isinstance(properties, dict) and PROPERTIES_KEY in properties):
        return False
    files = document.get("files")
    return isinstance(files, dict) and all(
        isinstance(hashed, str) and _SHA256.fullmatch(hashed) for hashed in files.values()
    )


def remove_ours(path: Path) -> None:
    """Remove a file of an earlier run that this run does not replace; keep a foreign file."""
    if is_ours(path):
        with suppress(OSError):
            path.unlink()


def read_case(path: Path) -> dict[str, Any] | None:
    """Return the JSON that `predict` wrote for a case; None if it is missing, damaged or foreign."""
    if not _is_regular(path):
        return None
    with suppress(C3S3Error, OSError):
        content = read_json(path)
        return content if isinstance(content, dict) and MARK in content else None
    return None


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):  # ValueError: an index has a name that no file can have
        return False


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _json(path: Path) -> bool:
    document = read_json(path)
    if not isinstance(document, dict):
        return False
    software = document.get("software")
    named = isinstance(software, dict) and software.get("name") == PROGRAM
    return named or MARK in document or str(document.get("what", "")).startswith(_PROVENANCE)


def _lines(path: Path) -> bool:
    """Return whether a file is a journal as JSON lines: its first line is a run, or a case."""
    with path.open("rb") as file:
        first = json.loads(file.readline(1 << 24) or b"{}")
    if not isinstance(first, dict):
        return False
    versions = first.get("versions")
    return (isinstance(versions, dict) and MARK in versions) or {"state", "run", "changed"} <= set(first)


def _csv(path: Path) -> bool:
    line, _, rest = read_head(path).decode("utf-8", "replace").partition("\n")
    line = line.rstrip("\r")
    if line.startswith(_SUMMARY[0]):
        return line.endswith(_SUMMARY[1])
    return line.startswith(_SCORES) or (line == "case,label" and not rest)


def _png(path: Path) -> bool:
    head = read_head(path)
    return head.startswith(b"\x89PNG") and PNG_CHUNK + PROGRAM.encode() in head


_LOOKS: dict[str, Callable[[Path], bool]] = {
    ".json": _json,
    ".jsonl": _lines,
    ".html": lambda path: read_head(path).startswith(_PAGES),
    ".png": _png,
    ".csv": _csv,
    ".sqlite": lambda path: _TABLES in read_head(path),
    ".md": lambda path: read_head(path).startswith(_STUDY),
}
