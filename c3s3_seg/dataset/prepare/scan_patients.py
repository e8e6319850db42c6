"""Find the patient of each scan that only its path identifies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

from c3s3_seg.dataset.patients import FOLDER, GIVEN, OWN, Guess, counted, patients_by_path
from c3s3_seg.dataset.prepare.inventory import (
    Inventory,
    Part,
    Scan,
)


def with_patients(found: Inventory) -> Inventory:
    """Add the patient of each scan that only its path identifies, and count the rules that were used."""
    by_part = _guesses([pair.scan for pair in found.pairs])
    pairs, all_guesses = [], []
    for number, pair in enumerate(found.pairs):
        scan = pair.scan
        guess = by_part.get(scan.part)
        all_guesses.append(guess or _as_found(scan.patient, number))
        named = scan if guess is None else replace(scan, patient=guess.patient)
        pairs.append(replace(pair, scan=named))
    return replace(found, pairs=tuple(pairs), patients_by=counted(all_guesses))


def _guesses(scans: Sequence[Scan]) -> dict[Part, Guess]:
    """Return the patient of each scan that only its path identifies.

    A file that lies where the series of one patient lie, or is named like their folder, is that patient's.
    """
    unknown = [scan for scan in scans if not scan.patient and scan.part.kind != "dicom"]
    series = [scan for scan in scans if unknown and scan.patient and scan.part.kind == "dicom"]
    guesses = patients_by_path([_subject_path(scan.part) for scan in (*unknown, *series)])
    named: dict[str, set[str]] = defaultdict(set)
    below: dict[PurePath, set[str]] = defaultdict(set)
    for scan, guess in zip(series, guesses[len(unknown) :], strict=True):
        named[guess.patient].add(scan.patient)
        for folder in _subject_path(scan.part).parents:
            below[folder].add(scan.patient)
    found = {}
    for scan, guess in zip(unknown, guesses, strict=False):
        same = named.get(guess.patient, set())
        patient = next(iter(same)) if len(same) == 1 else f"path {guess.patient}"
        beside = _beside(_subject_path(scan.part), below)
        found[scan.part] = Guess(beside, FOLDER) if beside else Guess(patient, guess.rule)
    return found


def _beside(path: PurePath, below: Mapping[PurePath, set[str]]) -> str:
    """Return the one patient of the series in the nearest folder with series, if others lie outside it."""
    for folder in path.parents:
        if folder in below:
            is_theirs = len(below[folder]) == 1 < len(below[folder.parent])
            return next(iter(below[folder])) if is_theirs else ""
    return ""


def _subject_path(part: Part) -> PurePath:
    """Return the path for `patients_by_path`; for a series, its folder with an arbitrary file name."""
    return part.path / "scan" if part.kind == "dicom" else part.path


def _as_found(patient: str, number: int) -> Guess:
    """Return a patient known from DICOM, --patient or the index; a scan without any id is its own."""
    kind = patient.partition(" ")[0]
    rule = {"p": GIVEN, "name": "--patient", "": OWN}.get(kind, f"DICOM's {kind}")
    return Guess(patient or f"scan {number}", rule)
