"""Executors of a batch run: they turn tasks into outcomes, in this process, in workers or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from c3s3_seg.batch.case import Steps
from c3s3_seg.batch.case_files import RequestedMaps
from c3s3_seg.batch.early import EarlyRead
from c3s3_seg.batch.job import CaseTask, Job
from c3s3_seg.batch.pipeline import overlapped
from c3s3_seg.batch.records import Loaded, Outcome
from c3s3_seg.inference.predictor import Predictor
from c3s3_seg.system.progress import Progress, silent

Runner = Callable[[Iterable[CaseTask]], Iterator[Outcome]]


@dataclass(frozen=True)
class Engine:
    """An executor of cases: in this process, in workers or on a cluster.

    Parameters
    ----------
    run
        Function: tasks -> outcomes, in any order.
    origin
        Provenance shared by all masks: weights, runtime and settings.
    bundle
        Folder of the bundle; "" if unknown.
    close
        Called to end the threads and processes of the engine.
    maps
        The maps that each case writes.
    """

    run: Runner
    origin: dict[str, Any]
    bundle: str = ""
    close: Callable[[], None] = field(default=lambda: None)
    maps: RequestedMaps = field(default_factory=RequestedMaps)


def in_this_process(
    predictor: Predictor,
    job: Job,
    progress: Progress = silent,
    *,
    overlap: bool = True,
    early: EarlyRead | None = None,
) -> Runner:
    """Return a runner that overlaps neighbouring cases in threads (load, network, write), or does not.

    `early` has read one of the cases already, and may have prepared it.
    """
    steps = Steps(predictor, job, progress)
    if not overlap:
        return lambda tasks: map(steps.run, tasks)

    def read(task: CaseTask) -> Loaded | Outcome:
        found = early.take(task) if early is not None else None
        return steps.read(task) if found is None else steps.prepare(found)

    return lambda tasks: overlapped(tasks, read, steps.predict, steps.write)
