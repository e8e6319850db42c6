"""List the cases that a batch would process, without processing them: `predict --dry-run`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c3s3_seg.batch.case_files import FOLDERS, PICTURES
from c3s3_seg.batch.gather import take_over
from c3s3_seg.batch.inputs import collect
from c3s3_seg.batch.job import BatchPlan, CaseTask, Job, primary_weights
from c3s3_seg.batch.journal import JournalRecord, copied, journal_path
from c3s3_seg.batch.resume import is_retried, within_limit
from c3s3_seg.io import Skipped
from c3s3_seg.system.files import check_folder

_STATES = {"begun": "unfinished", "done": "done", "failed": "failed before", "skipped": "passed over before"}


@dataclass(frozen=True)
class ListedCase:
    """One case of a batch.

    Parameters
    ----------
    name
        Name of the case.
    scan, truth, mask
        Paths of these files, existing or to be written.
    state
        `new`, `unfinished`, `failed before`, `passed over before` or `done`, as the journal of the output
        folder states.
    to_do
        Whether the case would be segmented, as far as the journal tells: it was not finished, its mask or a
        map is missing, or its mask is of other weights. Whether a file or a setting has changed is checked
        only when the batch runs.
    """

    name: str
    scan: str
    truth: str | None
    mask: str
    state: str
    to_do: bool


def list_cases(
    inputs: Iterable[Path], job: Job, plan: BatchPlan, weights: Mapping[str, str] | None = None
) -> tuple[list[ListedCase], tuple[Skipped, ...]]:
    """Return the cases of a batch in order and the inputs passed over; write nothing and read no scan.

    Parameters
    ----------
    inputs, job, plan
        Same as in `predict_cases`.
    weights
        File -> sha256 of the bundle that the run would use; None: unknown.

    Raises
    ------
    C3S3Error
        If there is no case, no truth where one is requested, or the journal of the output folder is damaged.
    """
    check_folder(job.out)
    found = collect(inputs, job, plan)
    known, outdated = _records(job, plan, [task.case.name for task in found.tasks], weights)
    todo = _todo(found.tasks, known, outdated, plan)
    listed = []
    for task in found.tasks:
        record = known.get(task.case.name)
        state = "new" if record is None else _STATES[record.state]
        to_do = task.case.name in todo
        truth = None if task.truth is None else str(task.truth)
        mask = str(job.mask_of(task.case.name))
        listed.append(ListedCase(task.case.name, str(task.case.path), truth, mask, state, to_do))
    return listed, found.skipped


def _todo(
    tasks: Sequence[CaseTask], known: Mapping[str, JournalRecord], outdated: Collection[str], plan: BatchPlan
) -> set[str]:
    """Return the names of the cases that the run would process."""
    records = [(task, known.get(task.case.name)) for task in tasks]
    todo = [
        task
        for task, record in records
        if record is None or record.state == "begun" or is_retried(record, plan) or task.case.name in outdated
    ]
    if plan.limit is not None:
        revisions = {name: record.revision for name, record in known.items()}
        todo = within_limit(todo, plan.limit, lambda task: revisions.get(task.case.name, 0))
    return {task.case.name for task in todo}


def _records(
    job: Job, plan: BatchPlan, cases: list[str], weights: Mapping[str, str] | None
) -> tuple[dict[str, JournalRecord], set[str]]:
    """Return the records as the run would find them, and the finished cases that it would segment again.

    Later records of shards or of the whole folder are among them.
    """
    with copied(journal_path(job.out, plan.shard)) as journal:
        take_over(journal, job.out, plan.shard, cases)
        known = {record.outcome.case: record for record in journal.records()}
        done = {name: known[name] for name in cases if name in known and known[name].state == "done"}
        there = _names(job.out)
        outdated = {name for name, record in done.items() if not there.issuperset(_of_network(record))}
        if weights is not None:
            outdated |= {name for name, r in done.items() if _is_of_others(journal.details(r.run), weights)}
    return known, outdated


def _names(out: Path) -> set[str]:
    """Return the files of a folder: one listing of each of its folders, as a file server may be slow."""
    names = set()
    for prefix in ("", *(f"{name}/" for name in FOLDERS)):
        with suppress(OSError):
            names |= {prefix + name for name in os.listdir(out / prefix)}
    return names


def _of_network(record: JournalRecord) -> list[str]:
    """Return the mask and the maps of a case; its other files are made again without the network."""
    return [name for name in record.outcome.outputs if not name.endswith(PICTURES)]


def _is_of_others(run: Mapping[str, Any] | None, weights: Mapping[str, str]) -> bool:
    """Return whether the primary network of a run is known, and is not among these files."""
    primary = primary_weights((run or {}).get("made_with") or {})
    return bool(primary) and not any(known.startswith(primary) for known in weights.values())
