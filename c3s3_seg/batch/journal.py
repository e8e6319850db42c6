"""The journal of an output folder: an SQLite file that says what became of each case.

    runs    one row for each start of the program: when, with what (JSON)
    cases   one row for each case: state begun, done or failed; with which setting; the outcome (JSON)

Every change is on the disk before the next step (write-ahead log, synchronous = FULL), so neither a
kill nor a power cut loses what was recorded. SQLite has no checksum for its rows: each carries a
sha256 of its own, and a journal in which a bit has turned is refused, not believed.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from c3s3_seg.batch.records import Outcome
from c3s3_seg.errors import InputError
from c3s3_seg.system.files import parse_json, read_regular
from c3s3_seg.system.lock import now
from c3s3_seg.system.ownership import TODO, read_head
from c3s3_seg.system.schema import parse, plain
from c3s3_seg.system.shard import Shard

STEM = "journal"
SQLITE = b"SQLite format 3\0"
LARGEST = 1 << 30  # bytes; 100,000 cases have some 300 MB
State = Literal["begun", "done", "failed", "skipped"]
RUNS = "CREATE TABLE runs (id INTEGER PRIMARY KEY, started TEXT, ended TEXT, details TEXT)"
TABLES = f"""
{RUNS.replace("TABLE", "TABLE IF NOT EXISTS")};
CREATE TABLE IF NOT EXISTS cases (name TEXT PRIMARY KEY, run INTEGER, state TEXT, changed TEXT,
                                  setting TEXT, outcome TEXT, seal TEXT);
