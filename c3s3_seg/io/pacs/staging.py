"""Gather the files of a study in a hidden folder, and move them into place when the study is complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from c3s3_seg.errors import InputError, quantity
from c3s3_seg.io.pacs.inbox import Inbox
from c3s3_seg.system.files import make_folder
from c3s3_seg.system.reading import read_regular

ASIDE = ".c3s3-seg-fetch-"  # hidden: searches for scans skip it


@contextmanager
def gathering(out: Path) -> Iterator[Path]:
    """Create a hidden folder in `out`, readable by this user only, until the end of the block.

    Files left by a killed transfer are removed first. A new `out` is removed again if it stays empty.
    """
    made = [path for path in (out, *out.parents) if not path.exists()]
    make_folder(out)
    _sweep(out)
    try:
        aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=out))
    except OSError as error:
        raise InputError(f"the folder cannot be written to ({error.strerror})", where=out) from error
    try:
        with _held(aside):
            yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(OSError):  # not empty: the study is there
            for path in made:
                path.rmdir()


def _sweep(out: Path) -> None:
    for left in out.glob(f"{ASIDE}*"):
        with suppress(OSError), _held(left):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a hidden folder until the end of the block or process; raise OSError if another process has it."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def put_in_place(inbox: Inbox, out: Path) -> list[Path]:
    """Move a whole study to `out/<series UID>/<instance UID>.dcm`; compare files that are already there.

    Raises
    ------
    InputError
        If a different file is in the place of one of the study, a series' folder has instances that did not
        come, or a file cannot be moved: nothing of the study is left then.
    """
    for folder in inbox.folders:
        _check_folder(folder, out / folder.name)
    places = {path: out / path.relative_to(inbox.aside) for path in inbox.files.values()}
    there = {path for path, place in places.items() if _is_there(path, place)}
    done: list[Path] = []
    try:
        for folder in inbox.folders:
            place = out / folder.name
            if not place.exists():  # the usual case: a series is there as a whole, or not at all
                _move(folder, place, done)
                continue
            for path in sorted(folder.iterdir()):
                if path not in there:
                    _move(path, places[path], done)
    except OSError as error:
        for place in done:
            shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)
        what = f"the files cannot be put into place ({error.strerror or error})"
        raise InputError(what, where=out) from error
    return sorted(places.values())


def _check_folder(came: Path, place: Path) -> None:
    """Raise if a series cannot be put into a folder, or the folder has instances that did not come."""
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        what = "a link or a file is in the place of a series' folder"
        raise InputError(what, where=place, todo="Move it away")
    older = sorted({path.name for path in place.glob("*.dcm")} - {path.name for path in came.iterdir()})
    if older:
        what = (
            f"it has {quantity(len(older), 'file')} of an earlier transfer that did not come now ({older[0]})"
        )
        todo = "Move the folder away, or give another one with -o"
        raise InputError(what, where=place, todo=todo)


def _move(path: Path, place: Path, done: list[Path]) -> None:
    path.rename(place)
    done.append(place)


def _is_there(path: Path, place: Path) -> bool:
    """Return whether the same file is in its place already; raise if another file is."""
    if not place.exists() and not place.is_symlink():
        return False
    size = path.stat().st_size
    same = not place.is_symlink() and place.stat().st_size == size
    if not same or read_regular(place, size) != path.read_bytes():
        raise InputError(
            "another file is in the place of one of the study",
            where=place,
            todo="Move it away, or give another folder with -o",
        )
    return True
