import json
import os
import signal
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from c3s3_seg.batch.gather import gather, inherit, refuse_other_count, take_over
from c3s3_seg.batch.journal import Journal, JournalRecord, _checksum, copied, journal_path, records_of
from c3s3_seg.batch.records import Outcome, Refusal
from c3s3_seg.errors import GeometryError, InputError
from c3s3_seg.io.archive import sweep_unpacked
from c3s3_seg.metrics.results import CaseScore, Score
from c3s3_seg.report.rows import PredictionRow
from c3s3_seg.system.reading import read_regular
from c3s3_seg.system.shard import Shard

SCORE = Score(0.0, 0.0, *[float("inf")] * 6, ((1.0, 0.0),), 0.0, float("nan"), 0.0)
ROW = PredictionRow("a", (("organ", 1.5),), 0.25, (CaseScore("a", "organ", SCORE, 3.0),))
DONE = Outcome("a", "/scans/a.nii", ROW, None, {"scan": "00"}, {"a.nii.gz": "11"}, {"load": 0.1})


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    path = journal_path(tmp_path)
    journal = Journal(path)
    journal.start({"command": ["x"]})
    journal.begin(Outcome("b", "/scans/b.nii"), "setting")
    journal.begin(Outcome("a", "/scans/a.nii"), "setting")
    journal.record(DONE, "setting")
    journal.close()
    again = Journal(path)
    record = again.get("a")
    assert record is not None
    assert (record.state, record.setting, record.run) == ("done", "setting", 1)
    assert repr(record.outcome) == repr(DONE)  # nan does not equal itself, but its text does
    assert [r.state for r in again.records()] == ["done", "begun"]
    assert again.get("c") is None
    lines = [json.loads(line, parse_constant=pytest.fail) for line in again.lines()]
    assert lines[0]["command"] == ["x"]
    assert lines[1]["row"]["scores"][0]["score"]["hd95_mm"] == "inf"
    again.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["journal.sqlite"]


