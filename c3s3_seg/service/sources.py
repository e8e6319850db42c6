"""Sources of studies besides the listener: a folder that is watched, and a PACS that is polled."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path

from c3s3_seg.errors import C3S3Error, InputError, StorageError, public
from c3s3_seg.io.cases import walk_files
from c3s3_seg.io.detect import PREFIX_END, begins_as_dicom
from c3s3_seg.io.pacs.client import DimseServer
from c3s3_seg.io.pacs.identity import identity
from c3s3_seg.io.pacs.query import FetchLimits, Wanted
from c3s3_seg.io.pacs.search import FoundSeries, series_of_days
from c3s3_seg.io.pacs.server import fetch_study
from c3s3_seg.service.database import Clock
from c3s3_seg.service.intake import Intake, Sending
from c3s3_seg.service.node_settings import PollSettings, WatchSettings
from c3s3_seg.service.settings import LimitSettings
from c3s3_seg.service.spool import key_of
from c3s3_seg.system.memory import parse_memory
from c3s3_seg.system.reading import read_regular

FULL = "the spool has no room, or a study is larger than allowed; it is tried again later"
NO_SPACE = "less space is free than serve.limits.free: nothing is fetched"
UNREADABLE = "an entry has files or folders that cannot be read: none of it is taken until they can be"
TOO_LARGE = "an entry has a file larger than serve.limits.object: none of it is taken"
LONGEST_S = 3600.0
LOGGER = logging.getLogger(__name__)


class NoRoomError(InputError):
    """A file that had no room in the spool."""


class HeldUpError(InputError):
    """A file of an entry that cannot be taken now: without it a partial study would pass for a whole one."""


@dataclass
class Patience:
    """Growing waits before failed items are retried, so that they do not hold up other items.

    Parameters
    ----------
    first_s
        Half of the first wait; each further wait is twice as long, up to an hour.
    clock
        Clock of the service.
    """

    first_s: float
    clock: Clock
    _failed: dict[str, tuple[int, float]] = field(default_factory=dict)  # item -> failures, due time

    def is_due(self, what: str) -> bool:
        """Return whether an item may be tried."""
        wait = self._failed.get(what, (0, 0.0))[1] - self.clock()
        return not 0 < wait <= LONGEST_S  # longer than any wait: the clock was set back

    def failed(self, what: str) -> None:
        """Record one more failure of an item."""
        times = self._failed.get(what, (0, 0.0))[0] + 1
        self._failed[what] = times, self.clock() + min(LONGEST_S, self.first_s * 2.0 ** min(times, 30))

    def succeeded(self, what: str) -> None:
        """Forget the failures of an item."""
        self._failed.pop(what, None)


@dataclass
class FolderSource:
    """A watched folder: inspected at intervals, which works on network mounts too.

    Its entries are files or folders. An entry is taken once nothing in it has changed for a while, and again
    if something changes later. Nothing in the folder is ever written, moved or removed.

    Parameters
    ----------
    settings, object_bytes
        Settings of the folder; size of the largest file.
    intake, clock
        Intake and clock of the service.
    """

    settings: WatchSettings
    object_bytes: int
    intake: Intake
    clock: Clock
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)  # entry -> signature, first seen
    _half: dict[str, Sending] = field(default_factory=dict)  # entries of which a file could not be read

    def __post_init__(self) -> None:
        """Start without failures."""
        self._patience = Patience(self.settings.every_s, self.clock)

    @property
    def name(self) -> str:
        """The name in messages and metrics."""
        return f"watch {key_of(str(self.settings.folder))[:8]}"

    def look(self) -> int:
        """Take the entries that have settled; return the number of files.

        Raises
        ------
        InputError
            If the folder cannot be read.
        """
        folder, memory = key_of(str(self.settings.folder)), self.intake.memory
        taken, there = 0, set()
        for entry in _entries(self.settings.folder):
            key = f"{folder}:{key_of(os.fsdecode(entry.name))}"
            there.add(key)
            signature = _signature(entry)
            before, since = self._seen.get(key, ("", 0.0))
            if signature != before:
                self._seen[key] = (signature, self.clock())
                continue
            settled = not 0 <= self.clock() - since < self.settings.settle_s  # clock may be set back
            known = memory.remembered("watched", key) == signature
            if settled and not known and self._patience.is_due(key):
                taken += self._take_whole(entry, key, signature)
        for gone in set(self._seen) - there:
            del self._seen[gone]
            if gone in self._half:
                self.intake.parted(self._half.pop(gone))
        memory.forget_watched(folder, there)
        return taken

    def _take_whole(self, entry: Path, key: str, signature: str) -> int:
        sender = self._half.pop(key, None) or Sending()
        try:
            taken = self._take(entry, sender)
        except StorageError:  # no entry could be taken
            raise
        except InputError as error:  # other entries may still be taken
            LOGGER.warning("%s: %s", self.name, public(error.what))
            self._patience.failed(key)
            if isinstance(error, HeldUpError):
                self._half[key] = sender  # keeps the partial study incomplete
            return 0
        finally:
            if key not in self._half:
                self.intake.parted(sender)
        self._patience.succeeded(key)
        if signature != UNREADABLE and _signature(entry) == signature:  # else it is taken again
            self.intake.memory.remember("watched", key, signature)
        return taken

    def _take(self, entry: Path, sender: Sending) -> int:
        taken = 0
        self._check(entry)
        for path in _regular(entry):
            content = self._read(path)
            try:
                found = identity(content)
            except InputError:  # no DICOM file: other files of the entry may be
                self.intake.metrics.failed("not DICOM")
                continue
            if not self.intake.take(found, content, sender):
                raise NoRoomError(FULL)
            taken += 1
        return taken

    def _read(self, path: Path) -> bytes:
        """Read a file; return b"", which is no DICOM file, if the file has gone or is too large."""
        try:
            return read_regular(path, self.object_bytes)
        except InputError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
                self.intake.metrics.failed("unreadable")
                raise HeldUpError(UNREADABLE) from error
            return b""

    def _check(self, entry: Path) -> None:
        """Raise HeldUpError if a file cannot be read, or a DICOM file is too large."""
        try:
            for path in _regular(entry):
                with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                    large = os.fstat(file.fileno()).st_size > self.object_bytes
                    if large and begins_as_dicom(file.read(PREFIX_END)):
                        raise HeldUpError(TOO_LARGE)
        except HeldUpError:
            raise
        except (OSError, C3S3Error) as error:
            self.intake.metrics.failed("unreadable")
            raise HeldUpError(UNREADABLE) from error


def _entries(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as found:
            names = sorted(e.name for e in found if not e.name.startswith(".") and not e.is_symlink())
    except OSError as error:
        what = f"the watched folder cannot be read ({error.strerror or error})"
        raise InputError(what, where=folder) from error
    return [folder / name for name in names]


def _regular(entry: Path) -> Iterator[Path]:
    """Yield the regular files of an entry; links are not followed."""
    paths = walk_files(entry) if entry.is_dir() else [entry]
    yield from (path for path in paths if not path.is_symlink() and path.is_file())


def _signature(entry: Path) -> str:
    """Return a hash of an entry's paths, sizes and times; UNREADABLE if they cannot be inspected."""
    digest = hashlib.sha256()
    try:
        for path in _regular(entry):
            status = path.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                digest.update(os.fsencode(path) + f"|{status.st_size}|{status.st_mtime_ns}\n".encode())
    except (OSError, C3S3Error):
        return UNREADABLE
    return digest.hexdigest()


