"""Write provenance.json: what produced every file of an output folder, with hashes to verify each."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from c3s3_seg.batch.journal import STEM, Journal, JournalRecord
from c3s3_seg.system.files import write_whole
from c3s3_seg.system.hardware import installed_version, processor_name
from c3s3_seg.system.ownership import MARK
from c3s3_seg.system.schema import plain
from c3s3_seg.system.shard import Shard
from c3s3_seg.version import __version__

NAME = "provenance"
# No case may have this name: its JSON would replace the provenance.
RESERVED = re.compile(rf"{NAME}(\.\d+-of-\d+)?", re.IGNORECASE)
# Partial files that a killed run leaves (see `files.write_whole` and `io.save`).
LEFT_BEHIND = re.compile(r"\.[0-9a-f]{12}(\.part|\.nii|\.nii\.gz|\.nrrd|\.mha|\.dcm)")
TIMES = ("run", "id", "started", "ended", "command")  # fields of a run in which two equal runs differ
PACKAGES = ("numpy", "scipy", "SimpleITK", "pydicom", "openvino", "onnxruntime", "onnxruntime-gpu", "torch")


def surroundings() -> dict[str, Any]:
    """Return the versions and the machine, without any user's name."""
    return {
        "versions": {"c3s3_seg": __version__, "python": platform.python_version(), **versions()},
        "machine": {
            "name": platform.node(),
            "system": platform.platform(),
            "processor": processor_name(),
            "processors": os.cpu_count(),
        },
    }


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that a mask depends on."""
    found = {name: installed_version(name) for name in PACKAGES}
    return {name: version for name, version in found.items() if version is not None}


def write_provenance(
    journal: Journal,
    out: Path,
    shard: Shard | None,
    *,
    times: bool = True,
    tables: dict[str, str] | None = None,
) -> None:
    """Write provenance.json and the journal's JSON lines from the journal.

    Parameters
    ----------
    journal
        Journal of this folder or shard.
    out
        The output folder.
    shard
        Shard to which the files belong; None: the whole folder.
    times
        Whether dates, command lines and the journal's run numbers are written. Without them
        (`--deterministic`) a second run writes the same bytes, see `_distinct_runs`.
    tables
        File name -> sha256 of the other files about all cases.
    """
    runs, records = list(journal.runs()), list(journal.records())
    cases = [_case(record, times) for record in records]
    if not times:
        runs, numbers = _distinct_runs(runs, {record.run for record in records})
        cases = [{**case, "run": numbers.get(r.run)} for case, r in zip(cases, records, strict=True)]
    document: dict[str, Any] = {
        MARK: __version__,
        "format": 1,
        "what": "Every file that c3s3-seg wrote here, with its sha256, and what it was made from and with.",
        "runs": runs,
        "cases": cases,
        "tables_sha256": dict(tables or {}),
    }
    name, lines = provenance_names(shard)
    content = "".join(f"{line}\n" for line in journal.lines()).encode()
    if times:  # the lines hold times, but two runs with --deterministic write the same provenance
        document["tables_sha256"] |= {lines: hashlib.sha256(content).hexdigest()}
    write_whole(out / lines, content)
    write_whole(out / name, json.dumps(plain(document), indent=1).encode())


def provenance_names(shard: Shard | None) -> tuple[str, str]:
    """Return the names of a folder's or a shard's provenance and of the journal's JSON lines."""
    tag = "" if shard is None else f".{shard}"
    return f"{NAME}{tag}.json", f"{STEM}{tag}.jsonl"


def _distinct_runs(runs: list[dict[str, Any]], used: set[int]) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """Return the newest run and those that cases refer to, without times, and their new numbers.

    Equal runs are listed once, at the place of the last one: however often a run was interrupted or repeated,
    the record is the same, and the newest run stays the last one.

    Parameters
    ----------
    runs
        All runs of the journal, in order; at least one.
    used
        Numbers of the runs that cases refer to.

    Returns
    -------
    tuple
        The runs, numbered from 1; and number in the journal -> number in this list.
    """
    listed: dict[str, dict[str, Any]] = {}
    keys: dict[int, str] = {}
    for run in runs:
        if run["run"] in used or run is runs[-1]:
            rest = {k: v for k, v in run.items() if k not in TIMES}
            key = keys[run["run"]] = json.dumps(rest, sort_keys=True)
            listed.pop(key, None)  # else it would keep the place of the first one
            listed[key] = rest
    order = {key: n for n, key in enumerate(listed, 1)}
    numbered = [{"run": order[key], **rest} for key, rest in listed.items()]
    return numbered, {number: order[key] for number, key in keys.items()}


def _case(record: JournalRecord, times: bool) -> dict[str, Any]:
    outcome = record.outcome
    document: dict[str, Any] = {
        "case": outcome.case,
        "state": record.state,
        "scan": outcome.scan,
        "inputs_sha256": outcome.inputs,
        # For a case that was only begun, it is known only which files may exist.
        "outputs_sha256": outcome.outputs if record.state == "done" else {},
        "setting": record.setting,
    }
    if outcome.series:
        document["series"] = outcome.series
    if outcome.verdict:
        document["verdict"] = outcome.verdict
    if outcome.row is not None:
        document |= {"nothing_found": outcome.row.empty, "warnings": list(outcome.row.warnings)}
    if outcome.refusal is not None:
        document["refusal"] = {k: v for k, v in asdict(outcome.refusal).items() if k != "detail"}
    if times:
        document |= {"run": record.run, "changed": record.changed, "revision": record.revision}
        document["seconds"] = outcome.seconds
        document |= {"earlier_sha256": outcome.earlier} if outcome.earlier else {}
    return document
