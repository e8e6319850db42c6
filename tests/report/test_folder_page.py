"""Many predicted cases on one page: cases that need review come first, each with its picture and link."""

import io
import math
import os
import re
from dataclasses import replace
from pathlib import Path

from helpers.predicted import CASE, SCORED
from helpers.reports import tags
from PIL import Image

from c3s3_seg.inference.domain_check import NOTHING_FOUND
from c3s3_seg.report.folder_page import PICTURES, FolderCase, least_sure_first, write_folder_page
from c3s3_seg.report.page import image
from c3s3_seg.report.prediction_page import still_of, write_prediction_page
from c3s3_seg.report.rows import FORCED, Failure, PredictionRow


def case(name: str, mm: dict[str, float] | None = None, *notes: str, volume_ml: float = 2.0) -> FolderCase:
    known = tuple((mm or {}).items())
    row = PredictionRow(
        name, (("a", volume_ml),), 1.0, notes=notes, uncertainty_mm=known, uncertainty_limit_mm=2.0
    )
    return FolderCase(row)


def test_a_link_to_a_page_whose_name_is_not_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff")
    known = FolderCase(case(name, None, name).row, tmp_path / f"{name}.html")
    write_folder_page(tmp_path / "r.html", "x", [known], [])
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
    row = case("<a> b", {"a": 2.756}, "1 < 2", volume_ml=2.25).row
    cases = [FolderCase(row, tmp_path / "a b.html"), case("empty", None, NOTHING_FOUND, volume_ml=0.0)]
    write_folder_page(tmp_path / "report.html", "Two", cases, [Failure("bad", "no <scan>")], "Model x.")
    found, text = tags(tmp_path / "report.html"), (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [a["href"] for t, a in found if t == "a"] == ["a%20b.html"]
    assert [a["alt"] for t, a in found if t == "img"] == ["Three planes of <a> b"]
    for words in ("&lt;a&gt; b", "1 &lt; 2", "no &lt;scan&gt;", "Model x.", ">2.76<", NOTHING_FOUND):
        assert words in text
    assert "<b>1</b><span>less sure than the limit of 2.00 mm</span>" in text
    assert text.index(NOTHING_FOUND) < text.index("2.76")
    assert text.count(NOTHING_FOUND) == 1
    assert re.search(r'class="key" style="border-color: rgb\(\d+, \d+, \d+\)"></span>a &nbsp;', text)
    assert re.findall(r'<th scope="col"( class="text")?><button type="button">(.*?)<', text) == [
        ("", "Case"), ("", "Uncertainty (mm)"), ("", "a (ml)"), (' class="text"', "Notes"),
    ]  # fmt: skip


def test_only_the_first_cases_of_a_large_batch_have_a_picture(tmp_path: Path) -> None:
    """The pictures of 10,000 cases took 20 minutes, and made a page of 360 MB."""
    own, picture = tmp_path / "own.html", io.BytesIO()
    Image.new("RGB", (6, 4)).save(picture, format="WEBP")  # a small one, drawn in no time
    own.write_text(image(picture.getvalue(), "planes"), encoding="utf-8")
    cases = [FolderCase(case(f"c{n:03}", {"a": float(n)}).row, own) for n in range(PICTURES + 2)]
    page = tmp_path / "report.html"
    write_folder_page(page, "Many", cases[:PICTURES], [])
    assert "Only the first" not in page.read_text(encoding="utf-8")
    write_folder_page(page, "Many", cases, [])
    found, text = tags(page), page.read_text(encoding="utf-8")
    drawn = [a["alt"] for t, a in found if t == "img"]
    assert drawn == [f"Three planes of c{n:03}" for n in range(PICTURES + 1, 1, -1)]  # the least sure ones
    assert [a["href"] for t, a in found if t == "a"] == ["own.html"] * len(cases)
    assert f"Only the first {PICTURES} of the {PICTURES + 2} cases have one" in text
    assert re.findall(r"<span>(c\d+)</span>", text)[-2:] == ["c001", "c000"]


def test_a_scan_that_was_refused_and_segmented_is_named_first(tmp_path: Path) -> None:
    forced = FolderCase(replace(case("forced", {"a": 0.5}, "its spacing is 9 mm").row, verdict="refuse"))
    cases = [case("unsure", {"a": 3.0}), forced, case("empty", None, "nothing", volume_ml=0.0)]
    assert [c.row.case for c in least_sure_first(cases)] == ["empty", "forced", "unsure"]
    write_folder_page(tmp_path / "report.html", "Three", cases, [])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>1</b><span>forced: refused by the domain check</span>" in text
    assert f"<p>{FORCED}</p><p>its spacing is 9 mm</p>" in text
    assert text.count(FORCED) == 1


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
