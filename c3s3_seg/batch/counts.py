"""How many cases of a batch are done, and how many of them need a look."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from c3s3_seg.batch.records import STOPPED, Outcome


@dataclass(frozen=True)
class Counts:
    """Cases of a run; `cases` = `done` + `kept` + `failed` + `left` at any time.

    Parameters
    ----------
    cases
        All that were given. A series that is passed over is none, and a study of which no series can be
        segmented is one.
    done
        Those that have a mask of this run, or reports that this run added.
    kept
        Those whose mask is of an earlier run and still holds.
    failed
        Those that failed, in this run or before.
    empty, needs_review
        Of those that are done or kept: masks without a voxel; cases that a person should look at.
    skipped
        Inputs and series that were passed over and are no cases.
    """

    cases: int = 0
    done: int = 0
    kept: int = 0
    failed: int = 0
    empty: int = 0
    needs_review: int = 0
    skipped: int = 0

    @property
    def left(self) -> int:
        """Cases that another run has to do."""
        return self.cases - self.done - self.kept - self.failed

    def plus(self, outcomes: Iterable[Outcome], *, kept: bool = False) -> Counts:
        """With these outcomes. A case that was not done, because the run ended, stays one that is left."""
        counts = self
        for outcome in outcomes:
            row, refusal = outcome.row, outcome.refusal
            if outcome.passed_over:
                counts = replace(counts, cases=counts.cases - 1, skipped=counts.skipped + 1)
                continue
            if row is None:
                stopped = refusal is not None and refusal.step == STOPPED
                counts = counts if stopped else replace(counts, failed=counts.failed + 1)
                continue
            counts = replace(
                counts,
                done=counts.done + (not kept),
                kept=counts.kept + kept,
                empty=counts.empty + row.empty,
                needs_review=counts.needs_review + row.needs_review,
            )
        return counts

    def less(self, number: int) -> Counts:
        """With so many cases less, which are told of with another one."""
        return replace(self, cases=self.cases - number)
