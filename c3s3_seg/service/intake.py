"""What every source does with a file: into the spool, and its study into the queue."""

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

HELD_S = 600.0  # an open association holds its study up for so long after the last file


@dataclass(eq=False)
class Sending:
    """Somebody who sends files one after the other; an association is one, too."""


@dataclass(frozen=True)
class Intake:
    """Takes files.

    Parameters
    ----------
    queue, deliveries, memory, spool, metrics
        Of the service.
    """

    queue: StudyQueue
    deliveries: Deliveries
    memory: SourceMemory
    spool: Spool
    metrics: Metrics
    # Who sends -> the study that the last file was of, and when: it is not complete as long as they go on.
    _open: WeakKeyDictionary[Any, tuple[str, float]] = field(default_factory=WeakKeyDictionary)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def take(self, found: Identity, content: bytes, sender: Any = None) -> bool:
        """Take a file; True once it is safe, False if there is no room for it.

        The same file once more changes nothing, and neither does a result of ours that a PACS sends on.

        Parameters
        ----------
        found, content
            The file.
        sender
            An association, or a `Sending`; None: who sends it sends nothing more.

        Raises
        ------
        InputError
            If it cannot be written.
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
            self.queue.refuse(key, instance)  # a part of a study is not to be taken for all of it
            return False
        self.queue.touch(key)  # before: a study that was done must not stay so beside a new file
        try:
            self.spool.put(found, content)
        except (C3S3Error, OSError):
            self.queue.refuse(key, instance)  # its sender may give up
            raise
        self.queue.accept(key, instance)  # after: writing may have taken longer than the quiet time
        self.metrics.received(len(content))
        return True

    def parted(self, sender: Any) -> None:
        """Nothing more comes from them."""
        with self._turn:
            self._open.pop(sender, None)

    @contextmanager
    def sending(self, study: str | None = None) -> Iterator[Sending]:
        """While the block runs, files of one study after the other come; of this one, where it is known."""
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
        """Studies of which somebody may be about to send a further file."""
        now = self.queue.database.clock()
        with self._turn:
            return {key for sender, (key, when) in self._open.items() if _goes_on(sender, now - when)}


def _goes_on(sender: Any, since_s: float) -> bool:
    """Whether a further file may come: an association may be kept open, by C-ECHO, without one."""
    if isinstance(sender, Sending):
        return True
    return abs(since_s) < HELD_S and bool(getattr(sender, "is_alive", lambda: True)())
