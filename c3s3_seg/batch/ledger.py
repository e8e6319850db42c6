"""Update the output folder and the journal before and after each case."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from c3s3_seg.batch.case_files import (
    EARLIER,
    file_names,
    has_sha256,
    remove_earlier,
    remove_files,
    remove_replaced,
    with_finished,
)
from c3s3_seg.batch.job import CaseTask, Kept
from c3s3_seg.batch.journal import Journal, JournalRecord, state_of
from c3s3_seg.batch.records import STOPPED, Outcome, Refusal
from c3s3_seg.batch.resume import Request, refuse_taken, refused
from c3s3_seg.errors import C3S3Error, InputError


class Ledger:
    """The bookkeeper of a run: begins and records cases; a case's files are replaced or removed as one.

    Parameters
    ----------
    journal
        Journal of the folder or shard.
    request
        The request of this run.
    """

    def __init__(self, journal: Journal, request: Request) -> None:
        self.journal, self.request = journal, request
        self.taken: list[Outcome] = []  # cases whose paths were taken after they were sorted out
        self._series: dict[str, str] = {}
        self._additions: dict[str, tuple[CaseTask, JournalRecord]] = {}  # begun: existing results
        self._earlier: dict[str, dict[str, str]] = {}  # begun case -> its earlier files by hash

    def begun(self, todo: list[CaseTask]) -> Iterator[CaseTask]:
        """Yield each case once its old files are removed and the journal states which ones may appear."""
        for task in todo:
            try:
                self._begin(task)
            except (InputError, OSError) as error:
                if isinstance(error, InputError) and error.where == self.journal.path:
                    raise
                self.taken.append(refused(task, error))
                continue
            yield task

    def _begin(self, task: CaseTask) -> None:
        case, out = task.case.name, self.request.job.out
        names, record = self._file_names(case), self.journal.get(case)
        known = record.outcome.outputs if record is not None else {}
        refuse_taken(task, record, self.request, self.journal)  # checked again: hours may have passed
        earlier = dict(record.outcome.earlier) if record is not None else {}
        self._series[case] = task.case.series
        if task.kept is not None and record is not None:
            self._begin_addition(task, task.kept, record, names)
            return
        earlier |= remove_earlier(out, task, names, with_finished(out, case, known))
        self._earlier[case] = earlier
        files = dict.fromkeys(names, "")
        begun = Outcome(case, task.place, outputs=files, earlier=earlier, series=task.case.series)
        self.journal.begin(begun, self.request.setting)

    def _begin_addition(self, task: CaseTask, kept: Kept, record: JournalRecord, names: list[str]) -> None:
        """Begin a case whose mask stays; record its hash, and which files may be half done."""
        before, mask = record.outcome, {kept.mask: kept.mask_sha256}
        # Files no longer requested are removed after the case is done: until then they belong to the mask.
        outputs = {**before.outputs, **dict.fromkeys(names, ""), **mask, **kept.outputs}
        self._additions[task.case.name] = task, record
        self._earlier[task.case.name] = dict(before.earlier)
        self.journal.change(replace(record, state="begun", outcome=replace(before, outputs=outputs)))

    def record(self, outcome: Outcome) -> Outcome:
        """Record the outcome of a case; remove the files of a failed one unless its mask is kept."""
        if outcome.case in self._additions:
            task, record = self._additions.pop(outcome.case)
            if outcome.row is None and self._restore(outcome, task, record):
                return outcome
            replaced = {n: h for n, h in record.outcome.outputs.items() if n not in outcome.outputs}
            remove_replaced(self.request.job.out, task, replaced)
            changed = {h: n for n, h in record.outcome.outputs.items() if h}
            self._earlier[outcome.case] = {**record.outcome.earlier, **changed}
        written = {(known, name) for name, known in outcome.outputs.items()}
        before = self._earlier.pop(outcome.case, {})
        kept = [item for item in before.items() if item not in written]
        series = self._series.get(outcome.case, outcome.series)
        outcome = replace(outcome, earlier=dict(kept[-EARLIER:]), series=series)
        if outcome.row is None:
            remove_files(self.request.job.out, self._file_names(outcome.case))
        try:
            self.journal.record(outcome, self.request.setting)
        except C3S3Error:
            # The disk is full for the journal too: the first reason is reported, the case stays begun.
            if outcome.refusal is None or not outcome.refusal.ends_the_batch:
                raise
        return outcome

    def decide(self, outcome: Outcome) -> None:
        """Record that a series is passed over, or no longer is, if the journal states otherwise."""
        if outcome.refusal is None:
            return
        with suppress(C3S3Error):  # if nothing can be written any more, that is reported already
            known = self.journal.get(outcome.case)
            if known is None or known.state not in ("failed", "skipped"):
                return
            state = state_of(outcome)
            if known.state != state:
                passed = replace(known.outcome, passed_over=outcome.passed_over)
                self.journal.change(replace(known, state=state, outcome=passed))

    def _restore(self, outcome: Outcome, task: CaseTask, record: JournalRecord) -> bool:
        """Keep the mask's record after its reports failed; return False if the mask or a map is gone."""
        out, kept = self.request.job.out, task.kept
        if kept is None:
            return False
        stay, names = {kept.mask, *kept.outputs}, self._file_names(outcome.case)
        there = {n: h if os.path.isfile(out / n) else "" for n, h in record.outcome.outputs.items()}
        if not all(there.get(name) for name in stay):
            return False
        # A worker that died has removed nothing: what it has replaced is not as the old record states.
        replaced = [n for n in names if n in there and n not in stay and not has_sha256(out / n, there[n])]
        there |= dict.fromkeys(replaced, "")
        remove_files(out, [name for name in names if name not in there])
        self._earlier.pop(outcome.case, None)
        try:
            self.journal.change(replace(record, outcome=replace(record.outcome, outputs=there)))
        except C3S3Error:
            if outcome.refusal is None or not outcome.refusal.ends_the_batch:
                raise
        return True

    def undone(self, todo: list[CaseTask], done: set[str], why: str) -> list[Outcome]:
        """Return the outcomes of the cases that a stopped run leaves to the next one."""
        what = f"it was not done, because the run was stopped: {why.rstrip('.')}"
        refusal = Refusal.of(InputError(what, todo="The same command again does it"), STOPPED)
        rest = [task for task in todo if task.case.name not in done]
        outcomes = [Outcome(task.case.name, task.place, refusal=refusal) for task in rest]
        for outcome in outcomes:
            if outcome.case in self._earlier:  # in progress: its files go, it is no longer begun
                with suppress(C3S3Error):
                    self.record(outcome)
        return outcomes

    def _file_names(self, case: str) -> list[str]:
        return file_names(self.request.job, case, self.request.maps)
