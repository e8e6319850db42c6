"""The spool of received files: `spool/<study>/<series>/<instance>.dcm`, each name a hash of its UID.

No file name reveals the patient. A file is written aside, synced and renamed; a worker gets a folder of
hard links to the files present when it began, so its input does not change.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.io.pacs.identity import Identity, identity
from c3s3_seg.system.files import make_folder, sync, unwritten, write_whole
from c3s3_seg.system.reading import sha256

KEY_LENGTH = 32


def key_of(uid: str) -> str:
    """Return the hash for a UID, or for an entry's name (maybe not Unicode), in file names and logs."""
    return hashlib.sha256(uid.encode("utf-8", "surrogateescape")).hexdigest()[:KEY_LENGTH]


def is_key(name: str) -> bool:
    """Return whether a name has the form of `key_of`; other names are not of this package."""
    return re.fullmatch(rf"[0-9a-f]{{{KEY_LENGTH}}}", name) is not None


@dataclass(frozen=True)
class Room:
    """The limits of the spool.

    Parameters
    ----------
    free_bytes
        Free disk space below which nothing is taken.
    spool_bytes, study_bytes, files
        Size of all files, size of a study, number of its files.
    """

    free_bytes: int
    spool_bytes: int
    study_bytes: int
    files: int


@dataclass(frozen=True)
class SeriesFiles:
    """The files of a series in a study.

    Parameters
    ----------
    digest
        Hash of the files' names and contents.
    count
        Number of files.
    may_be_scan
        Whether a file may be a slice of CT, MR or PET, or is unreadable.
    """

    digest: str
    count: int
    may_be_scan: bool


Contents = dict[str, SeriesFiles]  # hash of the series UID -> its files


class Spool:
    """The folder of received files.

    Parameters
    ----------
    folder
        State folder, in which `spool` and `work` are created.
    room
        Limits of the spool.
    """

    def __init__(self, folder: Path, room: Room) -> None:
        self.folder, self.work, self.room = folder / "spool", folder / "work", room
        self._turn = threading.Lock()
        self._sizes: dict[str, tuple[int, int]] = {}  # study -> files, bytes
        make_folder(self.folder)
        check_work(folder)
        for left in _entries(self.work):
            shutil.rmtree(left, ignore_errors=True)
        make_folder(self.work)
        for study in self.studies():
            self._sizes[study] = _sweep(self.folder / study)

    def studies(self) -> list[str]:
        """Return the keys of the studies in the spool, sorted."""
        return sorted(
            p.name for p in self.folder.iterdir() if is_key(p.name) and p.is_dir() and not p.is_symlink()
        )

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        with self._turn:
            return sum(size for _, size in self._sizes.values())

    def free_bytes(self) -> int:
        """Return the free space on the disk."""
        return shutil.disk_usage(self.folder).free

    @property
    def is_disk_full(self) -> bool:
        """Whether less disk space is free than must stay free."""
        return self.free_bytes() < self.room.free_bytes

    def holds(self, found: Identity, content: bytes) -> bool:
        """Return whether the identical file is in the spool."""
        place = self._place(found)
        try:
            return place.stat().st_size == len(content) and place.read_bytes() == content
        except OSError:
            return False

    def has_room(self, found: Identity, size: int) -> bool:
        """Return whether the limits allow a file of this size."""
        files, bytes_ = self._sizes.get(key_of(found.study), (0, 0))
        if files >= self.room.files or bytes_ + size > self.room.study_bytes:
            return False
        return self.size_bytes + size <= self.room.spool_bytes and (
            self.free_bytes() - size >= self.room.free_bytes
        )

    def put(self, found: Identity, content: bytes) -> None:
        """Write a file as a whole or not at all, and sync it to the disk.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        place, study = self._place(found), key_of(found.study)
        make_folder(place.parent)
        before = place.stat().st_size if place.exists() else None
        write_whole(place, content)
        try:
            for folder in (place.parent, place.parent.parent, self.folder):
                sync(folder)
        except OSError as error:
            raise unwritten(f"cannot be written ({error.strerror})", place, error) from error
        with self._turn:
            files, bytes_ = self._sizes.get(study, (0, 0))
            self._sizes[study] = (files + (before is None), bytes_ + len(content) - (before or 0))

    def snapshot(self, study: str) -> tuple[Path, Contents]:
        """Link the present files of a study into a folder; return the folder and its contents.

        Raises
        ------
        InputError
            If the study has no files, or the folder cannot be created.
        """
        place = self.work / study
        shutil.rmtree(place, ignore_errors=True)
        make_folder(place)
        try:
            for file in _files(self.folder / study):
                os.link(file, place / f"{file.parent.name}-{file.name}")
        except OSError as error:
            what = f"the files of a study cannot be linked ({error.strerror})"
            raise InputError(what, where=place) from error
        contents = _contents(place)
        if not contents:
            raise InputError("the files of a study are not in the spool any more", where=self.folder / study)
        return place, contents

    def drop_snapshot(self, study: str) -> None:
        """Remove the folder of links of a study."""
        shutil.rmtree(self.work / study, ignore_errors=True)

    def remove(self, study: str) -> None:
        """Remove the files of a study."""
        shutil.rmtree(self.folder / study, ignore_errors=True)
        with self._turn:
            self._sizes.pop(study, None)

    def _place(self, found: Identity) -> Path:
        names = (key_of(found.study), key_of(found.series), f"{key_of(found.instance)}.dcm")
        return self.folder.joinpath(*names)


def check_work(state: Path) -> None:
    """Refuse a state folder whose `work` is not of the service, which empties it.

    Raises
    ------
    InputError
        If `work` is no folder, cannot be read, or holds anything but folders of studies.
    """
    work = state / "work"
    foreign = [
        path for path in _entries(work) if not is_key(path.name) or path.is_symlink() or not path.is_dir()
    ]
    if foreign:
        raise InputError(
            f"it holds {len(foreign)} files or folders that are not of the service, which empties it",
            where=work,
            todo="Give serve.state a folder of its own",
        )


def _entries(work: Path) -> list[Path]:
    try:
        return sorted(work.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"the folder cannot be read ({error.strerror or error})", where=work) from error


def _files(study: Path) -> Iterator[Path]:
    """Yield the complete files of a study, without links."""
    with suppress(FileNotFoundError):
        for series in sorted(study.iterdir()):
            if series.is_dir() and not series.is_symlink():
                yield from (p for p in sorted(series.glob("*.dcm")) if p.is_file() and not p.is_symlink())


def _sweep(study: Path) -> tuple[int, int]:
    """Remove files that a killed service left half written; return number and size of the others."""
    for left in study.glob("*/.*.part"):
        left.unlink(missing_ok=True)
    sizes = [path.stat().st_size for path in _files(study)]
    return len(sizes), sum(sizes)


def _contents(snapshot: Path) -> Contents:
    by_series: dict[str, list[Path]] = {}
    for path in sorted(snapshot.iterdir()):
        by_series.setdefault(path.name[:KEY_LENGTH], []).append(path)
    return {series: _series(paths) for series, paths in by_series.items()}


def _series(paths: list[Path]) -> SeriesFiles:
    lines = "".join(f"{path.name} {sha256(path)}\n" for path in paths)
    scan = any(_may_be_scan(path) for path in paths)  # of a slice and a capture either may be the first
    return SeriesFiles(hashlib.sha256(lines.encode()).hexdigest(), len(paths), scan)


def _may_be_scan(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return identity(file).may_be_scan
    except (C3S3Error, OSError):
        return True  # reading the series will report what is wrong with it
