"""The words in the names of files and folders: visits, frames, sequences, copies, sets, sites, subjects."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from c3s3_seg.dataset.prepare.pairing import ROLES, words

MANY = 12  # scans: a name with a number behind it that more scans share is a data set's, not a patient's
SOME = 6  # the same limit for a name without a digit
SEPARATOR = r"[\s_.\-]"
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
    rf"(?:{SEPARATOR}+|(?<=\d)(?=[a-z]))(?P<word>{_ANY})(?P<number>{SEPARATOR}?\d{{1,8}}[a-z]?)?$"
    rf"|{SEPARATOR}+(?P<letter>(?:visit|ses|session|exam|time[\s_-]?point|tp){SEPARATOR}?[a-h])$"
    rf"|{SEPARATOR}+(?P<since>\d{{1,3}}{SEPARATOR}?(?:(?:day|week|wk|month|mo|year|yr)s?|[dwmy]))$"
    rf"|{SEPARATOR}+(?P<date>{_DATE})$|{SEPARATOR}+(?P<channel>0000)$|{SEPARATOR}*\((?P<again>\d+)\)$"
)
_FIRST = re.compile(rf"^(?:copy of\s+|(?:{_ANY})(?:-?\d{{1,3}})?{SEPARATOR}+(?=.*\d))")
NEUTRAL = re.compile(rf"^(?:(?:{_ANY}){SEPARATOR}?\d*|{_DATE}|(?:{_SEQUENCE}|{_VISIT})s)$")
SITE = re.compile(rf"^(?:site|cent(?:er|re)|hospital|clinic|institut(?:e|ion)){SEPARATOR}*\w+$")
SETS = re.compile(
    rf"^(?:train(?:ing)?|val(?:id|idation)?|test(?:ing)?|fold|batch|part|cohort|split|group|release)"
    rf"{SEPARATOR}*(?:sets?|data)?{SEPARATOR}*(?:\d*|[a-z])$"
)
STORES = re.compile(r"^(?:raw|derivatives|nifti|nii|data|dataset|all|files|labell?ed|unlabell?ed)$")
BIDS_SUBJECT = re.compile(r"(?:^|_)sub-([a-z0-9]+)")
SUBJECT = re.compile(
    rf"^(?:patient|patid|pat|pt|subject|subj|sub|case|person|participant|volunteer|individual|id|p|s)"
    rf"{SEPARATOR}*\d+$"
)
_GENERIC = re.compile(rf"(?:{_ANY}|imaging|norm|orig|original|\d+)$")


@dataclass(frozen=True)
class BaseName:
    """A name without its markers, and the kinds of these markers."""

    text: str
    numbered: bool = False  # by a number or date other than that of a frame or a phase
    sequence: bool = False
    copy: bool = False


def plain(name: str) -> str:
    """Return a name in the form that the expressions match: NFKC, lower case, no blanks around it."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def base_name(name: str) -> BaseName:
    """Return a name without the markers of a patient's single scans; the whole name if nothing is left."""
    text, numbered, sequence, copy = name, False, False, False
    while True:
        match = _LAST.search(text)
        before = text[: match.start()].strip(" _.-") if match else ""
        if match and before and (before.isdecimal() or not is_generic(before)):
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
    return BaseName(re.sub(rf"{SEPARATOR}+", "_", text.strip(" _.-")) or name, numbered, sequence, copy)


def kind_of_scan(stem: str) -> str:
    """Return the name of a scan without the number of its visit or frame; empty for a date."""
    return re.sub(rf"^({_CINE}|{_VISIT}){SEPARATOR}?\d+$|^({_DATE})$", r"\1", stem)


def is_generic(stem: str) -> bool:
    """Return whether a name states only the kind of scan, not the patient."""
    return all(word in ROLES or _GENERIC.match(word) for word in words(stem.strip(" _.-")))
