"""Many predicted cases on one page: cases that need review come first, each with its picture and link."""

import math
import os
from dataclasses import replace
from pathlib import Path

from helpers.predicted import CASE, SCORED
from helpers.reports import tags

from c3s3_seg.report.folder_page import FolderCase, least_sure_first, write_folder_page
from c3s3_seg.report.prediction_page import still_of, write_prediction_page
from c3s3_seg.report.rows import Failure, PredictionRow


def case(name: str, mm: dict[str, float] | None = None, *notes: str, volume_ml: float = 2.0) -> FolderCase:
    return FolderCase(PredictionRow(name, (("a", volume_ml),), 1.0, notes=notes), mm or {}, 2.0)


def test_a_link_to_a_page_whose_name_is_not_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff")
    write_folder_page(tmp_path / "r.html", "x", [replace(case(name, None, name), link=f"{name}.html")], [])
    assert [a["href"] for t, a in tags(tmp_path / "r.html") if t == "a"] == ["%FF.html"]


def test_the_least_sure_come_first() -> None:
    cases = [
        case("sure", {"a": 0.5, "b": 1.0}),
        case("unknown", None, "look"),
        case("empty", {"a": math.nan}, volume_ml=0.0),
        case("one found nothing", {"a": math.inf, "b": 1.0}),
        case("unsure", {"a": 0.5, "b": 3.0}),
        case("one organ lacks", {"a": math.nan, "b": 0.75}),
        case("also unknown"),
    ]
    order = [c.row.case for c in least_sure_first(cases)]
    assert order == [
        "empty",
        "one found nothing",
        "unsure",
        "sure",
        "one organ lacks",
        "unknown",
        "also unknown",
    ]
    assert [c.row.case for c in cases if c.flagged] == ["one found nothing", "unsure"]


def test_the_page_says_what_it_knows_and_names_are_text(tmp_path: Path) -> None:
    write_prediction_page(tmp_path / "a b.html", SCORED)
    planes = still_of(tmp_path / "a b.html")
    assert planes is not None
    row = PredictionRow("<a> b", (("a", 2.25),), 1.0, notes=("1 < 2",))
    cases = [FolderCase(row, {"a": 2.756}, 2.0, planes, "a b.html"), case("empty", volume_ml=0.0)]
    write_folder_page(tmp_path / "report.html", "Two", cases, [Failure("bad", "no <scan>")], "Model x.")
    found, text = tags(tmp_path / "report.html"), (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [a["href"] for t, a in found if t == "a"] == ["a%20b.html"]
    assert [a["alt"] for t, a in found if t == "img"] == ["Three planes of <a> b"]
    for words in ("&lt;a&gt; b", "1 &lt; 2", "no &lt;scan&gt;", "Model x.", ">2.76<", "Nothing was found."):
        assert words in text
    assert "<b>1</b><span>less sure than the limit of 2.00 mm</span>" in text
    assert text.index("Nothing was found.") < text.index("2.76")


def test_without_uncertainty_nothing_is_said_of_it(tmp_path: Path) -> None:
    known = FolderCase(PredictionRow("x", (("a", 1.0),), 1.0))
    write_folder_page(tmp_path / "report.html", "One", [known], [])
    body = (tmp_path / "report.html").read_text(encoding="utf-8").split("<main>")[1]
    assert "Uncertainty" not in body
    assert "failed</span>" in body
    assert "with notes" in body


def test_a_page_without_planes_has_no_picture(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text("<html></html>")
    assert still_of(tmp_path / "x.html") is None
    write_prediction_page(tmp_path / "y.html", CASE)
    assert still_of(tmp_path / "y.html") is not None
