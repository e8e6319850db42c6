"""The journal of an output folder: an SQLite file that says what became of each case.

    runs    one row for each start of the program: when, with what (JSON)
    cases   one row for each case: state begun, done or failed; with which setting; the outcome (JSON)
    gathered  of a folder's journal: which rows of which shard's journal it has taken over, see `gather`

SQLite has no checksum for its rows: each carries a sha256 of its own, and a journal in which a bit has turned
is refused, not believed.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from c3s3_seg.batch.records import Outcome
from c3s3_seg.errors import InputError
from c3s3_seg.system.database import Database, Schema, copy_database
from c3s3_seg.system.lock import now
from c3s3_seg.system.ownership import TODO
from c3s3_seg.system.reading import parse_json
from c3s3_seg.system.schema import parse, plain
from c3s3_seg.system.shard import Shard

STEM = "journal"
State = Literal["begun", "done", "failed", "skipped"]
RUNS = "CREATE TABLE runs (id INTEGER PRIMARY KEY, started TEXT, ended TEXT, details TEXT)"
TABLES = f"""
{RUNS.replace("TABLE", "TABLE IF NOT EXISTS")};
CREATE TABLE IF NOT EXISTS cases (name TEXT PRIMARY KEY, run INTEGER, state TEXT, changed TEXT,
                                  setting TEXT, outcome TEXT, seal TEXT);
CREATE TABLE IF NOT EXISTS gathered (shard TEXT, name TEXT, seal TEXT, PRIMARY KEY (shard, name));
"""
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
    checksum
        Of the row.
    """

    state: State
    setting: str
    outcome: Outcome
    run: int
    changed: str
    checksum: str = ""


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
        self._db = Database(path, SCHEMA)

    def start(self, details: dict[str, Any]) -> None:
        """Begin a run; what is recorded from now on is of this run."""
        statement = "INSERT INTO runs (started, details) VALUES (?, ?)"
        self.run = int(self._db.execute(statement, now(), json.dumps(details)).lastrowid or 0)

    def end(self) -> None:
        """Say that the run came to its end."""
        self._db.execute("UPDATE runs SET ended = ? WHERE id = ?", now(), self.run)

    def begin(self, outcome: Outcome, setting: str) -> None:
        """Say which files of a case may appear from now on, each with the hash "", and what it had before."""
        self._put("begun", setting, outcome)

    def record(self, outcome: Outcome, setting: str) -> None:
        """Say what became of a case."""
        self._put(state_of(outcome), setting, outcome)

    def adopt(self, record: JournalRecord) -> None:
        """Put in a record as it is, with its time and the number of its run."""
        self._put(record.state, record.setting, record.outcome, (record.run, record.changed))

    def adopt_run(self, details: dict[str, Any]) -> int:
        """Put in a run of another journal; gives its number here."""
        rest = {k: v for k, v in details.items() if k not in ("run", "started", "ended")}
        values = (details["started"], details["ended"], json.dumps(rest))
        same = "SELECT id FROM runs WHERE started = ? AND ended IS ? AND details = ?"
        known = self._db.row(same, *values)
        if known is not None:
            return int(known[0])
        cursor = self._db.execute("INSERT INTO runs (started, ended, details) VALUES (?, ?, ?)", *values)
        return int(cursor.lastrowid or 0)

    def get(self, case: str) -> JournalRecord | None:
        """What is known of a case.

        Raises
        ------
        InputError
            If its row is not the one that was written.
        """
        row = self._db.row("SELECT * FROM cases WHERE name = ?", case_key(case))
        return None if row is None else self._record(row)

    def records(self) -> Iterator[JournalRecord]:
        """All cases by name."""
        for row in self._db.rows("SELECT * FROM cases ORDER BY name"):
            yield self._record(row)

    def details(self, run: int) -> dict[str, Any] | None:
        """What one run was started with; None where it is not known."""
        if run not in self._details:
            row = self._db.row("SELECT details FROM runs WHERE id = ?", run)
            with self._checked():
                found = None if row is None else parse_json(row[0], self.path)
            self._details[run] = found if isinstance(found, dict) else None
        return self._details[run]

    def runs(self) -> Iterator[dict[str, Any]]:
        """All runs in their order: id, started, ended and the details."""
        for number, started, ended, details in self._db.rows("SELECT * FROM runs ORDER BY id"):
            with self._checked():
                known = json.loads(details)
                found = {"run": number, "started": started, "ended": ended, **known}
            yield found

    def gathered(self, shard: str) -> dict[str, str]:
        """Case -> checksum of the row that was taken over last from the journal of a shard."""
        rows = self._db.rows("SELECT name, seal FROM gathered WHERE shard = ?", shard)
        return dict(rows)

    def note_gathered(self, shard: str, record: JournalRecord) -> None:
        """A row of a shard's journal was taken over, or an even newer one of another shard."""
        values = (shard, case_key(record.outcome.case), record.checksum)
        self._db.execute("INSERT OR REPLACE INTO gathered VALUES (?, ?, ?)", *values)

    def transaction(self) -> AbstractContextManager[None]:
        """All that is done in the block, or nothing."""
        return self._db.transaction()

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
        values = (case_key(outcome.case), run, state, changed, setting, body)
        statement = "INSERT OR REPLACE INTO cases VALUES (?, ?, ?, ?, ?, ?, ?)"
        self._db.execute(statement, *values, _checksum(values))

    def _record(self, row: tuple[Any, ...]) -> JournalRecord:
        *values, seal = row
        name, run, state, changed, setting, body = values
        if _checksum(tuple(values)) != seal:
            raise self._db.damage(f"the row of case '{name}' is not the one that was written")
        try:
            outcome = parse(Outcome, parse_json(body, self.path), self.path)
        except InputError as error:
            raise self._db.damage(f"the row of case '{name}': {error.what}") from error
        return JournalRecord(state, setting, outcome, run, changed, seal)

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """What is in a row may be anything: whoever writes a row can write its checksum too."""
        try:
            yield
        except RecursionError:
            raise self._db.damage("a row is nested too deep") from None
        except (ValueError, TypeError) as error:
            raise self._db.damage(str(error)) from error


