"""A PACS over DIMSE: find a study (C-FIND), fetch it (C-GET or C-MOVE), send results (C-STORE).

C-GET brings the files over the connection that this program opens itself. Only C-MOVE, if requested,
needs a listener: on loopback by default, for the one server and the one study.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError, RefusedError, quantity
from c3s3_seg.io.pacs.association import (
    DEFAULT,
    DUPLICATE,
    PLAIN,
    REPORTS,
    STORED,
    UNPACKED,
    Caller,
    Context,
    association,
    check_status,
    cut,
)
from c3s3_seg.io.pacs.inbox import AGAIN, Inbox
from c3s3_seg.io.pacs.listener import listening
from c3s3_seg.io.pacs.nodes import AssociationListener, Node
from c3s3_seg.io.pacs.outbox import ALREADY_THERE, Outgoing, Sent, collect
from c3s3_seg.io.pacs.query import MOST_STUDIES, PATIENCE, study_keys, study_uids
from c3s3_seg.io.pacs.search import FIND, GET, MOVE, answers, check_end, query, responses

# One context for each syntax: of several in a context a server accepts one, and could send no other.
RECEIVED: list[Context] = [(kind, [syntax]) for kind, several in STORED.items() for syntax in several]
RECEIVED += REPORTS.items()


@dataclass(frozen=True)
class DimseServer:
    """A PACS that is accessed over DIMSE; a `Server`.

    Parameters
    ----------
    node, caller
        The server, and this client.
    listener
        Listener to which the server sends files (C-MOVE). None: over the connection to the server (C-GET).
        With TLS the listener uses TLS too, for which the caller needs a certificate and trusted authorities.
    """

    node: Node
    caller: Caller = field(default_factory=Caller)
    listener: AssociationListener | None = None

    def __str__(self) -> str:
        return str(self.node)

    def find_studies(self, accession: str, patient: str | None = None) -> list[str]:
        """See `Server`."""
        keys = study_keys(accession, patient)
        asked = query("STUDY", **{"StudyInstanceUID": "", "PatientID": "", **keys})
        with association(self.node, self.caller, [(FIND, PLAIN)]) as link:
            found = answers(self.node, link, asked, PATIENCE * self.caller.timeout_s, most=MOST_STUDIES)
        return study_uids(self, found, keys)

    def transfer(self, inbox: Inbox) -> None:
        """See `Server`."""
        inbox.listening = self.listener is not None
        asked = query(inbox.wanted.level, **inbox.wanted.uids)
        try:
            if self.listener is None:
                expected, responses = self._get(inbox, asked)
            else:
                expected, responses = self._move(inbox, asked, self.listener)
        finally:
            if inbox.errors:  # the reason for breaking off says more than the resulting error
                raise inbox.errors[0]
        status = responses[-1][0] if responses else None
        check_end(self.node, status, "the transfer")
        _check_complete(self.node, inbox, status, expected)

    def _get(self, inbox: Inbox, asked: Any) -> tuple[int | None, list[Any]]:
        contexts = [(FIND, PLAIN), (GET, PLAIN), *RECEIVED]
        with (
            association(
                self.node, self.caller, contexts, inbox.store, inbox.received, inbox.exceeded
            ) as link,
            inbox.watching(partial(cut, link)),
        ):
            expected = _look_up(self.node, link, inbox)
            return expected, list(responses(self.node, link.send_c_get, asked, GET))

    def _move(self, inbox: Inbox, asked: Any, listener: AssociationListener) -> tuple[int | None, list[Any]]:
        with (
            listening(listener, self.node, inbox, self.caller),
            association(self.node, self.caller, [(FIND, PLAIN), (MOVE, PLAIN)]) as link,
            inbox.watching(partial(cut, link)),
        ):
            expected = _look_up(self.node, link, inbox)
            return expected, list(responses(self.node, link.send_c_move, asked, listener.title, MOVE))

    def store(self, files: Sequence[Outgoing]) -> Iterator[Sent]:
        """See `Server`."""
        contexts = _to_send(files)
        if len(contexts) > 128:  # PS3.8, 9.3.2
            raise InputError("the files are of more than 128 kinds", todo="Send them in several runs")
        with association(self.node, self.caller, contexts) as link:
            for file in files:
                try:
                    note = _store(self.node, link, file)
                except InputError as error:
                    yield Sent(file, error)
                else:
                    yield Sent(file, note=note)


def _to_send(files: Sequence[Outgoing]) -> list[Context]:
    """Return a presentation context for each class and transfer syntax of the files.

    For a class with a file that is not compressed, the default transfer syntax must be offered too, which a
    server may accept alone (PS3.5, 10.1).
    """
    kinds: dict[tuple[str, str], None] = {}
    for file in files:
        kinds[str(file.kind), str(file.syntax)] = None
        if file.syntax in UNPACKED:
            kinds[str(file.kind), DEFAULT] = None
    return [(kind, [syntax]) for kind, syntax in kinds]


def _store(node: Node, link: Any, file: Outgoing) -> str:
    """Send a file, and return a note about it; raise InputError if the server does not have it then."""
    if not link.is_established:
        raise InputError(f"{node} broke the connection before this file", where=file.name)
    file.check_unchanged()
    try:
        status = link.send_c_store(file.path)
    except ValueError as error:  # pynetdicom: no context was accepted for this class and syntax
        raise InputError(f"{node} does not take files of this kind", where=file.name) from error
    except Exception as error:  # pydicom reads and encodes the whole file only now
        if not link.is_established:  # since it was looked at above
            raise InputError(f"{node} broke the connection before this file", where=file.name) from error
        raise InputError(f"cannot be sent ({type(error).__name__})", where=file.name) from error
    if getattr(status, "Status", None) == DUPLICATE:
        return ALREADY_THERE
    try:
        check_status(node, status, "the file")
    except InputError as error:
        raise InputError(error.what, where=file.name) from error
    return ""


def send(node: Node, paths: Sequence[Path], caller: Caller | None = None) -> int:
    """Send DICOM files by DIMSE, and return how many; raise at the first that is not accepted.

    Raises
    ------
    InputError
        If a file is not a DICOM file or has no valid UIDs, or the server cannot be reached or refuses a file.
    """
    done = 0
    for stored in DimseServer(node, caller or Caller()).store(collect(paths).files):
        if stored.error is not None:
            raise stored.error
        done += 1
    return done


def _look_up(node: Node, link: Any, inbox: Inbox) -> int | None:
    """Return how many files the server has, None if it does not state it; note the patient that it states.

    Raises
    ------
    InputError
        If the server does not know the study, or answers with another study.
    """
    if not any(context.abstract_syntax == FIND for context in link.accepted_contexts):
        return None
    wanted, limit_s = inbox.wanted, inbox.limits.seconds_s
    keys = {"AccessionNumber": "", "PatientID": ""} if wanted.series is None else {}
    asked = query(wanted.level, **wanted.uids, **keys, **{wanted.count: ""})
    # An answer about a series may leave out what the request states; `Wanted.meant` compares the rest.
    uid = "StudyInstanceUID" if wanted.series is None else None
    found = answers(node, link, asked, limit_s, most=MOST_STUDIES, uid=uid)
    if not found:
        alone = query("STUDY", StudyInstanceUID=wanted.study)
        knows = wanted.series is not None and answers(node, link, alone, limit_s, most=MOST_STUDIES)
        raise wanted.unknown(node, series=bool(knows))
    return inbox.look_up(node, found)


def _check_complete(node: Node, inbox: Inbox, status: Any, expected: int | None) -> None:
    """Compare the received files with those that the server has and those that it reports as sent."""
    counts = {
        name: int(getattr(status, f"NumberOf{name}Suboperations", None) or 0)
        for name in ("Remaining", "Completed", "Warning", "Failed")
    }
    came, failed = len(inbox.files), counts["Failed"] + counts["Remaining"]
    if expected is None and not (came or failed):  # the server offers no search, which would have shown this
        raise inbox.wanted.unknown(node, series=False)
    if failed or not came:
        raise RefusedError(f"{node} sent {quantity(came, 'file')} and failed to send {failed}", todo=AGAIN)
    inbox.check_complete(node, expected)
    if inbox.taken < counts["Completed"] + counts["Warning"]:
        sent = counts["Completed"] + counts["Warning"]
        raise RefusedError(
            f"{node} says that it sent {quantity(sent, 'file')}, and {inbox.taken} came", todo=AGAIN
        )
