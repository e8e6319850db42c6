"""Run stages at the same time: one case is read, one is in the network, one is written.

Threads suffice: unpacking, resampling, inference and writing release the global interpreter lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from queue import Empty, Queue
from typing import Any

Stage = Callable[[Any], Any]
WAIT_S = 0.2  # time within which a thread notices that it is no longer needed
# Waiting time after Ctrl-C for a stage in a library that cannot be interrupted: a graph may never end.
GRACE_S = 2.0
STUCK = "c3s3-seg stage"  # name of the threads


class _End:
    """The mark after the last item, with the error that ended the source or a stage, or None."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def overlapped(items: Iterable[Any], *stages: Stage) -> Generator[Any, None, None]:
    """Send items through stages that each run in a thread of their own; yield the results in order.

    No more items are in progress than there are stages, so memory does not grow with the number of
    items. An error in a stage ends the whole pipeline and is raised here.

    Parameters
    ----------
    items
        Items to process; may block. A thread takes them, one item ahead of the first stage.
    stages
        Functions that each take the previous result; the last one writes, and is always waited for.
    """
    stop = threading.Event()
    room = threading.Semaphore(len(stages))
    queues: list[Queue[Any]] = [Queue() for _ in range(len(stages) + 1)]
    threads = [threading.Thread(target=_feed, args=(items, queues[0], room, stop), daemon=True)]
    threads += [
        threading.Thread(target=_work, args=(stage, queues[n], queues[n + 1], stop), name=STUCK, daemon=True)
        for n, stage in enumerate(stages)
    ]
    for thread in threads:
        thread.start()
    patience = None
    try:
        while True:
            item = _get(queues[-1], stop)
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
            room.release()
    except BaseException as error:
        patience = None if isinstance(error, Exception | GeneratorExit) else GRACE_S
        raise
    finally:
        stop.set()
        threads[-1].join()
        for thread in threads[1:-1]:  # the first may wait for a source that gives nothing any more
            thread.join(patience)


def _feed(items: Iterable[Any], out: Queue[Any], room: threading.Semaphore, stop: threading.Event) -> None:
    source = iter(items)
    try:
        while _has_room(room, stop):
            out.put(next(source))
    except StopIteration:
        out.put(_End())
    except BaseException as error:
        out.put(_End(error))


def _has_room(room: threading.Semaphore, stop: threading.Event) -> bool:
    while not stop.is_set():
        if room.acquire(timeout=WAIT_S):
            return True
    return False


def _work(stage: Stage, take: Queue[Any], out: Queue[Any], stop: threading.Event) -> None:
    while True:
        item = _get(take, stop)
        if isinstance(item, _End):
            out.put(item)
            return
        try:
            result = stage(item)
        except BaseException as error:
            out.put(_End(error))
            return
        del item  # a scan must not stay in memory while the next one is waited for
        out.put(result)
        del result


def _get(queue: Queue[Any], stop: threading.Event) -> Any:
    while not stop.is_set():
        try:
            return queue.get(timeout=WAIT_S)
        except Empty:
            continue
    return _End()
