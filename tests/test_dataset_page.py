"""The doctor's page and its JSON: whole, closed, the same bytes again; and the verb around them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from planted import CASE, PLANTS, clean_set, copy_of, mask_of

from c3s3_seg.dataset.examine import Examination, examine
from c3s3_seg.dataset.page import write_doctor_json, write_doctor_page


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unknown values and a missing mask."""
    folder = tmp_path_factory.mktemp("page")
    sick = copy_of(clean_set(folder / "clean"), folder / "sick")
    PLANTS[1].do(sick)
    mask_of(sick, "heart-3").unlink()
    return sick


@pytest.fixture(scope="module")
def found(sick: Path) -> Examination:
    return examine(sick)


def test_the_page_is_closed_and_shows_each_finding(found: Examination, tmp_path: Path) -> None:
    told: list[str] = []
    write_doctor_page(tmp_path / "a.html", found, progress=lambda what, *_: told.append(what))
    write_doctor_page(tmp_path / "b.html", found)
    text = (tmp_path / "a.html").read_text()
    assert text == (tmp_path / "b.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text)
    assert "default-src 'none'" in text
    assert "plotly" not in text.split("<script>")[0]  # nothing turns, so its 2 MB stay out
    assert told == [f"picture of {CASE}"]
    assert text.count("data:image/webp") == 1
    for finding in found.findings:
        assert finding.check in text
    assert text.count('class="badge error"') == 2


def test_links_lead_somewhere(found: Examination, tmp_path: Path) -> None:
    write_doctor_page(tmp_path / "a.html", found)
    text = (tmp_path / "a.html").read_text()
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(re.findall(r'id="([^"]+)"', text))


def test_the_json_holds_findings_and_cases(found: Examination, tmp_path: Path) -> None:
    write_doctor_json(tmp_path / "doctor.json", found)
    content = json.loads((tmp_path / "doctor.json").read_text())
    assert [(f["check"], f["cases"]) for f in content["findings"]] == [
        ("mask-values", [CASE]),
        ("no-file", ["heart-3"]),
    ]
    assert len(content["cases"]) == 12
    assert content["cases"][0]["volumes_ml"].keys() == {"lower", "upper"}


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "c3s3_seg", "doctor", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_verb_says_it_and_fails(sick: Path, tmp_path: Path) -> None:
    answer = run(sick, "-o", tmp_path / "out", "--html")
    assert answer.returncode == 1, answer.stderr
    assert "mask-values" in answer.stdout
    assert "12 cases examined, 2 errors." in answer.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"doctor.json", "doctor.html"}


def test_the_verb_in_json_and_on_bad_input(sick: Path, tmp_path: Path) -> None:
    answer = run(sick.parent / "clean", "--json")
    assert (answer.returncode, answer.stdout) == (0, "")
    lines = [json.loads(line) for line in run(sick, "--json").stdout.splitlines()]
    assert {line["check"] for line in lines} == {"mask-values", "no-file"}
    assert run(tmp_path).returncode == 2
    assert "--html needs a folder" in run(sick, "--html").stderr
