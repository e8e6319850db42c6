"""Identify the scans of one patient when only paths and names are known.

`prepare`, the folds of a training and every check for leaks use this module, so that they agree. If paths
are ambiguous, scans are assigned to one patient: this only lowers the number of patients, while the
opposite would make the validation dishonest.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from c3s3_seg.dataset.index import DataSet
from c3s3_seg.dataset.prepare.pairing import ROLES, words

GIVEN = "what the index says of each case"
BIDS = "the BIDS subject in the path (sub-...)"
FOLDER = "the folder of each subject"
STEM = "the name without its frame, visit, phase or sequence (_frame01, _ses-2, _pre, _ct)"
COPY = "the name without what copies are called (_aug, _flip, - Copy, (1))"
SERIAL = "the name before its last number or letter (p03_v1, p03_v2)"
OWN = "file names that have nothing in common"
SURE = (GIVEN, BIDS, FOLDER, STEM)

MANY = 12  # scans: a name with a number behind it that more scans share is a data set's, not a patient's
SOME = 6  # the same limit for a name without a digit
SHARED = 1 / 3  # largest share of all scans in one group, see `_serial`

_SEP = r"[\s_.\-]"
_CINE = r"frame|fr|phase|time[\s_-]?point|time|tp"
_VISIT = (
    r"ses|sess|session|visit|vis|exam|examination|follow[\s_-]?up|fu|baseline|bl|screening|sc|retest"
    r"|t0|t[3-9]|insp(?:iration)?|exp(?:iration)?|inhale|exhale"
    r"|(?:pre|post|intra)[\s_-]?(?:op|operative|treatment|contrast|therapy|surgery|chemo|ablation|tx|rt)?"
    r"|before|after|week|wk|month|mo|day|year|yr|ed|es|(?:end[\s_-]?)?(?:dia|sy)stol(?:e|ic)"
)
_SEQUENCE = (
    r"ct|cbct|cta|mr|mri|mra|pet|pt|t[12](?:w|c|ce|gd|n|f|star|s|map)?|flair|dwi|adc|dti|swi|pdw?|dce|lge|cine"
    r"|bold|bssfp|ssfp|tra|cor|sag|axial|coronal|sagittal|arterial|portal|venous|delayed|native|contrast"
    r"|left|right|lh|rh|l|r|scan|study|series|acq|run|echo|rep|repeat"
)
_COPY = r"aug(?:mented)?|copy|flip(?:ped)?|mirror(?:ed)?|rot(?:ated)?|dup"
_ANY = f"{_CINE}|{_VISIT}|{_SEQUENCE}|{_COPY}"
_DATE = r"(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])"
_LAST = re.compile(
    rf"(?:{_SEP}+|(?<=\d)(?=[a-z]))(?P<word>{_ANY})(?P<number>{_SEP}?\d{{1,8}}[a-z]?)?$"
    rf"|{_SEP}+(?P<letter>(?:visit|ses|session|exam|time[\s_-]?point|tp){_SEP}?[a-h])$"
    rf"|{_SEP}+(?P<since>\d{{1,3}}{_SEP}?(?:(?:day|week|wk|month|mo|year|yr)s?|[dwmy]))$"
    rf"|{_SEP}+(?P<date>{_DATE})$|{_SEP}+(?P<channel>0000)$|{_SEP}*\((?P<again>\d+)\)$"
)
_FIRST = re.compile(rf"^(?:copy of\s+|(?:{_ANY})(?:-?\d{{1,3}})?{_SEP}+(?=.*\d))")
_NEUTRAL = re.compile(rf"^(?:(?:{_ANY}){_SEP}?\d*|{_DATE}|(?:{_SEQUENCE}|{_VISIT})s)$")
_SITE = re.compile(rf"^(?:site|cent(?:er|re)|hospital|clinic|institut(?:e|ion)){_SEP}*\w+$")
_SETS = re.compile(
    rf"^(?:train(?:ing)?|val(?:id|idation)?|test(?:ing)?|fold|batch|part|cohort|split|group|release)"
    rf"{_SEP}*(?:sets?|data)?{_SEP}*(?:\d*|[a-z])$"
)
_STORES = re.compile(r"^(?:raw|derivatives|nifti|nii|data|dataset|all|files|labell?ed|unlabell?ed)$")
_SUB = re.compile(r"(?:^|_)sub-([a-z0-9]+)")
_SUBJECT = re.compile(
    rf"^(?:patient|patid|pat|pt|subject|subj|sub|case|person|participant|volunteer|individual|id|p|s)"
    rf"{_SEP}*\d+$"
)
_LETTER = r"[^\W\d_]"  # a letter of any script
_SERIAL = re.compile(
    rf"^(?P<base>.*\d.*?)(?:{_SEP}+|(?<=\d)(?=(?:[a-z]|v\d{{1,2}})$))"
    rf"(?P<last>{_LETTER}*-?\d{{1,8}}|{_LETTER})$"
)
_GENERIC = re.compile(rf"(?:{_ANY}|imaging|norm|orig|original|\d+)$")


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


@dataclass(frozen=True)
class _Base:
    """A name without its markers, and the kinds of these markers."""

    text: str
    numbered: bool = False  # by a number or date other than that of a frame or a phase
    sequence: bool = False
    copy: bool = False


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
    parts = [tuple(_plain(part) for part in path.parts) for path in paths]
    bids = [next((hit[1] for part in reversed(path) if (hit := _SUB.search(part))), "") for path in parts]
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


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _subject_folders(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """Return for each path the name of its subject's folder; empty if there is none."""
    candidates = [_candidates(path) for path in paths]
    depths = _depths([tuple(path[at] for at in found) for path, found in zip(paths, candidates, strict=True)])
    places = [found[depth] if found else None for found, depth in zip(candidates, depths, strict=True)]
    beside: dict[tuple[str, ...], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path, at in zip(paths, places, strict=True):
        if at is not None:
            beside[path[:at]][path[at]].add(path[-1])
    alike = {above: _are_subjects(folders) for above, folders in beside.items()}
    found_names = []
    for path, at, folders in zip(paths, places, candidates, strict=True):
        is_subject = (
            at is not None
            and (
                at != folders[-1]  # the folder holds folders of visits or series
                or alike[path[:at]]
                or _says_subject(path[at], path[-1], len(beside[path[:at]][path[at]]))
            )
        )
        found_names.append(path[at] if at is not None and is_subject else "")
    return found_names


def _candidates(path: tuple[str, ...]) -> list[int]:
    """Return the positions of folders that may be a subject's: no role, visit, date, site, set or store."""
    kinds = (_NEUTRAL, _SITE, _SETS, _STORES)
    return [
        at
        for at, part in enumerate(path[:-1])
        if not (_is_role(part) or any(kind.match(part) for kind in kinds))
    ]


def _depths(chains: Sequence[tuple[str, ...]]) -> list[int]:
    """Return for each chain of folders (`site, patient, visit`) the position of the subject's folder.

    This is the first folder whose siblings hold visits or series, see `_hold_visits`; else the last.
    """
    depths = [max(0, len(chain) - 1) for chain in chains]
    waiting = [(0, [n for n, chain in enumerate(chains) if chain])]
    while waiting:
        depth, members = waiting.pop()
        below: dict[str, list[int]] = defaultdict(list)
        for n in members:
            below[chains[n][depth]].append(n)
        deeper = {name: [n for n in held if len(chains[n]) > depth + 1] for name, held in below.items()}
        if _hold_visits([{chains[n][depth + 1] for n in held} for held in deeper.values()]):
            for n in members:
                depths[n] = depth
        else:
            waiting += [(depth + 1, held) for held in deeper.values() if held]
    return depths


def _hold_visits(folders: Sequence[Collection[str]]) -> bool:
    """Return whether sibling folders hold visits or series, by the names in each.

    Most names recur in other folders (`MILLER/2019`, `SMITH/2019`), or there are many folders with few
    names each (`LUNG1-001/study-69331`). Groups of subjects (`control/017`) are few, with many names each.
    """
    count, most = len(folders), max(map(len, folders), default=0)
    if count < 2 or not most:
        return False
    often = Counter(name for names in folders for name in names)
    if 2 * sum(times for times in often.values() if times > 1) > often.total():
        return most <= SOME or most < count
    return most <= SOME and often.total() <= count**2 and not any(map(_SUBJECT.match, often))


def _is_role(folder: str) -> bool:
    return set(words(folder)) <= ROLES


def _says_subject(folder: str, stem: str, held: int) -> bool:
    """Return whether a folder is named like a subject (`patient001`), or a scan in it like the folder."""
    base = _stripped(folder).text
    if _SUBJECT.match(base):
        return len(words(base)[0]) > 2 or held <= MANY  # `p1` with many scans may be part 1 of a data set
    return _stripped(stem).text == base


def _are_subjects(folders: Mapping[str, Collection[str]]) -> bool:
    """Return whether sibling folders hold the same few kinds of scans: `MILLER/ct`, `SMITH/ct`."""
    if len(folders) < 2:
        return False
    held = [{_kind(stem) for stem in stems} for stems in folders.values()]
    kinds = set().union(*held)
    of_kinds = all(_is_generic(kind) for kind in kinds)
    if max(map(len, held)) <= SOME and (of_kinds or not re.search(r"\d", "".join(kinds))):
        return True
    return len(kinds) <= len(folders) and (of_kinds or len(kinds) < sum(map(len, held)))


def _kind(stem: str) -> str:
    """Return the name of a scan without the number of its visit or frame; empty for a date."""
    return re.sub(rf"^({_CINE}|{_VISIT}){_SEP}?\d+$|^({_DATE})$", r"\1", stem)


def _is_generic(stem: str) -> bool:
    """Return whether a name states only the kind of scan, not the patient."""
    return all(word in ROLES or _GENERIC.match(word) for word in words(stem.strip(" _.-")))


def _by_name(paths: Sequence[tuple[str, ...]]) -> list[Guess]:
    """Identify patients by the subject's folder, else by the file, both without visits and frames."""
    folders = _subject_folders(paths)
    names = [folder or _file_name(path) for path, folder in zip(paths, folders, strict=True)]
    bases = [_stripped(name) for name in names]
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
    stem, apart = path[-1], bool(_candidates(path))
    has_digit = any(c.isdecimal() for c in stem)
    if (_is_generic(stem) and (apart or not stem.isdecimal())) or (apart and not has_digit):
        return "/".join(path)
    return stem


def _site(path: tuple[str, ...], name: str) -> str:
    """Return the hospital's folder, and for a mere number also the set's: both may reuse a number."""
    kinds = (_SITE, _SETS) if name.isdecimal() else (_SITE,)
    return "".join(f"{part}/" for part in path[:-1] if any(kind.match(part) for kind in kinds))


def _stands(bases: Sequence[_Base]) -> bool:
    """Return whether the common name of scans is a patient's name, and not that of their data set."""
    numbered = [base for base in bases if base.numbered]
    if not numbered:
        return True
    has_digit = any(c.isdigit() for c in bases[0].text)
    return len(bases) <= (MANY if has_digit else SOME) and (
        has_digit or not any(base.sequence for base in numbered)
    )


def _stripped(name: str) -> _Base:
    """Return a name without the markers of a patient's single scans; the whole name if nothing is left."""
    text, numbered, sequence, copy = name, False, False, False
    while True:
        match = _LAST.search(text)
        before = text[: match.start()].strip(" _.-") if match else ""
        if match and before and (before.isdecimal() or not _is_generic(before)):
            word = match["word"] or ""
            numbered |= bool(match["date"] or match["since"] or match["number"]) and not re.fullmatch(
                _CINE, word
            )
            sequence |= bool(re.fullmatch(_SEQUENCE, word))
            copy |= bool(match["again"] or re.fullmatch(_COPY, word))
            text = before
        elif first := _FIRST.match(text):
            copy |= text.startswith("copy")
            text = text[first.end() :]
        else:
            break
    return _Base(re.sub(rf"{_SEP}+", "_", text.strip(" _.-")) or name, numbered, sequence, copy)


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
    taken = {base for base, m in several.items() if alike or (_SUBJECT.match(base) and len(m) <= SOME)}
    return {n: base for base in taken for n in several[base]} | {
        n: key for n, key in enumerate(keys) if key in taken
    }
