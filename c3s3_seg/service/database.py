"""The SQLite file of the service: how it is opened, and that what goes wrong with it is said in one line.

    studies    what is to be done, and what was done; refused: files that had no room: `queue`
    objects    results and where they are stored; results: lines that wait for the log: `deliveries`
    polled, polls, watched    what sources remember: `source_memory`

Every change is on the disk before the next step (write-ahead log, synchronous = FULL). One process writes:
whoever holds the lock of the folder.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from c3s3_seg.batch.journal import SQLITE
from c3s3_seg.errors import InputError
from c3s3_seg.system.ownership import check_place, read_head

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


class ServiceDatabase:
    """The open file.

    Parameters
    ----------
    path
        Made if it is not there.
    clock
        Seconds since 1970.

    Raises
    ------
    InputError
        If it is damaged, no regular file, or another program's.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path, self.clock = path, clock
        self._turn = threading.RLock()
        check_place(path, ours=True)  # SQLite follows links and waits for pipes
        head = read_head(path) if path.exists() else b""
        if head and not head.startswith(SQLITE):  # SQLite takes one of less than a page for an empty one
            raise InputError("the queue is damaged: file is not a database", where=path, todo=MOVE)
        with self.guarded():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._refuse_foreign()
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            if self._db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("its structure is broken")
            self._db.executescript(TABLES)

    def _refuse_foreign(self) -> None:
        rows = self._db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").fetchall()
        if rows and dict(rows).get("studies") != STUDIES:
            self._db.close()
            what = "is a database of another program, not our queue"
            raise InputError(what, where=self.path, todo="Give another folder with serve.state")

    def run(self, statement: str, *values: Any) -> int:
        """Change something; gives the number of rows."""
        with self.guarded():
            return self._db.execute(statement, values).rowcount

    def rows(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        """All answers to a question."""
        with self.guarded():
            return self._db.execute(question, values).fetchall()

    def row(self, question: str, *values: Any) -> tuple[Any, ...] | None:
        """The first answer."""
        with self.guarded():
            found: tuple[Any, ...] | None = self._db.execute(question, values).fetchone()
        return found

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is done in the block, or nothing."""
        with self.guarded():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """One thread at a time; errors of SQLite become ours."""
        try:
            with self._turn:
                yield
        except sqlite3.OperationalError as error:
            todo = "Check that the disk has room and that the folder may be written to"
            what = f"the queue cannot be written or read ({error})"
            raise InputError(what, where=self.path, todo=todo) from error
        except sqlite3.Error as error:
            raise InputError(f"the queue is damaged: {error}", where=self.path, todo=MOVE) from error

    def close(self) -> None:
        """Close it; the write-ahead log goes into the file."""
        with self._turn:
            self._db.close()