"""


@dataclass(frozen=True)
class JournalRecord:
    """What the journal knows of a case.

    Parameters
    ----------
    state
        `begun`: its files may be there, in whole, but it was not finished. `skipped`: a series that the
        domain check refused, of a study of which another one was segmented.
    setting
        Hash of weights and settings that it was done with.
    outcome
        What became of it; of one that was begun only name and scan are known.
    run
        Number of the run that did it.
    changed
        When, UTC.
    """

    state: State
    setting: str
    outcome: Outcome
    run: int
    changed: str


class Journal:
    """An open journal. One process writes it: whoever holds the folder's lock.

    Parameters
    ----------
    path
        The SQLite file; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = 0
        self._details: dict[int, dict[str, Any] | None] = {}
        # Cases are begun by the thread that reads them and recorded by the one that waits for them.
        self._turn = threading.RLock()
        _check_files(path)
        with self._guarded():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._refuse_foreign()
        with self._guarded():
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            if self._db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("its structure is broken")
            self._db.executescript(TABLES)

    def _refuse_foreign(self) -> None:
        """Before anything is changed: what tables there are. After a kill they may be in the log alone."""
        with self._guarded():
            rows = self._db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").fetchall()
        if rows and dict(rows).get("runs") != RUNS:
            self._db.close()
            what = "is a database of another program, not our journal"
            raise InputError(what, where=self.path, todo=TODO)

    def start(self, details: dict[str, Any]) -> None:
        """Begin a run; what is recorded from now on is of this run."""
        with self._guarded():
            cursor = self._db.execute(
                "INSERT INTO runs (started, details) VALUES (?, ?)", (now(), json.dumps(details))
            )
            self.run = int(cursor.lastrowid or 0)

    def end(self) -> None:
        """Say that the run came to its end."""
        with self._guarded():
            self._db.execute("UPDATE runs SET ended = ? WHERE id = ?", (now(), self.run))

    def begin(self, outcome: Outcome, setting: str) -> None:
        """Say which files of a case may appear from now on, each with the hash "", and what it had before."""
        self._put("begun", setting, outcome)

    def record(self, outcome: Outcome, setting: str) -> None:
        """Say what became of a case."""
        failed: State = "skipped" if outcome.passed_over else "failed"
        self._put("done" if outcome.row is not None else failed, setting, outcome)

    def adopt(self, record: JournalRecord) -> None:
        """Put in a record as it is, with its time and the number of its run."""
        self._put(record.state, record.setting, record.outcome, (record.run, record.changed))

    def adopt_run(self, details: dict[str, Any]) -> int:
        """Put in a run of another journal; gives its number here."""
        rest = {k: v for k, v in details.items() if k not in ("run", "started", "ended")}
        values = (details["started"], details["ended"], json.dumps(rest))
        with self._guarded():
            same = "SELECT id FROM runs WHERE started = ? AND ended IS ? AND details = ?"
            known = self._db.execute(same, values).fetchone()
            if known is not None:
                return int(known[0])
            cursor = self._db.execute("INSERT INTO runs (started, ended, details) VALUES (?, ?, ?)", values)
            return int(cursor.lastrowid or 0)

    def get(self, case: str) -> JournalRecord | None:
        """What is known of a case.

        Raises
        ------
        InputError
            If its row is not the one that was written.
        """
        with self._guarded():
            row = self._db.execute("SELECT * FROM cases WHERE name = ?", (_text(case),)).fetchone()
        return None if row is None else self._record(row)

    def records(self) -> Iterator[JournalRecord]:
        """All cases by name."""
        with self._guarded():
            rows = self._db.execute("SELECT * FROM cases ORDER BY name").fetchall()
        for row in rows:
            yield self._record(row)

    def details(self, run: int) -> dict[str, Any] | None:
        """What one run was started with; None where it is not known."""
        if run not in self._details:
            with self._guarded():
                row = self._db.execute("SELECT details FROM runs WHERE id = ?", (run,)).fetchone()
                found = None if row is None else parse_json(row[0], self.path)
            self._details[run] = found if isinstance(found, dict) else None
        return self._details[run]

    def runs(self) -> Iterator[dict[str, Any]]:
        """All runs in their order: id, started, ended and the details."""
        with self._guarded():
            rows = self._db.execute("SELECT * FROM runs ORDER BY id").fetchall()
        for number, started, ended, details in rows:
            with self._guarded():
                yield {"run": number, "started": started, "ended": ended, **json.loads(details)}

    def lines(self) -> Iterator[str]:
        """The journal as JSON lines: first the runs, then the cases."""
        for run in self.runs():
            yield json.dumps(run)
        for record in self.records():
            details = plain(asdict(record.outcome))
            yield json.dumps({"state": record.state, "run": record.run, "changed": record.changed, **details})

    def close(self) -> None:
        """Close it; the write-ahead log goes into the file."""
        self._db.close()

    def _put(self, state: State, setting: str, outcome: Outcome, when: tuple[int, str] | None = None) -> None:
        body = json.dumps(asdict(outcome))
        run, changed = when or (self.run, now())
        values = (_text(outcome.case), run, state, changed, setting, body)
        with self._guarded():
            self._db.execute(
                "INSERT OR REPLACE INTO cases VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, _hmac(values))
            )

    def _record(self, row: tuple[Any, ...]) -> JournalRecord:
        *values, seal = row
        name, run, state, changed, setting, body = values
        if _hmac(tuple(values)) != seal:
            raise self._damaged(f"the row of case '{name}' is not the one that was written")
        try:
            outcome = parse(Outcome, parse_json(body, self.path), self.path)
        except InputError as error:
            raise self._damaged(f"the row of case '{name}': {error.what}") from error
        return JournalRecord(state, setting, outcome, run, changed)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            with self._turn:
                yield
        except sqlite3.OperationalError as error:
            todo = "Check that the disk has room and that the folder may be written to"
            raise InputError(
                f"the journal cannot be written or read ({error})", where=self.path, todo=todo
            ) from error
        except RecursionError:
            raise self._damaged("a row is nested too deep") from None
        except (sqlite3.Error, UnicodeDecodeError, ValueError, TypeError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> InputError:
        return _damage(why, self.path)


def _damage(why: str, path: Path) -> InputError:
    todo = "Move it away and run again: masks that are there stay until they are made anew"
    return InputError(f"the journal is damaged: {why}", where=path, todo=todo)


def _check_files(path: Path) -> None:
    """SQLite follows links, waits for pipes, makes its tables in other programs' files: none is opened."""
    for part in ("", "-wal", "-shm", "-journal"):
        file = path.with_name(path.name + part)
        with suppress(FileNotFoundError, NotADirectoryError):
            details = file.lstat()
            if not stat.S_ISREG(details.st_mode) or details.st_nlink > 1:
                what = "is a link or no regular file, wanted the journal that c3s3-seg makes here"
                raise InputError(what, where=file, todo=TODO)
    with suppress(FileNotFoundError, NotADirectoryError):
        head = read_head(path)
        if head and not head.startswith(SQLITE):  # SQLite takes one of less than a page for an empty one
            raise _damage("file is not a database", path)


def journal_path(folder: Path, shard: Shard | None = None) -> Path:
    """Where the journal of a folder, or of one shard in it, is."""
    return folder / (f"{STEM}.sqlite" if shard is None else f"{STEM}.{shard}.sqlite")


def records_of(path: Path) -> list[JournalRecord]:
    """All cases of a journal that stays as it is: SQLite opens a copy, with the log that a kill has left.

    Raises
    ------
    InputError
        If it is damaged, no regular file, or not ours.
    """
    _check_files(path)
    with tempfile.TemporaryDirectory(prefix="c3s3-seg-") as folder:
        copy = Path(folder) / path.name
        for part in ("", "-wal"):
            if path.with_name(path.name + part).exists():
                content = read_regular(path.with_name(path.name + part), LARGEST)
                copy.with_name(copy.name + part).write_bytes(content)
        journal = Journal(copy)
        try:
            return list(journal.records())
        finally:
            journal.close()


def gather(journal: Journal, folder: Path) -> int:
    """Take over what shards have recorded since; gives the number of cases that were new.

    Raises
    ------
    InputError
        If a shard's journal is damaged.
    """
    taken = 0
    for path in sorted(folder.glob(f"{STEM}.*-of-*.sqlite")):
        other = Journal(path)
        try:
            runs = {run["run"]: run for run in other.runs()}
            for record in other.records():
                known = journal.get(record.outcome.case)
                if known is None or known.changed < record.changed:
                    run = journal.adopt_run(runs[record.run]) if record.run in runs else record.run
                    journal.adopt(replace(record, run=run))
                    taken += 1
        finally:
            other.close()
    return taken


def _text(name: str) -> str:
    """A file name need not be Unicode; a column of SQLite must be."""
    return name.encode("utf-8", "backslashreplace").decode()


def _hmac(values: tuple[Any, ...]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
