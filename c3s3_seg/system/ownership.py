"""Which files are ours: known by what is in them, not by their names. No other is replaced or removed."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.system.files import check_folder, refuse_link, write_whole
from c3s3_seg.system.reading import read_json, sha256

MARK = "c3s3_seg"  # the key by which a JSON of ours is known
FILES = "files_sha256"  # in the JSON of a case: what was written with it, the mask first
PROGRAM = "c3s3-seg"  # what pages, pictures and images of ours say that they were made by
GENERATOR = f'<meta name="generator" content="{PROGRAM}">'
# A private chunk that programs which do not know it leave out when they change a picture (PNG, 4.7.2).
PNG_CHUNK = b"seGM"
HEAD_BYTES = 4096
UNFINISHED = ".c3s3-seg.unfinished"  # while the files of a bundle or an export are being written
TODO = "Move it away, or give another folder with -o"

_PAGES = (
    f'<!DOCTYPE html>\n<html lang="en"><head>{GENERATOR}'.encode(),
    # Pages from before they named their maker.
    b'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta '
    b'http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data: blob:;',
)
_TABLES = b"CREATE TABLE runs (id INTEGER PRIMARY KEY, started TEXT, ended TEXT, details TEXT)"
_PROVENANCE = "Every file that c3s3-seg wrote here"
_SUMMARY = ("case,label,volume_ml,seconds,", ",error")
_SCORES = ("case,label,dice,jaccard,hd95_mm,", "case,label,dice,jaccard,hd95_vox,")
_STUDY = b"| method | net | seeds | iterations |"


def is_ours(path: Path) -> bool:
    """Whether the content of a JSON, HTML, PNG, CSV, SQLite or Markdown file says that we wrote it.

    Masks do not say it for certain: a program that edits one may keep what it says. Their hashes are in the
    JSON beside them and in the journal.
    """
    look = _LOOKS.get(path.suffix.lower())
    if look is None or not _is_regular(path):
        return False
    with suppress(C3S3Error, OSError, ValueError, RecursionError):
        return look(path)
    return False


def check_place(path: Path, *, ours: bool = False) -> None:
    """Refuse to write where there is something that we did not write.

    Parameters
    ----------
    path
        Where a file is to be written.
    ours
        Whether it is known from elsewhere that a regular file there is ours.

    Raises
    ------
    InputError
        If there is a link, a folder, or a file of somebody else's; or if the name is too long.
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
    """Before long work: whether a folder can be written to, and no file of somebody else's is in the way.

    Raises
    ------
    InputError
        If it cannot, or there is one.
    """
    check_folder(folder)
    for name in names:
        check_place(folder / name)


def check_set(folder: Path, names: Iterable[str], index: str) -> None:
    """Refuse to replace a file of a set (a bundle, an export) that is not as the set's index says.

    Parameters
    ----------
    folder
        Of the set; need not be there.
    names
        The files that will be written, the index among them or not.
    index
        The JSON with `files`, name -> sha256. Without it, or where it says otherwise, a file is not ours,
        unless a run of ours was killed while it wrote the set.

    Raises
    ------
    InputError
        If there is a file of somebody else's, a link or a folder.
    """
    known = _indexed(folder / index)
    unfinished = _is_regular(folder / UNFINISHED)
    for name in dict.fromkeys([index, *names]):
        path = folder / name
        if path.parent != folder:
            refuse_link(path.parent, TODO)
        ours = (
            known is not None
            if name == index
            else _is_regular(path) and sha256(path) == (known or {}).get(name)
        )
        check_place(path, ours=ours or unfinished)


@contextmanager
def replacing(folder: Path, names: Iterable[str], index: str) -> Iterator[None]:
    """Write a set of files anew: its index goes first and comes last, and if it fails nothing of it stays.

    Raises
    ------
    InputError
        As `check_set`; or if nothing can be written.
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
    """Remove what the old index names and the new files do not replace: it would stand beside them."""
    for name, known in (_indexed(folder / index) or {}).items():
        path = folder / name
        inside = not PurePath(name).is_absolute() and ".." not in PurePath(name).parts
        if inside and name not in names and not path.parent.is_symlink() and _is_regular(path):
            with suppress(OSError, InputError):
                if sha256(path) == known:
                    path.unlink()


@contextmanager
def restoring(paths: Iterable[Path]) -> Iterator[None]:
    """If what is done with these files fails, they are again what they were."""
    before = {path: path.read_bytes() if _is_regular(path) else None for path in paths}
    try:
        yield
    except BaseException:
        for path in before:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        for path, content in before.items():
            with suppress(C3S3Error):
                if content is not None:
                    write_whole(path, content)
        raise


def _indexed(path: Path) -> dict[str, str] | None:
    """What an index says of its files; None where it is no index."""
    if not _is_regular(path):
        return None
    with suppress(C3S3Error):
        document = read_json(path)
        files = document.get("files") if isinstance(document, dict) else None
        return files if isinstance(files, dict) else None
    return None


def remove_ours(path: Path) -> None:
    """Remove a file of an earlier run that this one does not replace; somebody else's stays."""
    if is_ours(path):
        with suppress(OSError):
            path.unlink()


def read_case(path: Path) -> dict[str, Any] | None:
    """The JSON that `predict` wrote of a case; None where it is missing, damaged or somebody else's."""
    if not _is_regular(path):
        return None
    with suppress(C3S3Error, OSError):
        content = read_json(path)
        return content if isinstance(content, dict) and MARK in content else None
    return None


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):  # ValueError: an index names what no file can be called
        return False


def read_head(path: Path) -> bytes:
    """The first bytes of a file."""
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
    """A journal as JSON lines: the first is a run, or a case."""
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
