"""Verify that an output folder matches its provenance: every hash, and the origin of every file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from c3s3_seg.batch.case_files import listed_in_json
from c3s3_seg.batch.journal import STEM, records_of
from c3s3_seg.batch.provenance import LEFT_BEHIND, NAME, RESERVED
from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.io.formats import is_own_result
from c3s3_seg.io.hashes import scan_sha256
from c3s3_seg.io.studies import series_files
from c3s3_seg.system.lock import NAME as LOCK
from c3s3_seg.system.made_with import deciding
from c3s3_seg.system.ownership import is_ours
from c3s3_seg.system.reading import read_json, sha256

_SHARD_JOURNAL = rf"{STEM}\.\d+-of-\d+\.sqlite.*"
_OF_ALL = (NAME, STEM, "summary", "cases", "report", "check")
_OF_EVALUATE = ("cases", "report", "check")


@dataclass(frozen=True)
class Discrepancy:
    """One discrepancy: the file or case (`where`), and what is wrong with it (`what`)."""

    where: str
    what: str


@dataclass
class Verification:
    """The findings of `verify`.

    Parameters
    ----------
    checked
        Number of files whose hash was compared: outputs, inputs and weights.
    wrong
        Discrepancies: files and cases that do not match the records.
    stale
        Files of this package that are not of the present run: an earlier run or a killed run wrote them.
    unreachable
        Scans and bundles that are not where they were, and could not be compared.
    strangers
        Other files in the folder that no record mentions.
    """

    checked: int = 0
    wrong: list[Discrepancy] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every file that could be compared is as it was written or read, and none is stale."""
        return not (self.wrong or self.stale)


def verify(out: Path) -> Verification:
    """Compare every file that the provenance of a folder names with its sha256.

    Parameters
    ----------
    out
        An output folder. Its own provenance and those of shards are all read.

    Raises
    ------
    InputError
        If the folder has no provenance that can be read.
    """
    paths = [p for p in sorted(out.glob(f"{NAME}*.json")) if RESERVED.fullmatch(p.stem)]
    if not paths:
        raise _without_provenance(out)
    result = Verification()
    known: set[str] = set()
    cases: dict[str, dict[str, Any]] = {}
    runs: list[list[dict[str, Any]]] = []
    for path in paths:  # that of the whole folder is the last one
        document = _read(path)
        made = {run.get("run"): deciding(run["made_with"]) for run in document["runs"]}
        runs.append(document["runs"])
        known |= set(_verify_tables(document, out, result))
        _verify_journal(path, document["cases"], result)
        for case in document["cases"]:
            case["model"] = made.get(case.get("run"))
            if _is_newer(case, cases.get(case["case"])):
                cases[case["case"]] = case
    for case in cases.values():
        known |= set(_verify_case(case, out, result))
    ordered = _in_order(runs)
    for folder, weights in _bundles(ordered).items():
        for name, expected in weights.items():
            _compare(Path(folder) / name, expected, result, reach=True)
    newest = deciding(ordered[-1]["made_with"]) if ordered else None
    result.stale += _stale_tables(out, dict(zip(paths, runs, strict=True)), newest)
    for case in cases.values():  # a mask of another model, whose scan was not given to the present run
        if case["model"] not in (None, newest):
            result.stale += case["outputs_sha256"]
    _sort_rest(out, cases, known, result)
    return result


def _without_provenance(out: Path) -> InputError:
    """Return the error; a run that is in progress, or was killed, has a journal but no provenance yet."""
    if any(out.glob(f"{STEM}*.sqlite")):
        what = f"no run into this folder has ended yet, so there is no {NAME}.json to compare with"
        return InputError(what, where=out, todo="Give the same `predict` command again, or wait for its end")
    what = f"there is no {NAME}.json here"
    return InputError(what, where=out, todo="Give the folder that `predict -o` wrote to")


def _verify_tables(document: dict[str, Any], out: Path, result: Verification) -> Iterator[str]:
    """Compare the files about all cases and yield their names; older folders have no hashes of them."""
    for name, expected in document.get("tables_sha256", {}).items():
        _compare(out / name, expected, result, counted=False)
        yield name


