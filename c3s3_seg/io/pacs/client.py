"""Talking to a PACS: find a study (C-FIND), fetch it (C-GET or C-MOVE), send what was made of it (C-STORE).

C-GET brings the files over the connection that we open ourselves. Only C-MOVE, where it is asked for,
makes us listen: on loopback unless told otherwise, to the one server, for the one study.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError, RefusedError
from c3s3_seg.io.dicom_objects.codes import Uid
from c3s3_seg.io.pacs.association import (
    PENDING,
    PLAIN,
    REPORTS,
    STORED,
    AssociationListener,
    Caller,
    Context,
    Node,
    association,
    check_status,
)
from c3s3_seg.io.pacs.inbox import Inbox, gathering, put_in_place
from c3s3_seg.io.pacs.listener import listening
from c3s3_seg.io.pacs.query import FetchLimits, Wanted, search_key, text_of, uid_key

FIND, GET, MOVE = (f"1.2.840.10008.5.1.4.1.2.2.{n}" for n in (1, 3, 2))
# One for each syntax: of several in one context a server takes one, and could send nothing else.
RECEIVED: list[Context] = [(kind, [syntax]) for kind, several in STORED.items() for syntax in several]
RECEIVED += REPORTS.items()
MOST_STUDIES = 100  # of one accession number
COUNTS = {"STUDY": "NumberOfStudyRelatedInstances", "SERIES": "NumberOfSeriesRelatedInstances"}


def find_studies(
    node: Node, accession: str, caller: Caller | None = None, *, patient: str | None = None
) -> list[str]:
    """The study UIDs of an accession number.

    Parameters
    ----------
    node, caller
        The server, and how we introduce ourselves.
    accession
        The number, as it is: a value that stands for others (empty, `*`, `?`, `\\`) is refused.
    patient
        PatientID that the studies must have.

    Raises
    ------
    InputError
        If the number cannot be asked for, the server cannot be reached or does not answer, or it answers with
        studies of another accession number or patient, of several patients, or without a study UID.
    """
    asked = {"AccessionNumber": search_key(accession, "the accession number")}
    if patient is not None:
        asked["PatientID"] = search_key(patient, "the patient's id")
    query = _query("STUDY", **{"StudyInstanceUID": "", "PatientID": "", **asked})
    caller = caller or Caller()
    with association(node, caller, [(FIND, PLAIN)]) as link:
        found = _found(node, link, query, 4 * caller.timeout_s)
    for item in found:
        for keyword, value in asked.items():
            if text_of(item, keyword) != value:
                raise InputError(
                    f"{node} answered with a study of another {keyword}, which was not asked for"
                )
    if len({text_of(item, "PatientID") for item in found}) > 1:
        raise InputError(
            f"{node} has studies of two patients under this accession number",
            todo="Give the study UID with --study",
        )
    return list(dict.fromkeys(text_of(item, "StudyInstanceUID") for item in found))


def _found(node: Node, link: Any, query: Any, limit_s: float) -> list[Any]:
    """The answers to a search, each with a valid study UID."""
    found, status, end = [], None, time.monotonic() + limit_s
    for status, item in _asked(node, link.send_c_find, query, FIND):
        if getattr(status, "Status", None) not in (PENDING, PENDING + 1):
            break
        if item is None or not Uid.is_valid(text_of(item, "StudyInstanceUID")):
            raise InputError(f"{node} answered the search without a valid study UID")
        found.append(item)
        if len(found) > MOST_STUDIES or time.monotonic() > end:
            raise InputError(
                f"{node} does not come to an end with its answers; {len(found)} studies came so far"
            )
    _check_end(node, status, "the search")
    return found


def _asked(node: Node, ask: Any, *words: Any) -> Iterator[tuple[Any, Any]]:
    try:
        yield from ask(*words)
    except ValueError as error:  # pynetdicom: no context was accepted for this service
        service = {FIND: "searches (C-FIND)", GET: "C-GET", MOVE: "C-MOVE"}[words[-1]]
        todo = "Ask for C-MOVE instead (--move)" if words[-1] == GET else None
        raise InputError(f"{node} does not offer {service} to us", todo=todo) from error


def _check_end(node: Node, status: Any, what: str) -> None:
    """The last answer must be an end: one that promises more was cut off."""
    if getattr(status, "Status", None) in (PENDING, PENDING + 1):
        status = None
    check_status(node, status, what)


def fetch(
    node: Node,
    out: Path,
    *,
    study: str,
    series: str | None = None,
    accession: str | None = None,
    patient: str | None = None,
    caller: Caller | None = None,
    listener: AssociationListener | None = None,
    limits: FetchLimits | None = None,
) -> list[Path]:
    """Fetch a study, or a series of it: `out/<series UID>/<instance UID>.dcm`, all of it or nothing.

    Files are gathered in a hidden folder and moved into place when the study is complete.

    Parameters
    ----------
    node, caller
        The server, and how we introduce ourselves.
    out
        The folder.
    study, series
        UIDs. Without a series all series of the study are fetched.
    accession, patient
        What the files must carry: another accession number or PatientID is refused.
    listener
        Where the server is to send them (C-MOVE). None: over the connection that we open (C-GET).
        With TLS it speaks TLS too, for which the caller needs a certificate and a list of trusted ones.
    limits
        Of time, files and bytes.

    Raises
    ------
    InputError
        If a UID is none; the server cannot be reached, refuses or does not have the study; or a file
        cannot be written.
    RefusedError
        If not all of it came, something else came, or a limit was reached.
    """
    wanted = Wanted(
        uid_key(study, "the study UID"),
        None if series is None else uid_key(series, "the series UID"),
        "" if accession is None else search_key(accession, "the accession number"),
        "" if patient is None else search_key(patient, "the patient's id"),
    )
    with gathering(Path(out)) as aside:
        inbox = Inbox(aside, wanted, limits or FetchLimits(), listening=listener is not None)
        _transfer(node, inbox, caller or Caller(), listener)
        return put_in_place(inbox, Path(out))


def _transfer(node: Node, inbox: Inbox, caller: Caller, listener: AssociationListener | None) -> None:
    """Let the server send, and check that all came."""
    level = "STUDY" if inbox.wanted.series is None else "SERIES"
    uids = {"StudyInstanceUID": inbox.wanted.study}
    if inbox.wanted.series is not None:
        uids["SeriesInstanceUID"] = inbox.wanted.series
    query = _query(level, **uids)
    try:
        if listener is None:
            contexts = [(FIND, PLAIN), (GET, PLAIN), *RECEIVED]
            with (
                association(node, caller, contexts, inbox.store, inbox.received) as link,
                inbox.watching(link),
            ):
                expected = _look_up(node, link, inbox, level, uids)
                responses = list(_asked(node, link.send_c_get, query, GET))
        else:
            with (
                listening(listener, node, inbox, caller),
                association(node, caller, [(FIND, PLAIN), (MOVE, PLAIN)]) as link,
                inbox.watching(link),
            ):
                expected = _look_up(node, link, inbox, level, uids)
                responses = list(_asked(node, link.send_c_move, query, listener.title, MOVE))
    finally:
        if inbox.errors:  # why it was broken off says more than that it was
            raise inbox.errors[0]
    status = responses[-1][0] if responses else None
    _check_end(node, status, "the transfer")
    _check_complete(node, inbox, status, expected)


def _look_up(node: Node, link: Any, inbox: Inbox, level: str, uids: dict[str, Uid]) -> int | None:
    """How many files the server has of it; None where it does not say. What it says of the patient is noted.

    Raises
    ------
    InputError
        If it does not know the study, or it is not the one that was asked for.
    """
    if not any(context.abstract_syntax == FIND for context in link.accepted_contexts):
        return None
    asked = {"AccessionNumber": "", "PatientID": ""} if level == "STUDY" else {}
    found = _found(node, link, _query(level, **uids, **asked, **{COUNTS[level]: ""}), inbox.limits.seconds_s)
    if not found:
        kind = "study" if level == "STUDY" else "series"
        raise InputError(
            f"{node} sent 0 files: the {kind} is unknown to it", todo=f"Check its UID (--{kind})"
        )
    meant = [item for item in found if all(text_of(item, k) in ("", uid) for k, uid in uids.items())]
    if not meant:
        raise InputError(f"{node} answered with another {level.lower()}, which was not asked for")
    item = meant[0]
    inbox.expect(text_of(item, "AccessionNumber"), text_of(item, "PatientID"))
    count = text_of(item, COUNTS[level])
    return int(count) if count.isascii() and count.isdigit() else None


def _check_complete(node: Node, inbox: Inbox, status: Any, expected: int | None) -> None:
    """Compare the files that came with what the server has and with what it says that it sent."""
    counts = {
        name: int(getattr(status, f"NumberOf{name}Suboperations", None) or 0)
        for name in ("Remaining", "Completed", "Warning", "Failed")
    }
    came, failed = len(inbox.files), counts["Failed"] + counts["Remaining"]
    todo = "Nothing was kept: fetch it again"
    if failed or not came:
        raise RefusedError(f"{node} sent {came} files and failed to send {failed}", todo=todo)
    if expected is not None and came < expected:
        raise RefusedError(f"{node} has {expected} files of this study and sent {came}", todo=todo)
    if inbox.taken < counts["Completed"] + counts["Warning"]:
        sent = counts["Completed"] + counts["Warning"]
        raise RefusedError(f"{node} says that it sent {sent} files, and {inbox.taken} came", todo=todo)


def send(node: Node, paths: Sequence[Path], caller: Caller | None = None) -> int:
    """Send DICOM files, and return how many.

    Raises
    ------
    InputError
        If a file is no DICOM file or has no valid UIDs, or the server cannot be reached or refuses one.
    """
    wanted = {path: _kind_of(path) for path in paths}
    contexts = [(kind, [syntax]) for kind, syntax in dict.fromkeys(wanted.values())]
    if len(contexts) > 128:  # PS3.8, 9.3.2
        raise InputError("the files are of more than 128 kinds", todo="Send them in several runs")
    with association(node, caller or Caller(), contexts) as link:
        for path in paths:
            try:
                status = link.send_c_store(path)
            except ValueError as error:  # pynetdicom: no context was accepted for this class and syntax
                raise InputError(f"{node} does not take files of this kind", where=path) from error
            check_status(node, status, f"'{path.name}'")
    return len(paths)


def _kind_of(path: Path) -> tuple[str, str]:
    """SOP class and transfer syntax of a file that can be sent."""
    from pydicom import dcmread

    try:
        if not path.is_file():  # a pipe would be waited for
            raise OSError("no regular file")
        data = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
        meta = data.file_meta
        kind, instance = Uid(str(meta.MediaStorageSOPClassUID)), Uid(str(meta.MediaStorageSOPInstanceUID))
        if (text_of(data, "SOPClassUID"), text_of(data, "SOPInstanceUID")) != (kind, instance):
            raise ValueError("two instances in one file")
        return kind, Uid(str(meta.TransferSyntaxUID))
    except Exception as error:  # pydicom raises whatever its parser trips over
        raise InputError("this is not a DICOM file that can be sent", where=path) from error


def _query(level: str, **attributes: str) -> Any:
    from pydicom import Dataset

    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in attributes.items():
        setattr(query, keyword, value)
    return query
