"""How far a batch is, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from c3s3_seg.batch.counts import Counts
from c3s3_seg.batch.job import CaseTask
from c3s3_seg.batch.records import Outcome
from c3s3_seg.io import Skipped
from c3s3_seg.report.rows import Failure, PredictionRow


@dataclass(frozen=True)
class BatchProgress:
    """How far a batch is; said after each case, and once before the first.

    Parameters
    ----------
    done, total
        Cases of this run that are finished, failed ones included, and all that are to be done.
    left_s
        Estimate of the seconds that remain; None before the first case.
    outcome
        What became of the last case; None before the first.
    note
        What has to be said before the first: resumed, redone, left out.
    made_with
        Before the first: the model, the runtime and the settings, as the JSON of each case has them.
    skipped
        Before the first: what was given or found, and is no case.
    run
        Name of this run; provenance.json has it too.
    counts
        What is done so far.
    kept, refused
        Before the first: cases of earlier runs that still hold, failed ones included; and cases that must
        not be touched.
    left
        Before the first: how many the limit leaves for another run.
    """

    done: int
    total: int
    left_s: float | None = None
    outcome: Outcome | None = None
    note: str = ""
    made_with: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    run: str = ""
    counts: Counts = field(default_factory=Counts)
    kept: tuple[Outcome, ...] = ()
    refused: tuple[Outcome, ...] = ()
    left: int = 0


Report = Callable[[BatchProgress], None]


@dataclass(frozen=True)
class BatchResult:
    """What became of the cases, in their order.

    Parameters
    ----------
    rows
        Cases that are done, now or by an earlier run.
    failures
        Cases that failed.
    kept
        How many of both were done by an earlier run.
    left
        How many the limit left for another run.
    undone
        Cases that were not done, because nothing could be written any more; each is in `failures` too.
    stopped
        Why the run ended before its last case; "" where it did not.
    skipped
        What was passed over: what is no case, and series that the domain check refused in studies of
        which another series was segmented.
    counts
        The same in numbers, and how many cases a person should look at.
    known
        Of `failures`, how many an earlier run told of: they have not changed, and were not tried again.
    """

    rows: tuple[PredictionRow, ...]
    failures: tuple[Failure, ...]
    kept: int = 0
    left: int = 0
    undone: tuple[str, ...] = ()
    stopped: str = ""
    skipped: tuple[Skipped, ...] = ()
    counts: Counts = field(default_factory=Counts)
    known: int = 0

    @property
    def new_failures(self) -> int:
        """How many cases failed of which no earlier run told."""
        return len(self.failures) - self.known


def result_of(
    tasks: list[CaseTask], outcomes: Mapping[str, Outcome], kept: int = 0, left: int = 0
) -> BatchResult:
    """What became of the cases, in the order of the tasks; `kept` and `left` as `BatchResult` has them."""
    ordered = [outcomes[task.case.name] for task in tasks if task.case.name in outcomes]
    rows = tuple(o.row for o in ordered if o.row is not None)
    failures = tuple(o.failure for o in ordered if o.failure is not None)
    skipped = tuple(o.skipped for o in ordered if o.skipped is not None)
    return BatchResult(rows, failures, kept, left, skipped=skipped)