def _stale_tables(
    out: Path, runs: dict[Path, list[dict[str, Any]]], newest: dict[str, Any] | None
) -> Iterator[str]:
    """Yield tables and pages about all cases, of the folder or a share, that another model made."""
    for path, of_document in runs.items():
        if not of_document or deciding(of_document[-1]["made_with"]) == newest:
            continue
        tag = path.stem.removeprefix(NAME)
        yield from (name for name in (f"summary{tag}.csv", f"report{tag}.html") if is_ours(out / name))


def _verify_journal(provenance: Path, cases: list[dict[str, Any]], result: Verification) -> None:
    """Check that the journal is whole and records the provenance's files of each case; change nothing."""
    path = provenance.with_name(f"{STEM}{provenance.stem.removeprefix(NAME)}.sqlite")
    if not os.path.lexists(path):  # it may be deleted: every case is processed again then
        return
    told = {case["case"]: case["outputs_sha256"] for case in cases if case["state"] == "done"}
    try:
        done = {r.outcome.case: r.outcome.outputs for r in records_of(path) if r.state == "done"}
    except (C3S3Error, OSError) as error:
        result.wrong.append(Discrepancy(str(path), _what(error)))
        return
    for case in sorted({*told, *done}):
        if told.get(case) != done.get(case):
            what = f"the journal and {provenance.name} record different files of the case"
            result.wrong.append(Discrepancy(case, what))


def _is_newer(case: dict[str, Any], known: dict[str, Any] | None) -> bool:
    """Return whether a record is newer than the known one; without revisions, whether it lists files."""
    if known is None or case.get("revision") is None or known.get("revision") is None:
        return known is None or bool(case["outputs_sha256"])
    newer: bool = case["revision"] >= known["revision"]
    return newer


