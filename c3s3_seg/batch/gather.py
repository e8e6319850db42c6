"""Exchange records between the journal of a folder and the journals of its shards.

Shards run at the same time, on several machines, and each has a journal of its own; the whole folder has
another one, which is written while no shard runs. Times of several clocks do not tell which of two records of
a case is newer. The folder's journal therefore notes which rows of each shard it has taken over: a row that
it has not seen is newer than its own record of the case, and a row that it has seen is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from c3s3_seg.batch.journal import (
    Journal,
    JournalRecord,
    case_key,
    copied,
    journal_path,
    shard_journals,
)
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
        Shard of the run, which takes over from the whole folder. None: the whole folder takes over from its
        shards.
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


def gather(journal: Journal, folder: Path) -> int:
    """Take over the shards' new records into the folder's journal; return the number of such cases.

    Raises
    ------
    InputError
        If a shard's journal is damaged.
    """
    taken: dict[str, str] = {}  # case -> time of its change; of several shards the newest wins
    with journal.transaction():
        for path in shard_journals(folder):
            with copied(path) as shard:
                _gather_shard(journal, shard, taken)
    return len(taken)


def _gather_shard(journal: Journal, shard: Journal, taken: dict[str, str]) -> None:
    source, seen = _Source(shard, journal), journal.gathered(shard.path.name)
    for record in shard.records():
        case = record.outcome.case
        if seen.get(case_key(case)) == record.checksum:
            continue
        journal.note_gathered(shard.path.name, record)
        if taken.get(case, "") < record.changed:
            source.adopt(record)
            taken[case] = record.changed


def inherit(journal: Journal, folder: Path, cases: Iterable[str]) -> None:
    """Take over into a shard's journal the records of its cases that are newer in the whole folder's.

    Raises
    ------
    InputError
        If the folder's journal is damaged.
    """
    path = journal_path(folder)
    if not path.exists():
        return
    with copied(path) as whole, journal.transaction():
        source, seen = _Source(whole, journal), whole.gathered(journal.path.name)
        for case in cases:
            ours, theirs = journal.get(case), whole.get(case)
            if theirs is None or (ours is not None and seen.get(case_key(case)) != ours.checksum):
                continue
            source.adopt(theirs)


class _Source:
    """A journal from which records are copied into another one, with their runs."""

    def __init__(self, source: Journal, target: Journal) -> None:
        self._target = target
        self._runs = {run["run"]: run for run in source.runs()}
        self._numbers: dict[int, int] = {}

    def adopt(self, record: JournalRecord) -> None:
        """Copy a record into the other journal."""
        if record.run in self._runs and record.run not in self._numbers:
            self._numbers[record.run] = self._target.adopt_run(self._runs[record.run])
        self._target.adopt(replace(record, run=self._numbers.get(record.run, record.run)))
