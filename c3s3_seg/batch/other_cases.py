"""Find the finished cases of an output folder that are not among the cases of this run."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from c3s3_seg.batch.case_files import has_sha256
from c3s3_seg.batch.journal import Journal, JournalRecord
from c3s3_seg.io.formats import mask_path
from c3s3_seg.report.rows import PredictionRow
from c3s3_seg.system.choices import MaskFormat
from c3s3_seg.system.made_with import deciding


@dataclass(frozen=True)
class OtherCases:
    """The finished cases of earlier runs, of scans that were not given to this run.

    Parameters
    ----------
    rows
        Cases that the same model segmented with the same settings, sorted by name.
    left_out
        Number of other ones: of another model, other settings or another region, of a scan that is a case of
        this run under another name, or without its mask.
    """

    rows: tuple[PredictionRow, ...] = ()
    left_out: int = 0


def other_cases(
    journal: Journal,
    out: Path,
    settings: Mapping[str, Any],
    given: Collection[str],
    failed: Collection[str],
    scans: Collection[str],
) -> OtherCases:
    """Return the other cases of a folder.

    Parameters
    ----------
    journal
        Journal of the folder.
    out
        The output folder.
    settings
        Weights, settings and request of this run, as in its record.
    given, failed
        Names of the cases of this run, and of those of them that failed or were refused: an earlier mask of
        this name counts if it is as it was written, as that of another scan or one that got no report.
    scans
        sha256 of the scans of the cases that did not fail.
    """
    rows, left_out, there = [], 0, set(os.listdir(out))  # one listing, as a file server may be slow
    for record in journal.records():
        row, scan = record.outcome.row, record.outcome.inputs.get("scan")
        if record.state != "done" or row is None or (row.case in given and row.case not in failed):
            continue
        before = journal.details(record.run) or {}
        if row.case in failed and not _is_as_written(record, before, out):
            continue
        alike = scan not in scans and _is_alike(before, settings)
        if alike and there.issuperset(_files(record, before, out)):
            rows.append(row)
        else:
            left_out += 1
    return OtherCases(tuple(rows), left_out)


def has_others(journal: Journal, ours: Collection[str]) -> bool:
    """Return whether the folder has finished cases that are not among these."""
    return any(record.state == "done" and record.outcome.case not in ours for record in journal.records())


def _is_alike(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether two runs would make the same mask of a scan, on the same grid."""
    asked = [(run.get("made_with"), run.get("request")) for run in (before, now)]
    keys = [
        (deciding(made), request.get("roi"), request.get("reading"))
        for made, request in asked
        if isinstance(made, dict) and isinstance(request, dict)
    ]
    return len(keys) == 2 and keys[0] == keys[1]


def _mask_of(record: JournalRecord, before: Mapping[str, Any], out: Path) -> list[str]:
    """Return the name of the mask of a case; none if its format is not known any more."""
    suffix = before["request"].get("suffix")
    return [mask_path(out, record.outcome.case, suffix).name] if suffix in get_args(MaskFormat) else []


def _files(record: JournalRecord, before: Mapping[str, Any], out: Path) -> set[str]:
    """Return the names of the mask and of the JSON of a case; pages, pictures and maps can be made again."""
    return {f"{record.outcome.case}.json", *_mask_of(record, before, out)}


def _is_as_written(record: JournalRecord, before: Mapping[str, Any], out: Path) -> bool:
    if not isinstance(before.get("request"), dict):
        return False
    names = _mask_of(record, before, out)
    return all(has_sha256(out / name, record.outcome.outputs.get(name)) for name in names)
