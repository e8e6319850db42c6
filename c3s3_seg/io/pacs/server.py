"""The interface of a PACS, over any protocol, that `fetch` and `send` need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from c3s3_seg.io.pacs.inbox import Inbox
from c3s3_seg.io.pacs.outbox import Outgoing, Sent
from c3s3_seg.io.pacs.query import FetchLimits, Wanted
from c3s3_seg.io.pacs.staging import gathering, put_in_place


class Server(Protocol):
    """A PACS. Its `str` is its address, without anything secret."""

    def find_studies(self, accession: str, patient: str | None = None) -> list[str]:
        """Return the study UIDs of an accession number, and of a patient if one is given.

        Raises
        ------
        InputError
            If the number cannot be a key, the server cannot be reached or does not answer, or it answers
            with studies of another accession number or patient, of several patients, or without a study UID.
        """

    def transfer(self, inbox: Inbox) -> None:
        """Transfer all files that the inbox requests into the inbox.

        Raises
        ------
        InputError
            If the server cannot be reached, refuses or does not have the study.
        RefusedError
            If files are missing, other files came, or a limit was reached.
        """

    def store(self, files: Sequence[Outgoing]) -> Iterator[Sent]:
        """Store files one after the other, and yield the result of each. To store a file again is safe.

        Raises
        ------
        InputError
            If the server cannot be reached, or refuses this client: then no file was stored.
        """


def fetch_study(server: Server, out: Path, wanted: Wanted, limits: FetchLimits | None = None) -> list[Path]:
    """Fetch a study, or a series of it, to `out/<series UID>/<instance UID>.dcm`: all files or none.

    Files are gathered in a hidden folder and moved into place when the study is complete.

    Parameters
    ----------
    server
        The PACS.
    out
        The output folder.
    wanted
        The request; without a series all series of the study are fetched. A file of another study, series,
        accession number or patient is refused.
    limits
        Limits of time, files and bytes.

    Raises
    ------
    InputError
        If the server cannot be reached, refuses or does not have the study; or a file cannot be written.
    RefusedError
        If files are missing, other files came, or a limit was reached.
    """
    with gathering(out) as aside:
        inbox = Inbox(aside, wanted, limits or FetchLimits())
        server.transfer(inbox)
        return put_in_place(inbox, out)
