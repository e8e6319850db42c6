"""The report page: complete, self-contained, open about misses, and the same bytes for the same masks."""

import io
import json
import math
import re
from pathlib import Path

import pytest
from helpers.reports import run, tags
from rich.console import Console

from c3s3_seg.errors import MissingError
from c3s3_seg.metrics.paired_tests import compare
from c3s3_seg.metrics.results import CaseScore, PaperScore
from c3s3_seg.report.html import DETAILED, Report, worst_first, write_report_page
from c3s3_seg.report.page import SOLID, page
from c3s3_seg.report.rows import Failure
from c3s3_seg.report.terminal import comparison_table


@pytest.mark.slow
def test_every_tag_is_closed_and_nothing_is_fetched(report: Path) -> None:
    found = tags(report)
    for tag, attributes in found:
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:image/webp;base64,", "#")), (tag, value)
    assert sum(tag == "script" and "src" in a for tag, a in found) == 0
    (policy,) = [a["content"] for t, a in found if t == "meta" and a.get("http-equiv")]
    assert "default-src 'none'" in str(policy)


@pytest.mark.slow
def test_it_says_its_two_sides_its_date_and_its_order(report: Path) -> None:
    text = report.read_text(encoding="utf-8").split("<main>")[1]
    assert re.search(r"Predictions <b>predictions</b>, truth <b>truth</b>, measured on \d{4}-\d\d-\d\d", text)
    assert "a missed label first, then by falling 95HD" in text
    assert "In the order of their names" in text


@pytest.mark.slow
def test_links_lead_somewhere(report: Path) -> None:
    found = tags(report)
    ids = {a["id"] for _, a in found if a.get("id")}
    links = {str(a["href"])[1:] for _, a in found if str(a.get("href", "")).startswith("#")}
    assert links <= ids
    assert len([a for t, a in found if t == "details" and a.get("class") == "case"]) == 6


def test_misses_are_said_and_come_first(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    cases = re.findall(r"<summary><b>([\w-]+), label_1</b>", text)
    assert set(cases[:2]) == {"missed", "no-truth"}
    assert cases[-1] == "both-empty"
    assert "The prediction is empty" in text
    assert "The truth is empty" in text
    assert "Both masks are empty" in text
    assert 'data-v="Infinity" class="bad">∞' in text
    assert 'data-v="nan">–' in text
    assert "<b>2</b><span>one mask empty: infinite</span>" in text
    assert "mean of 3 finite" in text
    assert "<b>1</b><span>both masks empty: Dice 1, no distance</span>" in text
    assert "with the image diagonal where one mask is empty" in text


def test_a_scan_on_another_grid_is_not_shown_and_said(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert "The scan is on another grid" in text
    assert "There is no scan of this case" in text


@pytest.mark.slow
def test_the_same_masks_give_the_same_bytes(folder: Path, report: Path) -> None:
    assert run(folder, "again").read_bytes() == report.read_bytes()


@pytest.mark.slow
def test_paper_protocol_has_its_columns_and_counts_the_flattered(folder: Path) -> None:
    text = run(folder, "paper", protocol="paper").read_text(encoding="utf-8")
    assert "95HD (voxel)" in text
    # One of the two empty predictions is right: its truth is empty too.
    assert "<b>1</b><span>1 empty, counted as 0</span>" in text
    assert "<b>1</b><span>both masks empty: counted as 0</span>" in text
    assert "<b>1</b><span>one mask empty: infinite</span>" in text
    assert "Bland-Altman" not in text


def test_surfaces_are_small_and_in_the_patients_place(report: Path) -> None:
    meshes = re.findall(r'class="mesh">(.*?)</script>', report.read_text(encoding="utf-8"))
    assert len(meshes) == 5
    assert all(len(mesh) < 200_000 for mesh in meshes)
    assert json.loads(meshes[2])["cmax"] == -json.loads(meshes[2])["cmin"]


def test_names_are_text(tmp_path: Path) -> None:
    row = CaseScore("<script>alert(1)</script>", "a & b", PaperScore(0.5, 0.3, 1.0, 1.0, optimistic=False))
    failure = Failure("<b>x", "grid <1> & 2")
    write_report_page(tmp_path / "r.html", Report("<i>", "paper", [row], [failure]), [])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text.split('id="plotly"')[0]
    assert "1 not measured" in text
    assert "grid &lt;1&gt; &amp; 2" in text
    tags(tmp_path / "r.html")


def test_no_rows_still_make_a_page(tmp_path: Path) -> None:
    write_report_page(tmp_path / "r.html", Report("Nothing", "clinical", [], [Failure("a", "gone")]), [])
    assert "1 not measured" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_only_the_worst_cases_are_drawn() -> None:
    rows = [
        CaseScore(str(n), "x", PaperScore(0.9, 0.8, float(n), 1.0, optimistic=False))
        for n in range(2 * DETAILED)
    ]
    rows.append(CaseScore("miss", "x", PaperScore(0.0, 0.0, 0.0, 0.0, optimistic=True)))
    rows.append(CaseScore("nothing", "x", PaperScore(1.0, 1.0, math.nan, math.nan, optimistic=False)))
    rows.append(CaseScore("both", "x", PaperScore(0.0, 0.0, 0.0, 0.0, optimistic=False)))
    drawn = [row.case for row in worst_first(rows)]
    assert len(drawn) == DETAILED
    assert drawn[:2] == ["miss", str(2 * DETAILED - 1)]
    perfect = CaseScore("perfect", "x", PaperScore(1.0, 1.0, 0.0, 0.0, optimistic=False))
    assert [row.case for row in worst_first([rows[-1], perfect, rows[-3]])] == ["miss", "perfect", "both"]


def test_without_plotly_a_page_with_surfaces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(MissingError, match=r"pip install '\.\[report\]'"):
        page("x", f"<main>{SOLID}</figure></main>")
    assert b"plotly</script>" not in page("x", "<main>only words</main>")


@pytest.mark.parametrize("label", ["x", "[red]x[/blue]"])
def test_a_comparison_says_what_was_left_out_and_empty(tmp_path: Path, label: str) -> None:
    def score(dice: float, hd95: float, *, empty: bool = False) -> PaperScore:
        return PaperScore(dice, dice, hd95, hd95, optimistic=empty)

    mine = [CaseScore(str(n), label, score(0.9, 1.0 + n)) for n in range(7)]
    mine[0] = CaseScore("0", label, score(0.0, math.inf))
    other = [CaseScore(row.case, label, score(0.8, 3.0 + n)) for n, row in enumerate(mine)]
    other[1:3] = [CaseScore(str(n), label, score(0.0, 0.0, empty=True)) for n in (1, 2)]
    mine[6] = other[6] = CaseScore("6", label, score(0.0, 0.0))
    pairs = compare(mine, other)
    write_report_page(tmp_path / "r.html", Report("x", "paper", mine, comparison=pairs), [])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert ">6 (1 left out)</td>" in text
    words = f"{label}: 0 of these predictions and 2 of the others were empty"
    both = f"{label}: 1 of these predictions and 1 of the others are empty like the truth and count as 0"
    assert words in text
    assert both in text
    console = Console(width=250, file=io.StringIO())
    console.print(comparison_table(pairs))
    assert isinstance(console.file, io.StringIO)
    printed = " ".join(console.file.getvalue().split())
    assert "6 (1 left out)" in printed
    assert words in printed
    assert both in printed
    assert "0 where the prediction is empty, even where the truth is empty too" in text
