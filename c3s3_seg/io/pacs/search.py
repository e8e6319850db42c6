"""Searches of a PACS (C-FIND): the answers to one query, and the series of a range of days."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

from c3s3_seg.errors import InputError
from c3s3_seg.io.dicom_objects.codes import Uid
from c3s3_seg.io.pacs.association import (
    PENDING,
    PLAIN,
    Caller,
    RefusedRequestError,
    association,
    check_status,
)
from c3s3_seg.io.pacs.nodes import Node
from c3s3_seg.io.pacs.query import PATIENCE, count_of, text_of

FIND, GET, MOVE = (f"1.2.840.10008.5.1.4.1.2.2.{n}" for n in (1, 3, 2))
SERIES_FILES = "NumberOfSeriesRelatedInstances"
MOST = 20_000  # maximum number of answers to one query


@dataclass(frozen=True)
class FoundSeries:
    """A series that a PACS has.

    Parameters
    ----------
    study, series
        UIDs.
    count
        Number of objects in the series, as the PACS states or lists them; -1 if it does neither.
    """

    study: Uid
    series: Uid
    count: int


@dataclass(frozen=True)
class FoundInDays:
    """The answers of a PACS about a range of days.

    Parameters
    ----------
    series
        Series, those of a study one after the other.
    unusable
        Number of answers without a valid UID: such a study or series cannot be fetched.
    refused
        Studies of which the PACS refused to list the series.
    """

    series: tuple[FoundSeries, ...]
    unusable: int = 0
    refused: tuple[Uid, ...] = ()


def series_of_days(
    node: Node, caller: Caller, days: tuple[date, date], modalities: Sequence[str]
) -> FoundInDays:
    """Return the series of some modalities in studies of a range of days.

    Parameters
    ----------
    node, caller
        The server, and this client.
    days
        First and last StudyDate.
    modalities
        Modalities such as MR. Answers of other modalities are skipped.

    Raises
    ------
    InputError
        If the server cannot be reached, does not answer, or refuses the search or the series of all of
        several studies.
    """
    window, limit_s = "-".join(f"{day:%Y%m%d}" for day in days), PATIENCE * caller.timeout_s
    found: dict[Uid, FoundSeries] = {}
    unusable, refused = 0, list[Uid]()
    with association(node, caller, [(FIND, PLAIN)]) as link:
        studies: dict[Uid, None] = {}
        for modality in modalities:
            asked = query("STUDY", StudyInstanceUID="", StudyDate=window, ModalitiesInStudy=modality)
            for item in answers(node, link, asked, limit_s, most=MOST, uid=None):
                uid = text_of(item, "StudyInstanceUID")
                if Uid.is_valid(uid):
                    studies[Uid(uid)] = None
                else:
                    unusable += 1
        for study in studies:
            try:
                listed, nameless = _series_of(node, link, study, modalities, limit_s)
            except RefusedRequestError:  # one study that the PACS cannot list must not hold up the others
                refused.append(study)
                if len(refused) == len(studies) > 1:  # one alone may be at fault itself
                    raise
                continue
            found |= {series.series: series for series in listed}
            unusable += nameless
    return FoundInDays(tuple(found.values()), unusable, tuple(refused))


def _series_of(
    node: Node, link: Any, study: Uid, modalities: Sequence[str], limit_s: float
) -> tuple[list[FoundSeries], int]:
    """Return the series of some modalities in a study, and the number of answers without a valid UID."""
    asked = query("SERIES", StudyInstanceUID=study, SeriesInstanceUID="", Modality="", **{SERIES_FILES: ""})
    found, unusable = [], 0
    for item in answers(node, link, asked, limit_s, most=MOST, uid=None):
        same = text_of(item, "StudyInstanceUID") in ("", study)
        if not same or text_of(item, "Modality") not in modalities:
            continue
        uid = text_of(item, "SeriesInstanceUID")
        if not Uid.is_valid(uid):
            unusable += 1
            continue
        series, count = Uid(uid), count_of(item, SERIES_FILES)
        if count is None:  # the key is optional
            count = _listed(node, link, (study, series), limit_s)
        found.append(FoundSeries(study, series, count))
    return found, unusable


def query(level: str, **attributes: str) -> Any:
    """Return a query for pydicom: its level, such as `STUDY`, and keyword -> value; empty: any value."""
    from pydicom import Dataset

    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for keyword, value in attributes.items():
        setattr(asked, keyword, value)
    return asked


def answers(
    node: Node, link: Any, asked: Any, limit_s: float, *, most: int, uid: str | None = "StudyInstanceUID"
) -> list[Any]:
    """Return the answers to a search, each with a valid UID of this kind; None: with any UIDs, or none.

    Raises
    ------
    InputError
        If an answer has no such UID, there are more than `most` or they take longer than `limit_s`, or the
        server does not offer searches or breaks off.
    """
    found, status, end = [], None, time.monotonic() + limit_s
    for status, item in responses(node, link.send_c_find, asked, FIND):
        if getattr(status, "Status", None) not in (PENDING, PENDING + 1):
            break
        if uid is not None and not Uid.is_valid(text_of(item, uid)):
            kind = uid.removesuffix("InstanceUID").lower()
            raise InputError(f"{node} answered the search without a valid {kind} UID")
        found.append(item)
        if len(found) > most or time.monotonic() > end:
            what = f"{node} does not come to an end with its answers; {len(found)} came so far"
            raise InputError(what)
    check_end(node, status, "the search")
    return found


def responses(node: Node, ask: Any, *words: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the responses to C-FIND, C-GET or C-MOVE, whose UID is the last of `words`.

    Raises
    ------
    InputError
        If the server does not offer the service, or has broken the connection before.
    """
    try:
        yield from ask(*words)
    except ValueError as error:  # pynetdicom: no context was accepted for this service
        service = {FIND: "searches (C-FIND)", GET: "C-GET", MOVE: "C-MOVE"}[words[-1]]
        todo = "Ask for C-MOVE instead (--move)" if words[-1] == GET else None
        raise InputError(f"{node} does not offer {service} to us", todo=todo) from error
    except RuntimeError as error:  # pynetdicom: the association has ended
        raise InputError(f"{node} broke the connection") from error


def check_end(node: Node, status: Any, what: str) -> None:
    """Raise InputError unless the last response is a final one: after a pending one the rest was cut off."""
    if getattr(status, "Status", None) in (PENDING, PENDING + 1):
        status = None
    check_status(node, status, what)


def _listed(node: Node, link: Any, uids: tuple[Uid, Uid], limit_s: float) -> int:
    """Return how many objects the PACS lists for this study and series; -1 if it lists none."""
    asked = query("IMAGE", StudyInstanceUID=uids[0], SeriesInstanceUID=uids[1], SOPInstanceUID="")
    with suppress(InputError):
        return len(answers(node, link, asked, limit_s, most=MOST, uid="SOPInstanceUID")) or -1
    return -1
