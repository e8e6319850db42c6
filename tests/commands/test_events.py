"""The events of `--json` and `--log-file`: each line, its keys, and an end event whatever happens."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import small_scan
from helpers.command import run

from c3s3_seg.commands.console import say
from c3s3_seg.commands.events import Events
from c3s3_seg.errors import InputError
from c3s3_seg.io import save
from c3s3_seg.system.log_file import LogFile
from c3s3_seg.version import __version__

PHANTOM = ("--model", "phantom", "--allow-out-of-domain", "--threads", 1)
DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
KEYS = {
    kind: set(keys.split())
    for kind, keys in {
        "start": "event time run model version cases total kept failed skipped left note",
        "skipped": "event time run place reason series",
        "case": "event time run case state kept segmented scan verdict warnings forced empty needs_review"
        " volume_ml uncertainty_mm uncertainty_limit_mm uncertain model version reason seconds"
        " outputs_sha256 done total left_s",
        "end": "event time run cases done kept failed empty needs_review skipped left others others_left_out"
        " seconds exit_code error",
    }.items()
}


def events(text: str) -> list[dict[str, Any]]:
    """Return the events; check that each line has exactly the keys of its kind, and that times ascend."""
    found = [json.loads(line) for line in text.splitlines()]
    for event in found:
        assert set(event) == KEYS[event["event"]]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])
    assert [event["time"] for event in found] == sorted(event["time"] for event in found)
    return found


def counts(event: dict[str, Any]) -> tuple[int, ...]:
    assert event["cases"] == sum(event[key] for key in ("done", "kept", "failed", "left"))
    return tuple(event[key] for key in ("done", "kept", "failed", "empty", "needs_review", "left"))


@pytest.mark.slow
def test_two_nights(small_scans: Path, tmp_path: Path) -> None:
    """The second run keeps the cases of the first run, and reports the same about each of them."""
    (small_scans / "case-1.nii.gz").write_bytes(b"no scan")
    words = ["predict", small_scans, "-o", tmp_path / "out", *PHANTOM]
    log = tmp_path / "night.log"
    first = run(*words, "--json", "--log-file", log, "--set", "batch.limit=3")
    assert first.returncode == 1
    assert log.read_text() == first.stdout
    start, *cases, end = events(first.stdout)
    assert (start["total"], start["left"], start["model"], start["version"]) == (3, 2, "phantom", __version__)
    assert counts(end) == (2, 0, 1, 0, 2, 2)
    assert (end["exit_code"], end["error"]) == (1, None)
    assert {event["run"] for event in (start, *cases, end)} == {start["run"]}
    assert start["run"] == json.loads((tmp_path / "out" / "provenance.json").read_text())["runs"][0]["id"]
    done = {event["case"]: event for event in cases}
    assert (done["case-0"]["verdict"], done["case-0"]["forced"]) == ("refuse", True)
    assert any("its field of view" in warning for warning in done["case-0"]["warnings"])
    assert (done["case-1"]["state"], done["case-1"]["warnings"]) == ("failed", None)

    second = run(*words, "--json", "--log-file", log)
    start, *cases, end = events(second.stdout)
    assert (start["kept"], start["failed"], start["total"]) == (2, 1, 2)
    assert counts(end) == (2, 2, 1, 0, 4, 0)
    kept = {event["case"]: event for event in cases if event["kept"]}
    assert set(kept) == {"case-0", "case-1", "case-2"}
    assert [done["case-0"]["segmented"], kept["case-0"]["segmented"]] == [True, False]
    same = KEYS["case"] - {"time", "run", "kept", "segmented", "done", "total", "left_s"}
    assert all(kept["case-0"][key] == done["case-0"][key] for key in same)
    logged = events(log.read_text())[len(first.stdout.splitlines()) :]
    assert [event["event"] for event in logged] == ["start", "case", "case", "end"]  # kept: above
    assert [event["case"] for event in logged[1:-1]] == ["case-3", "case-4"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_the_end(
    number: signal.Signals, small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = LogFile.write

    def then_signal(log: LogFile, line: str) -> None:
        write(log, line)
        if json.loads(line)["event"] == "case":
            os.kill(os.getpid(), number)

    monkeypatch.setattr(LogFile, "write", then_signal)
    log = tmp_path / "x.log"
    answer = run("predict", small_scans, "-o", tmp_path / "out", *PHANTOM, "--json", "--log-file", log)
    assert answer.returncode == 128 + number
    _, _, end = events(answer.stdout)
    assert counts(end) == (1, 0, 0, 0, 1, 4)
    assert (end["exit_code"], end["error"]) == (128 + number, f"stopped by {number.name}")
    assert log.read_text() == answer.stdout


def test_what_never_began_has_an_end(tmp_path: Path) -> None:
    save(small_scan(0), tmp_path / "a.nii.gz")
    answer = run("predict", tmp_path / "a.nii.gz", "-o", tmp_path / "out", "--model", "phantom", "--json")
    *_, case, end = events(answer.stdout)
    assert (case["state"], case["verdict"], end["exit_code"]) == ("failed", "refuse", 2)
    assert "this is not a scan that the model was trained for" in end["error"]
    (tmp_path / "nothing").mkdir()
    answer = run("predict", tmp_path / "nothing", "-o", tmp_path / "out", "--model", "phantom", "--json")
    (end,) = events(answer.stdout)
    assert (answer.returncode, end["exit_code"], end["run"], end["cases"]) == (2, 2, None, 0)


@pytest.mark.parametrize(
    "words",
    [
        ("--model", "no-such-model"),
        ("--set", "no.key=1"),
        ("--roi", "x"),
        ("--series", "~"),
        ("--shard", "3/2"),
        ("--report", "jpg"),
        ("--quiet", "--verbose"),
    ],
)
def test_options_that_mean_nothing_have_an_end(words: tuple[str, ...], tmp_path: Path) -> None:
    """Nothing was written if an option could not be parsed: whoever waits for the end would wait for ever."""
    log = tmp_path / "x.log"
    given = ("predict", tmp_path / "a.nii.gz", "-o", tmp_path / "out", "--json", "--log-file", log)
    answer = run(*given, *words)
    (end,) = events(answer.stdout)
    assert (answer.returncode, end["exit_code"], end["run"], end["cases"]) == (2, 2, None, 0)
    assert end["error"] in answer.stderr
    assert log.read_text() == answer.stdout


def test_a_case_that_cannot_be_written_was_segmented(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seconds were dropped, and with them the mark that the network ran."""

    def refuse(*_: object) -> None:
        raise InputError("the mask read back differs")

    monkeypatch.setattr("c3s3_seg.batch.case.write_case", refuse)
    (small_scans / "case-1.nii.gz").write_bytes(b"no scan")
    scans = [small_scans / f"case-{n}.nii.gz" for n in (0, 1)]
    answer = run("predict", *scans, "-o", tmp_path / "out", *PHANTOM, "--json")
    _, *cases, _ = events(answer.stdout)
    written, unread = sorted(cases, key=lambda case: str(case["case"]))
    assert (written["state"], written["segmented"]) == ("failed", True)
    assert {"load", "network"} <= set(written["seconds"])
    assert (unread["state"], unread["segmented"], unread["seconds"]) == ("failed", False, {})
    assert (written["outputs_sha256"], unread["outputs_sha256"]) == ({}, {})


