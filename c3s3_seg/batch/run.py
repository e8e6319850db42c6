"""Many scans: each becomes a mask and a JSON, or a row that says why not; and a record in the journal."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from c3s3_seg.batch.engine import Engine, in_this_process
from c3s3_seg.batch.job import Job, Model, Plan, Task
from c3s3_seg.batch.journal import Journal, gather, journal_path
from c3s3_seg.batch.outcome import Outcome
from c3s3_seg.batch.provenance import surroundings, write_provenance
from c3s3_seg.batch.sorting import Sorted, sort_out
from c3s3_seg.batch.summary import summary
from c3s3_seg.batch.truths import check_truths
from c3s3_seg.errors import InputError
from c3s3_seg.files import make_folder, write_whole
from c3s3_seg.inference.predictor import Predictor
from c3s3_seg.io import find_cases, match_truth
from c3s3_seg.lock import hold
from c3s3_seg.report.rows import Failure, PredictionRow

# What a kill leaves of a file that was being written (see `files.write_whole` and `io.save`).
LEFT_BEHIND = re.compile(r"\.[0-9a-f]{12}(\.part|\.nii|\.nii\.gz|\.nrrd|\.mha|\.dcm)")


@dataclass(frozen=True)
class Progress:
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
    """

    done: int
    total: int
    left_s: float | None = None
    outcome: Outcome | None = None
    note: str = ""


