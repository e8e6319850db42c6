"""Which series a PACS has of a range of days (C-FIND), for whoever asks again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from c3s3_seg.errors import InputError
from c3s3_seg.io.dicom_objects.codes import Uid
from c3s3_seg.io.pacs.association import PENDING, PLAIN, Caller, Node, association, check_status
from c3s3_seg.io.pacs.query import text_of

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOST = 20_000  # answers to one question


@dataclass(frozen=True)
class FoundSeries:
    """A series that a PACS has.

    Parameters
    ----------
    study, series
        UIDs.
    count
        Objects in it; -1 where the PACS does not say.
    """

    study: Uid
    series: Uid
    count: int


def series_of_days(
    node: Node, caller: Caller, days: tuple[date, date], modalities: Sequence[str]
) -> list[FoundSeries]:
    """The series of some modalities in studies of a range of days.

    Parameters
    ----------
    node, caller
        The server, and how we introduce ourselves.
    days
        First and last StudyDate.
    modalities
        Such as MR. What the server answers of others is passed over.

    Raises
    ------
    InputError
        If the server cannot be reached, does not answer, or answers without valid UIDs.
    """
    window = "-".join(f"{day:%Y%m%d}" for day in days)
    found: dict[Uid, FoundSeries] = {}
    with association(node, caller, [(FIND, PLAIN)]) as link:
        studies: dict[Uid, None] = {}
        for modality in modalities:
            asked = {"StudyInstanceUID": "", "StudyDate": window, "ModalitiesInStudy": modality}
            for item in _asked(node, link, "STUDY", asked):
                studies[_uid(node, item, "StudyInstanceUID")] = None
        for study in studies:
            keys = {"StudyInstanceUID": str(study), "SeriesInstanceUID": "", "Modality": ""}
            for item in _asked(node, link, "SERIES", keys | {"NumberOfSeriesRelatedInstances": ""}):
                if text_of(item, "Modality") in modalities and text_of(item, "StudyInstanceUID") in (
                    "",
                    study,
                ):
                    series = _uid(node, item, "SeriesInstanceUID")
                    found[series] = FoundSeries(study, series, _count(item))
    return list(found.values())


def _uid(node: Node, item: Any, name: str) -> Uid:
    try:
        return Uid(text_of(item, name))
    except ValueError:
        raise InputError(f"{node} answered the search without a valid {name}") from None


def _count(item: Any) -> int:
    text = text_of(item, "NumberOfSeriesRelatedInstances")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _asked(node: Node, link: Any, level: str, keys: dict[str, str]) -> list[Any]:
    from pydicom import Dataset

    query, found, status = Dataset(), [], None
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    try:
        for status, item in link.send_c_find(query, FIND):
            if getattr(status, "Status", None) not in (PENDING, PENDING + 1):
                break
            if item is not None:
                found.append(item)
            if len(found) > MOST:
                raise InputError(f"{node} answers with more than {MOST:,} objects", todo="Ask for fewer days")
        else:
            status = None  # the last answer promised more
    except ValueError as error:  # pynetdicom: no context was accepted for this service
        raise InputError(f"{node} does not offer searches (C-FIND) to us") from error
    check_status(node, status, "the search")
    return found
