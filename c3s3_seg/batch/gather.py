"""Exchange records between the journal of a folder and the journals of its shards.

Shards run at the same time, on several machines, and each has a journal of its own; the whole folder has
another one, which is written while no shard runs. A case may move from one shard to another: with every scan
that is added, and with another count. So each run begins with the newest record of each of its cases. Times
of several clocks do not tell which record that is; their revisions do (`JournalRecord.revision`), because
only one run at a time works on a case.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from c3s3_seg.batch.journal import Journal, JournalRecord, copied, journal_path, shard_journals
from c3s3_seg.errors import InputError
from c3s3_seg.system.shard import Shard


def take_over(journal: Journal, folder: Path, shard: Shard | None, cases: Iterable[str]) -> None:
    """Update the journal of a run with the records that the folder's other journals have added since.

    Parameters
    ----------
    journal
        Journal of this run.
    folder
        The output folder.
    shard
        Shard of the run, which takes over from the whole folder and from all other shards. None: the whole
        folder takes over from its shards.
    cases
        Names of the run's cases; a shard takes over only these.

    Raises
    ------
    InputError
        If a journal is damaged.
    """
    if shard is None:
        gather(journal, folder)
    else:
        inherit(journal, folder, cases)


def refuse_other_count(folder: Path, share: Shard) -> None:
    """Refuse the share that a scheduler implied if shards of another count, and none of this one, wrote here.

    A task of an array that is submitted again alone is, for the scheduler, the only one of its array.

    Raises
    ------
    InputError
        If the count differs.
    """
    counts = sorted({int(path.stem.rpartition("-")[2]) for path in shard_journals(folder)})
    if counts and share.count not in counts:
        here = f"{share.index}/{share.count}"
        what = f"--shard auto means {here} here, but the shards that wrote this folder were {counts[-1]}"
        todo = f"For a task that is submitted again, give its share itself, such as --shard 2/{counts[-1]}"
        raise InputError(what, where=folder, todo=todo)


def gather(journal: Journal, folder: Path) -> int:
    """Take over the shards' newer records into the folder's journal; return the number of such cases.

    Raises
    ------
    InputError
        If a shard's journal is damaged.
    """
    taken: set[str] = set()
    with journal.transaction():
        for path in shard_journals(folder):
            with copied(path) as shard:
                # Its last run may have finished no case: `verify` must know that it is older than this run.
                taken |= _take(journal, shard, shard.records(), last_run=True)
    return len(taken)


def inherit(journal: Journal, folder: Path, cases: Iterable[str]) -> None:
    """Take over into a shard's journal the newer records of its cases from all other journals of the folder.

    Raises
    ------
    InputError
        If one of these journals is damaged.
    """
    cases, whole = list(cases), journal_path(folder)
    with journal.transaction():
        for path in (whole, *shard_journals(folder)):
            if path.name == journal.path.name or not path.exists():
                continue
            with copied(path) as other:
                records = (record for record in map(other.get, cases) if record is not None)
                _take(journal, other, records, last_run=path == whole)


def _take(journal: Journal, other: Journal, records: Iterable[JournalRecord], *, last_run: bool) -> set[str]:
    """Copy records that are newer than the journal's own, with their runs; return their cases."""
    newer = [record for record in records if record.revision > journal.revision(record.outcome.case)]
    runs = {run["run"]: run for run in other.runs()}
    needed = {record.run for record in newer} | (set(list(runs)[-1:]) if last_run else set())
    numbers = {run: journal.adopt_run(runs[run]) for run in sorted(needed & set(runs))}
    for record in newer:
        journal.adopt(replace(record, run=numbers.get(record.run, record.run)))
    return {record.outcome.case for record in newer}
