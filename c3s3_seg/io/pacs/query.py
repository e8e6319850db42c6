"""Requests to a PACS: keys that match one value, the checks of its answers, and the limits of a transfer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from c3s3_seg.errors import InputError
from c3s3_seg.io.dicom_objects.codes import Uid

NAMES = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "AccessionNumber", "PatientID",
)  # fmt: skip
MOST_STUDIES = 100  # per accession number
PATIENCE = 4.0  # time limit of a whole search, in timeouts of an answer


def search_key(text: str, what: str) -> str:
    """Return a value that a server matches exactly; raise if it could match anything else.

    An empty key and `*`, `?` match every value, `\\` separates several (PS3.4, C.2.2.2; PS3.5, 6.2), `""` may
    match the empty value, and characters that are not ASCII would be sent as `?`.

    Raises
    ------
    InputError
        If the key is refused. The message omits the value, which may be that of a patient.
    """
    key = text.strip(" ")
    plain = key.isascii() and key.isprintable() and not set("*?\\") & set(key)
    if not plain or not 1 <= len(key) <= 64 or key == '""':
        raise InputError(
            f"{what} is empty, longer than 64 characters, not ASCII, or has a character that stands for"
            " others (*, ?, \\)",
            todo="Give the exact value",
        )
    return key


def uid_key(text: str, what: str) -> Uid:
    """Return a text as a UID to send to a server.

    Raises
    ------
    InputError
        If it is not a UID.
    """
    try:
        return Uid(text)
    except ValueError as error:
        raise InputError(f"{what} is no UID: wanted {error}") from None


@dataclass(frozen=True)
class Wanted:
    """A request for a study or a series, which every received file must match. Empty: not known.

    Parameters
    ----------
    study, series
        UIDs; if `series` is None, the whole study.
    accession, patient
        Accession number and PatientID.
    """

    study: Uid
    series: Uid | None = None
    accession: str = ""
    patient: str = ""

    @classmethod
    def parse(
        cls,
        study: str,
        series: str | None = None,
        accession: str | None = None,
        patient: str | None = None,
    ) -> Wanted:
        """Return the request for the values that a user gives.

        Raises
        ------
        InputError
            If a UID is not valid, or a key could match anything else.
        """
        return cls(
            uid_key(study, "the study UID"),
            None if series is None else uid_key(series, "the series UID"),
            "" if accession is None else search_key(accession, "the accession number"),
            "" if patient is None else search_key(patient, "the patient's id"),
        )

    @property
    def level(self) -> str:
        """The level of a query: `STUDY` or `SERIES`."""
        return "STUDY" if self.series is None else "SERIES"

    @property
    def count(self) -> str:
        """The attribute in which an answer states the number of files."""
        return f"NumberOf{self.level.title()}RelatedInstances"

    @property
    def uids(self) -> dict[str, str]:
        """The UID keys of a query."""
        series = {} if self.series is None else {"SeriesInstanceUID": str(self.series)}
        return {"StudyInstanceUID": str(self.study), **series}

    def unknown(self, server: object, *, series: bool = False) -> InputError:
        """Return the error for a study, or a series of a known study, that a server does not have."""
        if series:
            what = f"{server} has no series {self.series} in the study {self.study}"
            return InputError(what, todo="Check the UID (--series)")
        return InputError(f"{server} has no study {self.study}", todo="Check the UID (--study)")

    def meant(self, server: object, found: Sequence[Any]) -> Any:
        """Return the first of the answers that matches the request.

        Raises
        ------
        InputError
            If no answer matches.
        """
        same = [item for item in found if all(text_of(item, k) in ("", v) for k, v in self.uids.items())]
        if not same:
            what = f"{server} answered with another {self.level.lower()}, which was not asked for"
            raise InputError(what)
        return same[0]

    def objection(self, header: Any) -> str:
        """Return why a file does not match; empty if it does. Names the attribute, without a value."""
        study, series, instance, kind, accession, patient = (text_of(header, name) for name in NAMES)
        for name, value in {"series": series, "instance": instance, "class": kind}.items():
            if not Uid.is_valid(value):
                return f"a file without a valid {name} UID"
        if study != self.study:
            return "a file of another study"
        if self.series is not None and series != self.series:
            return "a file of another series"
        # An object made from a scan may lack the accession number; a different one is another order.
        if self.accession and accession and accession != self.accession:
            return "a file with another accession number"
        if self.patient and patient != self.patient:
            return "a file of another patient"
        return ""


def text_of(header: Any, name: str) -> str:
    """Return an attribute as text without padding; empty if it is missing or cannot be read."""
    try:
        return str(header.get(name, "") or "").strip(" \0")
    except Exception:  # pydicom converts a value on its first access, and may raise any error
        return ""


def may_be_same(one: str, other: str) -> bool:
    """Return whether two values may be the same, given servers that rewrite text that is not ASCII.

    Servers answer a search in a character set of their own. Letters that it lacks are dropped or become `?`.
    """
    if one == other or (one + other).isascii():
        return one == other
    kept, kept_other = ("".join(c for c in text if c.isascii() and c != "?") for text in (one, other))
    return kept == kept_other


def count_of(header: Any, name: str) -> int | None:
    """Return the number of files that a server states; None if it states none, or something else."""
    text = text_of(header, name)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def study_keys(accession: str, patient: str | None) -> dict[str, str]:
    """Return the keys of a search for studies.

    Raises
    ------
    InputError
        If a value could match others than itself.
    """
    asked = {"AccessionNumber": search_key(accession, "the accession number")}
    if patient is not None:
        asked["PatientID"] = search_key(patient, "the patient's id")
    return asked


def study_uids(server: object, found: Sequence[Any], asked: Mapping[str, str]) -> list[str]:
    """Return the UIDs of the studies that a search found, once each.

    Raises
    ------
    InputError
        If a study has no valid UID or does not match the keys, or the studies are of two patients.
    """
    for item in found:
        if not Uid.is_valid(text_of(item, "StudyInstanceUID")):
            raise InputError(f"{server} answered the search without a valid study UID")
        for keyword, value in asked.items():
            if text_of(item, keyword) != value:
                what = f"{server} answered with a study of another {keyword}, which was not asked for"
                raise InputError(what)
    if len({text_of(item, "PatientID") for item in found}) > 1:
        raise InputError(
            f"{server} has studies of two patients under this accession number",
            todo="Give the study UID with --study",
        )
    return list(dict.fromkeys(text_of(item, "StudyInstanceUID") for item in found))


@dataclass(frozen=True)
class FetchLimits:
    """The limits of a transfer, so that an endless one neither fills the disk nor blocks a batch run.

    Parameters
    ----------
    seconds_s
        Time from the first query to the last file.
    files, size_bytes
        Number of files, and size of all files.
    """

    seconds_s: float = 7200.0
    files: int = 100_000
    size_bytes: int = 64 << 30

    def __post_init__(self) -> None:
        """Raise InputError unless the limits are positive and the time is finite."""
        if not (math.isfinite(self.seconds_s) and min(self.seconds_s, self.files, self.size_bytes) > 0):
            raise InputError(
                "found a limit that is none: wanted positive numbers of seconds, files and bytes"
            )
