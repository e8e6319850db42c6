"""What every source does with a file: into the spool, and its study into the queue."""

from __future__ import annotations

from dataclasses import dataclass

from c3s3_seg.io.pacs.identity import Identity
from c3s3_seg.service.deliveries import Deliveries
from c3s3_seg.service.metrics import Metrics
from c3s3_seg.service.queue import StudyQueue
from c3s3_seg.service.source_memory import SourceMemory
from c3s3_seg.service.spool import Spool, key_of


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

    def take(self, found: Identity, content: bytes) -> bool:
        """Take a file; True once it is safe, False if there is no room for it.

        The same file once more changes nothing, and neither does a result of ours that a PACS sends on.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        if self.deliveries.is_ours(found.instance) or self.spool.holds(found, content):
            return True
        key, instance = key_of(found.study), key_of(found.instance)
        if not self.spool.has_room(found, len(content)):
            self.metrics.failed("no room")
            self.queue.refuse(key, instance)  # a part of a study is not to be taken for all of it
            return False
        self.queue.touch(key)  # before: a study that was done must not stay so beside a new file
        self.spool.put(found, content)
        self.queue.accept(key, instance)  # after: writing may have taken longer than the quiet time
        self.metrics.received(len(content))
        return True
