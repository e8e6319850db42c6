"""Find the cases that a batch still has to process; finished ones are known by hashes, not by names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from c3s3_seg.batch.case_files import (
    PROBABILITIES,
    UNCERTAINTY,
    RequestedMaps,
    check_places,
    check_unchanged,
    file_names,
    is_source,
    remove_earlier,
    taken_by,
    with_finished,
)
from c3s3_seg.batch.changes import FORMAT_KEY, Change, changes, is_addition, reason, setting_sha256
from c3s3_seg.batch.job import BatchPlan, CaseTask, Job, Kept
from c3s3_seg.batch.journal import Journal, JournalRecord
from c3s3_seg.batch.provenance import RESERVED
from c3s3_seg.batch.records import Outcome, Refusal
from c3s3_seg.errors import C3S3Error, InputError, quantity
from c3s3_seg.io.formats import mask_path
from c3s3_seg.io.hashes import input_sha256
from c3s3_seg.system.choices import MaskFormat
from c3s3_seg.system.ownership import is_ours, read_case

REPORT = "report"  # name of the page of all cases; a shard's page ends with its number
_OF_REPORT = re.compile(rf"{REPORT}(\.\d+-of-\d+)?", re.IGNORECASE)


@dataclass
class Sorted:
    """The cases of a run, sorted by what is to be done.

    Parameters
    ----------
    todo
        Cases to be processed, in their order, or in that of `within_limit`.
    kept
        Outcomes of earlier runs that still hold, failures included.
    refused
        Outcomes of cases that must not be touched.
    redone
        Reason -> number of finished cases that are processed again for this reason.
    added
        Reason -> number of finished cases that get reports, scores or another format without the network.
    left
        Number of cases that the limit leaves for another run.
    """

    todo: list[CaseTask] = field(default_factory=list)
    kept: list[Outcome] = field(default_factory=list)
    refused: list[Outcome] = field(default_factory=list)
    redone: dict[str, int] = field(default_factory=dict)
    added: dict[str, int] = field(default_factory=dict)
    left: int = 0

    @property
    def note(self) -> str:
        """The note to be shown before the first case."""
        parts = []
        if self.kept:
            failed = sum(o.failure is not None for o in self.kept)
            passed = sum(o.passed_over for o in self.kept)
            done = len(self.kept) - failed - passed
            if done:
                parts.append(f"{quantity(done, 'case')} finished before, as recorded")
            if passed:
                parts.append(f"{quantity(passed, 'series')} passed over before, unchanged")
            if failed:
                again = "--retry-failed tries again"
                parts.append(f"{quantity(failed, 'case')} failed before, unchanged ({again})")
        parts += [
            f"{quantity(count, 'finished case')} to be done again: {why}"
            for why, count in self.redone.items()
        ]
        parts += [
            f"reports updated for {quantity(count, 'finished case')} without segmenting again: {why}"
            for why, count in self.added.items()
        ]
        if self.left:
            parts.append(f"{quantity(self.left, 'case')} left for another run (batch.limit)")
        return "; ".join(parts)


@dataclass(frozen=True)
class Request:
    """The request of this run.

    Parameters
    ----------
    job, maps
        Options and maps that decide the files of a case.
    plan
        The way in which the cases are processed.
    settings
        Weights, settings and request, as returned by `changes.setting_of`.
    """

    job: Job
    maps: RequestedMaps
    plan: BatchPlan
    settings: dict[str, Any]

    @cached_property
    def setting(self) -> str:
        """The hash of the weights and settings."""
        return setting_sha256(self.settings)


@dataclass(frozen=True)
class Decision:
    """The reason to process a case, and the results that stay.

    Parameters
    ----------
    reason
        The reason as a clause.
    kept
        Results that stay if the network need not run; None: all is made again.
    """

    reason: str
    kept: Kept | None = None


def sort_out(tasks: Sequence[CaseTask], journal: Journal, request: Request) -> Sorted:
    """Compare each case with the journal and with the existing files.

    Parameters
    ----------
    tasks
        All cases of the run.
    journal
        Journal with the records of earlier runs.
    request
        The request of this run.
    """
    plan = request.plan
    result = Sorted()
    for task in tasks:
        record = journal.get(task.case.name)
        try:
            decision = _decision(task, record, request, journal)
            if decision is not None:
                task = replace(task, kept=decision.kept)
                refuse_taken(task, record, request, journal)
        except (C3S3Error, OSError) as error:
            result.refused.append(refused(task, error))
            continue
        if decision is None and record is not None:
            if record.outcome.scan != task.place:  # the same scan, which has moved
                record = replace(record, outcome=replace(record.outcome, scan=task.place))
                journal.change(record)
            result.kept.append(record.outcome)
            continue
        if decision is not None and record is not None and record.state == "done":
            counted = result.redone if decision.kept is None else result.added
            counted[decision.reason] = counted.get(decision.reason, 0) + 1
        result.todo.append(task)
    if plan.limit is not None:
        result.left = max(0, len(result.todo) - plan.limit)
        result.todo = within_limit(result.todo, plan.limit, lambda task: journal.revision(task.case.name))
    return result


def within_limit(
    todo: Sequence[CaseTask], limit: int, revision_of: Callable[[CaseTask], int]
) -> list[CaseTask]:
    """Return the cases of a limited run: those whose records changed least often come first.

    A case that fails in every run would otherwise take the place of others in every run.

    Parameters
    ----------
    todo
        All unfinished cases, in their order.
    limit
        Largest number of cases.
    revision_of
        Called with a case to get the number of changes of its record, 0 for a new case.
    """
    return sorted(todo, key=revision_of)[:limit]


def refused(task: CaseTask, error: C3S3Error | OSError) -> Outcome:
    """Return the outcome of a case that must not be touched, or whose paths cannot be inspected."""
    if isinstance(error, OSError):
        error = InputError(error.strerror or str(error), where=task.case.path)
    return Outcome(task.case.name, task.place, refusal=Refusal.of(error, "begin"))


def _decision(
    task: CaseTask, record: JournalRecord | None, request: Request, journal: Journal
) -> Decision | None:
    """Return why the case is to be processed; None if it need not be. Raise if it must not be."""
    _refuse_name(task, request.job)
    if record is None:
        return Decision("it is new")
    if record.state in ("failed", "skipped"):
        again = _failed_before(task, record, request.setting, request.plan)
        return None if again is None else Decision(again)
    if record.outcome.row is None:
        return Decision("it was not finished")
    return _done_before(task, record, request, journal)


def _refuse_name(task: CaseTask, job: Job) -> None:
    """Raise if files of the case would replace files about all cases that have its name."""
    name, what = task.case.name, ""
    record = job.out / f"{name}.json"
    if RESERVED.fullmatch(name):
        what = f"a case called '{name}' would take the place of the folder's own provenance.json"
    elif _OF_REPORT.fullmatch(name) and job.html:
        what = f"the page of a case called '{name}' would take the place of the page of all cases"
    elif _OF_REPORT.fullmatch(name) and is_ours(record) and read_case(record) is None:
        what = f"the record of a case called '{name}' would take the place of a report of `evaluate`"
    if what:
        raise InputError(what, where=task.case.path, todo="Rename the scan")


def refuse_taken(task: CaseTask, record: JournalRecord | None, request: Request, journal: Journal) -> None:
    """Raise if a path of the case is taken; an earlier run's files, no answer to this request, are removed.

    Raises
    ------
    InputError
        If a path is taken, see `check_places`.
    """
    names = file_names(request.job, task.case.name, request.maps)
    known = record.outcome.outputs if record is not None else {}
    try:
        finished = with_finished(request.job.out, task.case.name, known)
        for name in finished:
            if not known[name]:
                check_unchanged(request.job.out / name, finished[name])
        check_places(task, request.job.out, names, finished)
    except InputError as error:
        slip = any(is_source(request.job.out / name, task) for name in names)  # the wrong folder was given
        if record is not None and record.state == "done" and not slip and task.kept is None:
            earlier = {**record.outcome.earlier, **remove_earlier(request.job.out, task, (), known)}
            refusal = Refusal.of(error, "begin")
            series = task.case.series
            outcome = Outcome(task.case.name, task.place, refusal=refusal, earlier=earlier, series=series)
            journal.record(outcome, request.setting)
        raise


def is_retried(record: JournalRecord, plan: BatchPlan) -> bool:
    """Return whether a case that failed or was passed over is tried again with the same scan and settings."""
    refusal, known = record.outcome.refusal, record.outcome.inputs  # without a hash it was never read whole
    asked = plan.retry_failed and record.state == "failed"
    passing = refusal is None or not refusal.final or not known
    return record.state in ("failed", "skipped") and (asked or passing)


def _failed_before(task: CaseTask, record: JournalRecord, setting: str, plan: BatchPlan) -> str | None:
    if is_retried(record, plan) or record.setting != setting:
        return "it is tried again"
    with suppress(C3S3Error):
        if input_sha256(task.case.path, task.truth, task.case.paths) == record.outcome.inputs:
            return None
    return "its scan has changed"


def _done_before(
    task: CaseTask, record: JournalRecord, request: Request, journal: Journal
) -> Decision | None:
    """Decide whether a mask is kept, added to or made again; after an addition it may be `begun`."""
    missing = _missing_outputs(record.outcome, request.job.out)
    inputs = input_sha256(task.case.path, task.truth, task.case.paths)
    known = record.outcome.inputs
    if inputs["scan"] != known.get("scan"):
        if task.place != record.outcome.scan:
            raise taken_by(record.outcome.scan, task)
        return Decision("their scans have changed")
    found = _changes(record, request, journal)
    kept = _kept(record, request, found, missing)
    truth = known.get("truth") if request.job.truth is None else inputs.get("truth")  # it may be withdrawn
    if truth != known.get("truth"):
        return Decision(reason(found) if found else "their truths have changed", kept)
    if record.setting != request.setting and not (missing and _are_additions(found) and kept is None):
        return Decision(reason(found), kept)
    return Decision("files of theirs are missing", kept) if missing or record.state == "begun" else None


def _are_additions(found: tuple[Change, ...] | None) -> bool:
    """Return whether the changes are known and need no network."""
    return found is not None and all(is_addition(change) for change in found)


def _missing_outputs(outcome: Outcome, out: Path) -> set[str]:
    """Return the files that are missing or not finished; raise if a file has been changed since."""
    missing = set()
    for name, known in outcome.outputs.items():
        check_unchanged(out / name, known)
        if not known or not (out / name).is_file() or (out / name).is_symlink():
            missing.add(name)
    return missing


def _changes(record: JournalRecord, request: Request, journal: Journal) -> tuple[Change, ...] | None:
    if record.setting == request.setting:
        return ()
    before = journal.details(record.run)
    if before is None or before.get("setting") != record.setting:
        return None
    return changes(before, request.settings)


def _kept(
    record: JournalRecord, request: Request, found: tuple[Change, ...] | None, missing: set[str]
) -> Kept | None:
    """Return the results of a case that stay, if the changes need no network; else None."""
    row, job, case = record.outcome.row, request.job, record.outcome.case
    if row is None or not _are_additions(found):
        return None
    outputs = record.outcome.outputs
    before = next((change.before for change in found or () if change.key == FORMAT_KEY), job.suffix)
    if before not in get_args(MaskFormat) or before == "rtstruct":  # contours do not give the exact voxels
        return None
    mask, wanted = mask_path(job.out, case, before).name, set(file_names(job, case, request.maps))
    if before != job.suffix and mask in wanted:  # the new mask would be written over the one that is kept
        return None
    maps = {name for name in outputs if name.partition("/")[0] in (PROBABILITIES, UNCERTAINTY)}
    if not request.maps.probabilities:
        maps = {name for name in maps if not name.startswith(f"{PROBABILITIES}/")}
    stay = [name for name in outputs if name in maps or (name == mask and before == job.suffix)]
    if missing & {mask, *stay} or mask not in outputs or not set(stay) <= wanted:
        return None
    scan_sha256 = record.outcome.inputs["scan"]
    return Kept(row, mask, outputs[mask], scan_sha256, {name: outputs[name] for name in stay})
