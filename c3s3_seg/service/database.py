"""The SQLite file of the service.

    studies    the state of each study; refused: files that could not be stored: `queue`
    objects    results and where they are stored; results: lines that wait for the log: `deliveries`
    polled, polls, watched    the memory of the sources: `source_memory`

Only the process that holds the lock of the folder writes to the file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from c3s3_seg.system.database import Database, Schema
from c3s3_seg.system.ownership import check_place

Clock = Callable[[], float]
MOVE = "Move it away: what the spool holds is done again"
STUDIES = (
    "CREATE TABLE studies (key TEXT PRIMARY KEY, state TEXT NOT NULL, revision INTEGER NOT NULL DEFAULT 0,"
    " attempts INTEGER NOT NULL DEFAULT 0, interrupted INTEGER NOT NULL DEFAULT 0, next_try REAL NOT NULL"
    " DEFAULT 0, changed REAL NOT NULL, again INTEGER NOT NULL DEFAULT 0, removed INTEGER NOT NULL DEFAULT 0,"
    " done TEXT NOT NULL DEFAULT '{}', kind TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '')"
)
TABLES = f"""
{STUDIES.replace("TABLE", "TABLE IF NOT EXISTS")};
CREATE TABLE IF NOT EXISTS refused (study TEXT, instance TEXT, PRIMARY KEY (study, instance));
CREATE INDEX IF NOT EXISTS by_state ON studies (state, next_try);
CREATE TABLE IF NOT EXISTS objects (target TEXT, instance TEXT, study TEXT, revision INTEGER, stored REAL,
                                    PRIMARY KEY (target, instance));
CREATE INDEX IF NOT EXISTS by_instance ON objects (instance);
CREATE TABLE IF NOT EXISTS results (id TEXT PRIMARY KEY, line TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS polled (pacs TEXT, series TEXT, seen INTEGER, taken INTEGER,
                                   PRIMARY KEY (pacs, series));
CREATE TABLE IF NOT EXISTS polls (pacs TEXT PRIMARY KEY, day TEXT);
CREATE TABLE IF NOT EXISTS watched (entry TEXT PRIMARY KEY, signature TEXT);
"""
SCHEMA = Schema("queue", TABLES, "studies", STUDIES, "Give another folder with serve.state", MOVE)


class ServiceDatabase(Database):
    """The open SQLite file of the service.

    Parameters
    ----------
    path
        Path of the file; created if missing.
    clock
        Called to get the seconds since 1970.

    Raises
    ------
    InputError
        If the file is damaged, no regular file, or another program's.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        check_place(path, ours=True)
        super().__init__(path, SCHEMA)
        self.clock = clock

    def run(self, statement: str, *values: Any) -> int:
        """Execute a statement that changes rows; return their number."""
        return self.execute(statement, *values).rowcount
