"""Write report.html of a prediction: all cases of a run, from the files of each case."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from c3s3_seg.batch.job import Job
from c3s3_seg.batch.output import made_by
from c3s3_seg.report.folder_page import FolderCase, write_folder_page
from c3s3_seg.report.prediction_page import still_of
from c3s3_seg.report.rows import Failure, PredictionRow
from c3s3_seg.system.ownership import read_case


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


def _case(out: Path, row: PredictionRow) -> FolderCase:
    found = _uncertainty(out / f"{row.case}.json")
    values = {name: math.nan if mm is None else float(mm) for name, mm in found.get("hd95_mm", {}).items()}
    page, planes = out / f"{row.case}.html", None
    with suppress(OSError):
        planes = still_of(page)
    limit_mm = found.get("threshold_mm")
    return FolderCase(row, values, limit_mm, planes, page.name if os.path.isfile(page) else "")


def _uncertainty(path: Path) -> Mapping[str, Any]:
    """Return the uncertainty in a case's JSON; empty if it was not measured or the file is gone."""
    found = (read_case(path) or {}).get("uncertainty")
    return found if isinstance(found, dict) else {}
