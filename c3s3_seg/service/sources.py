"""Sources of studies besides the listener: a folder that is watched, and a PACS that is polled."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path

from c3s3_seg.errors import C3S3Error, InputError, StorageError, public, quantity
from c3s3_seg.io.pacs.client import DimseServer
from c3s3_seg.io.pacs.identity import identity
from c3s3_seg.io.pacs.query import FetchLimits, Wanted
from c3s3_seg.io.pacs.search import FoundInDays, FoundSeries, series_of_days
from c3s3_seg.io.pacs.server import fetch_study
from c3s3_seg.service.database import Clock
from c3s3_seg.service.entries import (
    UNREADABLE,
    HeldUpError,
    checked_files,
    entries_of,
    signature_of,
)
from c3s3_seg.service.intake import Intake, Sending
from c3s3_seg.service.metrics import LATE_S
from c3s3_seg.service.node_settings import PollSettings, WatchSettings
from c3s3_seg.service.settings import LimitSettings
from c3s3_seg.service.spool import key_of
from c3s3_seg.system.memory import parse_memory
from c3s3_seg.system.reading import read_regular

FULL = "the spool has no room, or a study is larger than allowed; it is tried again later"
NO_SPACE = "less space is free than serve.limits.free: nothing is fetched"
LARGE_SERIES = "it has a file larger than serve.limits.object: none of it is taken"
LONGEST_S = 3600.0
# Failures after which a series no longer keeps the days of a poll from moving on: about four days of trying.
MOST_FAILURES = 100
LOGGER = logging.getLogger(__name__)


class NoRoomError(InputError):
    """A file that had no room in the spool."""


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

    def failures(self, what: str) -> int:
        """Return how often an item has failed since it last succeeded."""
        return self._failed.get(what, (0, 0.0))[0]

    def failed(self, what: str) -> None:
        """Record one more failure of an item."""
        times = self.failures(what) + 1
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
        self._begin_step()
        for entry in entries_of(self.settings.folder):
            self._begin_step()
            key = f"{folder}:{key_of(os.fsdecode(entry.name))}"
            there.add(key)
            signature = signature_of(entry)
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
        if there:  # the folder of a share that is not mounted is empty
            for gone in set(self._half) - there:
                self.intake.parted(self._half.pop(gone))
            memory.forget_watched(folder, there)
        return taken

    def _begin_step(self) -> None:
        """Record that another entry or file is being read: a share that is gone may never answer."""
        self.intake.metrics.expect(self.name, LATE_S)

    def _take_whole(self, entry: Path, key: str, signature: str) -> int:
        sender = self._half.pop(key, None) or Sending()
        try:
            taken = self._take(entry, sender)
        except StorageError:  # no entry could be taken; the intake has noted the file
            raise
        except InputError as error:  # other entries may still be taken
            LOGGER.warning("%s: %s", self.name, public(error.what))
            self._patience.failed(key)
            if isinstance(error, HeldUpError):
                self._half[key] = sender  # keeps the partial study incomplete
            return 0
        except Exception:  # of the reading, so that the missing files are noted nowhere
            self._half[key] = sender
            raise
        finally:
            if key not in self._half:
                self.intake.parted(sender)
        self._patience.succeeded(key)
        if signature != UNREADABLE and signature_of(entry) == signature:  # else it is taken again
            self.intake.memory.remember("watched", key, signature)
        return taken

    def _take(self, entry: Path, sender: Sending) -> int:
        taken = 0
        for path in self._checked_files(entry):
            self._begin_step()
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

    def _checked_files(self, entry: Path) -> list[Path]:
        try:
            return checked_files(entry, self.object_bytes)
        except HeldUpError:
            self.intake.metrics.failed("unreadable")
            raise


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
    # Series not fetched yet, or study whose series are not listed -> last poll before it.
    _waiting: dict[str, date] = field(default_factory=dict)
    _looked: date | None = None
    _unusable: int = 0
    _refused: int = 0

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
        self._begin_step()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.intake.spool.is_disk_full:
            raise InputError(NO_SPACE)
        today = datetime.fromtimestamp(self.clock(), UTC).date()
        since = self._last(today) - timedelta(days=self.settings.days)
        window = (since, today + timedelta(days=1))  # the PACS may be in another time zone
        found = series_of_days(
            self.settings.node, self.settings.caller, window, [m.upper() for m in self.settings.modalities]
        )
        self._report(found)
        taken = 0
        for study, several in groupby(found.series, key=lambda series: series.study):
            with self.intake.sending(key_of(study)):  # incomplete until its last series is fetched
                taken += sum(self._look_at(series) for series in several)
        self._remember(found, today)
        return taken

    def _begin_step(self) -> None:
        """Record that a search or the fetching of a series begins."""
        self.intake.metrics.expect(self.name, self.limits.study_s + LATE_S)

    def _report(self, found: FoundInDays) -> None:
        """Report answers that cannot be used, once and not at every poll."""
        if found.unusable > self._unusable:
            what = "%s: %s without a valid UID: what they stand for cannot be fetched"
            LOGGER.warning(what, self.name, quantity(found.unusable, "answer"))
        if len(found.refused) > self._refused:
            what = "%s: the PACS refuses to list the series of %s, which are asked for again"
            LOGGER.warning(what, self.name, quantity(len(found.refused), "study"))
        self._unusable, self._refused = found.unusable, len(found.refused)

    def _remember(self, found: FoundInDays, today: date) -> None:
        """Record the day from which the next poll searches.

        That is today, or an earlier day if the next poll would miss a series that is not fetched yet, or a
        study whose series were not listed. What has failed too often no longer counts: else each search would
        be longer than the last.
        """
        memory, server = self.intake.memory, self.settings.server
        before, self._looked = self._looked or self._last(today), today
        refused = {key_of(study): key_of(study) for study in found.refused}
        for study in {key_of(series.study) for series in found.series}:
            self._patience.succeeded(study)
        for key in filter(self._patience.is_due, refused):
            self._patience.failed(key)
        missing = {
            key: key_of(series.study)
            for series in found.series
            if memory.polled(server, key := key_of(series.series))[1] != series.count
        }
        self._waiting = {
            key: self._waiting.get(key, self._waiting.get(study, before))
            for key, study in (refused | missing).items()
            if self._patience.failures(key) < MOST_FAILURES
        }
        memory.remember("polls", server, min([today, *self._waiting.values()]).isoformat())

    def _look_at(self, series: FoundSeries) -> int:
        """Fetch a series if it is due; return the number of files."""
        self._begin_step()
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

    def _last(self, today: date) -> date:
        """Return the day that the last poll recorded, today if there was none."""
        last = self.intake.memory.remembered("polls", self.settings.server)
        return min(date.fromisoformat(last), today) if last else today

    def _fetch(self, series: FoundSeries) -> int:
        limits = FetchLimits(self.limits.study_s, self.limits.files, parse_memory(self.limits.study))
        try:
            server = DimseServer(self.settings.node, self.settings.caller, self.settings.listener)
            paths = fetch_study(server, self.folder, Wanted.parse(series.study, series.series), limits)
            object_bytes = parse_memory(self.limits.object)
            if any(path.stat().st_size > object_bytes for path in paths):  # before a part of it is taken
                raise InputError(LARGE_SERIES)
            for path in paths:
                content = read_regular(path, object_bytes)
                if not self.intake.take(identity(content), content):
                    raise NoRoomError(FULL)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        return len(paths)
