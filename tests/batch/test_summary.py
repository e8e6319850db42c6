"""Tests of summary.csv and the table on a terminal: their content, and that its text is harmless."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from c3s3_seg.batch.summary import HEADER, SCORES, summary
from c3s3_seg.commands.predict_output import LONGEST_TABLE, shown_rows
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.metrics.results import CaseScore
from c3s3_seg.metrics.scoring import scores
from c3s3_seg.report.rows import Failure, PredictionRow
from c3s3_seg.report.terminal import prediction_table

GRID = Geometry.build((6, 6, 6), (1.0, 1.0, 2.0))
MASK = GRID.volume(np.pad(np.ones((2, 2, 2), np.uint8), 2))
ROW = PredictionRow("a", (("organ", 1.5), ("wall", 0.5)), 2.0, verdict="pass", model="m", version="1")
FORCED = replace(ROW, case="b", verdict="refuse", warnings=("too large", "too coarse"))
UNSURE = replace(
    ROW, case="c", uncertainty_mm=(("organ", 3.25), ("wall", math.inf)), uncertainty_limit_mm=2.0
)
SURE = replace(ROW, case="d", uncertainty_mm=(("organ", 1.0), ("wall", 2.0)), uncertainty_limit_mm=2.0)
EMPTY = replace(ROW, case="e", volumes_ml=(("organ", 0.0), ("wall", 0.0)), warnings=("nothing found",))
WARNED = replace(ROW, case="f", verdict="warn", warnings=("rather small",))
ALL = (ROW, FORCED, UNSURE, SURE, EMPTY, WARNED)


def table(*rows: PredictionRow, failures: tuple[Failure, ...] = ()) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(summary(rows, failures).decode())))


def test_each_column_says_what_it_says() -> None:
    lines = {(line["case"], line["label"]): line for line in table(*ALL)}
    plain = lines["a", "organ"]
    assert [plain[name] for name in ("verdict", "warnings", "forced", "empty")] == ["pass", "", "no", "no"]
    assert [plain[name] for name in ("uncertainty_mm", "uncertain", "model", "version")] == ["", "", "m", "1"]
    assert lines["b", "wall"]["warnings"] == "too large | too coarse"
    assert (lines["b", "wall"]["verdict"], lines["b", "wall"]["forced"]) == ("refuse", "yes")
    assert (lines["c", "organ"]["uncertainty_mm"], lines["c", "wall"]["uncertainty_mm"]) == ("3.250", "inf")
    assert (lines["c", "organ"]["uncertain"], lines["d", "organ"]["uncertain"]) == ("yes", "no")
    assert lines["d", "wall"]["uncertainty_limit_mm"] == "2.000"
    assert (lines["e", "organ"]["empty"], lines["e", "organ"]["error"]) == ("yes", "nothing found")
    assert [row.needs_review for row in ALL] == [False, True, True, False, True, True]


def test_the_header_is_the_same_in_every_run() -> None:
    score = scores(MASK, MASK, [1])[1]
    scored = replace(ROW, scores=(CaseScore("a", "organ", score),))
    heads = [summary(rows, ()).splitlines()[0] for rows in ((), (ROW,), (scored,))]
    assert set(heads) == {",".join(HEADER).encode()}
    assert set(SCORES) == set(score.flat()) - {"volume_ml"}  # a new metric must get a column too
    assert table(scored)[0]["dice"] == "1.0"


def test_no_text_is_a_formula() -> None:
    evil = replace(ROW, case="@SUM(A1)", model="=1+1", warnings=("-2+3", "x"), verdict="+1+cmd")
    line, _, failed = table(evil, failures=(Failure("=a", "@b\n=c"),))
    for name in ("case", "model", "warnings", "verdict"):
        assert line[name].startswith("'")
    assert (failed["case"], failed["error"]) == ("'=a", "'@b\\n=c")


def test_a_scan_that_was_refused_says_so_in_its_verdict() -> None:
    refused, lost = table(failures=(Failure("r", "another modality", "refuse"), Failure("l", "no file")))
    assert [refused[name] for name in ("case", "verdict", "error")] == ["r", "refuse", "another modality"]
    assert [lost[name] for name in ("verdict", "error")] == ["", "no file"]
    assert not any(value for name, value in refused.items() if name not in ("case", "verdict", "error"))


def shown(rows: tuple[PredictionRow, ...], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(prediction_table(rows))
    return console.export_text()


def test_the_table_has_cases_to_review_first_and_fits_a_terminal() -> None:
    score = scores(MASK, MASK, [1])[1]
    scored = replace(UNSURE, case="patient-0123456789-c", scores=(CaseScore("c", "organ", score),))
    text = shown((ROW, FORCED, scored, SURE, EMPTY, WARNED), 80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    order = [text.index(f"\n {name}") for name in ("e ", "b ", "patient", "f ", "a ", "d ")]
    assert order == sorted(order)
    for word in ("empty", "forced", "uncertain", "warning", "pass", "3.25", "inf", "1.0000"):
        assert f" {word} " in text


def test_the_table_tells_a_scan_that_was_not_compared_from_one_that_passed() -> None:
    text = shown((ROW, replace(ROW, case="g", verdict="unchecked")), 80)
    assert [line.split()[-1] for line in text.splitlines() if line[1:3] in ("a ", "g ")] == [
        "pass",
        "unchecked",
    ]


def test_of_many_cases_a_terminal_shows_those_to_review() -> None:
    many = [replace(ROW, case=str(n)) for n in range(LONGEST_TABLE)]
    assert list(shown_rows(many)) == many
    assert [row.case for row in shown_rows([*many, WARNED, EMPTY])] == ["e", "f"]
    assert len(shown_rows([WARNED] * (2 * LONGEST_TABLE))) == LONGEST_TABLE


def test_the_document_has_every_column() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    part = text.split("## Columns of summary.csv")[1].split("\n## ")[0]
    assert [name for name in HEADER if f"`{name}`" not in part] == []