Tell = Callable[[Progress], None]


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
    """

    rows: tuple[PredictionRow, ...]
    failures: tuple[Failure, ...]
    kept: int = 0
    left: int = 0


def predict_cases(
    inputs: Iterable[Path],
    model: Predictor | Model,
    job: Job,
    tell: Tell | None = None,
    plan: Plan | None = None,
) -> BatchResult:
    """Segment files, DICOM folders and folders of cases; the same call again goes on where it ended.

    Parameters
    ----------
    inputs
        What `c3s3_seg.io.find_cases` takes.
    model
        The loaded model; or how to open it, which workers and clusters need. No process is started
        unless the plan asks for workers.
    job
        Where to and what else.
    tell
        Called after each case.
    plan
        Workers, shard, limit, retries, time limit.

    Raises
    ------
    C3S3Error
        If nothing can be predicted: no case, no truth where one was asked for, truths that are scans or
        hold no label of the model, an output folder that cannot be used or that another run holds, or a
        single case that fails. Among several cases a failing one becomes a row.
    """
    plan = plan or Plan()
    cases = find_cases(list(inputs))
    truths = match_truth(cases, job.truth) if job.truth is not None else {}
    tasks = [Task(case, truths.get(case.name)) for case in cases]
    if plan.shard is not None:
        tasks = plan.shard.of(tasks)
    check_truths([task.truth for task in tasks if task.truth is not None], model)
    make_folder(job.out)
    with ExitStack() as stack:
        held = stack.enter_context(hold(job.out, str(plan.shard) if plan.shard else None))
        engine = _engine(model, job, plan, held)
        stack.callback(engine.close)
        run = _Run(engine, replace(job, origin=engine.origin), plan, tell or _silent)
        return run.all(tasks, single=len(cases) == 1)


def _silent(progress: Progress) -> None:
    del progress


def _engine(model: Predictor | Model, job: Job, plan: Plan, held: tuple[int, ...]) -> Engine:
    if plan.case_timeout_s is not None and (plan.cluster is not None or not isinstance(model, Model)):
        what = "a case can only be ended in a worker process of this machine, which opens the model itself"
        raise InputError(what, todo="Leave the time limit of a case out")
    if isinstance(model, Model) and plan.cluster is not None:
        from c3s3_seg.batch.cluster import cluster_engine

        return cluster_engine(model, job, plan.cluster, plan.workers)
    if isinstance(model, Model) and (plan.workers > 0 or plan.case_timeout_s is not None):
        from c3s3_seg.batch.workers import worker_engine

        return worker_engine(model, job, max(1, plan.workers), held, plan.case_timeout_s)
    bundle = ""
    if isinstance(model, Model):
        bundle = str(model.bundle)
        predictor, origin = model.open()
    else:
        predictor, origin = model, job.origin or {}
    return Engine(in_this_process(predictor, replace(job, origin=origin)), origin, bundle)


class _Run:
    """One run over one folder that is held."""

    def __init__(self, engine: Engine, job: Job, plan: Plan, tell: Tell) -> None:
        self.engine, self.job, self.plan, self.tell = engine, job, plan, tell
        self.setting = _setting(engine.origin, job)
        self.path = journal_path(job.out, plan.shard)

    def all(self, tasks: list[Task], *, single: bool) -> BatchResult:
        """Sort out, do, record, sum up."""
        if self.plan.shard is None:
            _sweep(self.job.out)
        fresh = not self.path.exists()
        journal = Journal(self.path)
        try:
            if self.plan.shard is None:
                gather(journal, self.job.out)
            journal.start(self._facts())
            sorted_out = sort_out(tasks, journal, self.setting, self.job, self.plan)
            outcomes = {o.case: o for o in (*sorted_out.kept, *sorted_out.refused)}
            self.tell(Progress(0, len(sorted_out.todo), note=_note(sorted_out)))
            try:
                for outcome in self._do(sorted_out.todo, journal):
                    outcomes[outcome.case] = outcome
                journal.end()
            finally:
                self._sum_up(tasks, outcomes, journal, discard=fresh and single)
        finally:
            journal.close()
            if self.plan.shard is None:
                _sweep(self.job.out)
        refusal = outcomes[tasks[0].case.name].refusal if single and outcomes else None
        if refusal is not None:
            raise refusal.error()
        return _result(tasks, outcomes, len(sorted_out.kept), sorted_out.left)

    def _do(self, todo: list[Task], journal: Journal) -> Iterator[Outcome]:
        started = time.perf_counter()
        for done, outcome in enumerate(self.engine.run(self._begun(todo, journal)), start=1):
            journal.record(outcome, self.setting)
            each_s = (time.perf_counter() - started) / done
            self.tell(Progress(done, len(todo), each_s * (len(todo) - done), outcome))
            yield outcome

    def _begun(self, todo: list[Task], journal: Journal) -> Iterator[Task]:
        """Before a case is handed out, the journal says so: its files, if any are found, are ours."""
        for task in todo:
            journal.begin(task.case.name, task.place, self.setting)
            yield task

    def _facts(self) -> dict[str, Any]:
        return {
            "command": list(self.plan.command),
            "bundle": self.engine.bundle,
            "made_with": self.engine.origin,
            "request": self.job.request(),
            "setting": self.setting,
            "deterministic": self.job.deterministic,
            "seeds": "no random number is drawn",
            **surroundings(),
        }

    def _sum_up(
        self, tasks: list[Task], outcomes: dict[str, Outcome], journal: Journal, *, discard: bool
    ) -> None:
        """The files that speak of all cases. A single case that failed in a new folder leaves nothing."""
        if discard and not any(o.row for o in outcomes.values()):
            journal.close()
            self.path.unlink(missing_ok=True)
            return
        shard, times = self.plan.shard, not self.job.deterministic
        result = _result(tasks, outcomes, 0, 0)
        name = "summary.csv" if shard is None else f"summary.{shard}.csv"
        write_whole(self.job.out / name, summary(result.rows, result.failures, times=times))
        write_provenance(journal, self.job.out, shard, times=times)


def _result(tasks: list[Task], outcomes: dict[str, Outcome], kept: int, left: int) -> BatchResult:
    ordered = [outcomes[task.case.name] for task in tasks if task.case.name in outcomes]
    rows = tuple(o.row for o in ordered if o.row is not None)
    return BatchResult(rows, tuple(o.failure for o in ordered if o.failure is not None), kept, left)


def _setting(origin: dict[str, Any], job: Job) -> str:
    """One hash for weights, settings and what was asked for."""
    return hashlib.sha256(json.dumps([origin, job.request()], sort_keys=True).encode()).hexdigest()


def _note(found: Sorted) -> str:
    parts = []
    if found.kept:
        failed = sum(o.refusal is not None for o in found.kept)
        parts.append(f"{len(found.kept) - failed} cases were finished before; their hashes hold")
        if failed:
            parts.append(f"{failed} cases failed before and have not changed (--retry-failed tries again)")
    parts += [f"{count} finished cases are done again: {why}" for why, count in found.redone.items()]
    if found.left:
        parts.append(f"{found.left} cases are left for another run (--limit)")
    return "; ".join(parts)


def _sweep(folder: Path) -> None:
    """Remove what a killed run left of files that it was writing; only whoever holds the folder may."""
    for place in (folder, folder / "probabilities"):
        if place.is_dir():
            for path in place.iterdir():
                if LEFT_BEHIND.fullmatch(path.name):
                    path.unlink(missing_ok=True)
