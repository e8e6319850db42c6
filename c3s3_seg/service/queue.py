"""The queue: an SQLite file that says of each study what is to be done, and what was done.

    received   files come, or came within the quiet time
    complete   to be segmented
    working    a worker has it
    done       segmented, or nothing in it that the model is for; its results are stored
    failed     an attempt failed; it is repeated at `next_try`
    dead       given up: the attempts are used up, or the same scan would fail again

Every change is on the disk before the next step (write-ahead log, synchronous = FULL). A study is known by
a hash of its UID. One process writes: whoever holds the lock of the folder.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from c3s3_seg.errors import InputError

QueueState = Literal["received", "complete", "working", "done", "failed", "dead"]
STATES: tuple[QueueState, ...] = ("received", "complete", "working", "done", "failed", "dead")
MOST_INTERRUPTED = 20  # times that the service itself died with a study in work
CLOCK_JUMP_S = 60.0
STUDIES = (
    "CREATE TABLE studies (key TEXT PRIMARY KEY, state TEXT NOT NULL, revision INTEGER NOT NULL DEFAULT 0,"
    " attempts INTEGER NOT NULL DEFAULT 0, interrupted INTEGER NOT NULL DEFAULT 0, next_try REAL NOT NULL"
    " DEFAULT 0, changed REAL NOT NULL, again INTEGER NOT NULL DEFAULT 0, removed INTEGER NOT NULL DEFAULT 0,"
    " done TEXT NOT NULL DEFAULT '{}', kind TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '')"
)
TABLES = f"""
{STUDIES.replace("TABLE", "TABLE IF NOT EXISTS")};
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
COLUMNS = "key, state, revision, attempts, interrupted, next_try, changed, again, removed, done, kind, reason"
Clock = Callable[[], float]


@dataclass(frozen=True)
class QueuedStudy:
    """A study in the queue.

    Parameters
    ----------
    key
        Hash of its UID.
    state
        See the module.
    revision
        Number of its results: 0 before the first.
    attempts, interrupted
        Failed attempts since it was complete; times that the service died meanwhile.
    next_try, changed
        Seconds since 1970: when it is due; when its state changed last.
    again
        Whether a file came while it was in work.
    removed
        Whether its files were removed after it was done.
    done
        Series of the last result, see `Contents`.
    kind, reason
        Of the last failure; no patient data.
    """

    key: str
    state: QueueState
    revision: int
    attempts: int
    interrupted: int
    next_try: float
    changed: float
    again: bool
    removed: bool
    done: dict[str, Any]
    kind: str
    reason: str


@dataclass(frozen=True)
class Finished:
    """How a study ended.

    Parameters
    ----------
    revision
        Of the result.
    done
        Its series, for comparison with what comes later.
    line
        For the log of results; "" where there is none.
    kind, reason
        Why nothing was segmented; "" where something was.
    """

    revision: int
    done: dict[str, Any]
    line: str = ""
    kind: str = ""
    reason: str = ""


@dataclass
class _Touched:
    """Files of a study that came since the start."""

    when: float


