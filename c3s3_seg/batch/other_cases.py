"""Find the finished cases of an output folder that are not among the cases of this run."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c3s3_seg.batch.case_files import FOLDERS
from c3s3_seg.batch.changes import deciding
from c3s3_seg.batch.journal import Journal
from c3s3_seg.report.rows import PredictionRow


@dataclass(frozen=True)
class OtherCases:
    """The finished cases of earlier runs, of scans that were not given to this run.

    Parameters
    ----------
    rows
        Cases that the same model made with the same settings, sorted by name.
    otherwise
        Number of cases that another model made, or this one with other settings.
    """

    rows: tuple[PredictionRow, ...] = ()
    otherwise: int = 0


def other_cases(
    journal: Journal, out: Path, made_with: Mapping[str, Any], cases: Collection[str]
) -> OtherCases:
    """Return the other cases of a folder; a case of which a file is missing does not count.

    Parameters
    ----------
    journal
        Journal of the folder.
    out
        The output folder.
    made_with
        Model and settings of this run, as in its provenance.
    cases
        Names of the cases of this run.
    """
    rows, otherwise, there = [], 0, set(_names(out))
    for record in journal.records():
        row, outputs = record.outcome.row, record.outcome.outputs
        if record.state != "done" or row is None or row.case in cases or not there.issuperset(outputs):
            continue
        before = (journal.details(record.run) or {}).get("made_with")
        if isinstance(before, dict) and deciding(before) == deciding(made_with):
            rows.append(row)
        else:
            otherwise += 1
    return OtherCases(tuple(rows), otherwise)


def _names(out: Path) -> Iterator[str]:
    """Yield the names of all files of cases; folders are listed once, as a file server may be slow."""
    yield from os.listdir(out)
    for folder in FOLDERS:
        with suppress(OSError):  # most runs write no maps
            yield from (f"{folder}/{name}" for name in os.listdir(out / folder))
