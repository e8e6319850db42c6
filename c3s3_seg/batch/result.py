"""Progress and result of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from c3s3_seg.batch.counts import Counts
from c3s3_seg.batch.job import CaseTask
from c3s3_seg.batch.other_cases import OtherCases
from c3s3_seg.batch.records import Outcome
from c3s3_seg.io import Skipped
from c3s3_seg.report.rows import Failure, PredictionRow


@dataclass(frozen=True)
class BatchProgress:
    """The progress of a batch; reported after each case, and once before the first.

    Parameters
    ----------
    done, total
        Numbers of finished cases of this run, failed ones included, and of all cases to be processed.
    left_s
        Estimate of the seconds that remain; None if there is none, as before the first case.
    outcome
        Outcome of the last case; None before the first.
    note
        Before the first case: a note on cases resumed, processed again or left out.
    made_with
        Before the first case: the model, the runtime and the settings, as in the JSON of each case.
    skipped
        Before the first case: inputs given or found that are no cases.
    run
        Name of this run, also in provenance.json.
    counts
        Counts of the cases so far.
    kept, refused
        Before the first case: cases of earlier runs that still hold, failed ones included; and cases that
        must not be touched.
    left
        Before the first case: number of cases that the limit leaves for another run.
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
    """The results of the cases, in their order.

    Parameters
    ----------
    rows
        Cases that are done, now or by an earlier run.
    failures
        Cases that failed.
    kept
        Number of cases whose outcome is kept from an earlier run.
    left
        Number of cases that the limit left for another run.
    undone
        Cases not processed because nothing could be written any more; each is in `failures` too.
    stopped
        Reason why the run ended before its last case; "" if it did not.
    skipped
        Inputs that are no cases, and series that the domain check refused in studies of which another
        series was segmented.
    counts
        Counts of these cases, and of cases that a person should inspect.
    known
        Number of `failures` that an earlier run reported: unchanged cases that were not tried again.
    others
        Finished cases of the folder that are not among the cases of this run; of a share: none.
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
    others: OtherCases = field(default_factory=OtherCases)

    @property
    def new_failures(self) -> int:
        """The number of failed cases that no earlier run reported."""
        return len(self.failures) - self.known


def result_of(
    tasks: list[CaseTask], outcomes: Mapping[str, Outcome], kept: int = 0, left: int = 0
) -> BatchResult:
    """Return the results of the cases in the order of the tasks; `kept`, `left`: as in `BatchResult`."""
    ordered = [outcomes[task.case.name] for task in tasks if task.case.name in outcomes]
    rows = tuple(o.row for o in ordered if o.row is not None)
    failures = tuple(o.failure for o in ordered if o.failure is not None)
    skipped = tuple(o.skipped for o in ordered if o.skipped is not None)
    return BatchResult(rows, failures, kept, left, skipped=skipped)
