"""Results on their way out: objects for each target, and lines for the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from c3s3_seg.service.database import ServiceDatabase


@dataclass(frozen=True)
class Deliveries:
    """What is to be stored and logged, and what was.

    Parameters
    ----------
    database
        Of the service.
    """

    database: ServiceDatabase

    def expect(self, target: str, instances: Sequence[str], key: str, revision: int) -> list[str]:
        """Note objects that are to be stored; gives those that are not stored yet."""
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
        """The target has said that it has the object."""
        question = "UPDATE objects SET stored = ? WHERE target = ? AND instance = ?"
        self.database.run(question, self.database.clock(), target, instance)

    def is_ours(self, instance: str) -> bool:
        """Whether an object is a result of ours, which a PACS may send on to us."""
        question = "SELECT 1 FROM objects WHERE instance = ? LIMIT 1"
        return self.database.row(question, instance) is not None

    def unlogged(self) -> list[tuple[str, str]]:
        """Lines that wait to be written to the log of results, each with its id."""
        rows = self.database.rows("SELECT id, line FROM results ORDER BY rowid")
        return [(str(name), str(line)) for name, line in rows]

    def logged(self, name: str) -> None:
        """A line is in the log."""
        self.database.run("DELETE FROM results WHERE id = ?", name)