def test_a_journal_is_read_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between copying database and log, the log is merged into the database and restarted."""
    path = journal_path(tmp_path)
    live = Journal(path)
    live.begin(Outcome("a", "/scans/a.nii"), "setting")
    assert not path.with_name(f"{path.name}-shm").exists()  # a network share cannot give shared memory
    copied = []

    def read(source: Path, limit: int) -> bytes:
        content = read_regular(source, limit)
        copied.append(source.name)
        if len(copied) == 2:  # the log was inspected and the database copied
            live._db.execute("PRAGMA wal_checkpoint")
            live.begin(Outcome("b", "/scans/b.nii"), "setting")
        return content

    monkeypatch.setattr("c3s3_seg.system.database.read_regular", read)
    assert [record.outcome.case for record in records_of(path)] == ["a", "b"]
    assert copied.count(path.name) == 2
    monkeypatch.setattr("c3s3_seg.system.database.COPIES", 0)
    with pytest.raises(InputError, match="the journal changes while it is read"):
        records_of(path)
    live.close()


def test_the_copy_of_a_run_that_was_killed_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal(journal_path(tmp_path)).close()
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    pid = os.fork()
    if pid == 0:
        with copied(journal_path(tmp_path)):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert len(list(place.rglob("journal.sqlite"))) == 1
    with copied(journal_path(tmp_path)):
        sweep_unpacked()
        assert len(list(place.rglob("journal.sqlite"))) == 1  # the one in use
    assert not list(place.iterdir())


def test_an_error_is_raised_again_as_it_was(tmp_path: Path) -> None:
    refusal = Refusal.of(GeometryError("a tilt", where="x", todo="Mend it"), "load")
    journal = Journal(journal_path(tmp_path))
    journal.record(Outcome("a", "x", refusal=refusal), "s")
    record = journal.get("a")
    assert record is not None
    assert record.outcome.refusal is not None
    error = record.outcome.refusal.error()
    assert type(error) is GeometryError
    assert str(error) == "x: a tilt. Mend it."
    assert record.outcome.refusal.final


def test_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n")
    journal = Journal(journal_path(tmp_path))
    journal.record(Outcome(name, name, refusal=Refusal("w", None, None, "InputError", "load")), "s")
    record = journal.get(name)
    assert record is not None
    assert record.outcome.case == name
    assert list(journal.lines())


@pytest.mark.parametrize(
    "change", ["state = 'done'", "setting = 'other'", "outcome = replace(outcome, 'b', 'c')"]
)
def test_a_row_that_was_changed_is_refused(tmp_path: Path, change: str) -> None:
    journal = Journal(journal_path(tmp_path))
    journal.begin(Outcome("b", "/b"), "s")
    assert journal.get("b") is not None
    journal._db.execute(f"UPDATE cases SET {change}")
    with pytest.raises(InputError, match=r"journal\.sqlite: the journal is damaged.*'b'.*Move it away"):
        journal.get("b")


def test_what_is_no_journal(tmp_path: Path) -> None:
    path = journal_path(tmp_path)
    path.write_bytes(b"not SQLite, but long enough to be read as a header" * 100)
    with pytest.raises(InputError, match="the journal is damaged: file is not a database"):
        Journal(path)
    with pytest.raises(InputError, match="cannot be written or read"):
        Journal(tmp_path / "none" / "journal.sqlite")


def test_a_journal_of_another_version_is_called_that(tmp_path: Path) -> None:
    """Its missing column was reported as a lack of room on the disk."""
    journal = Journal(tmp_path / "journal.sqlite")
    journal.close()
    with closing(sqlite3.connect(journal.path)) as database:
        database.execute("ALTER TABLE cases DROP COLUMN revision")
    with pytest.raises(InputError, match=r"the journal of another version.*Move it away"):
        Journal(journal.path)


@pytest.mark.parametrize(
    "planted",
    [
        "CREATE TRIGGER t BEFORE INSERT ON cases BEGIN SELECT RAISE(IGNORE); END",
        "CREATE VIEW v AS SELECT * FROM cases",
        "DROP TABLE cases; CREATE VIEW cases AS WITH RECURSIVE n(name) AS (SELECT 1 UNION ALL"
        " SELECT 1 FROM n) SELECT name FROM n",
        "CREATE TABLE more (a CHECK (length(zeroblob(1e9)) > a))",
        "CREATE INDEX i ON cases (length(zeroblob(1e9)))",
    ],
)
def test_what_a_journal_has_not_is_refused(tmp_path: Path, planted: str) -> None:
    """A trigger made the journal forget, and a view in place of a table never came to an end."""
    journal = Journal(tmp_path / "journal.sqlite")
    journal.close()
    with closing(sqlite3.connect(journal.path)) as database:
        database.executescript(planted)
    with pytest.raises(InputError, match=r"another version of this program, or was changed.*Move it away"):
        Journal(journal.path)
    with pytest.raises(InputError, match="or was changed"):
        records_of(journal.path)


def test_shards_are_gathered_the_newest_wins(tmp_path: Path) -> None:
    for n, name in ((1, "a"), (2, "b")):
        shard = Journal(journal_path(tmp_path, Shard(n, 2)))
        shard.record(Outcome(name, f"/{name}", ROW), "s")
        shard.close()
    whole = Journal(journal_path(tmp_path))
    assert gather(whole, tmp_path) == 2
    assert gather(whole, tmp_path) == 0
    assert [r.outcome.case for r in whole.records()] == ["a", "b"]


def at(name: str, changed: str, sha256: str) -> JournalRecord:
    return JournalRecord("done", "s", replace(DONE, case=name, outputs={"a.nii.gz": sha256}), 1, changed)


def test_what_was_done_since_a_shard_was_gathered_stays_whatever_its_clock_says(tmp_path: Path) -> None:
    """The clock of the shard's machine is ahead."""
    shard, whole = Journal(journal_path(tmp_path, Shard(1, 2))), Journal(journal_path(tmp_path))
    shard.change(at("a", "2026-03-01T03:00:00", "of the shard"))
    assert gather(whole, tmp_path) == 1
    whole.change(at("a", "2026-03-01T02:00:00", "anew"))
    assert gather(whole, tmp_path) == 0
    inherit(shard, tmp_path, ["a", "b"])  # the shard gets the newer record
    assert gather(whole, tmp_path) == 0
    assert files_of("a", whole, shard) == ["anew", "anew"]
    shard.change(at("a", "2026-03-01T01:00:00", "of the shard again"))
    inherit(shard, tmp_path, ["a"])
    assert gather(whole, tmp_path) == 1
    assert files_of("a", whole) == ["of the shard again"]


def files_of(case: str, *journals: Journal) -> list[str]:
    records = [journal.get(case) for journal in journals]
    return [record.outcome.outputs["a.nii.gz"] for record in records if record is not None]


def test_a_case_that_moves_among_shards_has_its_newest_record(tmp_path: Path) -> None:
    """A copy that a shard holds since the case was its own does not replace what another shard did since."""
    one, two, three = (Journal(journal_path(tmp_path, Shard(n, 3))) for n in (1, 2, 3))
    one.change(at("a", "2026-03-01T03:00:00", "first"))
    inherit(two, tmp_path, ["a"])
    two.change(at("a", "2026-03-01T02:00:00", "second"))
    inherit(three, tmp_path, ["a"])
    inherit(one, tmp_path, ["a"])
    assert files_of("a", one, two, three) == ["second"] * 3
    one.change(at("a", "2026-03-01T01:00:00", "third"))
    for journal in (two, three, Journal(journal_path(tmp_path))):
        take_over(journal, tmp_path, None if journal.path.name == "journal.sqlite" else Shard(2, 3), ["a"])
        assert files_of("a", journal) == ["third"]