@dataclass
class PacsSource:
    """A PACS that is polled for new series of some modalities, which are fetched one by one.

    A series is taken once two successive polls have found the same number of objects in it, and again if
    the number changes.

    Parameters
    ----------
    settings, limits
        Settings of the PACS; limits for a series.
    folder
        Folder into which series are fetched before they go to the spool.
    intake, clock
        Intake and clock of the service.
    """

    settings: PollSettings
    limits: LimitSettings
    folder: Path
    intake: Intake
    clock: Clock

    def __post_init__(self) -> None:
        """Start without failures."""
        self._patience = Patience(self.settings.every_s, self.clock)

    @property
    def name(self) -> str:
        """The name in messages and metrics."""
        return f"poll {self.settings.server}"

    def look(self) -> int:
        """Query the PACS and fetch new series; return the number of files.

        Raises
        ------
        C3S3Error
            If the PACS cannot be reached or does not answer the search, or the disk has no room.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.intake.spool.is_disk_full:
            raise InputError(NO_SPACE)
        memory, server = self.intake.memory, self.settings.server
        today = datetime.fromtimestamp(self.clock(), UTC).date()
        window = (self._since(today), today + timedelta(days=1))  # the PACS may be in another time zone
        found = series_of_days(
            self.settings.node, self.settings.caller, window, [m.upper() for m in self.settings.modalities]
        )
        taken = 0
        for study, several in groupby(found, key=lambda series: series.study):
            with self.intake.sending(key_of(study)):  # incomplete until its last series is fetched
                taken += sum(self._look_at(series) for series in several)
        memory.remember("polls", server, today.isoformat())
        return taken

    def _look_at(self, series: FoundSeries) -> int:
        """Fetch a series if it is due; return the number of files."""
        memory, server, key = self.intake.memory, self.settings.server, key_of(series.series)
        seen, had = before = memory.polled(server, key)
        wanted = series.count == seen and series.count != had and self._patience.is_due(key)
        files = self._try(series, key) if wanted else 0
        if files:
            had = series.count
        if (series.count, had) != before:
            memory.note_polled(server, key, series.count, had)
        return files

    def _try(self, series: FoundSeries, key: str) -> int:
        """Fetch a series; return the number of files, 0 after an error, so that other series continue."""
        try:
            files = self._fetch(series)
        except C3S3Error as error:
            LOGGER.warning("%s: a series could not be fetched: %s", self.name, public(error.what))
            self.intake.metrics.failed("fetch")
            self._patience.failed(key)
            return 0
        self._patience.succeeded(key)
        return files

    def _since(self, today: date) -> date:
        last = self.intake.memory.remembered("polls", self.settings.server)
        since = min(date.fromisoformat(last), today) if last else today
        return since - timedelta(days=self.settings.days)

    def _fetch(self, series: FoundSeries) -> int:
        limits = FetchLimits(self.limits.study_s, self.limits.files, parse_memory(self.limits.study))
        try:
            server = DimseServer(self.settings.node, self.settings.caller, self.settings.listener)
            paths = fetch_study(server, self.folder, Wanted.parse(series.study, series.series), limits)
            for path in paths:
                content = read_regular(path, parse_memory(self.limits.object))
                if not self.intake.take(identity(content), content):
                    raise NoRoomError(FULL)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        return len(paths)
