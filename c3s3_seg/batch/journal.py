"""The journal of an output folder: an SQLite file that records the outcome of each case.

    runs    one row for each start of the program: times and details (JSON)
    cases   one row for each case: state begun, done, failed or skipped; the setting; the outcome (JSON)

A folder may have several journals, one for each shard and one for the whole; `gather` exchanges their rows.

SQLite has no checksum for its rows: each row of `cases` carries a sha256 of its own, and a journal in which
a bit of such a row has flipped is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from c3s3_seg.batch.records import Outcome
from c3s3_seg.errors import InputError
from c3s3_seg.io.archive import held_folder
from c3s3_seg.system.database import Database, Schema, copy_database
from c3s3_seg.system.lock import now
from c3s3_seg.system.ownership import TODO
from c3s3_seg.system.reading import parse_json
from c3s3_seg.system.schema import parse, plain
from c3s3_seg.system.shard import Shard

STEM = "journal"
_OF_SHARD = re.compile(rf"{STEM}\.\d+-of-\d+\.sqlite")
State = Literal["begun", "done", "failed", "skipped"]
RUNS = "CREATE TABLE runs (id INTEGER PRIMARY KEY, started TEXT, ended TEXT, details TEXT)"
TABLES = f"""
{RUNS.replace("TABLE", "TABLE IF NOT EXISTS")};
CREATE TABLE IF NOT EXISTS cases (name TEXT PRIMARY KEY, run INTEGER, state TEXT, changed TEXT,
                                  setting TEXT, revision INTEGER, outcome TEXT, seal TEXT);
"""
COLUMNS = "name, run, state, changed, setting, revision, outcome, seal"
SCHEMA = Schema(
    "journal",
    TABLES,
    "runs",
    RUNS,
    TODO,
    "Move it away and run again: masks that are there stay until they are made anew",
)


@dataclass(frozen=True)
class JournalRecord:
    """The journal's record of a case.

    Parameters
    ----------
    state
        `begun`: the case's files may exist, each whole, but it was not finished. `skipped`: a series that the
        domain check refused, in a study of which another series was segmented.
    setting
        Hash of the weights and settings for the case.
    outcome
        Outcome of the case; a begun case has no result yet, except an earlier one that gets reports.
    run
        Number of the run that processed the case.
    changed
        Time of the change, UTC.
    revision
        Number of changes of the case so far, in all journals of the folder: of two journals' records of a
        case, the one with more changes is the newer one, whatever the clocks of the machines say.
    """

    state: State
    setting: str
    outcome: Outcome
    run: int
    changed: str
    revision: int = 0


class Journal:
    """An open journal. One process writes it: the holder of the folder's lock.

    Parameters
    ----------
    path
        The SQLite file; created if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = 0
        self._details: dict[int, dict[str, Any] | None] = {}
        # The thread that reads cases begins them; the thread that waits for them records them.
        self._db = Database(path, SCHEMA)

    def start(self, details: dict[str, Any]) -> None:
        """Begin a run; all later records belong to this run."""
        statement = "INSERT INTO runs (started, details) VALUES (?, ?)"
        self.run = int(self._db.execute(statement, now(), json.dumps(details)).lastrowid or 0)

    def end(self) -> None:
        """Record that the run came to its end."""
        self._db.execute("UPDATE runs SET ended = ? WHERE id = ?", now(), self.run)

    def begin(self, outcome: Outcome, setting: str) -> None:
        """Record which files of a case may appear from now on, each with hash "", and its earlier files."""
        self._put("begun", setting, outcome)

    def record(self, outcome: Outcome, setting: str) -> None:
        """Record the outcome of a case."""
        self._put(state_of(outcome), setting, outcome)

    def change(self, record: JournalRecord) -> None:
        """Change the record of a case, which keeps its time and the number of its run."""
        self._put(record.state, record.setting, record.outcome, (record.run, record.changed))

    def adopt(self, record: JournalRecord) -> None:
        """Insert the record of another journal unchanged, with its revision."""
        when = (record.run, record.changed)
        self._put(record.state, record.setting, record.outcome, when, record.revision)

    def adopt_run(self, details: dict[str, Any]) -> int:
        """Insert a run of another journal unless it is present; return its number in this journal."""
        rest = json.dumps({k: v for k, v in details.items() if k not in ("run", "started", "ended")})
        started, ended = details["started"], details["ended"]
        known = self._db.row("SELECT id FROM runs WHERE started = ? AND details = ?", started, rest)
        if known is not None:
            if ended is not None:  # it may have been at work when its record was taken over
                self._db.execute("UPDATE runs SET ended = ? WHERE id = ?", ended, known[0])
            return int(known[0])
        statement = "INSERT INTO runs (started, ended, details) VALUES (?, ?, ?)"
        return int(self._db.execute(statement, started, ended, rest).lastrowid or 0)

    def revision(self, case: str) -> int:
        """Return the revision of the record of a case; 0 if there is no record."""
        row = self._db.row("SELECT revision FROM cases WHERE name = ?", case_key(case))
        with self._checked():
            return 0 if row is None else int(row[0])

    def get(self, case: str) -> JournalRecord | None:
        """Return the record of a case; None if there is none.

        Raises
        ------
        InputError
            If the row of the case is not the one that was written.
        """
        row = self._db.row(f"SELECT {COLUMNS} FROM cases WHERE name = ?", case_key(case))
        return None if row is None else self._record(row)

    def records(self) -> Iterator[JournalRecord]:
        """Yield the records of all cases, sorted by name."""
        for row in self._db.rows(f"SELECT {COLUMNS} FROM cases ORDER BY name"):
            yield self._record(row)

    def details(self, run: int) -> dict[str, Any] | None:
        """Return the details that a run was started with; None if unknown."""
        if run not in self._details:
            row = self._db.row("SELECT details FROM runs WHERE id = ?", run)
            with self._checked():
                found = None if row is None else parse_json(row[0], self.path)
            self._details[run] = found if isinstance(found, dict) else None
        return self._details[run]

    def runs(self) -> Iterator[dict[str, Any]]:
        """Yield all runs in order: number (`run`), started, ended and the details."""
        for number, started, ended, details in self._db.rows("SELECT * FROM runs ORDER BY id"):
            with self._checked():
                known = json.loads(details)
                row = {"run": number, "started": started, "ended": ended}
                if not (isinstance(started, str) and isinstance(ended, str | None)):
                    raise TypeError(f"the times of run {number} are no texts")
                found = {**row, **known, **row}  # in this order; details cannot replace the columns
            yield found

    def transaction(self) -> AbstractContextManager[None]:
        """Return a context manager that applies all changes in its block, or none."""
        return self._db.transaction()

    def lines(self) -> Iterator[str]:
        """Yield the journal as JSON lines: first the runs, then the cases."""
        for run in self.runs():
            yield json.dumps(run)
        for record in self.records():
            details = plain(asdict(record.outcome))
            yield json.dumps({"state": record.state, "run": record.run, "changed": record.changed, **details})

    def close(self) -> None:
        """Close the journal; the write-ahead log is merged into the file."""
        self._db.close()

    def _put(
        self,
        state: State,
        setting: str,
        outcome: Outcome,
        when: tuple[int, str] | None = None,
        revision: int | None = None,
    ) -> None:
        body = json.dumps(asdict(outcome))
        run, changed = when or (self.run, now())
        revision = self.revision(outcome.case) + 1 if revision is None else revision
        values = (case_key(outcome.case), run, state, changed, setting, revision, body)
        statement = f"INSERT OR REPLACE INTO cases ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        self._db.execute(statement, *values, _checksum(values))

    def _record(self, row: tuple[Any, ...]) -> JournalRecord:
        *values, seal = row
        name, run, state, changed, setting, revision, body = values
        texts, numbers = (name, changed, setting, body), (run, revision)
        kinds = all(isinstance(t, str) for t in texts) and all(isinstance(n, int) for n in numbers)
        if not kinds or state not in get_args(State):
            raise self._db.damage(f"the row of case '{name}' has a value of another kind")
        if _checksum(tuple(values)) != seal:
            raise self._db.damage(f"the row of case '{name}' is not the one that was written")
        try:
            outcome = parse(Outcome, parse_json(body, self.path), self.path)
        except InputError as error:
            raise self._db.damage(f"the row of case '{name}': {error.what}") from error
        return JournalRecord(state, setting, outcome, run, changed, revision)

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """Report malformed content as damage: whoever writes a row can write its checksum too."""
        try:
            yield
        except RecursionError:
            raise self._db.damage("a row is nested too deep") from None
        except (ValueError, TypeError) as error:
            raise self._db.damage(str(error)) from error