def state_of(outcome: Outcome) -> State:
    """The state of a case that was not merely begun."""
    if outcome.row is not None:
        return "done"
    return "skipped" if outcome.passed_over else "failed"


def journal_path(folder: Path, shard: Shard | None = None) -> Path:
    """Where the journal of a folder, or of one shard in it, is."""
    return folder / (f"{STEM}.sqlite" if shard is None else f"{STEM}.{shard}.sqlite")


def shard_journals(folder: Path) -> list[Path]:
    """The journals of all shards in a folder."""
    return sorted(folder.glob(f"{STEM}.*-of-*.sqlite"))


@contextmanager
def copied(path: Path) -> Iterator[Journal]:
    """A journal that stays as it is: SQLite opens a copy, with the log that a kill has left.

    An empty one where there is none.

    Raises
    ------
    InputError
        If it is damaged, no regular file, or not ours.
    """
    with tempfile.TemporaryDirectory(prefix="c3s3-seg-") as folder:
        copy = Path(folder) / path.name
        copy_database(path, copy, SCHEMA)
        journal = Journal(copy)
        try:
            yield journal
        finally:
            journal.close()


def records_of(path: Path) -> list[JournalRecord]:
    """All cases of a journal that stays as it is.

    Raises
    ------
    InputError
        As `copied`.
    """
    with copied(path) as journal:
        return list(journal.records())


def case_key(name: str) -> str:
    """The name of a case as tables have it: a file name need not be Unicode, a column of SQLite must be."""
    return name.encode("utf-8", "backslashreplace").decode()


def _checksum(values: tuple[Any, ...]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
