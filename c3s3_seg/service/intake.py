"""Intake of files from every source: a file goes to the spool, its study to the queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from c3s3_seg.errors import C3S3Error
from c3s3_seg.io.pacs.identity import Identity
from c3s3_seg.service.deliveries import Deliveries
from c3s3_seg.service.metrics import Metrics
from c3s3_seg.service.queue import StudyQueue
from c3s3_seg.service.source_memory import SourceMemory
from c3s3_seg.service.spool import Spool, key_of

HELD_S = 600.0  # an open association keeps its study incomplete this long after the last file


@dataclass(eq=False)
class Sending:
    """A sender of several files, such as a folder; an association serves as a sender, too."""


@dataclass(frozen=True)
class Intake:
    """The intake of files.

    Parameters
    ----------
    queue, deliveries, memory, spool, metrics
        Parts of the service.
    """

    queue: StudyQueue
    deliveries: Deliveries
    memory: SourceMemory
    spool: Spool
    metrics: Metrics
    # Sender -> (study of its last file, time): the study is not complete while its sender continues.
    _open: WeakKeyDictionary[Any, tuple[str, float]] = field(default_factory=WeakKeyDictionary)
    _unrecorded: set[Identity] = field(default_factory=set)  # refused files that the queue has not recorded
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def take(self, found: Identity, content: bytes, sender: Any = None) -> bool:
        """Take a file; return True once the file is on the disk, False if there is no room for it.

        A file already in the spool, or a result of this service sent back by a PACS, is not stored again.
        A file that is not taken, for whatever reason, keeps its study from passing for a complete one.

        Parameters
        ----------
        found, content
            Identity and bytes of the file.
        sender
            An association, or a `Sending`; None: no further file of the sender is awaited.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        try:
            taken = self._take(found, content, sender)
        except Exception:
            self._refuse(found)  # the sender may not try again
            raise
        if not taken:
            self.metrics.failed("no room")
            self._refuse(found)
        return taken

    def _take(self, found: Identity, content: bytes, sender: Any) -> bool:
        if self.deliveries.is_ours(found.instance):
            return True
        key = key_of(found.study)
        if sender is not None:
            with self._turn:
                self._open[sender] = key, self.queue.database.clock()
        if self.spool.holds(found, content):
            self._record_taken(found, self.queue.still_comes)
            return True
        if not self.spool.has_room(found, len(content)):
            return False
        self.queue.touch(key)  # before writing: a done study must not stay done beside a new file
        self.spool.put(found, content)
        self._record_taken(found, self.queue.accept)  # again: writing may have outlasted the quiet time
        self.metrics.received(len(content))
        return True

    def _record_taken(self, found: Identity, record: Callable[[str, str], None]) -> None:
        with self.queue.database.guarded():  # not while `record_refused` records the same file
            self._unrecorded.discard(found)
            record(key_of(found.study), key_of(found.instance))

    def _refuse(self, found: Identity) -> None:
        """Remember a file that was not taken, and record it unless the disk of the queue is full, too."""
        self._unrecorded.add(found)
        with suppress(C3S3Error):  # each tick of the service tries again, and reports it
            self.record_refused()

    def record_refused(self) -> None:
        """Record the files that were refused while the queue could not be written.

        Raises
        ------
        InputError
            If it still cannot: the studies of the files stay in `being_sent`.
        """
        for found in list(self._unrecorded):
            with self.queue.database.guarded():
                if found in self._unrecorded and not self.deliveries.is_ours(found.instance):
                    self.queue.refuse(key_of(found.study), key_of(found.instance))
                self._unrecorded.discard(found)

    def parted(self, sender: Any) -> None:
        """Forget a sender, which sends nothing more."""
        with self._turn:
            self._open.pop(sender, None)

    @contextmanager
    def sending(self, study: str | None = None) -> Iterator[Sending]:
        """Yield a sender, whose current study (first `study`, if given) is incomplete during the block."""
        sender = Sending()
        if study is not None:
            with self._turn:
                self._open[sender] = study, self.queue.database.clock()
        try:
            yield sender
        finally:
            self.parted(sender)

    @property
    def being_sent(self) -> set[str]:
        """The studies of which a sender may still send files, or of which a refusal is not recorded."""
        now = self.queue.database.clock()
        unrecorded = {key_of(found.study) for found in list(self._unrecorded)}
        with self._turn:
            sent = {key for sender, (key, when) in self._open.items() if _goes_on(sender, now - when)}
        return sent | unrecorded


def _goes_on(sender: Any, since_s: float) -> bool:
    """Return whether a sender may send more: C-ECHO may keep an association open without files."""
    if isinstance(sender, Sending):
        return True
    return abs(since_s) < HELD_S and bool(getattr(sender, "is_alive", lambda: True)())
