"""provenance.json: what produced every file of an output folder; and the proof that it still holds."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from c3s3_seg import __version__
from c3s3_seg.batch.journal import STEM, Journal, Record
from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.files import read_json, write_whole
from c3s3_seg.io.hashes import scan_sha256, sha256
from c3s3_seg.schema import plain
from c3s3_seg.shard import Shard

NAME = "provenance"
# No case may be called so: its JSON would take the place of ours.
RESERVED = re.compile(
    rf"{NAME}(\.\d+-of-\d+)?", re.IGNORECASE
)  # no case may be called so: its JSON would be ours
PACKAGES = ("numpy", "scipy", "SimpleITK", "pydicom", "openvino", "onnxruntime", "onnxruntime-gpu", "torch")


@dataclass(frozen=True)
class Finding:
    """One thing that does not hold: which file, and what is wrong with it."""

    where: str
    what: str


@dataclass
class Verdict:
    """What `verify` found.

    Parameters
    ----------
    checked
        Number of files whose hash was compared: outputs, inputs and weights.
    wrong
        What does not hold.
    unreachable
        Scans and bundles that are not where they were, and could not be compared.
    strangers
        Files in the folder that no record speaks of.
    """

    checked: int = 0
    wrong: list[Finding] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every file that could be compared is the one that was written or read."""
        return not self.wrong


def surroundings() -> dict[str, Any]:
    """Versions and machine. No user's name."""
    return {
        "versions": {"c3s3_seg": __version__, "python": platform.python_version(), **versions()},
        "machine": {
            "name": platform.node(),
            "system": platform.platform(),
            "processor": _processor(),
            "processors": os.cpu_count(),
        },
    }


def versions() -> dict[str, str]:
    """Of the packages that a mask depends on, as installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def write_provenance(journal: Journal, out: Path, shard: Shard | None, *, times: bool = True) -> None:
    """Write provenance.json and the journal's JSON lines from the journal.

    Parameters
    ----------
    journal
        Of this folder or shard.
    out
        The output folder.
    shard
        Whose files they are; None: the whole folder's.
    times
        Whether dates, run numbers and command lines are written; without them (`--deterministic`)
        a second run writes the same bytes, and only the newest run speaks.
    """
    runs = list(journal.runs())
    if not times:
        runs = [{k: v for k, v in runs[-1].items() if k not in ("run", "started", "ended", "command")}]
    facts = {
        "format": 1,
        "what": "Every file that c3s3-seg wrote here, with its sha256, and what it was made from and with.",
        "runs": runs,
        "cases": [_case(record, times) for record in journal.records()],
    }
    tag = "" if shard is None else f".{shard}"
    write_whole(out / f"{NAME}{tag}.json", json.dumps(plain(facts), indent=1).encode())
    write_whole(out / f"{STEM}{tag}.jsonl", "".join(f"{line}\n" for line in journal.lines()).encode())


def _case(record: Record, times: bool) -> dict[str, Any]:
    outcome = record.outcome
    facts: dict[str, Any] = {
        "case": outcome.case,
        "state": record.state,
        "scan": outcome.scan,
        "inputs_sha256": outcome.inputs,
        "outputs_sha256": outcome.outputs,
        "setting": record.setting,
    }
    if outcome.verdict:
        facts["verdict"] = outcome.verdict
    if outcome.refusal is not None:
        facts["refusal"] = {k: v for k, v in asdict(outcome.refusal).items() if k != "detail"}
    if times:
        facts |= {"run": record.run, "changed": record.changed, "seconds": outcome.seconds}
    return facts


def verify(out: Path) -> Verdict:
    """Compare every file that the provenance of a folder names with its sha256.

    Parameters
    ----------
    out
        An output folder. Its own provenance and those of shards are all read.

    Raises
    ------
    InputError
        If it has no provenance that can be read.
    """
    paths = [p for p in sorted(out.glob(f"{NAME}*.json")) if RESERVED.fullmatch(p.stem)]
    if not paths:
        raise InputError(
            f"there is no {NAME}.json here", where=out, todo="Give the folder that `predict -o` wrote to"
        )
    verdict = Verdict()
    known = {".c3s3-seg.lock", "summary.csv"}
    cases: dict[str, dict[str, Any]] = {}
    bundles: dict[str, dict[str, str]] = {}
    for path in paths:
        facts = _read(path)
        for case in facts["cases"]:  # of two that know a case, the one that knows its files
            if case["outputs_sha256"] or case["case"] not in cases:
                cases[case["case"]] = case
        runs = [run for run in facts["runs"] if run["bundle"]]
        bundles |= {run["bundle"]: run["made_with"].get("weights_sha256", {}) for run in runs}
    for case in cases.values():
        known |= set(_verify_case(case, out, verdict))
    for folder, weights in bundles.items():
        for name, expected in weights.items():
            _compare(Path(folder) / name, expected, verdict, reach=True)
    verdict.strangers = [name for name in _names(out) if name not in known and not _ours(name)]
    return verdict


def _verify_case(case: dict[str, Any], out: Path, verdict: Verdict) -> Iterator[str]:
    for name, expected in case["outputs_sha256"].items():
        _compare(out / name, expected, verdict)
        yield name
    if case["state"] != "done":
        return
    scan = Path(case["scan"])
    if not scan.exists():
        verdict.unreachable.append(str(scan))
        return
    try:
        found = scan_sha256(scan)
    except C3S3Error as error:
        verdict.wrong.append(Finding(str(scan), error.what))
        return
    verdict.checked += 1
    if found != case["inputs_sha256"]["scan"]:
        verdict.wrong.append(Finding(str(scan), "the scan is not the one that was read"))


def _compare(path: Path, expected: str, verdict: Verdict, *, reach: bool = False) -> None:
    if not path.is_file():
        if reach:
            verdict.unreachable.append(str(path))
        else:
            verdict.wrong.append(Finding(str(path), "the file is missing"))
        return
    verdict.checked += 1
    if sha256(path) != expected:
        verdict.wrong.append(Finding(str(path), f"sha256 is not {expected[:12]}..., which was recorded"))


def _names(out: Path) -> Iterator[str]:
    for path in sorted(out.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(out))


def _ours(name: str) -> bool:
    return name.startswith((f"{NAME}.", f"{STEM}.", ".c3s3-seg.lock")) or (
        name.startswith("summary.") and name.endswith(".csv")
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = read_json(path)
        if not all(isinstance(facts[key], list) for key in ("runs", "cases")):
            raise ValueError("runs and cases are not lists")
        for case in facts["cases"]:
            texts = [case["case"], case["state"], case["scan"]]
            hashes = {**case["outputs_sha256"], **case["inputs_sha256"]}
            if case["state"] == "done":
                texts.append(case["inputs_sha256"]["scan"])
            _wanted_texts([*texts, *hashes, *hashes.values()])
        for run in facts["runs"]:
            weights = run["made_with"].get("weights_sha256", {})
            _wanted_texts([run["bundle"], *weights, *weights.values()])
        return facts
    except InputError as error:
        raise InputError(f"the provenance cannot be read ({error.what})", where=path) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"the provenance cannot be read ({error})", where=path) from error


def _wanted_texts(values: list[Any]) -> None:
    wrong = [value for value in values if not isinstance(value, str)]
    if wrong:
        raise ValueError(f"wanted a text, found a {type(wrong[0]).__name__}")
