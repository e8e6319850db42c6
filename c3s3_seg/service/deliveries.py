"""Delivery of results: objects for each target, and lines for the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from c3s3_seg.service.database import ServiceDatabase


@dataclass(frozen=True)
class Deliveries:
    """The result objects to be stored, those stored, and the lines to be logged.

    Parameters
    ----------
    database
        Database of the service.
    """

    database: ServiceDatabase

    def expect(self, target: str, instances: Sequence[str], key: str, revision: int) -> list[str]:
        """Record objects that are to be stored; return those that are not stored yet."""
        with self.database.transaction():
            for instance in instances:
                self.database.run(
                    "INSERT OR IGNORE INTO objects VALUES (?, ?, ?, ?, NULL)", target, instance, key, revision
                )
            question = "SELECT stored FROM objects WHERE target = ? AND instance = ?"
            return [
                instance for instance in instances if self.database.row(question, target, instance) == (None,)
            ]

    def stored(self, target: str, instance: str) -> None:
        """Record that the target has confirmed an object."""
        question = "UPDATE objects SET stored = ? WHERE target = ? AND instance = ?"
        self.database.run(question, self.database.clock(), target, instance)

    def is_ours(self, instance: str) -> bool:
        """Return whether an object is a result of this service, which a PACS may send back."""
        question = "SELECT 1 FROM objects WHERE instance = ? LIMIT 1"
        return self.database.row(question, instance) is not None

    def unlogged(self) -> list[tuple[str, str]]:
        """Return the lines that wait for the log of results as (id, line), oldest first."""
        rows = self.database.rows("SELECT id, line FROM results ORDER BY rowid")
        return [(str(name), str(line)) for name, line in rows]

    def logged(self, name: str) -> None:
        """Forget a line that is now in the log."""
        self.database.run("DELETE FROM results WHERE id = ?", name)
