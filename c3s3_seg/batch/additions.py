"""Add reports, scores and other formats to an existing mask without running the network again.

The mask is read back and its hash compared with the journal. Its JSON stays the record of how the mask was
made; the scores, and the files that are written now, are added to the JSON.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from c3s3_seg.batch.case_files import UNCERTAINTY, case_json, has_sha256, remove_files
from c3s3_seg.batch.job import CaseTask, Job, Kept
from c3s3_seg.batch.output import Result, save_mask, score_case, write_page, write_pictures
from c3s3_seg.batch.records import Loaded, Outcome
from c3s3_seg.bundle import Task as ModelTask
from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load, load_mask
from c3s3_seg.io.formats import refers_to_source, save_repaired
from c3s3_seg.io.hashes import refuse_changed
from c3s3_seg.io.image.files import image_suffix
from c3s3_seg.io.reading import is_interpolated
from c3s3_seg.system.files import write_whole
from c3s3_seg.system.ownership import FILES, read_case
from c3s3_seg.system.reading import sha256
from c3s3_seg.system.schema import plain


def kept_mask(task: CaseTask, job: Job, scan: Volume, labels: Mapping[str, int]) -> Volume | None:
    """Return the earlier run's mask on the scan's grid; None if the case must be segmented again."""
    kept = task.kept
    if kept is None or scan.source.sha256 != kept.scan_sha256 or _record(task, job) is None:
        return None
    path = job.out / kept.mask
    if not image_suffix(path) and is_interpolated(scan.source.notes):
        return None  # a DICOM SEG has no frames on the slices that were interpolated
    with suppress(C3S3Error, OSError):
        if sha256(path) != kept.mask_sha256:
            return None
        array = load_mask(path, grid=scan.geometry, values=labels).array
        if set(np.unique(array).tolist()) <= {0, *labels.values()}:
            return scan.geometry.volume(array.astype(np.uint8), scan.source)
    return None


def add_reports(loaded: Loaded, job: Job, model: ModelTask) -> Outcome:
    """Score the mask; write the requested reports, the mask in another format, and the JSON again.

    Raises
    ------
    C3S3Error
        If a file cannot be written. New and changed files are removed; those of the earlier run that are
        unchanged stay, and so does its JSON.
    """
    written: list[Path] = []
    case = loaded.task.case.name
    before, record = _earlier_sha256(job.out, case), _content(job.out / f"{case}.json")
    try:
        return _add(loaded, job, model, written)
    except BaseException:
        names = [str(path.relative_to(job.out)) for path in written]
        remove_files(job.out, [name for name in names if not has_sha256(job.out / name, before.get(name))])
        if record and not (job.out / f"{case}.json").exists():
            with suppress(C3S3Error):
                write_whole(job.out / f"{case}.json", record)
        raise


def _content(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""


def _earlier_sha256(out: Path, case: str) -> dict[str, str]:
    """Return file -> sha256 of the case's files as its JSON lists them, the JSON included."""
    name = f"{case}.json"
    with suppress(C3S3Error, OSError):
        listed = (read_case(out / name) or {}).get(FILES)
        return {**(listed if isinstance(listed, dict) else {}), name: sha256(out / name)}
    return {}


def _add(loaded: Loaded, job: Job, model: ModelTask, written: list[Path]) -> Outcome:
    started = time.perf_counter()
    task, kept, mask = loaded.task, loaded.task.kept, loaded.mask
    metadata = _record(task, job)
    if kept is None or mask is None or metadata is None:
        raise InputError("the mask of the earlier run is not there any more", where=task.case.path)
    case = task.case.name
    if refers_to_source(job.suffix, secondary_capture=job.secondary_capture):
        refuse_changed(task.case.path, loaded.inputs["scan"], task.case.paths)
    row = replace(kept.row, scores=score_case(case, mask, loaded.truth, model.label_values))
    record, known = job.out / f"{case}.json", kept.outputs
    if kept.mask not in kept.outputs:
        written += [job.mask_of(case), record]
        stay = {**kept.outputs, kept.mask: kept.mask_sha256}
        known = save_mask(mask, case, job, model, metadata, stay) | kept.outputs
    repaired = save_repaired(loaded.scan, job.out, case, job.suffix)
    written += [repaired] if repaired is not None else []
    result = Result(loaded, mask, model, _uncertainty(kept, job, mask))
    write_pictures(result, job, written)
    metadata["scores"] = {s.label: plain(s.score.flat()) for s in row.scores}
    metadata["scan"] = {**metadata["scan"], "path": str(task.case.path)}
    write_page(result, row, metadata, job, written)
    others = [path for path in written if path not in (record, job.mask_of(case))]
    content, outputs = case_json(metadata, job.out, others, known)
    written.append(record)
    write_whole(record, content)
    outputs[record.name] = sha256(record)
    spent = {**loaded.seconds, "report": time.perf_counter() - started}
    return Outcome(case, task.place, row, None, loaded.inputs, outputs, spent)


def _uncertainty(kept: Kept, job: Job, mask: Volume) -> Volume | None:
    names = [name for name in kept.outputs if name.startswith(f"{UNCERTAINTY}/")]
    return mask.geometry.volume(load(job.out / names[0]).array) if names and job.html else None


def _record(task: CaseTask, job: Job) -> dict[str, Any] | None:
    """Return the JSON of the case without its list of files; None unless it lists the kept mask."""
    found, kept = read_case(job.out / f"{task.case.name}.json"), task.kept
    if found is None or kept is None or not isinstance(found.get("scan"), dict):
        return None
    files = found.get(FILES)
    if not isinstance(files, dict) or files.get(kept.mask) != kept.mask_sha256:
        return None
    return {key: value for key, value in found.items() if key != FILES}
