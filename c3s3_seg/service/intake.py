"""Intake of files from every source: a file goes to the spool, its study to the queue."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def take(self, found: Identity, content: bytes, sender: Any = None) -> bool:
        """Take a file; return True once the file is on the disk, False if there is no room for it.

        A file already in the spool, or a result of this service sent back by a PACS, is not stored again.

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
        if self.deliveries.is_ours(found.instance):
            return True
        key, instance = key_of(found.study), key_of(found.instance)
        if sender is not None:
            with self._turn:
                self._open[sender] = key, self.queue.database.clock()
        if self.spool.holds(found, content):
            self.queue.still_comes(key, instance)
            return True
        if not self.spool.has_room(found, len(content)):
            self.metrics.failed("no room")
            self.queue.refuse(key, instance)  # a partial study must not pass for a complete one
            return False
        self.queue.touch(key)  # before writing: a done study must not stay done beside a new file
        try:
            self.spool.put(found, content)
        except (C3S3Error, OSError):
            self.queue.refuse(key, instance)  # the sender may not try again
            raise
        self.queue.accept(key, instance)  # again: writing may have taken longer than the quiet time
        self.metrics.received(len(content))
        return True

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
        """The studies of which a sender may still send files."""
        now = self.queue.database.clock()
        with self._turn:
            return {key for sender, (key, when) in self._open.items() if _goes_on(sender, now - when)}


def _goes_on(sender: Any, since_s: float) -> bool:
    """Return whether a sender may send more: C-ECHO may keep an association open without files."""
    if isinstance(sender, Sending):
        return True
    return abs(since_s) < HELD_S and bool(getattr(sender, "is_alive", lambda: True)())