def state_of(outcome: Outcome) -> State:
    """Return the state of a case that was not merely begun."""
    if outcome.row is not None:
        return "done"
    return "skipped" if outcome.passed_over else "failed"


def journal_path(folder: Path, shard: Shard | None = None) -> Path:
    """Return the path of the journal of a folder, or of one shard in it."""
    return folder / (f"{STEM}.sqlite" if shard is None else f"{STEM}.{shard}.sqlite")


def shard_journals(folder: Path) -> list[Path]:
    """Return the paths of the journals of all shards in a folder."""
    return sorted(path for path in folder.glob(f"{STEM}.*-of-*.sqlite") if _OF_SHARD.fullmatch(path.name))


@contextmanager
def copied(path: Path) -> Iterator[Journal]:
    """Open a journal that stays as it is: SQLite opens a copy, with the log that a killed run has left.

    The copy is empty if there is no journal.

    Raises
    ------
    InputError
        If the journal is damaged, no regular file, or not written by this package.
    """
    with held_folder() as folder:  # `sweep_unpacked` removes that of a killed run
        copy = folder / path.name
        copy_database(path, copy, SCHEMA)
        journal = Journal(copy)
        try:
            yield journal
        finally:
            journal.close()


def records_of(path: Path) -> list[JournalRecord]:
    """Return the records of all cases of a journal, which stays as it is.

    Raises
    ------
    InputError
        Same as in `copied`.
    """
    with copied(path) as journal:
        return list(journal.records())


def case_key(name: str) -> str:
    """Return a case's name for tables: a file name need not be Unicode, a column of SQLite must be."""
    return name.encode("utf-8", "backslashreplace").decode()


def _checksum(values: tuple[Any, ...]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