def test_the_end_of_an_evaluation_that_never_began_has_its_keys(tmp_path: Path) -> None:
    answer = run("evaluate", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "-o", tmp_path / "out", "--json")
    _, end = map(json.loads, answer.stdout.splitlines())
    assert (end["cases"], end["failed"], end["exit_code"]) == (0, 0, 2)
    assert "there is no such file" in end["error"]
    answer = run("evaluate", tmp_path, tmp_path, "-o", tmp_path / "out", "--json", "--tolerance", "-1")
    (end,) = map(json.loads, answer.stdout.splitlines())
    assert (end["cases"], end["failed"], end["exit_code"]) == (0, 0, 2)


@pytest.mark.parametrize("how", ["folder", "pipe", "other", "denied", "journal.sqlite"])
def test_a_log_file_that_cannot_be_used_is_refused_at_the_start(how: str, tmp_path: Path) -> None:
    log = tmp_path / (how if "." in how else "x.log")
    if how == "folder":
        log.mkdir()
    elif how == "pipe":
        os.mkfifo(log)
    elif how == "other":
        log.write_text("case,label\n")
    elif how == "denied":
        log = tmp_path / "file" / "x.log"
        log.parent.write_text("")
    for words in (["predict", tmp_path, "--model", "phantom"], ["evaluate", tmp_path, tmp_path]):
        answer = run(*words, "-o", tmp_path / "out", "--log-file", log)
        assert answer.returncode == 2
        assert answer.stderr.startswith(f"error: {log}: ")
        assert answer.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    if how == "other":
        assert log.read_text() == "case,label\n"


