"""The index and the folders, before a voxel is read: what is not there, not listed, or named suspiciously."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping

from c3s3_seg.dataset.index import IMAGES, INDEX, MASKS, DataSet, Record, Splits
from c3s3_seg.errors import InputError
from c3s3_seg.io.cases import MASK_ENDINGS, scan_stem
from c3s3_seg.io.image import image_stem, image_suffix
from c3s3_seg.report.findings import Finding

FEW = 3  # labelled or validation cases: the mean of fewer says little
# What a copy of a file is called: case_aug, case_aug2, case-copy, case - Copy, case (1), "Copy of case".
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
    "test": set(),
}
VISIT = re.compile(r"^(?P<patient>.*\d.*?)[_-](?P<visit>[a-z]*-?\d{1,8}|[a-z])$")
SHARED = 1 / 3  # of the cases: a beginning that more have is the data set's name, not a patient's


def kinds(splits: Splits) -> dict[str, str]:
    """Case -> labelled, unlabelled or validation."""
    return {name: kind for kind in ("labelled", "unlabelled", "validation") for name in getattr(splits, kind)}


def check_listing(data: DataSet) -> list[Finding]:
    """Everything that the index and the names of the files tell."""
    findings = [
        *_counts(data),
        *_missing_files(data),
        *_unlisted(data),
        *leaking_patients(data.splits, data.records),
    ]
    return findings + check_names(kinds(data.splits), data.records)


def leaking_patients(splits: Splits, records: Mapping[str, Record]) -> list[Finding]:
    """A patient of whom one scan is learnt from and another one judged by, as the records have it."""
    scans: dict[str, list[str]] = defaultdict(list)
    for name in splits.cases:
        if name in records:
            scans[records[name].patient].append(name)
    judged, findings = set(splits.validation), []
    for patient, names in scans.items():
        aside = [name for name in names if name in judged]
        if aside and len(aside) < len(names):
            cases = (*aside, *(name for name in names if name not in judged))
            found = f"scans of one patient ({patient}) are learnt from and judged by"
            todo = "Put all scans of a patient on one side"
            wanted = "no patient on both sides"
            findings.append(Finding("error", "patient-leak", cases, found, wanted, todo))
    return findings


def refuse_leaks(data: DataSet, splits: Splits) -> None:
    """Raise what `leaking_patients` finds.

    Raises
    ------
    InputError
        If a patient is learnt from and judged by.
    """
    for leak in leaking_patients(splits, data.records)[:1]:
        what = f"{leak.found}: {', '.join(leak.cases[:5])}; wanted {leak.wanted}"
        raise InputError(what, where=data.folder / INDEX, todo=leak.todo)


def check_names(cases: Mapping[str, str], records: Mapping[str, Record]) -> list[Finding]:
    """What the names of cases give away.

    Parameters
    ----------
    cases
        Name -> labelled, unlabelled or validation.
    records
        Cases whose patient is known are judged by that, not by their names.
    """
    unknown = {name: kind for name, kind in cases.items() if name not in records}
    return _copies(cases) + _states_another_split(cases) + _patients_by_name(unknown)


def _copies(cases: Mapping[str, str]) -> list[Finding]:
    alike: dict[str, list[str]] = defaultdict(list)
    for name in cases:
        alike[_plain(name)].append(name)
    findings = []
    for names in alike.values():
        sides = {cases[name] == "validation" for name in names}
        if len(sides) == 2:
            found = "by their names they are copies of one case, learnt from and judged by"
            todo = "Put them on one side, or rename them if they are different patients"
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
    """A name without what a copy adds, and without case, spaces and signs."""
    text = unicodedata.normalize("NFKC", name).casefold()
    while (shorter := COPY.sub("", text)) != text and shorter:
        text = shorter
    return re.sub(r"[\s_.-]+", "-", text)


def _states_another_split(cases: Mapping[str, str]) -> list[Finding]:
    findings = []
    for name, kind in cases.items():
        said = [word for word in re.split(r"[^a-z]+", name.casefold()) if word in TOKENS]
        if said and all(kind not in TOKENS[word] for word in said):
            found, wanted = f"its name says '{said[0]}', the index {kind}", "names and index that agree"
            todo = "Look whether the index is right"
            findings.append(Finding("warning", "name-split", (name,), found, wanted, todo))
    return findings


def _patients_by_name(cases: Mapping[str, str]) -> list[Finding]:
    """Names like PATIENT_VISIT, where the same PATIENT is on both sides."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in cases:
        match = VISIT.match(name.casefold())
        if match:
            found[match["patient"]].append(name)
    several = {patient: names for patient, names in found.items() if len(names) > 1}
    if len(found) < 3 or max(map(len, found.values())) > max(2, SHARED * len(cases)):
        return []
    findings = []
    for patient, names in several.items():
        if len({cases[name] == "validation" for name in names}) == 2:
            what = f"by their names they are scans of one patient ({patient}), learnt from and judged by"
            todo = "Put all scans of a patient on one side"
            wanted = "no patient on both sides"
            findings.append(Finding("warning", "name-patient", tuple(sorted(names)), what, wanted, todo))
    return findings


def _counts(data: DataSet) -> list[Finding]:
    splits, findings = data.splits, []
    counts = {kind: len(getattr(splits, kind)) for kind in ("labelled", "validation")}
    if not counts["labelled"]:
        todo = "List the cases whose masks are to be learnt from"
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
        todo = "Keep more: the best of several runs is chosen by them"
        findings.append(Finding("warning", "few-cases", (), what, f"at least {FEW}", todo))
    spare = [name for name in splits.unlabelled if data.has_mask(name)]
    if spare:
        what = f"{len(spare)} unlabelled cases have a mask"
        findings.append(Finding("info", "masks-unused", (), what, "", "Nothing: they are not learnt from"))
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
                todo = f"Put the file into {folder}, or take the case out of {INDEX}"
                what = f"{folder}: {error.what}"
                findings.append(Finding("error", "no-file", (name,), what, "one file", todo))
    return findings


def _unlisted(data: DataSet) -> list[Finding]:
    """Files that belong to no case; masks among the scans."""
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
    return findings


def _stems(data: DataSet, folder: str) -> list[str]:
    place = data.folder / folder
    if not place.is_dir():
        return []
    paths = (path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
    stem = scan_stem if folder == MASKS else str
    return sorted(stem(image_stem(path)) for path in paths if image_suffix(path))