def _in_order(documents: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the runs of all documents, the newest last. The list of one document is in order.

    Clocks differ among machines and may be set back. A document whose last run another document lists before
    its own is older than that one, see `gather`; between shards that do not list each other, times decide.
    """
    taken_over = {run.get("id") for runs in documents for run in runs[:-1]} - {None}

    def age(runs: list[dict[str, Any]]) -> tuple[bool, str]:
        return runs[-1].get("id") not in taken_over, str(runs[-1].get("started", ""))

    return [run for runs in sorted(filter(None, documents), key=age) for run in runs]  # stable


def _bundles(runs: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Return folder -> the weights that the newest run found there."""
    return {run["bundle"]: _weights(run) for run in runs if run["bundle"]}


def _weights(run: dict[str, Any]) -> dict[str, str]:
    """Return file -> sha256 of all networks of a run, those included that were only compared."""
    made_with = run["made_with"]
    return {**made_with.get("weights_sha256", {}), **made_with.get("compared_sha256", {})}


def _sort_rest(out: Path, cases: dict[str, dict[str, Any]], known: set[str], result: Verification) -> None:
    """Sort files without a record of the present run: stale if of this package, else strangers."""
    # Compared as bytes: a run in another locale has written the same names in other characters.
    names = {os.fsencode(name) for name in known}
    rest = [name for name in _names(out) if os.fsencode(name) not in names]
    rest = [name for name in rest if not _is_of_the_folder(out / name, name)]
    earlier = {h for case in cases.values() for h in case.get("earlier_sha256", {})}
    earlier |= set(listed_in_json(out, rest).values())
    for name in rest:
        path = out / name
        stale = os.path.isfile(path) and not os.path.islink(path) and _is_stale(path, earlier)
        (result.stale if stale else result.strangers).append(name)


def _is_stale(path: Path, earlier: set[str]) -> bool:
    """Return whether an earlier run, or one that was killed, wrote this regular file."""
    if LEFT_BEHIND.fullmatch(path.name) or is_ours(path) or is_own_result(path):
        return True
    with suppress(C3S3Error):  # a file that cannot be read is taken for another program's
        return sha256(path) in earlier
    return False


def _verify_case(case: dict[str, Any], out: Path, result: Verification) -> Iterator[str]:
    for name, expected in case["outputs_sha256"].items():
        _compare(out / name, expected, result)
        yield name
    if case["state"] == "begun":
        what = "the case was begun and not finished; the same command again does it"
        result.wrong.append(Discrepancy(case["case"], what))
    if case["state"] != "done":
        return
    scan = Path(case["scan"])
    if not os.path.exists(scan):  # unlike `Path.exists`, no error for a folder this user may not read
        result.unreachable.append(str(scan))
        return
    try:
        files = series_files(scan, case["series"]) if case.get("series") else None
        if files == ():  # of a study that is still there, the series has gone
            result.unreachable.append(f"{scan} (series {case['series']})")
            return
        found = scan_sha256(scan, files or ())
    except (C3S3Error, OSError) as error:
        result.wrong.append(Discrepancy(str(scan), _what(error)))
        return
    result.checked += 1
    if found != case["inputs_sha256"]["scan"]:
        result.wrong.append(Discrepancy(str(scan), "the scan is not the one that was read"))


def _what(error: C3S3Error | OSError) -> str:
    return error.what if isinstance(error, C3S3Error) else str(error)


def _compare(
    path: Path, expected: str, result: Verification, *, reach: bool = False, counted: bool = True
) -> None:
    if not os.path.isfile(path) or (os.path.islink(path) and not reach):
        if reach and not os.path.lexists(path):
            result.unreachable.append(str(path))
        else:
            there = os.path.lexists(path)
            what = "is no regular file any more" if there else "the file is missing"
            result.wrong.append(Discrepancy(str(path), what))
        return
    try:
        same = sha256(path) == expected
    except C3S3Error as error:
        result.wrong.append(Discrepancy(str(path), error.what))
        return
    result.checked += counted
    if not same:
        what = f"sha256 is not {expected[:12]}..., which was recorded"
        unfinished = "the file may be unfinished; the same command again writes it"
        result.wrong.append(Discrepancy(str(path), what if expected else unfinished))


def _names(out: Path) -> Iterator[str]:
    for path in sorted(out.rglob("*")):
        # Unlike the methods of `Path`, these do not raise for a file in a folder that can only be listed.
        if os.path.islink(path) or not os.path.isdir(path):
            yield str(path.relative_to(out))


def _is_of_the_folder(path: Path, name: str) -> bool:
    """Return whether a file is the lock, a journal, or a table or page about all cases, by its content."""
    if name.startswith((LOCK, f"{STEM}.sqlite-", f"{STEM}.sqlite")) or re.fullmatch(_SHARD_JOURNAL, name):
        return os.path.isfile(path) and not os.path.islink(path)
    stem = path.name.split(".")[0]
    known = _OF_ALL if name == path.name else _OF_EVALUATE  # which may write into a folder below
    return stem in known and is_ours(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = read_json(path)
        if not all(isinstance(document[key], list) for key in ("runs", "cases")):
            raise ValueError("runs and cases are not lists")
        for case in document["cases"]:
            _check_case(case)
        for name, text in document.get("tables_sha256", {}).items():
            if not isinstance(text, str) or Path(name).name != name:
                raise ValueError("a table outside of the folder, or without a hash")
            os.fsencode(name)  # raises ValueError for half of a surrogate pair, which JSON can write
        for run in document["runs"]:
            _check_number(run)
            weights = _weights(run)
            if not all(isinstance(text, str) for text in (run["bundle"], *weights, *weights.values())):
                raise TypeError("a run whose bundle or weights_sha256 are no texts")
    except InputError as error:
        raise InputError(f"the provenance cannot be read ({error.what})", where=path) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"the provenance cannot be read ({error})", where=path) from error
    found: dict[str, Any] = document
    return found


def _check_case(case: dict[str, Any]) -> None:
    """Check the fields that `verify` uses; this package writes no name that leads out of the folder."""
    _check_number(case)
    texts = (case["case"], case["state"], case["scan"], case.get("series", ""))
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a case whose name, state, scan or series is no text")
    for key in ("inputs_sha256", "outputs_sha256"):
        if not all(isinstance(part, str) for item in case[key].items() for part in item):
            raise TypeError(f"{key} is no table of texts")
    if not isinstance(case.get("earlier_sha256", {}), dict):
        raise TypeError("earlier_sha256 is no table")
    for name in case["outputs_sha256"]:
        os.fsencode(name)
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise ValueError("an output outside of the folder")
    if case["state"] == "done" and "scan" not in case["inputs_sha256"]:
        raise ValueError("a case that is done without a scan")


def _check_number(entry: dict[str, Any]) -> None:
    """Check the numbers in a run or a case; a folder of `--deterministic` has no revision and no id."""
    for key in ("run", "revision"):
        if not isinstance(entry.get(key), int | None):
            raise TypeError(f"{key} is no number")
    if not isinstance(entry.get("id"), str | None):
        raise TypeError("id is no text")
