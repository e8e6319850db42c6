"""What a batch would do, without doing it: `predict --dry-run`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.batch.gather import take_over
from c3s3_seg.batch.inputs import collect
from c3s3_seg.batch.job import BatchPlan, Job
from c3s3_seg.batch.journal import copied, journal_path
from c3s3_seg.io import Skipped
from c3s3_seg.system.files import check_folder

_STATES = {"begun": "unfinished", "done": "done", "failed": "failed before", "skipped": "passed over before"}


@dataclass(frozen=True)
class ListedCase:
    """One case of a batch.

    Parameters
    ----------
    name
        Of the case.
    scan, truth, mask
        Where they are, or will be.
    state
        `new`, `unfinished`, `failed before`, `passed over before` or `done`, as the journal of the output
        folder says. Whether the files of a case that is done are still the same is looked at when the batch
        runs.
    to_do
        Whether it would be segmented.
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
    """The cases of a batch in their order, and what is passed over; nothing is written, no scan is read.

    Parameters
    ----------
    inputs, job, plan
        As for `predict_cases`.

    Raises
    ------
    C3S3Error
        If there is no case, no truth where one was asked for, or the journal of the output folder is damaged.
    """
    check_folder(job.out)
    found = collect(inputs, job, plan)
    known = _states(job.out, plan, [task.case.name for task in found.tasks])
    listed, left = [], plan.limit
    for task in found.tasks:
        state = known.get(task.case.name, "new")
        to_do = state in ("new", "unfinished") or (state == "failed before" and plan.retry_failed)
        if to_do and left is not None:
            to_do, left = left > 0, max(0, left - 1)
        truth = None if task.truth is None else str(task.truth)
        mask = str(job.mask_of(task.case.name))
        listed.append(ListedCase(task.case.name, str(task.case.path), truth, mask, state, to_do))
    return listed, found.skipped


def _states(out: Path, plan: BatchPlan, cases: list[str]) -> dict[str, str]:
    """As the run would find them: with what shards, or the whole folder, have recorded since."""
    with copied(journal_path(out, plan.shard)) as journal:
        take_over(journal, out, plan.shard, cases)
        return {record.outcome.case: _STATES[record.state] for record in journal.records()}
