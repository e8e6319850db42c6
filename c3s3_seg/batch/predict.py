"""Predict many scans: each gives a mask and a JSON, or a row with the reason; and a record in the journal."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from c3s3_seg.batch.changes import REMARKS, setting_of
from c3s3_seg.batch.counts import Counts
from c3s3_seg.batch.engines import open_engine
from c3s3_seg.batch.executor import Engine
from c3s3_seg.batch.gather import take_over
from c3s3_seg.batch.inputs import Inputs, collect
from c3s3_seg.batch.job import BatchPlan, CaseTask, Job, Model
from c3s3_seg.batch.journal import Journal, journal_path, shard_journals
from c3s3_seg.batch.ledger import Ledger
from c3s3_seg.batch.leftovers import swept
from c3s3_seg.batch.other_cases import has_others
from c3s3_seg.batch.provenance import surroundings
from c3s3_seg.batch.records import Outcome
from c3s3_seg.batch.result import BatchProgress, BatchResult, Report, result_of
from c3s3_seg.batch.resume import Request, Sorted, sort_out
from c3s3_seg.batch.run_files import RunFiles
from c3s3_seg.batch.studies import Studies
from c3s3_seg.batch.truths import check_truths
from c3s3_seg.errors import StorageError
from c3s3_seg.inference.predictor import Predictor
from c3s3_seg.io import Skipped
from c3s3_seg.io.archive import sweep_unpacked
from c3s3_seg.system.files import check_folder, make_folder
from c3s3_seg.system.lock import hold
from c3s3_seg.system.progress import Progress, silent


def predict_cases(
    inputs: Iterable[Path],
    model: Predictor | Model,
    job: Job,
    report: Report | None = None,
    plan: BatchPlan | None = None,
    progress: Progress = silent,
) -> BatchResult:
    """Segment files, DICOM folders and folders of cases; the same call again resumes where it ended.

    Parameters
    ----------
    inputs
        Inputs as in `c3s3_seg.io.find_cases`; of a DICOM study the series that `job.reading` selects.
    model
        The loaded model; or how to open it, which workers and clusters need. No process is started
        unless the plan requires workers.
    job
        Output folder and the other options for each case.
    report
        Called once before the first case and after each case.
    plan
        Workers, shard, limit, retries, time limit.
    progress
        Called with the windows and tiles of each case that this process segments itself.

    Raises
    ------
    C3S3Error
        If nothing can be predicted: no case, no truth where one is requested, truths that are scans or
        hold no label of the model, an output folder that cannot be used or that another run holds, or a
        single case or study that fails. Among several cases a failing one becomes a row.
    """
    plan = plan or BatchPlan()
    check_folder(job.out)
    sweep_unpacked()
    found = collect(inputs, job, plan, progress)
    plan = replace(plan, workers=min(plan.workers, max(1, len(found.tasks))))  # more would have nothing to do
    check_truths([task.truth for task in found.tasks if task.truth is not None], model)
    make_folder(job.out)
    with ExitStack() as stack:
        held = stack.enter_context(hold(job.out, plan.shard))
        engine = open_engine(model, job, plan, held, progress, _first(found, job))
        stack.callback(sweep_unpacked)  # files of workers that were ended in the middle of a case
        stack.callback(engine.close)
        job = replace(job, origin=engine.origin)
        files = RunFiles(job, plan.shard, [task.case.name for task in found.tasks])
        return _Run(engine, job, plan, report or _silent, files).all(found)


def _silent(progress: BatchProgress) -> None:
    del progress


def _first(found: Inputs, job: Job) -> CaseTask | None:
    """Return the case that certainly comes first; None in a folder with records of earlier runs."""
    known = journal_path(job.out).exists() or shard_journals(job.out)
    return None if known else next(iter(found.tasks), None)


class _Run:
    """One run over one output folder whose lock is held."""

    def __init__(self, engine: Engine, job: Job, plan: BatchPlan, report: Report, files: RunFiles) -> None:
        self.engine, self.job, self.plan, self.report, self.files = engine, job, plan, report, files
        self.request = Request(job, engine.maps, plan, setting_of(engine.origin, job.request(), engine.maps))
        self.name = secrets.token_hex(8)  # unique among all folders and shards: log files are shared
        self.counts, self.studies = Counts(), Studies(())
        self.reported: set[str] = set()  # cases of this run that `report` was called with
        self.path = journal_path(job.out, plan.shard)

    def all(self, inputs: Inputs) -> BatchResult:
        """Sort the cases, process and record them, and write the files about all cases."""
        names, several = [task.case.name for task in inputs.tasks], len(inputs.tasks) > 1
        whole = self.plan.shard is None
        if self.job.html and several:
            self.files.claim_page()
        fresh = not self.path.exists()
        with ExitStack() as stack:
            journal = Journal(self.path)  # first: nothing is swept beside a journal that is refused
            if whole:
                stack.enter_context(swept(self.job.out))
            stack.callback(journal.close)
            take_over(journal, self.job.out, self.plan.shard, names)
            if self.job.html and not several and whole and has_others(journal, names):
                self.files.claim_page()
            journal.start(self._run_details(inputs.skipped))
            return self._all(inputs, journal, discard=fresh and inputs.single)

    def _all(self, inputs: Inputs, journal: Journal, *, discard: bool) -> BatchResult:
        tasks = list(inputs.tasks)
        found, studies = sort_out(tasks, journal, self.request), Studies(tasks)
        failed_before = {o.case for o in found.kept if o.failure is not None}
        found.kept = [o for kept in found.kept for o in studies.add(kept)]
        outcomes = {o.case: o for o in (*found.kept, *found.refused)}
        self._begin(inputs, found, studies)
        ledger, stopped, undone, ended = Ledger(journal, self.request), "", [], False
        try:
            for outcome in self._do(found.todo, ledger, studies):
                outcomes[outcome.case] = outcome
                if outcome.refusal is not None and outcome.refusal.ends_the_batch and not inputs.single:
                    stopped = outcome.refusal.error().told.named
            if stopped:
                self.engine.close()  # workers write no more
                known = {*outcomes, *(o.case for o in studies.merged)}
                undone = self._leave(ledger.undone(found.todo, known, stopped), len(found.todo))
                outcomes |= {o.case: o for o in undone}
            else:
                journal.end()
            ended = True
        finally:
            if not ended:
                outcomes |= self._recorded(found.todo, outcomes, journal)
            for outcome in (*outcomes.values(), *studies.merged):
                ledger.decide(outcome)
            # A case without an outcome, as after Ctrl-C, may have files that only the journal knows.
            whole = len(outcomes) + len(studies.merged) >= len(tasks)
            discard = discard and whole and not any(o.passed_over for o in outcomes.values())
            if discard and not any(o.row for o in outcomes.values()):
                self._forget(journal)
            else:
                with suppress(StorageError) if stopped else nullcontext():
                    self.files.write(result_of(tasks, outcomes), outcomes, journal, ended=ended)
        result = result_of(tasks, outcomes, len(found.kept), found.left)
        refusals = [o.refusal for o in outcomes.values() if o.refusal is not None and not o.passed_over]
        if inputs.single and refusals and not result.rows:
            raise refusals[0].error()
        return replace(
            result,
            undone=tuple(o.case for o in undone),
            stopped=stopped,
            skipped=(*inputs.skipped, *result.skipped),
            counts=self._merged_counts(),
            known=_known_failures(outcomes.values(), studies, failed_before),
            others=self.files.others,
        )

    def _begin(self, inputs: Inputs, found: Sorted, studies: Studies) -> None:
        """Report the cases to be processed and the cases done before."""
        kept, refused = tuple(found.kept), tuple(found.refused)
        counts = Counts(len(inputs.tasks), skipped=sum(item.inputs for item in inputs.skipped))
        self.counts, self.studies = counts.plus(kept, kept=True).plus(refused), studies
        note = "; ".join(filter(None, (found.note, inputs.without_truth)))
        start = BatchProgress(0, len(found.todo), None, None, note, self.engine.origin, inputs.skipped)
        start = replace(start, run=self.name, counts=self._merged_counts(), left=found.left)
        self.report(replace(start, kept=kept, refused=refused))

    def _recorded(
        self, todo: Sequence[CaseTask], outcomes: Mapping[str, Outcome], journal: Journal
    ) -> dict[str, Outcome]:
        """Return, and report, cases that this run finished while a signal kept it from saying so."""
        found = {}
        for name in (task.case.name for task in todo if task.case.name not in outcomes):
            record = journal.get(name)
            if record is None or record.run != journal.run or record.state != "done":
                continue
            found[name] = record.outcome
            if name not in self.reported:
                done = len(self.reported) + 1
                self._report_outcome(done, len(todo), None, record.outcome)
        return found

    def _report_outcome(self, done: int, total: int, left_s: float | None, outcome: Outcome) -> None:
        self.reported.add(outcome.case)
        self.counts = self.counts.plus([outcome])
        counts = self._merged_counts()
        self.report(BatchProgress(done, total, left_s, outcome, run=self.name, counts=counts))

    def _merged_counts(self) -> Counts:
        """Return the counts; a study of which no series can be segmented is one case."""
        return self.counts.less(len(self.studies.merged))

    def _do(self, todo: list[CaseTask], ledger: Ledger, studies: Studies) -> Iterator[Outcome]:
        """Yield decided outcomes: a series that is refused may wait for the rest of its study."""
        started, done = time.perf_counter(), 0
        with _closed(self.engine.run(ledger.begun(todo))) as run:
            for outcome in run:
                done += 1
                outcome = ledger.record(outcome)
                each_s = (time.perf_counter() - started) / done
                for decided in studies.add(outcome):
                    self._report_outcome(done, len(todo), each_s * (len(todo) - done), decided)
                    yield decided
                if outcome.refusal is not None and outcome.refusal.ends_the_batch:
                    break  # every further case would be computed and then fail in the same way
        done += len(ledger.taken)
        for decided in (*(o for taken in ledger.taken for o in studies.add(taken)), *studies.rest()):
            self._report_outcome(done, len(todo), None, decided)
            yield decided

    def _leave(self, undone: list[Outcome], total: int) -> list[Outcome]:
        """Report each case that is left."""
        for outcome in undone:
            self._report_outcome(total - len(undone), total, None, outcome)
        return undone

    def _run_details(self, skipped: Iterable[Skipped]) -> dict[str, Any]:
        passed_over: Counter[str] = Counter()
        for item in skipped:
            passed_over[item.reason] += item.inputs
        return {
            "id": self.name,
            "command": list(self.plan.command),
            "bundle": self.engine.bundle,
            **self.request.settings,
            **{key: self.engine.origin[key] for key in REMARKS if key in self.engine.origin},
            "setting": self.request.setting,
            "deterministic": self.job.deterministic,
            "passed_over": dict(passed_over),
            "seeds": "no random number is drawn",
            **surroundings(),
        }

    def _forget(self, journal: Journal) -> None:
        """Remove the journal of a new folder in which one scan or study failed."""
        journal.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def _known_failures(outcomes: Iterable[Outcome], studies: Studies, failed_before: set[str]) -> int:
    """Return the number of failures that an earlier run reported.

    The failure of a study has the name of its first series: it is new if any of its series failed first now.
    """
    return sum(o.failure is not None and studies.members(o.case) <= failed_before for o in outcomes)


@contextmanager
def _closed(run: Iterator[Outcome]) -> Iterator[Iterator[Outcome]]:
    """End a run on exit, not when it is garbage-collected: its threads write no more files afterwards."""
    try:
        yield run
    finally:
        if isinstance(run, Generator):
            run.close()