def test_a_log_file_that_was_rotated(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    log, line = LogFile(path), '{"event": "case"}'
    log.write(line)
    path.rename(tmp_path / "x.log.1")
    log.write(line)
    path.rename(tmp_path / "x.log.2")
    path.touch()  # as logrotate does with `create`
    log.write(line)
    os.truncate(path, 0)  # as logrotate does with `copytruncate`
    log.write(line)
    again = LogFile(path)
    again.write(line)
    log.write(line)
    assert [p.read_text().splitlines() for p in sorted(tmp_path.iterdir())] == [3 * [line], [line], [line]]


@pytest.mark.parametrize("half", ["", '{"event": "case", "half'])
def test_a_line_after_half_of_another_begins_anew(tmp_path: Path, half: str) -> None:
    """A full disk or a power cut in an earlier run, or another program, leaves half a line."""
    path, line = tmp_path / "x.log", '{"event": "start"}'
    path.write_text(f"{line}\n{half}")
    log = LogFile(path)
    log.write(line)
    with path.open("a") as other:
        other.write(half)
    log.write(line)
    halves = [half] if half else []
    assert path.read_text().splitlines() == [line, *halves, line, *halves, line]


def test_a_log_that_cannot_be_written_any_more_ends_nothing(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "logs" / "x.log"
    log.parent.mkdir()
    write = LogFile.write

    def after_it_went(file: LogFile, line: str) -> None:
        if log.parent.exists():
            log.unlink()
            log.parent.rmdir()
        write(file, line)

    monkeypatch.setattr(LogFile, "write", after_it_went)
    answer = run("predict", small_scans, "-o", tmp_path / "out", *PHANTOM, "--log-file", log)
    assert answer.returncode == 0
    assert answer.stderr.count("the log file lacks events") == 1


def test_a_full_disk_behind_stdout_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first event that could not be printed used to end the batch."""
    log, done = tmp_path / "x.log", []

    def process() -> None:
        with Events(as_json=True, log_file=log) as written:
            for case in ("a", "b"):
                written("case", {"case": case})
                done.append(case)

    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(InputError, match=r"stdout lacks events: .*No space left on device"):
            process()
        monkeypatch.setattr("sys.stderr", full)
        say("", err=True)  # nothing is left to be written when the file is closed
    assert done == ["a", "b"]
    *_, end = map(json.loads, log.read_text().splitlines())
    assert (end["event"], end["exit_code"]) == ("end", 2)
    assert "stdout lacks events" in end["error"]


@pytest.mark.parametrize("kind", KEYS)
def test_the_document_has_every_key(kind: str) -> None:
    text = DOCUMENT.read_text()
    part = text.split("## Output for machines")[1].split("\n## ")[0]
    for key in KEYS[kind]:
        assert f"`{key}`" in part
