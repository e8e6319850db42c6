"""A PACS, whatever it speaks: what `fetch` and `send` ask of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from c3s3_seg.io.pacs.inbox import Inbox
from c3s3_seg.io.pacs.outbox import Outgoing, Sent
from c3s3_seg.io.pacs.query import FetchLimits, Wanted
from c3s3_seg.io.pacs.staging import gathering, put_in_place


class Server(Protocol):
    """A PACS. Its text is its address, without anything secret."""

    def find_studies(self, accession: str, patient: str | None = None) -> list[str]:
        """The study UIDs of an accession number, and of a patient if one is given.

        Raises
        ------
        InputError
            If the number cannot be asked for, the server cannot be reached or does not answer, or it answers
            with studies of another accession number or patient, of several patients, or without a study UID.
        """

    def transfer(self, inbox: Inbox) -> None:
        """Let all of what the inbox wants come into it.

        Raises
        ------
        InputError
            If the server cannot be reached, refuses or does not have it.
        RefusedError
            If not all of it came, something else came, or a limit was reached.
        """

    def store(self, files: Sequence[Outgoing]) -> Iterator[Sent]:
        """Store files one after the other, each with what became of it. To store a file again is safe.

        Raises
        ------
        InputError
            If the server cannot be reached, or refuses us: then no file was stored.
        """


def fetch_study(server: Server, out: Path, wanted: Wanted, limits: FetchLimits | None = None) -> list[Path]:
    """Fetch a study, or a series of it: `out/<series UID>/<instance UID>.dcm`, all of it or nothing.

    Files are gathered in a hidden folder and moved into place when the study is complete.

    Parameters
    ----------
    server
        The PACS.
    out
        The folder.
    wanted
        Without a series all series of the study are fetched. A file of another study, series, accession
        number or patient is refused.
    limits
        Of time, files and bytes.

    Raises
    ------
    InputError
        If the server cannot be reached, refuses or does not have the study; or a file cannot be written.
    RefusedError
        If not all of it came, something else came, or a limit was reached.
    """
    with gathering(out) as aside:
        inbox = Inbox(aside, wanted, limits or FetchLimits())
        server.transfer(inbox)
        return put_in_place(inbox, out)
