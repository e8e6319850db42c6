"""Write report.html of a prediction: all cases of a run, from the results and pages of each case."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from c3s3_seg.batch.job import Job
from c3s3_seg.batch.output import made_by
from c3s3_seg.errors import InputError
from c3s3_seg.report.folder_page import FolderCase, write_folder_page
from c3s3_seg.report.rows import Failure, PredictionRow
from c3s3_seg.system.ownership import TODO, is_ours


def write_folder_report(
    path: Path, job: Job, rows: Sequence[PredictionRow], failures: Sequence[Failure]
) -> None:
    """Write the page. All its content is in the cases' JSON files and pages, so no hash is recorded.

    Raises
    ------
    InputError
        If the page cannot be written.
    """
    title = f"{len(rows)} predicted {'case' if len(rows) == 1 else 'cases'}: {job.maker.name}"
    write_folder_page(path, title, [_case(job.out, row) for row in rows], failures, made_by(job))


def refuse_evaluation(page: Path) -> None:
    """Raise an InputError if the page is that of `evaluate`, which a prediction could not write again."""
    if not is_ours(page):
        return
    from c3s3_seg.report.page import is_folder_page

    if not is_folder_page(page):
        what = "`evaluate` wrote this page, and `predict` would replace it by that of all its cases"
        raise InputError(what, where=page, todo=TODO)


def _case(out: Path, row: PredictionRow) -> FolderCase:
    page = out / f"{row.case}.html"
    return FolderCase(row, page if os.path.isfile(page) else None)
