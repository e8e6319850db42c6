"""An SQLite file of this package: opened with care, written by one process, with one-line errors.

Every change is on the disk before the next step (write-ahead log, synchronous = FULL), so neither a kill nor
a power cut loses what was recorded.
"""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError
from c3s3_seg.system.ownership import TODO, read_head
from c3s3_seg.system.reading import read_regular

HEAD = b"SQLite format 3\0"
PARTS = ("", "-wal", "-shm", "-journal")
LARGEST = 1 << 30  # bytes; the journal of 100,000 cases has some 300 MB
LOG_HEAD = 32  # bytes
COPIES = 10  # attempts to copy a file that is being written
LIST = "SELECT type, name, sql FROM sqlite_schema"

Entry = tuple[str, str]  # kind and name


@dataclass(frozen=True)
class Schema:
    """The tables of a database of this package, and the words of its messages.

    Parameters
    ----------
    name
        Name in messages: "journal", "queue".
    tables
        Statements that create missing tables.
    mark, statement
        Table that identifies such a database, and the statement that creates the table.
    instead, moved
        Advice if another program's database is in its place; if the database is damaged.
    """

    name: str
    tables: str
    mark: str
    statement: str
    instead: str
    moved: str


class Database:
    """An open database.

    Parameters
    ----------
    path
        Path of the file; created if missing.
    schema
        Schema of the database.

    Raises
    ------
    InputError
        If the file is damaged, not regular, or of another program or another version of this one.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        self.path, self.schema = path, schema
        self._turn = threading.RLock()
        check_files(path, schema)
        with self.guarded():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        with self.guarded():
            # One process uses the file. So the log needs no memory shared by processes, which a network share
            # cannot give (https://sqlite.org/wal.html, "Use of WAL Without Shared-Memory").
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            # List all before anything is changed. After a kill it may be in the log alone.
            self._check_contents(_listed(self._db))
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            if self._db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("its structure is broken")
            self._db.executescript(self.schema.tables)

    def _check_contents(self, found: dict[Entry, str | None]) -> None:
        """Refuse what another program, or another version of this one, has made.

        A view or a trigger may never end, or drop what is recorded, so none is left in the file.
        """
        schema = self.schema
        if found and found.get(("table", schema.mark)) != schema.statement:
            what = f"is a database of another program, not our {schema.name}"
            raise InputError(what, where=self.path, todo=schema.instead)
        with closing(sqlite3.connect(":memory:")) as fresh:
            fresh.executescript(schema.tables)
            wanted = _listed(fresh)
        if not found.items() <= wanted.items():
            what = f"is the {schema.name} of another version of this program, or was changed"
            raise InputError(what, where=self.path, todo=schema.moved)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Execute a statement that changes the database; return its cursor."""
        with self.guarded():
            return self._db.execute(statement, values)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self.guarded():
            return self._db.execute(query, values).fetchall()

    def row(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        """Return the first row of a query; None if there is no row."""
        with self.guarded():
            found: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
        return found

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all statements of the block, or none if it raises."""
        with self.guarded():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # on a full disk SQLite may have rolled back by itself
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Admit one thread at a time; turn errors of SQLite into InputError."""
        try:
            with self._turn:
                yield
        except sqlite3.OperationalError as error:
            todo = "Check that the disk has room and that the folder may be written to"
            what = f"the {self.schema.name} cannot be written or read ({error})"
            raise InputError(what, where=self.path, todo=todo) from error
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self.damage(str(error)) from error

    def damage(self, why: str) -> InputError:
        """Return the error for content that differs from what was written."""
        return _damage(why, self.path, self.schema)

    def close(self) -> None:
        """Close the database; SQLite merges the write-ahead log into the file."""
        with self._turn:
            self._db.close()


def _listed(database: sqlite3.Connection) -> dict[Entry, str | None]:
    """Return the statement of each table, index, view and trigger; None for an index that SQLite has made."""
    return {(kind, name): statement for kind, name, statement in database.execute(LIST)}


def _damage(why: str, path: Path, schema: Schema) -> InputError:
    return InputError(f"the {schema.name} is damaged: {why}", where=path, todo=schema.moved)


def check_files(path: Path, schema: Schema) -> None:
    """Refuse links, pipes and other files, which SQLite would follow, wait for or write tables into.

    Raises
    ------
    InputError
        If a part of the database is a link, no regular file, or no database.
    """
    for part in PARTS:
        file = path.with_name(path.name + part)
        with suppress(FileNotFoundError, NotADirectoryError):
            details = file.lstat()
            if not stat.S_ISREG(details.st_mode) or details.st_nlink > 1:
                what = f"is a link or no regular file, wanted the {schema.name} that c3s3-seg makes here"
                raise InputError(what, where=file, todo=TODO)
    with suppress(FileNotFoundError, NotADirectoryError):
        head = read_head(path)
        if head and not head.startswith(HEAD):  # for SQLite a file of less than a page is empty
            raise _damage("file is not a database", path, schema)


def copy_database(path: Path, copy: Path, schema: Schema) -> None:
    """Copy a database that another process may be writing, and its log; a missing file is copied as empty.

    Records appended to the log meanwhile are complete or ignored. But if the log is restarted, its content is
    in the database alone, of which an older state was copied. Then the log has another header, with another
    salt (https://sqlite.org/fileformat2.html, 4.1), and both are copied again.

    Parameters
    ----------
    path, copy
        Path of the database, and of the copy, in a folder of its own.
    schema
        Schema of the database.

    Raises
    ------
    InputError
        Same as in `check_files`; or if a file cannot be read, or the log was restarted every time.
    """
    check_files(path, schema)
    log, copied_log = (place.with_name(f"{place.name}-wal") for place in (path, copy))
    for _ in range(COPIES):
        begun = _content(log)[:LOG_HEAD]
        copy.write_bytes(_content(path))
        copied_log.write_bytes(_content(log))
        if copied_log.read_bytes()[:LOG_HEAD] == begun:
            return
    todo = "Wait until the run that writes it has ended"
    raise InputError(f"the {schema.name} changes while it is read", where=path, todo=todo)


def _content(path: Path) -> bytes:
    """Return the content of a part of a database; b"" if the part is missing or has gone."""
    try:
        return read_regular(path, LARGEST)
    except InputError:
        if path.exists():
            raise
        return b""
