"""Check the index and folders before a voxel is read: missing, unlisted or suspiciously named files."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from c3s3_seg.dataset.index import IMAGES, INDEX, MASKS, SPLITS, CaseRecord, DataSet, Splits
from c3s3_seg.dataset.patients import GIVEN, Guess, patients_of
from c3s3_seg.errors import InputError
from c3s3_seg.io.cases import MASK_ENDINGS, scan_stem
from c3s3_seg.io.image.files import image_stem, image_suffix
from c3s3_seg.report.findings import Finding, Severity

FEW = 3  # labelled or validation cases: a mean of fewer is unreliable
# Usual names of a copy of a file: case_aug, case_aug2, case-copy, case - Copy, case (1), "Copy of case".
COPY = re.compile(
    r"^copy of\s+|[\s_.-]*\(\d+\)$"
    r"|[\s_.-]+(aug(mented)?|copy|flip(ped)?|mirror(ed)?|rot(ated)?|dup)[\s_.-]*\d*$"
)
TOKENS = {
    "train": {"labelled", "unlabelled"},
    "training": {"labelled", "unlabelled"},
    "val": {"validation"},
    "valid": {"validation"},
    "validation": {"validation"},
    "labelled": {"labelled"},
    "labeled": {"labelled"},
    "unlabelled": {"unlabelled"},
    "unlabeled": {"unlabelled"},
    "test": {"test"},
}
TRAINING, HELD_OUT = "training", ("validation", "test")  # labelled and unlabelled; never trained on
ONE_PART, TODO_ONE_PART = "each patient in one of them", "Put all scans of a patient into one of these"


def kinds(splits: Splits) -> dict[str, str]:
    """Return case -> labelled, unlabelled, validation or test."""
    return {name: kind for kind in SPLITS for name in getattr(splits, kind)}


def check_files(data: DataSet) -> list[Finding]:
    """Return all findings from the index and the names of the files."""
    cases = kinds(data.splits)
    findings = [
        *_counts(data),
        *_missing_files(data),
        *_unlisted(data),
        *leaking_patients(data.splits, data.records, data.patient_of),
    ]
    return findings + check_names(cases, data.records, data.patient_of)


def leaking_patients(
    splits: Splits, records: Mapping[str, CaseRecord], patient_of: Mapping[str, str] | None = None
) -> list[Finding]:
    """Return a finding for each patient whom the index has in several of training, validation and test.

    In training and elsewhere, this is an error. In validation and test it is a warning: weights are chosen
    on validation cases, so the test is no longer independent of the choice.

    Parameters
    ----------
    splits
        Split of each case.
    records, patient_of
        Patients in the index.
    """
    known = {case: record.patient for case, record in records.items()} | dict(patient_of or {})
    scans: dict[str, list[str]] = defaultdict(list)
    for name in (*splits.cases, *splits.test):
        if name in known:
            scans[known[name]].append(name)
    cases_of, findings = kinds(splits), []
    for patient, names in scans.items():
        parts = _parts(names, cases_of)
        if len(parts) > 1:
            aside = [name for name in names if cases_of[name] in HELD_OUT]
            cases = (*aside, *(name for name in names if name not in aside))
            found = f"scans of one patient ({patient}) are in {' and '.join(parts)}"
            severity: Severity = "error" if TRAINING in parts else "warning"
            findings.append(Finding(severity, "patient-leak", cases, found, ONE_PART, TODO_ONE_PART))
    return findings


def refuse_leaks(data: DataSet, splits: Splits) -> None:
    """Raise an error for a leak that `leaking_patients` finds or that the cases' names leave no doubt of.

    Raises
    ------
    InputError
        If a patient is in training and in validation or test.
    """
    sides = kinds(splits)
    named = _patients_by_name(sides, patients_of(data, sides))
    for leak in leaking_patients(splits, data.records, data.patient_of) + named:
        if leak.severity == "error":
            what = f"{leak.found}: {', '.join(leak.cases[:5])}; wanted {leak.wanted}"
            raise InputError(what, where=data.folder / INDEX, todo=leak.todo)


def check_names(
    cases: Mapping[str, str], records: Mapping[str, CaseRecord], patient_of: Mapping[str, str] | None = None
) -> list[Finding]:
    """Return the findings from the names of cases.

    Parameters
    ----------
    cases
        Name -> labelled, unlabelled, validation or test.
    records, patient_of
        Known patients of cases, which take precedence over the names of these cases.
    """
    names = DataSet(Path(), splits=Splits(tuple(cases)), records=records, patient_of=patient_of or {})
    copies = _copies(cases)
    same = {finding.cases for finding in copies}
    leaks = [leak for leak in _patients_by_name(cases, patients_of(names, cases)) if leak.cases not in same]
    return copies + _states_another_split(cases) + leaks


def _copies(cases: Mapping[str, str]) -> list[Finding]:
    alike: dict[str, list[str]] = defaultdict(list)
    for name in cases:
        alike[_plain(name)].append(name)
    findings = []
    for names in alike.values():
        parts = _parts(names, cases)
        if len(parts) > 1:
            found = f"by their names they are copies of one case, in {' and '.join(parts)}"
            todo = "Put them in one of these, or rename them if they are different patients"
            findings.append(
                Finding(
                    "warning",
                    "name-copy",
                    tuple(sorted(names)),
                    found,
                    "independent cases",
                    todo,
                    tuple(names[:2]),
                )
            )
    return findings


def _plain(name: str) -> str:
    """Return a name without the additions of a copy, in lower case, with `-` for spaces and signs."""
    text = unicodedata.normalize("NFKC", name).casefold()
    while (shorter := COPY.sub("", text)) != text and shorter:
        text = shorter
    return re.sub(r"[\s_.-]+", "-", text)


def _states_another_split(cases: Mapping[str, str]) -> list[Finding]:
    findings = []
    for name, kind in cases.items():
        tokens = [word for word in re.split(r"[^a-z]+", name.casefold()) if word in TOKENS]
        if tokens and all(kind not in TOKENS[word] for word in tokens):
            found, wanted = f"its name says '{tokens[0]}', the index {kind}", "names and index that agree"
            todo = "Look whether the index is right"
            findings.append(Finding("warning", "name-split", (name,), found, wanted, todo))
    return findings


def _patients_by_name(cases: Mapping[str, str], patients: Mapping[str, Guess]) -> list[Finding]:
    """Return findings on scans named like those of one patient, in several parts of the data.

    This is an error if the names leave no doubt and one part is training, else a warning.
    """
    scans: dict[str, list[str]] = defaultdict(list)
    for name in cases:
        if patients[name].rule != GIVEN:
            scans[patients[name].patient].append(name)
    findings = []
    for patient, names in scans.items():
        parts = _parts(names, cases)
        sure = {cases[name] in HELD_OUT for name in names if patients[name].is_sure}
        if len(parts) > 1:
            what = f"by their names they are scans of one patient ({patient}), in {' and '.join(parts)}"
            todo = (
                f"{TODO_ONE_PART}; of different patients, give each its own in"
                f' {INDEX}: "patient_of": {{"CASE": "PATIENT"}}'
            )
            severity: Severity = "error" if len(sure) == 2 else "warning"
            findings.append(Finding(severity, "name-patient", tuple(sorted(names)), what, ONE_PART, todo))
    return findings


def _parts(names: Iterable[str], cases: Mapping[str, str]) -> list[str]:
    """Return those of training, validation and test that these cases are in."""
    found = {cases[name] if cases[name] in HELD_OUT else TRAINING for name in names}
    return [part for part in (TRAINING, *HELD_OUT) if part in found]


def _counts(data: DataSet) -> list[Finding]:
    splits, findings = data.splits, []
    counts = {kind: len(getattr(splits, kind)) for kind in ("labelled", "validation")}
    if not counts["labelled"]:
        todo = "List the cases whose masks are to be trained on"
        findings.append(Finding("error", "few-cases", (), "no case is labelled", "at least one", todo))
    elif counts["labelled"] < FEW:
        what = f"{counts['labelled']} labelled case{'s' * (counts['labelled'] > 1)}"
        todo = "Label more, or begin from a trained bundle"
        findings.append(Finding("warning", "few-cases", (), what, f"at least {FEW}", todo))
    if not counts["validation"]:
        what, todo = "no case is kept for validation", "Set data.validation_from_unlabelled, or list some"
        findings.append(Finding("info", "few-cases", (), what, f"at least {FEW}", todo))
    elif counts["validation"] < FEW:
        what = f"{counts['validation']} validation case{'s' * (counts['validation'] > 1)}"
        todo = "Use more cases for validation: the best network is chosen by their scores"
        findings.append(Finding("warning", "few-cases", (), what, f"at least {FEW}", todo))
    spare = [name for name in splits.unlabelled if data.has_mask(name)]
    if spare:
        what = f"{len(spare)} unlabelled cases have a mask"
        findings.append(
            Finding("info", "masks-unused", (), what, "", "Nothing: they are not used in training")
        )
    if not data.labels:
        todo = "Name them in dataset.json, so that other values are noticed"
        findings.append(Finding("info", "no-labels", (), "the index names no labels", "", todo))
    return findings


def _missing_files(data: DataSet) -> list[Finding]:
    findings = []
    for name, kind in kinds(data.splits).items():
        for door, folder in ((data.scan, IMAGES), (data.mask, MASKS)):
            if folder == MASKS and kind == "unlabelled":
                continue
            try:
                door(name)
            except InputError as error:
                place = data.place(folder, name).name
                todo = f"Put the file into {place}, or take the case out of {INDEX}"
                what = f"{place}: {error.what}"
                findings.append(Finding("error", "no-file", (name,), what, "one file", todo))
    return findings


def _unlisted(data: DataSet) -> list[Finding]:
    """Report files, and names in `patient_of`, that belong to no case; and masks among the scans."""
    listed, findings = set(data.splits.cases), []
    for folder in (IMAGES, MASKS):
        for name in _stems(data, folder):
            if name in listed:
                continue
            found = f"{folder} has a file that the index does not list"
            todo = f"Add the case to {INDEX}, or take the file away"
            check = "unlisted"
            if folder == IMAGES and name.casefold().endswith(MASK_ENDINGS):
                check, todo = "mask-among-scans", f"Move it to {MASKS}"
                found = f"{folder} has a file that is named like a mask"
            findings.append(Finding("warning", check, (name,), found, "only listed files", todo))
    for name in sorted(set(data.patient_of) - {*listed, *data.splits.test}):
        found, wanted = "patient_of names a case that the index does not list", "listed cases"
        todo = f"Correct its name in {INDEX}, unless prepare left the case out: its patient is guessed"
        findings.append(Finding("warning", "unlisted", (name,), found, wanted, todo))
    return findings


def _stems(data: DataSet, folder: str) -> list[str]:
    place = data.folder / folder
    if not place.is_dir():
        return []
    paths = (path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
    stem = scan_stem if folder == MASKS else str
    return sorted(stem(image_stem(path)) for path in paths if image_suffix(path))
