"""Names of cases and pseudonyms of patients, kept as an earlier run into the folder assigned them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from c3s3_seg.dataset.index import INDEX, CaseRecord, DataSet
from c3s3_seg.dataset.prepare.convert import RECORDS, STATE, SUFFIX
from c3s3_seg.dataset.prepare.inventory import Scan, ScanMaskPair
from c3s3_seg.dataset.splits import EarlierSplits
from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.io.cases import unique_names
from c3s3_seg.system.names import PlainName
from c3s3_seg.system.reading import read_json
from c3s3_seg.system.schema import parse

UNLISTED = "unlisted"  # key of `prepared` in the index: the records that keep the files of cases not listed


@dataclass(frozen=True)
class Earlier:
    """The results of an earlier run in the folder.

    Parameters
    ----------
    records
        Case -> its record.
    unlisted
        Cases among them that the index does not list, but whose files were still there.
    drawn
        Patients who were drawn for validation, and those with labelled cases.
    labelled
        Names of the labelled cases.
    draw
        Settings of that draw: the requested number of patients, and the seed.
    patient_of
        Case -> its patient, as a person stated it in the index.
    name, modality
        Name and modality of the data set in the index; empty without one.
    empty_masks
        Whether the index allows masks that hold nothing but background.
    listed
        Cases that the index lists; empty without one.
    choice
        `PrepareSettings.choice` of the run that wrote the index; "" if unknown.
    """

    records: Mapping[str, CaseRecord] = field(default_factory=dict)
    unlisted: frozenset[str] = frozenset()
    drawn: EarlierSplits = field(default_factory=EarlierSplits)
    labelled: frozenset[str] = frozenset()
    draw: tuple[int | None, int] | None = None
    patient_of: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    modality: str = ""
    empty_masks: bool = False
    listed: frozenset[str] = frozenset()
    choice: str = ""


def read_earlier(out: Path) -> Earlier:
    """Read the results of an earlier run, finished or not.

    Raises
    ------
    InputError
        If there is a data set that was not made by `prepare`.
    """
    state = out / STATE
    folder = next((f for f in (out, state) if (f / INDEX).is_file()), None)
    records: dict[str, CaseRecord] = {}
    data = DataSet(out)
    drawn = EarlierSplits()
    unlisted: Mapping[str, CaseRecord] = {}
    draw, choice = None, ""
    if folder is not None:
        index = read_json(folder / INDEX)
        made = index.get("prepared") if isinstance(index, dict) else None
        if not isinstance(made, dict):
            what = "there is a data set here already, which `prepare` did not make"
            raise InputError(what, where=out, todo="Give another folder with -o")
        data = DataSet.load(folder)
        unlisted = _unlisted(made, folder / INDEX)
        records |= {**unlisted, **data.records}
        known = {case: record.patient for case, record in records.items()} | dict(data.patient_of)
        splits = data.splits.validation, data.splits.labelled
        drawn = EarlierSplits(*(frozenset(known[c] for c in cases if c in known) for cases in splits))
        draw, choice = (made.get("validation"), made.get("seed", 0)), str(made.get("choice", ""))
    for path in sorted((state / RECORDS).glob("*.json")):
        record = _record(path)
        if record is not None:
            records[path.stem] = record
    whole = {case: r for case, r in records.items() if "image" in r.source and "image" in r.source_sha256}
    stated = data.patient_of, data.name, data.modality, data.empty_masks
    listed = frozenset((*data.splits.cases, *data.splits.test))
    labelled = frozenset(data.splits.labelled)
    return Earlier(whole, frozenset(unlisted), drawn, labelled, draw, *stated, listed, choice)


def _unlisted(made: Mapping[str, Any], where: Path) -> dict[str, CaseRecord]:
    found = parse(dict[PlainName, CaseRecord], made.get(UNLISTED, {}), where)
    return {str(case): record for case, record in found.items()}


def _record(path: Path) -> CaseRecord | None:
    try:
        PlainName(path.stem)
        return parse(CaseRecord, read_json(path), path)
    except (C3S3Error, ValueError):
        return None  # another program's file, or incomplete: that case is processed again


def name_cases(
    pairs: Sequence[ScanMaskPair], hashes: Sequence[Mapping[str, str]], earlier: Earlier
) -> list[str]:
    """Return a name for each scan: its earlier name; else the next number for DICOM, the stem for a file.

    Parameters
    ----------
    pairs
        The scans.
    hashes
        `source_hashes` of each scan; empty if there was no earlier run.
    earlier
        Earlier run; a scan is recognised by its place and its content, or by one of the two.

    Returns
    -------
    list of str
        One name for each scan; names differ in more than upper and lower case.
    """
    names: dict[int, str] = {}
    free = dict(earlier.records)
    for same in (_same_both, _same_place, _same_content):
        where: dict[Any, list[str]] = {}
        for case, record in free.items():
            where.setdefault(same(record.source["image"], record.source_sha256["image"]), []).append(case)
        for number, pair in enumerate(pairs):
            if number in names or not hashes:
                continue
            place = pair.scan.part.public if pair.scan.stem else ""
            hits = where.get(same(place, hashes[number]["image"]))
            if hits:
                names[number] = hits.pop(0)
                del free[names[number]]
    _name_new(pairs, names, [*earlier.records])
    return [names[number] for number in range(len(pairs))]


def _same_both(place: str, content: str) -> object:
    return place, content


def _same_place(place: str, content: str) -> object:
    del content
    return place


def _same_content(place: str, content: str) -> object:
    del place
    return content


def _name_new(pairs: Sequence[ScanMaskPair], names: dict[int, str], taken: Iterable[str]) -> None:
    taken = list(taken)
    new = [number for number in range(len(pairs)) if number not in names]
    numbers = count(
        1 + max((int(n[1]) for name in taken if (n := re.fullmatch("case-([0-9]{1,9})", name))), default=0)
    )
    for number in (n for n in new if not pairs[n].scan.stem):
        names[number] = f"case-{next(numbers):04d}"
    files = [n for n in new if pairs[n].scan.stem]
    wanted = [(_folder(pairs[n].scan.part.files[0], pairs[n].scan.stem), pairs[n].scan.stem) for n in files]
    names |= dict(zip(files, unique_names(wanted, [*taken, *names.values()]), strict=True))


def _folder(path: Path, stem: str) -> str:
    """Return the folder name that distinguishes files of one name; `x` if it is not valid in a file name."""
    folder = path.resolve().parent.name
    try:
        PlainName(f"{folder}_{stem}_00000{SUFFIX}")
    except ValueError:
        return "x"
    return folder or "x"


def name_patients(scans: Sequence[Scan], cases: Sequence[str], earlier: Earlier) -> list[str]:
    """Return a pseudonym for each scan's patient: p-0001, p-0002, ... in the order of appearance.

    A pseudonym is not derived from the patient, so it identifies nobody. A patient keeps an earlier one as
    long as one of their scans is still there; a scan without a known patient has its own pseudonym. A case in
    `patient_of` has the patient stated there; so have new scans of its source's patient, unless another case
    of this patient is not in `patient_of`.
    """
    known: dict[str, str] = {}
    given: set[str] = set()
    stated = earlier.patient_of
    for scan, case in sorted(zip(scans, cases, strict=True), key=lambda pair: pair[1] in stated):
        before = earlier.records[case].patient if case in earlier.records else ""
        before = stated.get(case, before)
        # Two patients whom an earlier run took for one are separated from now on, but not if stated as one.
        is_free = before not in given or case in stated
        if scan.patient and before and scan.patient not in known and is_free:
            known[scan.patient] = before
            given.add(before)
    taken = [*(record.patient for record in earlier.records.values()), *stated.values()]
    used = [n for patient in taken if (n := re.fullmatch("p-([0-9]{1,9})", patient))]
    numbers = count(1 + max((int(n[1]) for n in used), default=0))
    names = []
    for number, (scan, case) in enumerate(zip(scans, cases, strict=True)):
        record = earlier.records.get(case)
        key = scan.patient or f"#{number}"
        if not scan.patient and record is not None and record.patient not in given:
            known[key] = record.patient
            given.add(record.patient)
        if key not in known:
            known[key] = f"p-{next(numbers):04d}"
        names.append(stated.get(case, known[key]))
    return names
