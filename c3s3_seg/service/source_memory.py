"""The memory of watched folders and polls, kept over a restart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from c3s3_seg.service.database import ServiceDatabase


@dataclass(frozen=True)
class SourceMemory:
    """The entries and series that sources have seen and taken.

    Parameters
    ----------
    database
        Database of the service.
    """

    database: ServiceDatabase

    def remembered(self, table: Literal["watched", "polls"], key: str) -> str | None:
        """Return the signature of a folder's entry, or the day of a PACS's last poll; None if unknown."""
        name, value = _MEMORY[table]
        row = self.database.row(f"SELECT {value} FROM {table} WHERE {name} = ?", key)
        return None if row is None else str(row[0])

    def remember(self, table: Literal["watched", "polls"], key: str, value: str) -> None:
        """Record a signature or a day."""
        self.database.run(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", key, value)

    def forget_watched(self, folder: str, kept: set[str]) -> None:
        """Delete entries that have gone from a watched folder, whose hash begins their keys."""
        question = "SELECT entry FROM watched WHERE substr(entry, 1, ?) = ?"
        known = {row[0] for row in self.database.rows(question, len(folder), folder)}
        for entry in known - kept:
            self.database.run("DELETE FROM watched WHERE entry = ?", entry)

    def polled(self, pacs: str, series: str) -> tuple[int, int]:
        """Return the numbers of objects of a series seen on a PACS, and taken; both -2 if unknown."""
        question = "SELECT seen, taken FROM polled WHERE pacs = ? AND series = ?"
        row = self.database.row(question, pacs, series)
        return (-2, -2) if row is None else (int(row[0]), int(row[1]))

    def note_polled(self, pacs: str, series: str, seen: int, taken: int) -> None:
        """Record both numbers."""
        self.database.run("INSERT OR REPLACE INTO polled VALUES (?, ?, ?, ?)", pacs, series, seen, taken)


_MEMORY = {"watched": ("entry", "signature"), "polls": ("pacs", "day")}