@dataclass
class StudyQueue:
    """The open queue.

    Parameters
    ----------
    path
        The SQLite file; made if it is not there.
    clock
        Seconds since 1970.
    """

    path: Path
    clock: Clock
    _touched: dict[str, _Touched] = field(default_factory=dict)
    _turn: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        """Open it."""
        with self._guarded():
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
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

    # What comes in

    def touch(self, key: str) -> None:
        """A file of a study comes: said before the file is written, and once more after it."""
        now = self.clock()
        with self._guarded():
            fresh = key not in self._touched
            self._touched[key] = _Touched(now)
            row = self._db.execute("SELECT state, again FROM studies WHERE key = ?", (key,)).fetchone()
            if row is None:
                self._run("INSERT INTO studies (key, state, changed) VALUES (?, 'received', ?)", key, now)
            elif row[0] == "working":
                if not row[1]:
                    self._run("UPDATE studies SET again = 1 WHERE key = ?", key)
            elif row[0] != "received" or fresh:
                self._run("UPDATE studies SET state = 'received', changed = ? WHERE key = ?", now, key)

    def close_quiet(self, quiet_s: float) -> list[str]:
        """Studies of which no file came for so long are complete; gives their keys."""
        now = self.clock()
        found = []
        with self._guarded():
            rows = self._db.execute("SELECT key, changed FROM studies WHERE state = 'received'").fetchall()
            for key, changed in rows:
                last = max(changed, self._touched[key].when) if key in self._touched else changed
                if now - last >= quiet_s or last > now + CLOCK_JUMP_S:  # the clock was set back
                    self._move(key, "complete", attempts=0, next_try=now)
                    self._touched.pop(key, None)
                    found.append(key)
        return found

    # What is worked on

    def claim(self) -> QueuedStudy | None:
        """The study that is due, in work from now on; None if there is none."""
        now = self.clock()
        with self._guarded():
            row = self._db.execute(
                "SELECT key FROM studies WHERE state IN ('complete', 'failed') AND (next_try <= ? OR next_try"
                " > ? + 1e6) ORDER BY next_try LIMIT 1",
                (now, now),
            ).fetchone()
            if row is None:
                return None
            self._move(row[0], "working", again=0)
            return self.get(row[0])

    def finish(self, key: str, finished: Finished) -> None:
        """It is done, and its line waits to be logged: one transaction."""
        with self._transaction():
            if finished.line:
                name = f"{key}-{finished.revision}"
                self._run("INSERT OR IGNORE INTO results VALUES (?, ?)", name, finished.line)
            again = self._again(key)
            self._move(
                key, "received" if again else "done", again=0, attempts=0, interrupted=0, removed=0,
                revision=finished.revision, done=json.dumps(finished.done), kind=finished.kind,
                reason=finished.reason,
            )  # fmt: skip

    def fail(self, key: str, kind: str, reason: str, wait_s: float | None) -> QueueState:
        """An attempt failed; it is repeated after so long, or, with None, never."""
        with self._transaction():
            state: QueueState = "dead" if wait_s is None else "failed"
            again = self._again(key)
            (attempts,) = self._db.execute("SELECT attempts FROM studies WHERE key = ?", (key,)).fetchone()
            self._move(
                key, "received" if again else state, again=0, attempts=attempts + 1, kind=kind,
                reason=reason, next_try=self.clock() + (wait_s or 0.0),
            )  # fmt: skip
            return "received" if again else state

    def give_back(self, key: str) -> None:
        """A study whose work was broken off by us: to be done again, and no attempt is counted."""
        with self._guarded():
            self._move(key, "received" if self._again(key) else "complete", again=0, next_try=self.clock())

    def recover(self) -> int:
        """At the start: what was in work when the service died is done again; gives how many studies."""
        with self._transaction():
            rows = self._db.execute("SELECT key, interrupted FROM studies WHERE state = 'working'").fetchall()
            for key, interrupted in rows:
                reason = f"the service died {interrupted + 1} times while it was in work"
                if interrupted + 1 >= MOST_INTERRUPTED:
                    self._move(key, "dead", interrupted=interrupted + 1, kind="interrupted", reason=reason)
                    continue
                state: QueueState = "received" if self._again(key) else "complete"
                self._move(key, state, interrupted=interrupted + 1, again=0, next_try=self.clock())
            now = self.clock()  # when the last file of these came is not known
            self._run("UPDATE studies SET changed = ? WHERE state = 'received'", now)
        return len(rows)

    def revive(self) -> int:
        """Try all dead studies again."""
        with self._guarded():
            return self._run(
                "UPDATE studies SET state = 'complete', attempts = 0, interrupted = 0, next_try = ? WHERE"
                " state = 'dead'",
                self.clock(),
            )

    # What is known

    def get(self, key: str) -> QueuedStudy | None:
        """One study."""
        with self._guarded():
            row = self._db.execute(f"SELECT {COLUMNS} FROM studies WHERE key = ?", (key,)).fetchone()
        return None if row is None else _study(row)

    def counts(self) -> dict[str, int]:
        """How many studies are in each state."""
        with self._guarded():
            rows = self._db.execute("SELECT state, count(*) FROM studies GROUP BY state").fetchall()
        counts: dict[str, int] = dict.fromkeys(STATES, 0)
        return counts | dict(rows)

    def finished_before(self, when: float, *, removed: bool) -> list[QueuedStudy]:
        """Studies that were done before then, and whose files were removed or not."""
        question = f"SELECT {COLUMNS} FROM studies WHERE state = 'done' AND removed = ? AND changed < ?"
        with self._guarded():
            return [_study(row) for row in self._db.execute(question, (int(removed), when)).fetchall()]

    @contextmanager
    def removing(self, key: str) -> Iterator[bool]:
        """While the files of a done study are removed; False if it is not done any more."""
        with self._guarded():
            row = self.get(key)
            good = row is not None and row.state == "done"
            if good:
                self._run("UPDATE studies SET removed = 1 WHERE key = ?", key)
            yield good

    # What was stored and logged

    def expect(self, target: str, instances: Sequence[str], key: str, revision: int) -> list[str]:
        """Note objects that are to be stored; gives those that are not stored yet."""
        with self._transaction():
            for instance in instances:
                self._run(
                    "INSERT OR IGNORE INTO objects VALUES (?, ?, ?, ?, NULL)", target, instance, key, revision
                )
            question = "SELECT stored FROM objects WHERE target = ? AND instance = ?"
            return [
                instance
                for instance in instances
                if self._db.execute(question, (target, instance)).fetchone() == (None,)
            ]

    def stored(self, target: str, instance: str) -> None:
        """The target has said that it has the object."""
        with self._guarded():
            question = "UPDATE objects SET stored = ? WHERE target = ? AND instance = ?"
            self._run(question, self.clock(), target, instance)

    def is_ours(self, instance: str) -> bool:
        """Whether an object is a result of ours, which a PACS may send on to us."""
        with self._guarded():
            question = "SELECT 1 FROM objects WHERE instance = ? LIMIT 1"
            return self._db.execute(question, (instance,)).fetchone() is not None

    def unlogged(self) -> list[tuple[str, str]]:
        """Lines that wait to be written to the log of results, each with its id."""
        with self._guarded():
            return [
                tuple(r) for r in self._db.execute("SELECT id, line FROM results ORDER BY rowid").fetchall()
            ]

    def logged(self, name: str) -> None:
        """A line is in the log."""
        with self._guarded():
            self._run("DELETE FROM results WHERE id = ?", name)

    # What sources remember

    def remembered(self, table: Literal["watched", "polls"], key: str) -> str | None:
        """What was noted of an entry of a folder, or of the last poll of a PACS."""
        name, value = _MEMORY[table]
        with self._guarded():
            row = self._db.execute(f"SELECT {value} FROM {table} WHERE {name} = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def remember(self, table: Literal["watched", "polls"], key: str, value: str) -> None:
        """Note it."""
        with self._guarded():
            self._run(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", key, value)

    def forget_watched(self, folder: str, kept: set[str]) -> None:
        """Entries of a watched folder that are not there any more; its hash begins their keys."""
        question = "SELECT entry FROM watched WHERE substr(entry, 1, ?) = ?"
        with self._guarded():
            known = {row[0] for row in self._db.execute(question, (len(folder), folder)).fetchall()}
            for entry in known - kept:
                self._run("DELETE FROM watched WHERE entry = ?", entry)

    def polled(self, pacs: str, series: str) -> tuple[int, int]:
        """Objects of a series that a PACS was seen to have, and that were taken; -2: none is known."""
        with self._guarded():
            row = self._db.execute(
                "SELECT seen, taken FROM polled WHERE pacs = ? AND series = ?", (pacs, series)
            ).fetchone()
        return (-2, -2) if row is None else (int(row[0]), int(row[1]))

    def note_polled(self, pacs: str, series: str, seen: int, taken: int) -> None:
        """Note both."""
        with self._guarded():
            self._run("INSERT OR REPLACE INTO polled VALUES (?, ?, ?, ?)", pacs, series, seen, taken)

    def close(self) -> None:
        """Close it; the write-ahead log goes into the file."""
        with self._turn:
            self._db.close()

    # Within

    def _again(self, key: str) -> bool:
        row = self._db.execute("SELECT again FROM studies WHERE key = ?", (key,)).fetchone()
        return bool(row and row[0])

    def _move(self, key: str, state: QueueState, **columns: Any) -> None:
        columns = {"state": state, "changed": self.clock(), **columns}
        names = ", ".join(f"{name} = ?" for name in columns)
        self._run(f"UPDATE studies SET {names} WHERE key = ?", *columns.values(), key)

    def _run(self, statement: str, *values: Any) -> int:
        return self._db.execute(statement, values).rowcount

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._guarded():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            with self._turn:
                yield
        except sqlite3.OperationalError as error:
            todo = "Check that the disk has room and that the folder may be written to"
            what = f"the queue cannot be written or read ({error})"
            raise InputError(what, where=self.path, todo=todo) from error
        except sqlite3.Error as error:
            todo = "Move it away: what the spool holds is done again"
            raise InputError(f"the queue is damaged: {error}", where=self.path, todo=todo) from error


_MEMORY = {"watched": ("entry", "signature"), "polls": ("pacs", "day")}


def _study(row: tuple[Any, ...]) -> QueuedStudy:
    key, state, revision, attempts, interrupted, next_try, changed, again, removed, done, kind, reason = row
    return QueuedStudy(
        key, state, revision, attempts, interrupted, next_try, changed, bool(again), bool(removed),
        json.loads(done), kind, reason,
    )  # fmt: skip
