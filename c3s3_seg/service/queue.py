"""The queue: what is to be done of each study, and what was done.

    received   files come, or came within the quiet time
    complete   to be segmented
    working    a worker has it
    done       segmented, or nothing in it that the model is for; its results are stored
    failed     an attempt failed; it is repeated at `next_try`
    dead       given up: the attempts are used up, or the same scan would fail again

A study is known by a hash of its UID.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from c3s3_seg.errors import InputError, quantity
from c3s3_seg.service.database import MOVE, ServiceDatabase

QueueState = Literal["received", "complete", "working", "done", "failed", "dead"]
STATES: tuple[QueueState, ...] = ("received", "complete", "working", "done", "failed", "dead")
MOST_INTERRUPTED = 20  # times that the service itself died with a study in work
CLOCK_JUMP_S = 60.0
COLUMNS = "key, state, revision, attempts, interrupted, next_try, changed, again, removed, done, kind, reason"


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
class StudyQueue:
    """The studies.

    Parameters
    ----------
    database
        Of the service.
    """

    database: ServiceDatabase
    _touched: dict[str, float] = field(default_factory=dict)  # study -> when its last file came

    # What comes in

    def touch(self, key: str) -> None:
        """A file of a study comes: said before the file is written, and once more after it."""
        now = self.database.clock()
        with self.database.guarded():
            fresh = key not in self._touched
            self._touched[key] = now
            row = self.database.row("SELECT state, again FROM studies WHERE key = ?", key)
            if row is None:
                self.database.run(
                    "INSERT INTO studies (key, state, changed) VALUES (?, 'received', ?)", key, now
                )
            elif row[0] == "working":
                if not row[1]:
                    self.database.run("UPDATE studies SET again = 1 WHERE key = ?", key)
            elif row[0] != "received" or fresh:
                self.database.run(
                    "UPDATE studies SET state = 'received', changed = ?, removed = 0 WHERE key = ?", now, key
                )

    def refuse(self, key: str, instance: str) -> None:
        """A file of a study had no room, or could not be written: the study is not complete without it."""
        self.touch(key)
        self.database.run("INSERT OR IGNORE INTO refused VALUES (?, ?)", key, instance)

    def accept(self, key: str, instance: str) -> None:
        """A file of a study is in the spool: it may have been refused before."""
        self.touch(key)
        if self.database.row("SELECT 1 FROM refused WHERE study = ? LIMIT 1", key) is not None:
            self.database.run("DELETE FROM refused WHERE study = ? AND instance = ?", key, instance)

    def still_comes(self, key: str, instance: str) -> None:
        """A file that is there already came once more: as after a transfer that was broken off."""
        question = "SELECT 1 FROM refused WHERE study = ? AND instance = ?"
        with self.database.guarded():
            if self.database.row(question, key, instance) is not None:
                self.accept(key, instance)  # a kill came between its writing and this note
            if key in self._touched:
                self._touched[key] = self.database.clock()

    def close_quiet(self, quiet_s: float, being_sent: Collection[str] = ()) -> list[str]:
        """Studies of which no file came for so long, and none is to come, are complete; gives their keys."""
        now = self.database.clock()
        found = []
        with self.database.guarded():
            rows = self.database.rows("SELECT key, changed FROM studies WHERE state = 'received'")
            for key, changed in rows:
                last = max(changed, self._touched[key]) if key in self._touched else changed
                if key in being_sent:
                    continue
                if now - last >= quiet_s or last > now + CLOCK_JUMP_S:  # the clock was set back
                    self._close(key, now)
                    self._touched.pop(key, None)
                    found.append(key)
        return found

    def follow_clock(self) -> None:
        """Times of a clock that was set back since become those of now: nothing waits for it."""
        now = self.database.clock()
        statement = "UPDATE studies SET changed = ?, next_try = min(next_try, ?) WHERE changed > ?"
        self.database.run(statement, now, now, now + CLOCK_JUMP_S)

    def _close(self, key: str, now: float) -> None:
        (missing,) = self.database.row("SELECT count(*) FROM refused WHERE study = ?", key) or (0,)
        if not missing:
            self._move(key, "complete", attempts=0, next_try=now, kind="", reason="")
            return
        why = "had no room, could not be written, or made it larger than allowed"
        reason = f"{quantity(missing, 'file')} of it {why}; it has to be sent again"
        self._move(key, "dead", kind="no room", reason=reason)

    # What is worked on

    def claim(self) -> QueuedStudy | None:
        """The study that is due, in work from now on; None if there is none."""
        now = self.database.clock()
        with self.database.guarded():
            row = self.database.row(
                "SELECT key FROM studies WHERE state IN ('complete', 'failed') AND next_try <= ?"
                " ORDER BY next_try LIMIT 1",
                now,
            )
            if row is None:
                return None
            self._move(row[0], "working", again=0)
            return self.get(row[0])

    def finish(self, key: str, finished: Finished) -> None:
        """It is done, and its line waits to be logged: one transaction."""
        with self.database.transaction():
            if finished.line:
                name = f"{key}-{finished.revision}"
                self.database.run("INSERT OR IGNORE INTO results VALUES (?, ?)", name, finished.line)
            again = self._again(key)
            self._move(
                key, "received" if again else "done", again=0, attempts=0, interrupted=0, removed=0,
                revision=finished.revision, done=json.dumps(finished.done), kind=finished.kind,
                reason=finished.reason,
            )  # fmt: skip

    def fail(self, key: str, kind: str, reason: str, wait_s: float | None) -> QueueState:
        """An attempt failed; it is repeated after so long, or, with None, never."""
        with self.database.transaction():
            state: QueueState = "dead" if wait_s is None else "failed"
            if self._again(key):
                state = "received"
            due = self.database.clock() + (wait_s or 0.0)
            self._move(key, state, again=0, kind=kind, reason=reason, next_try=due)
            self.database.run("UPDATE studies SET attempts = attempts + 1 WHERE key = ?", key)
            return state

    def give_back(self, key: str) -> None:
        """A study whose work was broken off by us: to be done again, and no attempt is counted."""
        with self.database.guarded():
            self._move(
                key, "received" if self._again(key) else "complete", again=0, next_try=self.database.clock()
            )

    def recover(self) -> int:
        """At the start: what was in work when the service died is done again; gives how many studies."""
        with self.database.transaction():
            rows = self.database.rows("SELECT key, interrupted FROM studies WHERE state = 'working'")
            for key, interrupted in rows:
                reason = f"the service died {interrupted + 1} times while it was in work"
                if interrupted + 1 >= MOST_INTERRUPTED:
                    self._move(key, "dead", interrupted=interrupted + 1, kind="interrupted", reason=reason)
                    continue
                state: QueueState = "received" if self._again(key) else "complete"
                self._move(key, state, interrupted=interrupted + 1, again=0, next_try=self.database.clock())
            now = self.database.clock()  # when the last file of these came is not known
            self.database.run("UPDATE studies SET changed = ? WHERE state = 'received'", now)
            for (key,) in self.database.rows("SELECT key FROM studies WHERE state = 'received'"):
                self._touched[key] = now
        return len(rows)

    def revive(self) -> int:
        """Try all dead studies again whose files are there."""
        return self.database.run(
            "UPDATE studies SET state = 'complete', attempts = 0, interrupted = 0, next_try = ? WHERE"
            " state = 'dead' AND removed = 0 AND key NOT IN (SELECT study FROM refused)",
            self.database.clock(),
        )

    # What is known

    def get(self, key: str) -> QueuedStudy | None:
        """One study."""
        row = self.database.row(f"SELECT {COLUMNS} FROM studies WHERE key = ?", key)
        return None if row is None else _study(row)

    def counts(self) -> dict[str, int]:
        """How many studies are in each state."""
        rows = self.database.rows("SELECT state, count(*) FROM studies GROUP BY state")
        counts: dict[str, int] = dict.fromkeys(STATES, 0)
        return counts | dict(rows)

    def ended_before(self, state: QueueState, when: float, *, removed: bool) -> list[QueuedStudy]:
        """Studies that are done, or dead, since before then, and whose files were removed or not."""
        question = f"SELECT {COLUMNS} FROM studies WHERE state = ? AND removed = ? AND changed < ?"
        return [_study(row) for row in self.database.rows(question, state, int(removed), when)]

    @contextmanager
    def removing(self, key: str) -> Iterator[bool]:
        """While the files of a study that has ended are removed; False if it has not any more."""
        with self.database.guarded():
            row = self.get(key)
            good = row is not None and row.state in ("done", "dead")
            if good:
                self.database.run("UPDATE studies SET removed = 1 WHERE key = ?", key)
            yield good

    # Within

    def _again(self, key: str) -> bool:
        row = self.database.row("SELECT again FROM studies WHERE key = ?", key)
        return bool(row and row[0])

    def _move(self, key: str, state: QueueState, **columns: Any) -> None:
        columns = {"state": state, "changed": self.database.clock(), **columns}
        names = ", ".join(f"{name} = ?" for name in columns)
        self.database.run(f"UPDATE studies SET {names} WHERE key = ?", *columns.values(), key)


def _study(row: tuple[Any, ...]) -> QueuedStudy:
    key, state, revision, attempts, interrupted, next_try, changed, again, removed, done, kind, reason = row
    try:
        series = dict(json.loads(done))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError("the queue is damaged: the series of a study cannot be read", todo=MOVE) from error
    return QueuedStudy(
        key, state, revision, attempts, interrupted, next_try, changed, bool(again), bool(removed),
        series, kind, reason,
    )  # fmt: skip
