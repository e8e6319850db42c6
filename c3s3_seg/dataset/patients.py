"""Identify the scans of one patient when only paths and names are known.

`prepare`, the folds of a training and every check for leaks use this module, so that they agree. If paths
are ambiguous, scans are assigned to one patient: this only lowers the number of patients, while the
opposite would make the validation dishonest.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from c3s3_seg.dataset.index import DataSet
from c3s3_seg.dataset.name_markers import (
    BIDS_SUBJECT,
    MANY,
    SEPARATOR,
    SETS,
    SITE,
    SOME,
    SUBJECT,
    BaseName,
    base_name,
    is_generic,
    plain,
)
from c3s3_seg.dataset.subject_folders import possible_subjects, subject_folders

GIVEN = "what the index says of each case"
BIDS = "the BIDS subject in the path (sub-...)"
FOLDER = "the folder of each subject"
STEM = "the name without its frame, visit, phase or sequence (_frame01, _ses-2, _pre, _ct)"
COPY = "the name without what copies are called (_aug, _flip, - Copy, (1))"
SERIAL = "the name before its last number or letter (p03_v1, p03_v2)"
OWN = "file names, each of which is taken for a patient"
SURE = (GIVEN, BIDS, FOLDER, STEM)

SHARED = 1 / 3  # largest share of all scans in one group, see `_serial`

_LETTER = r"[^\W\d_]"  # a letter of any script
_SERIAL = re.compile(
    rf"^(?P<base>.*\d.*?)(?:{SEPARATOR}+|(?<=\d)(?=(?:[a-z]|v\d{{1,2}})$))"
    rf"(?P<last>{_LETTER}*-?\d{{1,8}}|{_LETTER})$"
)


@dataclass(frozen=True)
class Guess:
    """The patient of a scan, and the rule that identified the patient.

    Parameters
    ----------
    patient
        Key shared by all scans of one patient and no others. It may be a name, so it stays in memory.
    rule
        Source of the key: a constant of this module, such as `FOLDER`, or a phrase of `assemble`.
    """

    patient: str
    rule: str

    @property
    def is_sure(self) -> bool:
        """Whether the rule is more than a likeness of names, so that a leak may be refused because of it."""
        return self.rule in SURE


def patients_by_path(paths: Sequence[PurePath]) -> list[Guess]:
    """Identify the patient of each scan by its path.

    Parameters
    ----------
    paths
        Paths of all scans, relative to their source, without suffix: `patient001/patient001_frame01`. All
        are given at once, because only a comparison tells a patient's name from that of the data set.

    Returns
    -------
    list of Guess
        One guess for each path, in the same order.
    """
    parts = [tuple(plain(part) for part in path.parts) for path in paths]
    bids = [_bids_subject(path) for path in parts]
    others = [n for n, subject in enumerate(bids) if not subject]
    guesses = dict(zip(others, _by_name([parts[n] for n in others]), strict=True))
    return [guesses[n] if n in guesses else Guess(f"sub-{bids[n]}", BIDS) for n in range(len(parts))]


def patients_of(data: DataSet, cases: Iterable[str]) -> dict[str, Guess]:
    """Return case -> its patient: as the index states it, else by the names of the cases.

    Parameters
    ----------
    data
        The data set; its `patient_of` and its records are certain.
    cases
        Requested cases; the result also has the other cases of the index, which help to read the names.
    """
    given = {case: record.patient for case, record in data.records.items()} | dict(data.patient_of)
    names = list(dict.fromkeys([*data.splits.cases, *data.splits.test, *cases]))
    unknown = [name for name in names if name not in given]
    guesses = dict(zip(unknown, patients_by_path([PurePath(name) for name in unknown]), strict=True))
    # A patient from the index and a guessed patient count as different people.
    stated = {name: Guess(f"patient {given[name]}", GIVEN) for name in names if name in given}
    return stated | {name: Guess(guess.patient, guess.rule) for name, guess in guesses.items()}


def counted(guesses: Iterable[Guess]) -> dict[str, tuple[int, int]]:
    """Return rule -> (number of scans, number of patients), the surest rule first."""
    scans: dict[str, list[str]] = defaultdict(list)
    for guess in guesses:
        scans[guess.rule].append(guess.patient)
    order = [*SURE, COPY, SERIAL, OWN]
    rules = sorted(scans, key=lambda rule: order.index(rule) if rule in order else -1)
    return {rule: (len(scans[rule]), len(set(scans[rule]))) for rule in rules}


def _bids_subject(path: tuple[str, ...]) -> str:
    """Return the BIDS subject nearest to the file; empty without one."""
    return next((hit[1] for part in reversed(path) if (hit := BIDS_SUBJECT.search(part))), "")


def _by_name(paths: Sequence[tuple[str, ...]]) -> list[Guess]:
    """Identify patients by the subject's folder, else by the file, both without visits and frames."""
    folders = subject_folders(paths)
    names = [folder or _file_name(path) for path, folder in zip(paths, folders, strict=True)]
    bases = [base_name(name) for name in names]
    groups: dict[str, list[int]] = defaultdict(list)
    for number, (path, base) in enumerate(zip(paths, bases, strict=True)):
        groups[_site(path, base.text) + base.text].append(number)
    keys = [""] * len(paths)
    rules = [FOLDER if folder else OWN for folder in folders]
    for key, members in groups.items():
        stands = _stands([bases[n] for n in members])
        for n in members:
            keys[n] = key if stands else _site(paths[n], names[n]) + names[n]
            if stands and len(members) > 1 and not folders[n]:
                rules[n] = COPY if bases[n].copy else STEM
    for number, patient in _serial(keys).items():
        if keys[number] != patient:
            keys[number], rules[number] = patient, SERIAL
    return [Guess(key, rule) for key, rule in zip(keys, rules, strict=True)]


