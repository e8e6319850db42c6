"""What of a batch is still to be done: finished cases are known by their hashes, not by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from c3s3_seg.batch.claims import Asked, check_places, check_unchanged, clear, is_source, places
from c3s3_seg.batch.job import BatchPlan, CaseTask, Job
from c3s3_seg.batch.journal import Journal, JournalRecord
from c3s3_seg.batch.provenance import RESERVED
from c3s3_seg.batch.records import Outcome, Refusal
from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.io.hashes import input_sha256

REPORT = "report"  # the page of all cases; a shard's has its number behind it
_OF_REPORT = re.compile(rf"{REPORT}(\.\d+-of-\d+)?", re.IGNORECASE)


@dataclass
class Sorted:
    """The cases of a run, sorted.

    Parameters
    ----------
    todo
        Cases to be done, in their order.
    kept
        Outcomes of earlier runs that still hold, failures included.
    refused
        Cases that must not be touched.
    redone
        Reason -> number of finished cases that are done again for it.
    left
        Number of cases that the limit leaves for another run.
    """

    todo: list[CaseTask] = field(default_factory=list)
    kept: list[Outcome] = field(default_factory=list)
    refused: list[Outcome] = field(default_factory=list)
    redone: dict[str, int] = field(default_factory=dict)
    left: int = 0

    @property
    def note(self) -> str:
        """What has to be said before the first case."""
        parts = []
        if self.kept:
            failed = sum(o.failure is not None for o in self.kept)
            passed = sum(o.passed_over for o in self.kept)
            done = len(self.kept) - failed - passed
            parts.append(f"{done} cases were finished before; their hashes hold")
            if passed:
                parts.append(f"{passed} series were passed over before and have not changed")
            if failed:
                parts.append(
                    f"{failed} cases failed before and have not changed (--retry-failed tries again)"
                )
        parts += [f"{count} finished cases are done again: {why}" for why, count in self.redone.items()]
        if self.left:
            parts.append(f"{self.left} cases are left for another run (batch.limit)")
        return "; ".join(parts)


@dataclass(frozen=True)
class Request:
    """What this run asks for.

    Parameters
    ----------
    job, asked
        What is written for a case.
    plan
        How to go about it.
    setting
        Hash of the weights and settings.
    """

    job: Job
    asked: Asked
    plan: BatchPlan
    setting: str


def sort_out(tasks: Sequence[CaseTask], journal: Journal, request: Request) -> Sorted:
    """Compare each case with the journal and with the files that are there.

    Parameters
    ----------
    tasks
        All cases of the run.
    journal
        What earlier runs recorded.
    request
        What this run asks for.
    """
    plan = request.plan
    result = Sorted()
    for task in tasks:
        record = journal.get(task.case.name)
        try:
            reason = _reason(task, record, request)
            if reason is not None:
                refuse_taken(task, record, request, journal)
        except OSError as error:  # a place that cannot even be looked at
            refusal = Refusal.of(InputError(f"{error.strerror or error}", where=task.case.path), "begin")
            result.refused.append(Outcome(task.case.name, task.place, refusal=refusal))
            continue
        except C3S3Error as error:
            result.refused.append(Outcome(task.case.name, task.place, refusal=Refusal.of(error, "begin")))
            continue
        if reason is None and record is not None:
            if record.outcome.scan != task.place:  # it has moved; it is the same scan
                record = replace(record, outcome=replace(record.outcome, scan=task.place))
                journal.adopt(record)
            result.kept.append(record.outcome)
            continue
        if reason and record is not None and record.state == "done":
            result.redone[reason] = result.redone.get(reason, 0) + 1
        result.todo.append(task)
    if plan.limit is not None:
        result.left = max(0, len(result.todo) - plan.limit)
        del result.todo[plan.limit :]
    return result


def _reason(task: CaseTask, record: JournalRecord | None, request: Request) -> str | None:
    """Why the case is to be done; None if it need not be. Raises if it must not be."""
    if RESERVED.fullmatch(task.case.name):
        what = f"a case called '{task.case.name}' would take the place of the folder's own provenance.json"
        raise InputError(what, where=task.case.path, todo="Rename the scan")
    if request.job.html and _OF_REPORT.fullmatch(task.case.name):
        what = f"the page of a case called '{task.case.name}' would take the place of the page of all cases"
        raise InputError(what, where=task.case.path, todo="Rename the scan")
    return _why(task, record, request)


def refuse_taken(task: CaseTask, record: JournalRecord | None, request: Request, journal: Journal) -> None:
    """Refuse a case whose places are taken; what an earlier run wrote of it is no answer to this, and goes.

    Raises
    ------
    InputError
        If a place is taken, see `check_places`.
    """
    names = places(request.job, task.case.name, request.asked)
    known = record.outcome.outputs if record is not None else {}
    try:
        check_places(task, request.job.out, names, known)
    except InputError as error:
        slip = any(is_source(request.job.out / name, task) for name in names)  # the wrong folder was given
        if record is not None and record.state == "done" and not slip:
            earlier = {**record.outcome.earlier, **clear(request.job.out, task, (), known)}
            refusal = Refusal.of(error, "begin")
            outcome = Outcome(task.case.name, task.place, refusal=refusal, earlier=earlier)
            journal.record(outcome, request.setting)
        raise


def _why(task: CaseTask, record: JournalRecord | None, request: Request) -> str | None:
    if record is None:
        return "it is new"
    if record.state == "begun":
        return "it was not finished"
    if record.state in ("failed", "skipped"):
        return _failed_before(task, record, request.setting, request.plan)
    return _done_before(task, record, request.setting, request.job)


def _failed_before(task: CaseTask, record: JournalRecord, setting: str, plan: BatchPlan) -> str | None:
    refusal = record.outcome.refusal
    again = plan.retry_failed and record.state == "failed"
    if again or refusal is None or not refusal.final or record.setting != setting:
        return "it is tried again"
    with suppress(C3S3Error):
        if (
            record.outcome.inputs
            and input_sha256(task.case.path, task.truth, task.case.paths) == record.outcome.inputs
        ):
            return None
    return "its scan has changed"


def _done_before(task: CaseTask, record: JournalRecord, setting: str, job: Job) -> str | None:
    missing = _check_outputs(record.outcome, job.out)
    inputs = input_sha256(task.case.path, task.truth, task.case.paths)
    known = record.outcome.inputs
    if inputs["scan"] != known.get("scan"):
        if task.place != record.outcome.scan:
            raise InputError(
                f"its place is taken by the mask of another scan of this name, {record.outcome.scan}",
                where=task.case.path,
                todo="Give another folder with -o",
            )
        return "their scans have changed"
    if inputs.get("truth", known.get("truth")) != known.get("truth"):
        return "their truths have changed"
    if record.setting != setting:
        return "weights or settings have changed"
    return "files of theirs are missing" if missing else None


def _check_outputs(outcome: Outcome, out: Path) -> bool:
    """Whether a file is missing; one that is there and is another one belongs to somebody."""
    missing = False
    for name, known in outcome.outputs.items():
        check_unchanged(out / name, known)
        missing = missing or not (out / name).is_file() or (out / name).is_symlink()
    return missing
