import io
import json
import sys

import pytest

from c3s3_seg.batch import BatchProgress
from c3s3_seg.batch.counts import Counts
from c3s3_seg.batch.records import Outcome, Refusal
from c3s3_seg.commands import progress
from c3s3_seg.commands.events import Events
from c3s3_seg.commands.progress import ProgressReporter, duration
from c3s3_seg.report.rows import PredictionRow

ROW = PredictionRow("a\nb", (("organ", 2.5),), 1.0)
DONE = Outcome("a\nb", "/scans/a", ROW, None, {}, {"a.nii.gz": "00"})
FAILED = Outcome("c", "/scans/c", refusal=Refusal("it is broken", "c", None, "InputError", "load"))


def tell(capsys: pytest.CaptureFixture[str], *, as_json: bool, quiet: bool) -> tuple[list[str], str]:
    counts = Counts(2)
    with Events(as_json=as_json) as events, ProgressReporter(events, quiet=quiet) as teller:
        teller(BatchProgress(0, 2, note="3 cases finished before", counts=counts))
        for n, outcome in enumerate((DONE, FAILED), 1):
            counts = counts.plus([outcome])
            teller(BatchProgress(n, 2, (2 - n) * 7.25, outcome, counts=counts))
    said = capsys.readouterr()
    return said.out.splitlines(), said.err


def test_machines_read_a_line_for_each_event(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = tell(capsys, as_json=True, quiet=True)
    start, first, second, end = map(json.loads, out)
    assert (start["event"], start["total"], start["note"]) == ("start", 2, "3 cases finished before")
    assert (end["event"], end["cases"], end["done"], end["failed"], end["left"]) == ("end", 2, 1, 1, 0)
    assert (first["case"], first["state"], first["left_s"]) == ("a\nb", "done", 7.2)
    assert first["volume_ml"] == {"organ": 2.5}
    assert (second["state"], second["reason"]) == ("failed", "c: it is broken.")
    assert err == ""


def test_people_read_what_stays_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = tell(capsys, as_json=False, quiet=False)
    assert out == []
    assert err == "3 cases finished before\n"  # no terminal, and under 30 s passed
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    _, err = tell(capsys, as_json=False, quiet=False)
    assert "1 of 2 done, about 7 s left: a\\nb\n" in err


def test_durations() -> None:
    assert [duration(s) for s in (4.4, 150, 9000, 400_000)] == ["4 s", "2 min", "2.5 h", "4.6 days"]


def test_a_stream_that_knows_few_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    from c3s3_seg.commands.console import say

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    say("心房")
    assert raw.getvalue() == b"\\u5fc3\\u623f\n"
