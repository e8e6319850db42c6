"""Terminal control characters in file names: no command prints them."""

import ast
import errno
import io
import os
import re
import shlex
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from conftest import small_scan
from helpers.command import run
from rich.console import Console

from c3s3_seg.commands.console import Bar, Status, command_of, report_failures, say, show
from c3s3_seg.commands.predict_output import report_files
from c3s3_seg.io import save
from c3s3_seg.metrics.results import CaseScore, PaperScore
from c3s3_seg.report.findings import Finding, findings_table
from c3s3_seg.report.rows import Failure, PredictionRow
from c3s3_seg.report.terminal import cell, evaluation_table, plan_table, prediction_table

EVIL = "\x1b]0;owned\x07[red]\x1b[2J\u202e[/]\r"
SEEN = "\\x1b]0;owned\\x07[red]\\x1b[2J\\u202e[/]\\r"
COMMANDS = Path(__file__).parents[2] / "c3s3_seg" / "commands"


def harmless(answer: "CompletedProcess[str]") -> str:
    """Return the output without white space; check that it holds no control characters but newlines."""
    text = answer.stdout + answer.stderr
    assert [c for c in text if not c.isprintable() and c != "\n"] == []
    return "".join(text.split())


def shown(table: object) -> str:
    console = Console(width=200, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_a_table_shows_names_as_they_are() -> None:
    rows = [PredictionRow(EVIL, ((EVIL, 1.0), ("b", 2.0)), 0.1)]
    finding = Finding("error", EVIL, (EVIL,), EVIL, EVIL, EVIL)
    tables = [
        prediction_table(rows),
        findings_table([finding]),
        plan_table([(EVIL, EVIL, EVIL)]),
    ]
    for table in tables:
        text = shown(table)
        assert [c for c in text if not c.isprintable() and c != "\n"] == []
        assert SEEN in "".join(text.split()) or "\\x1b]0;owned" in text
    assert cell("[red]x[/red]\\").plain == "[red]x[/red]\\"


def test_the_command_that_is_proposed_is_one_for_a_shell(tmp_path: Path) -> None:
    source, data = tmp_path / "my scans", tmp_path / "a data set; of $mine"
    source.mkdir()
    save(small_scan(0), source / "a.nii.gz")
    answer = run("prepare", source, "-o", data)
    assert answer.returncode == 0, answer.stderr
    (proposed,) = re.findall(r"Next: (.*)", answer.stdout)
    assert shlex.split(proposed) == ["c3s3-seg", "check", str(data)]


def test_a_reason_is_one_line_below_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    long = f"{'a long reason ' * 20}\n  in two lines {EVIL}"
    report_failures([Failure("a", long), Failure(EVIL, "b.nii.gz: the file ends early.")])
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == "2 failed:"
    assert first.startswith(f"  a: {'a long reason ' * 20}in two lines ")
    assert "\\n" not in first
    assert "\\x1b" in first
    assert second.endswith(": b.nii.gz: the file ends early.")
    many = [Failure(f"case-{n}", "lost") for n in range(22)]
    report_failures(many, table="report.json")
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], lines[-1]) == ("22 failed:", "  and 2 more; all are in report.json")
    assert len(lines) == 22
    report_failures([])
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_no_command_prints_what_a_terminal_obeys(tmp_path: Path) -> None:
    place = tmp_path / "s"
    place.mkdir()
    evil = place / f"{EVIL.replace('/', '')}.nii.gz"
    save(small_scan(0), evil)
    save(small_scan(1), place / "=1+1.nii.gz")
    (place / f"{EVIL.replace('/', '')}2.nii.gz").write_bytes(b"no scan")
    out = tmp_path / f"out{EVIL.replace('/', '')}"
    answer = run("predict", place, "-o", out, "--model", "phantom", "--allow-out-of-domain")
    assert answer.returncode == 1
    assert "\\x1b]0;owned" in harmless(answer)
    table = (out / "summary.csv").read_text()
    assert "\n'=1+1,left_atrium," in table
    assert all(c.isprintable() for line in table.split("\n") for c in line)
    mask = out / evil.name
    commands: list[list[object]] = [
        ["verify", out],
        ["evaluate", mask, mask, "-o", tmp_path / f"e{EVIL.replace('/', '')}"],
        ["inspect", evil],
        ["inspect", evil, "--json"],
        ["predict", evil, "-o", evil, "--model", "phantom"],
        ["predict", tmp_path / "none\x1b[31m", "-o", out],
        ["prepare", place, "-o", tmp_path / "p", "--dry-run"],
        ["check", tmp_path / "none\x1b[31m"],
        ["phantom", "-o", evil],
        ["send", "A@localhost:1", evil],
        ["train", tmp_path / "none\x1b[31m.toml", "-o", tmp_path / "t"],
    ]
    for words in commands:
        said = harmless(run(*words))
        assert said
        assert "Traceback" not in said


@pytest.mark.parametrize("path", sorted(COMMANDS.glob("*.py")), ids=lambda p: p.name)
def test_every_command_speaks_through_one_place(path: Path) -> None:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in calls}
    assert not names & {"echo", "secho", "print"} - ({"print"} if path.name == "console.py" else set())


def test_a_full_disk_behind_stderr_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with `2>> FILE` used to end after a few cases. The text is dropped: nothing fails at exit."""
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        for _ in range(100):
            say("x" * 200, err=True)
        full.flush()
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(OSError, match="No space left"):
            say("x")
        say("y", err=True)  # it drops the x, too


class _Gone(io.StringIO):
    """A terminal whose window was closed."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_terminal_that_has_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _Gone())
    with Status() as status:
        status.note("a case failed")
    with Bar() as bar:
        bar("a case", 1, 2)


def test_a_path_that_begins_with_a_dash_is_no_option() -> None:
    assert command_of("check", Path("-data"), "--json") == "c3s3-seg check ./-data --json"
    assert command_of("check", Path("data")) == "c3s3-seg check data"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_narrow_terminal_gets_all_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that did not fit was left out, and numbers were cut."""
    scores = [CaseScore(name, "an organ", PaperScore(0.123, 0.456, 7.891, 2.345, False)) for name in "ab"]
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "30")
    show(evaluation_table(scores))
    text = terminal.getvalue()
    for number in ("0.1230", "0.4560", "7.89", "2.35", "Jaccard", "(voxel)", "mean"):
        assert number in text
    assert "\u2026" not in text


@pytest.mark.parametrize("given", [["png, html"], ["png,", "html"], ["png", "html,"], ["png,,html"]])
def test_words_of_a_list_may_have_commas_and_spaces(given: list[str]) -> None:
    assert report_files(given) == {"png", "html"}


def test_a_narrow_terminal_shows_figures_with_spaces_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table

    table = Table("Case", "Label")
    for _ in range(8):
        table.add_column("95% interval", no_wrap=True)
    table.add_row("hippocampus_004", "posterior", *["1.33 (1 infinite)", "0.854 ± 0.006"] * 4)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", out := _Terminal())
    show(table)
    assert "…" not in out.getvalue()
    assert out.getvalue().count("1.33 (1 infinite)") == 4
    assert out.getvalue().count("0.854 ± 0.006") == 4
    assert out.getvalue().count("95% interval") == 8