def test_a_share_of_another_count_than_the_folders_is_refused(tmp_path: Path) -> None:
    refuse_other_count(tmp_path, Shard(1, 1))
    Journal(journal_path(tmp_path, Shard(2, 8))).close()
    refuse_other_count(tmp_path, Shard(3, 8))
    with pytest.raises(InputError, match=r"auto means 1/1 here, but .* were 8\. .*such as --shard 2/8"):
        refuse_other_count(tmp_path, Shard(1, 1))


def test_a_journal_that_cannot_be_written_takes_over_all_or_nothing(tmp_path: Path) -> None:
    shard, whole = Journal(journal_path(tmp_path, Shard(1, 2))), Journal(journal_path(tmp_path))
    for n in range(50):
        shard.change(at(f"case-{n}", "2026-03-01T03:00:00", "x" * 1000))
    pages = whole._db.row("PRAGMA page_count")
    assert pages is not None
    whole._db.rows(f"PRAGMA max_page_count = {pages[0] + 3}")
    with pytest.raises(InputError, match=r"cannot be written or read \(database or disk is full\)"):
        gather(whole, tmp_path)
    assert list(whole.records()) == []
    whole._db.rows("PRAGMA max_page_count = 100000")
    assert gather(whole, tmp_path) == 50


@pytest.mark.parametrize("body", ["[" * 100_000, "{", "[]", "null", '{"case": 7}', b"\xff"])
def test_a_row_that_is_no_outcome_is_refused_although_its_seal_holds(
    tmp_path: Path, body: str | bytes
) -> None:
    """The seal is no secret: whoever writes a row can write its seal too."""
    path = journal_path(tmp_path)
    journal = Journal(path)
    journal.record(DONE, "s")
    journal.close()
    database = sqlite3.connect(path)
    (row,) = database.execute("SELECT * FROM cases").fetchall()
    if isinstance(body, str):
        values = (*row[:-2], body)
        database.execute("UPDATE cases SET outcome = ?, seal = ?", (body, _checksum(values)))
    else:
        database.execute("UPDATE cases SET outcome = CAST(? AS TEXT)", (body,))
    database.execute("INSERT INTO runs (started, details) VALUES ('', ?)", (body,))
    database.commit()
    database.close()
    journal = Journal(path)
    with pytest.raises(InputError, match=r"the journal (is damaged|cannot be written or read)"):
        journal.get("a")
    if body != '{"case": 7}':  # details of a run may be any table
        with pytest.raises(InputError, match=r"the journal (is damaged|cannot be written or read)"):
            list(journal.runs())
    journal.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [("state", "unknown"), ("changed", None), ("run", "x"), ("revision", "x"), ("setting", b"s")],
)
def test_a_row_with_a_value_of_another_kind_is_refused_although_its_seal_holds(
    tmp_path: Path, column: str, value: object
) -> None:
    """Such a row in a shard's journal from another machine used to be called a defect of the program."""
    shard = Journal(journal_path(tmp_path, Shard(1, 2)))
    shard.record(DONE, "s")
    shard._db.execute(f"UPDATE cases SET {column} = ?", value)
    if not isinstance(value, bytes):
        (row,) = shard._db.rows("SELECT * FROM cases")
        shard._db.execute("UPDATE cases SET seal = ?", _checksum(row[:-1]))
    shard.close()
    with pytest.raises(InputError, match=r"the journal is damaged: the row of case 'a'"):
        gather(Journal(journal_path(tmp_path)), tmp_path)


def test_details_of_a_run_replace_none_of_its_columns(tmp_path: Path) -> None:
    """A list as number of the run used to be called a defect of the program."""
    journal = Journal(journal_path(tmp_path))
    journal.start({"run": [1], "started": 7, "command": ["x"]})
    (run,) = journal.runs()
    assert list(run) == ["run", "started", "ended", "command"]
    assert (run["run"], type(run["started"])) == (1, str)
    journal._db.execute("UPDATE runs SET started = NULL")
    with pytest.raises(InputError, match="the journal is damaged"):
        list(journal.runs())


@pytest.mark.parametrize("kind", ["Path", "Any", "re", "no such class"])
def test_a_refusal_of_an_unknown_kind_is_an_input_error(kind: str) -> None:
    """The names of a journal may be those of other objects of the module."""
    assert type(Refusal("w", None, None, kind, "load").error()) is InputError


def test_a_scan_whose_folder_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    """A name that is too long stands in for a file server that has gone: the refusal itself used to fail."""
    scan = tmp_path / ("x" * 300)
    assert Refusal.of(InputError("w", where=scan / "slice"), "load", scan=scan).where == str(scan / "slice")
