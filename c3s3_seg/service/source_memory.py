"""What watched folders and polls remember over a restart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from c3s3_seg.service.database import ServiceDatabase


@dataclass(frozen=True)
class SourceMemory:
    """What was seen and taken.

    Parameters
    ----------
    database
        Of the service.
    """

    database: ServiceDatabase

    def remembered(self, table: Literal["watched", "polls"], key: str) -> str | None:
        """What was noted of an entry of a folder, or of the last poll of a PACS."""
        name, value = _MEMORY[table]
        row = self.database.row(f"SELECT {value} FROM {table} WHERE {name} = ?", key)
        return None if row is None else str(row[0])

    def remember(self, table: Literal["watched", "polls"], key: str, value: str) -> None:
        """Note it."""
        self.database.run(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", key, value)

    def forget_watched(self, folder: str, kept: set[str]) -> None:
        """Entries of a watched folder that are not there any more; its hash begins their keys."""
        question = "SELECT entry FROM watched WHERE substr(entry, 1, ?) = ?"
        known = {row[0] for row in self.database.rows(question, len(folder), folder)}
        for entry in known - kept:
            self.database.run("DELETE FROM watched WHERE entry = ?", entry)

    def polled(self, pacs: str, series: str) -> tuple[int, int]:
        """Objects of a series that a PACS was seen to have, and that were taken; -2: none is known."""
        question = "SELECT seen, taken FROM polled WHERE pacs = ? AND series = ?"
        row = self.database.row(question, pacs, series)
        return (-2, -2) if row is None else (int(row[0]), int(row[1]))

    def note_polled(self, pacs: str, series: str, seen: int, taken: int) -> None:
        """Note both."""
        self.database.run("INSERT OR REPLACE INTO polled VALUES (?, ?, ?, ?)", pacs, series, seen, taken)


_MEMORY = {"watched": ("entry", "signature"), "polls": ("pacs", "day")}
