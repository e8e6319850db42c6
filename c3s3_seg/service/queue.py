"""The queue of studies, with the state of each:

    received   files arrive, or arrived within the quiet time
    complete   to be segmented
    working    being processed by a worker
    done       segmented, or without a scan for the model; its results are stored
    failed     an attempt failed; the next one is due at `next_try`
    dead       given up: no attempts left, files missing, or the same scan would fail again

The key of a study is a hash of its UID.
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
MOST_INTERRUPTED = 20  # times that the service may die while it processes a study
CLOCK_JUMP_S = 60.0
COLUMNS = "key, state, revision, attempts, interrupted, next_try, changed, again, removed, done, kind, reason"


@dataclass(frozen=True)
class QueuedStudy:
    """A study in the queue.

    Parameters
    ----------
    key
        Hash of the study's UID.
    state
        State, see the module.
    revision
        Number of the last result; 0 before the first.
    attempts, interrupted
        Failed attempts since the study was complete; times that the service died while processing it.
    next_try, changed
        Seconds since 1970: when the study is due; when its state changed last.
    again
        Whether a file arrived while the study was being processed.
    removed
        Whether its files were removed after the study was done or dead.
    done
        Series of the last result, see `work.record`; empty before the first.
    kind, reason
        Kind and reason of the last failure or passing over; no patient data.
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
    """The end of the processing of a study.

    Parameters
    ----------
    revision
        Number of the result.
    done
        Series of the study, for comparison with later files.
    line
        Line for the log of results; "" if there is none.
    kind, reason
        Why nothing was segmented; "" if something was, or if the old result stays.
    """

    revision: int
    done: dict[str, Any]
    line: str = ""
    kind: str = ""
    reason: str = ""


@dataclass
class StudyQueue:
    """The studies in the database, and their changes of state.

    Parameters
    ----------
    database
        Database of the service.
    """

    database: ServiceDatabase
    _touched: dict[str, float] = field(default_factory=dict)  # study -> time of its last file

    # Incoming files

    def touch(self, key: str) -> None:
        """Record that a file of a study arrives; called before the file is written, and again after."""
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
        """Record a file that had no room or could not be written: its study is incomplete without it."""
        self.touch(key)
        self.database.run("INSERT OR IGNORE INTO refused VALUES (?, ?)", key, instance)

    def accept(self, key: str, instance: str) -> None:
        """Record that a file of a study is in the spool, even if it was refused before."""
        self.touch(key)
        if self.database.row("SELECT 1 FROM refused WHERE study = ? LIMIT 1", key) is not None:
            self.database.run("DELETE FROM refused WHERE study = ? AND instance = ?", key, instance)

    def still_comes(self, key: str, instance: str) -> None:
        """Record that a file in the spool arrived again, as after an interrupted transfer."""
        question = "SELECT 1 FROM refused WHERE study = ? AND instance = ?"
        with self.database.guarded():
            if self.database.row(question, key, instance) is not None:
                self.accept(key, instance)  # the service was killed between writing and accepting it
            if key in self._touched:
                self._touched[key] = self.database.clock()

    def close_quiet(self, quiet_s: float, being_sent: Collection[str] = ()) -> list[str]:
        """Close studies without a new file for `quiet_s` and without a sender; return their keys."""
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
        """Replace times in the future by now, so that no study waits after the clock was set back."""
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

    # Processing

    def claim(self) -> QueuedStudy | None:
        """Return the study longest due, and mark it as working; None if no study is due."""
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
        """Mark a study as done (received if new files came) and queue its log line: one transaction."""
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
        """Record a failed attempt, repeated after `wait_s` or, with None, never; return the new state."""
        with self.database.transaction():
            state: QueueState = "dead" if wait_s is None else "failed"
            if self._again(key):
                state = "received"
            due = self.database.clock() + (wait_s or 0.0)
            self._move(key, state, again=0, kind=kind, reason=reason, next_try=due)
            self.database.run("UPDATE studies SET attempts = attempts + 1 WHERE key = ?", key)
            return state

    def give_back(self, key: str) -> None:
        """Put back a study whose processing the service broke off; no attempt is counted."""
        with self.database.guarded():
            self._move(
                key, "received" if self._again(key) else "complete", again=0, next_try=self.database.clock()
            )

    def recover(self) -> int:
        """Requeue or give up, at the start, studies in work when the service died; return their number.

        Those that are given up are then among `dead`.
        """
        with self.database.transaction():
            rows = self.database.rows("SELECT key, interrupted FROM studies WHERE state = 'working'")
            for key, interrupted in rows:
                reason = f"the service died {interrupted + 1} times while it was in work"
                if interrupted + 1 >= MOST_INTERRUPTED:
                    self._move(key, "dead", interrupted=interrupted + 1, kind="interrupted", reason=reason)
                    continue
                state: QueueState = "received" if self._again(key) else "complete"
                self._move(key, state, interrupted=interrupted + 1, again=0, next_try=self.database.clock())
            now = self.database.clock()  # the time of the last file of these is not known
            self.database.run("UPDATE studies SET changed = ? WHERE state = 'received'", now)
            for (key,) in self.database.rows("SELECT key FROM studies WHERE state = 'received'"):
                self._touched[key] = now
        return len(rows)

    def dead(self) -> dict[str, str]:
        """Return key -> kind and reason of the studies that were given up and whose files are still there."""
        found = self.database.rows(
            "SELECT key, kind, reason FROM studies WHERE state = 'dead' AND removed = 0 ORDER BY key"
        )
        return {key: f"{kind}: {reason}" for key, kind, reason in found}

    def incomplete(self) -> int:
        """Return the number of dead studies that lack files, which have to be sent again."""
        question = "SELECT count(*) FROM studies WHERE state = 'dead' AND key IN (SELECT study FROM refused)"
        (count,) = self.database.row(question) or (0,)
        return int(count)

    def revive(self) -> int:
        """Requeue all dead studies of which no file is missing; return their number."""
        return self.database.run(
            "UPDATE studies SET state = 'complete', attempts = 0, interrupted = 0, next_try = ? WHERE"
            " state = 'dead' AND removed = 0 AND key NOT IN (SELECT study FROM refused)",
            self.database.clock(),
        )

    # Queries

    def get(self, key: str) -> QueuedStudy | None:
        """Return a study by its key; None if it is unknown."""
        row = self.database.row(f"SELECT {COLUMNS} FROM studies WHERE key = ?", key)
        return None if row is None else _study(row)

    def counts(self) -> dict[str, int]:
        """Return the number of studies in each state."""
        rows = self.database.rows("SELECT state, count(*) FROM studies GROUP BY state")
        counts: dict[str, int] = dict.fromkeys(STATES, 0)
        return counts | dict(rows)

    def ended_before(self, state: QueueState, when: float, *, removed: bool) -> list[QueuedStudy]:
        """Return studies done, or dead, since before `when`, whose files were, or were not, removed."""
        question = f"SELECT {COLUMNS} FROM studies WHERE state = ? AND removed = ? AND changed < ?"
        return [_study(row) for row in self.database.rows(question, state, int(removed), when)]

    @contextmanager
    def removing(self, key: str) -> Iterator[bool]:
        """Hold the queue while a study's files are removed; yield False if it is not done or dead."""
        with self.database.guarded():
            row = self.get(key)
            good = row is not None and row.state in ("done", "dead")
            if good:
                self.database.run("UPDATE studies SET removed = 1 WHERE key = ?", key)
            yield good

    # Internals

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
