"""A source of studies besides the listener: a PACS that is polled."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path

from c3s3_seg.errors import C3S3Error, InputError, public, quantity
from c3s3_seg.io.pacs.client import DimseServer
from c3s3_seg.io.pacs.identity import identity
from c3s3_seg.io.pacs.query import FetchLimits, Wanted
from c3s3_seg.io.pacs.search import FoundInDays, FoundSeries, series_of_days
from c3s3_seg.io.pacs.server import fetch_study
from c3s3_seg.service.database import Clock
from c3s3_seg.service.intake import Intake
from c3s3_seg.service.metrics import LATE_S
from c3s3_seg.service.node_settings import PollSettings
from c3s3_seg.service.patience import FULL, NoRoomError, Patience
from c3s3_seg.service.settings import LimitSettings
from c3s3_seg.service.spool import key_of
from c3s3_seg.system.memory import parse_memory
from c3s3_seg.system.reading import read_regular

NO_SPACE = "less space is free than serve.limits.free: nothing is fetched"
LARGE_SERIES = "it has a file larger than serve.limits.object: none of it is taken"
# Failures after which a series no longer keeps the days of a poll from moving on: about four days of trying.
MOST_FAILURES = 100
LOGGER = logging.getLogger(__name__)


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
