"""Write the files about all cases of a folder: the table, the provenance and the page."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from c3s3_seg.batch.job import Job
from c3s3_seg.batch.journal import Journal
from c3s3_seg.batch.other_cases import OtherCases, other_cases
from c3s3_seg.batch.provenance import provenance_names, write_provenance
from c3s3_seg.batch.records import Outcome
from c3s3_seg.batch.result import BatchResult
from c3s3_seg.batch.resume import REPORT
from c3s3_seg.batch.summary import summary, table_name
from c3s3_seg.errors import StorageError
from c3s3_seg.report.rows import Failure, PredictionRow
from c3s3_seg.system.files import write_whole
from c3s3_seg.system.ownership import check_place
from c3s3_seg.system.shard import Shard


class RunFiles:
    """The files about all cases of one run, or of one share of it.

    Parameters
    ----------
    job
        Output folder and options.
    shard
        The share that this run takes; None: all cases.
    names
        Names of the cases of this run.

    Raises
    ------
    InputError, StorageError
        If a file of somebody else has one of the names, or is no file.
    """

    def __init__(self, job: Job, shard: Shard | None, names: Collection[str]) -> None:
        self.job, self.shard, self.names = job, shard, frozenset(names)
        self.others = OtherCases()
        tag = "" if shard is None else f".{shard}"
        self.table = job.out / table_name(shard)
        self.page = job.out / f"{REPORT}{tag}.html"
        self.paths = tuple(job.out / name for name in (self.table.name, *provenance_names(shard)))
        for path in self.paths:
            check_place(path)

    def claim_page(self) -> None:
        """Have the page of all cases written too.

        Raises
        ------
        InputError, StorageError
            If a page of somebody else, or of an evaluation, has its name.
        """
        from c3s3_seg.batch.folder_report import refuse_evaluation

        check_place(self.page)
        refuse_evaluation(self.page)
        self.paths += (self.page,)

    def write(
        self,
        result: BatchResult,
        outcomes: Mapping[str, Outcome],
        journal: Journal,
        *,
        ended: bool,
    ) -> None:
        """Replace the files; remove them all if one cannot be written.

        Parameters
        ----------
        result
            Results of the cases of this run.
        outcomes
            Outcomes of these cases by name.
        journal
            Journal of the folder, in which this run was started.
        ended
            Whether the run processed its cases to the end; if it was interrupted, no page is made.

        Raises
        ------
        StorageError
            If one of the files cannot be written.
        """
        times = not self.job.deterministic
        try:
            rows = self._with_others(result.rows, outcomes, journal)
            table = summary(rows, result.failures, times=times)
            write_whole(self.table, table)
            tables = {self.table.name: hashlib.sha256(table).hexdigest()}
            write_provenance(journal, self.job.out, self.shard, times=times, tables=tables)
            self._write_page(rows, result.failures, ended=ended)
        except StorageError:
            # Files of an earlier run would describe other masks; the journal has the outcome of each case.
            for path in self.paths:
                with suppress(OSError):  # the folder may be read-only by now
                    path.unlink(missing_ok=True)
            raise

    def _with_others(
        self, rows: Iterable[PredictionRow], outcomes: Mapping[str, Outcome], journal: Journal
    ) -> list[PredictionRow]:
        """Return the cases of this run and, unless it is a share, those of earlier runs into the folder."""
        if self.shard is None:
            failed = {o.case for o in outcomes.values() if o.row is None}
            scans = {o.inputs["scan"] for o in outcomes.values() if o.row is not None}
            settings = journal.details(journal.run) or {}
            self.others = other_cases(journal, self.job.out, settings, self.names, failed, scans)
        if not self.others.rows:
            return list(rows)
        return sorted((*rows, *self.others.rows), key=lambda row: row.case)

    def _write_page(self, rows: Sequence[PredictionRow], failures: Sequence[Failure], *, ended: bool) -> None:
        """Replace the page of all cases if requested; else, and if the run was interrupted, remove it."""
        if self.page.exists():
            from c3s3_seg.report.page import is_folder_page

            # First, since the pictures take a while: after Ctrl-C it would show masks of an earlier run.
            if is_folder_page(self.page):
                self.page.unlink(missing_ok=True)
        if ended and self.page in self.paths:
            from c3s3_seg.batch.folder_report import write_folder_report

            write_folder_report(self.page, self.job, rows, failures)