def _file_name(path: tuple[str, ...]) -> str:
    """Return the name of a file, with its folders if the name states only the kind of scan.

    A name without a number (`a`, `head`) may recur: in another folder it belongs to another patient.
    """
    stem, apart = path[-1], bool(possible_subjects(path))
    has_digit = any(c.isdecimal() for c in stem)
    if (is_generic(stem) and (apart or not stem.isdecimal())) or (apart and not has_digit):
        return "/".join(path)
    return stem


def _site(path: tuple[str, ...], name: str) -> str:
    """Return the hospital's folder, and for a mere number also the set's: both may reuse a number."""
    kinds = (SITE, SETS) if name.isdecimal() else (SITE,)
    return "".join(f"{part}/" for part in path[:-1] if any(kind.match(part) for kind in kinds))


def _stands(bases: Sequence[BaseName]) -> bool:
    """Return whether the common name of scans is a patient's name, and not that of their data set."""
    numbered = [base for base in bases if base.numbered]
    if not numbered:
        return True
    has_digit = any(c.isdigit() for c in bases[0].text)
    return len(bases) <= (MANY if has_digit else SOME) and (
        has_digit or not any(base.sequence for base in numbered)
    )


def _serial(keys: Sequence[str]) -> dict[int, str]:
    """Return scan number -> PATIENT, where names are PATIENT_NUMBER with few numbers for many patients."""
    matches = {n: match for n, key in enumerate(keys) if (match := _SERIAL.match(key))}
    groups: dict[str, list[int]] = defaultdict(list)
    for number, match in matches.items():
        groups[match["base"]].append(number)
    several = {base: members for base, members in groups.items() if len(members) > 1}
    lasts = {match["last"] for match in matches.values()}
    largest = max(map(len, groups.values()), default=0)
    alike = len(groups) >= 3 and largest <= max(2, SHARED * len(keys)) and len(lasts) <= 2 * len(groups)
    taken = {base for base, m in several.items() if alike or (SUBJECT.match(base) and len(m) <= SOME)}
    return {n: base for base in taken for n in several[base]} | {
        n: key for n, key in enumerate(keys) if key in taken
    }
