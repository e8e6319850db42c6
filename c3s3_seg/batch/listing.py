"""List the cases that a batch would process, without processing them: `predict --dry-run`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.batch.gather import take_over
from c3s3_seg.batch.inputs import collect
from c3s3_seg.batch.job import BatchPlan, CaseTask, Job
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
        Whether the case would be segmented, as far as the journal tells: whether files and settings are
        still the same is checked only when the batch runs.
    """

    name: str
    scan: str
    truth: str | None
    mask: str
    state: str
    to_do: bool


def list_cases(
    inputs: Iterable[Path], job: Job, plan: BatchPlan
) -> tuple[list[ListedCase], tuple[Skipped, ...]]:
    """Return the cases of a batch in order and the inputs passed over; write nothing and read no scan.

    Parameters
    ----------
    inputs, job, plan
        Same as in `predict_cases`.

    Raises
    ------
    C3S3Error
        If there is no case, no truth where one is requested, or the journal of the output folder is damaged.
    """
    check_folder(job.out)
    found = collect(inputs, job, plan)
    known = _records(job.out, plan, [task.case.name for task in found.tasks])
    todo = _todo(found.tasks, known, plan)
    listed = []
    for task in found.tasks:
        record = known.get(task.case.name)
        state = "new" if record is None else _STATES[record.state]
        to_do = task.case.name in todo
        truth = None if task.truth is None else str(task.truth)
        mask = str(job.mask_of(task.case.name))
        listed.append(ListedCase(task.case.name, str(task.case.path), truth, mask, state, to_do))
    return listed, found.skipped


def _todo(tasks: Sequence[CaseTask], known: Mapping[str, JournalRecord], plan: BatchPlan) -> set[str]:
    """Return the names of the cases that the run would process."""
    records = [(task, known.get(task.case.name)) for task in tasks]
    todo = [t for t, r in records if r is None or r.state == "begun" or is_retried(r, plan)]
    if plan.limit is not None:
        revisions = {name: record.revision for name, record in known.items()}
        todo = within_limit(todo, plan.limit, lambda task: revisions.get(task.case.name, 0))
    return {task.case.name for task in todo}


def _records(out: Path, plan: BatchPlan, cases: list[str]) -> dict[str, JournalRecord]:
    """Return the records as the run would find them, with later records of shards or the whole folder."""
    with copied(journal_path(out, plan.shard)) as journal:
        take_over(journal, out, plan.shard, cases)
        return {record.outcome.case: record for record in journal.records()}
