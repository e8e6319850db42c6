"""Count the cases of a batch that are done, and those of them that need a review."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from c3s3_seg.batch.records import STOPPED, Outcome


@dataclass(frozen=True)
class Counts:
    """The numbers of cases of a run; `cases` = `done` + `kept` + `failed` + `left` at any time.

    Parameters
    ----------
    cases
        All given cases. A series that is passed over does not count, and a study of which no series can be
        segmented counts as one.
    done
        Cases with a mask of this run, or with reports that this run added.
    kept
        Cases whose mask is of an earlier run and still holds.
    failed
        Cases that failed, in this run or before.
    empty, needs_review
        Among done and kept cases: masks without a voxel; cases that a person should inspect.
    skipped
        Inputs (files, folders, series) that were passed over and are no cases.
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
        """The number of cases that another run has to process."""
        return self.cases - self.done - self.kept - self.failed

    def plus(self, outcomes: Iterable[Outcome], *, kept: bool = False) -> Counts:
        """Return the counts with these outcomes. A case not processed because the run ended stays left."""
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
        """Return the counts without this number of cases, which are reported with another one."""
        return replace(self, cases=self.cases - number)
