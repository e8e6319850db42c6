"""Find the cases of a batch in its inputs, under the names that earlier runs gave them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.batch.job import BatchPlan, CaseTask, Job
from c3s3_seg.batch.journal import JournalRecord, journal_path, records_of, shard_journals
from c3s3_seg.errors import C3S3Error, InputError, listed, quantity
from c3s3_seg.io import Case, Skipped, match_truth
from c3s3_seg.io.image.files import image_suffix
from c3s3_seg.io.studies import Known, find_scans
from c3s3_seg.system.progress import Progress, silent


@dataclass(frozen=True)
class Inputs:
    """The cases of a batch and the inputs that are no cases.

    Parameters
    ----------
    tasks
        The cases of this run, or of its shard.
    skipped
        Other inputs that were given or found, each with the reason why it is no case.
    single
        Whether the batch is one scan or one study, whose failure is the failure of the command.
    """

    tasks: tuple[CaseTask, ...]
    skipped: tuple[Skipped, ...]
    single: bool

    @property
    def without_truth(self) -> str:
        """The note on cases without a truth, if others of the run have one; else ""."""
        lacking = [task.case.name for task in self.tasks if task.truth is None]
        if len(lacking) in (0, len(self.tasks)):
            return ""
        return f"no truth for {len(lacking)} of {quantity(len(self.tasks), 'case')}: {listed(lacking)}"


def collect(inputs: Iterable[Path], job: Job, plan: BatchPlan, progress: Progress = silent) -> Inputs:
    """Find the cases and their truths.

    Raises
    ------
    InputError
        If there is no case, or no truth although truths were requested; or if image files would be written
        among the DICOM slices of a case.
    """
    scans = find_scans(list(inputs), job.reading, lambda: _known(job.out), progress)
    _refuse_among_slices(scans.cases, job)
    truths = match_truth(scans.cases, job.truth) if job.truth is not None else {}
    studies: dict[str, list[CaseTask]] = defaultdict(list)
    for case in scans.cases:  # the series of a study stay in one shard: the outcome of one depends on all
        studies[f"study {case.study}" if case.study else case.name].append(
            CaseTask(case, truths.get(case.name))
        )
    groups = list(studies.values())
    mine = groups if plan.shard is None else plan.shard.of(groups)
    order = {case.name: n for n, case in enumerate(scans.cases)}
    tasks = sorted((task for group in mine for task in group), key=lambda task: order[task.case.name])
    return Inputs(tuple(tasks), scans.skipped, len(groups) == 1)


def _refuse_among_slices(cases: Iterable[Case], job: Job) -> None:
    """Refuse an output folder with slices in it: the next run could not tell which file is the scan."""
    out = os.path.realpath(job.out)
    for case in cases if image_suffix(Path(f"mask.{job.suffix}")) else ():
        folders = {path.parent for path in case.paths} if os.path.isdir(case.path) else set()
        if any(os.path.realpath(folder) == out for folder in folders):
            raise InputError(
                "the output folder holds the DICOM slices of a scan; the next run would not know whether they"
                " or the masks are the scan",
                where=job.out,
                todo="Give another folder with -o, or --format dicom-seg",
            )


def _known(out: Path) -> Known:
    """Return the cases in the folder's journals by place. A journal that is damaged is refused later."""
    newest: dict[str, JournalRecord] = {}
    for path in (journal_path(out), *shard_journals(out)):
        with suppress(C3S3Error):
            for record in records_of(path) if path.exists() else ():
                case = record.outcome.case
                if case not in newest or record.revision > newest[case].revision:
                    newest[case] = record
    known: dict[str, list[Case]] = defaultdict(list)
    for outcome in (record.outcome for record in newest.values()):
        known[outcome.series or outcome.scan].append(Case(outcome.case, Path(outcome.scan)))
    return known
