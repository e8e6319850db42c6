"""Tests of the doctor's page and its JSON: complete, self-contained, reproducible; and of the command."""

import json
import os
import re
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from helpers import command
from helpers.planted import CASE, PLANTS, clean_set, copy_of, mask_of
from typer.testing import CliRunner

from c3s3_seg.cli import app
from c3s3_seg.dataset.check.check import DataSetCheck, check_data_set
from c3s3_seg.dataset.check.html import write_check_json, write_check_page
from c3s3_seg.errors import InputError
from c3s3_seg.io import load_mask, save


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set with unknown values in a mask and with a missing mask."""
    folder = tmp_path_factory.mktemp("page")
    sick = copy_of(clean_set(folder / "clean"), folder / "sick")
    PLANTS[1].do(sick)
    mask_of(sick, "heart-3").unlink()
    return sick


@pytest.fixture(scope="module")
def found(sick: Path) -> DataSetCheck:
    return check_data_set(sick)


@pytest.mark.slow
def test_the_page_is_closed_and_shows_each_finding(found: DataSetCheck, tmp_path: Path) -> None:
    told: list[str] = []
    write_check_page(tmp_path / "a.html", found, progress=lambda what, *_: told.append(what))
    write_check_page(tmp_path / "b.html", found)
    text = (tmp_path / "a.html").read_text()
    assert text == (tmp_path / "b.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text)
    assert "default-src 'none'" in text
    assert "plotly" not in text.split("<script>")[0]  # no 3D view, so its 2 MB are left out
    assert told == [f"picture of {CASE}"]
    assert text.count("data:image/webp") == 1
    for finding in found.findings:
        assert finding.check in text
    assert text.count('class="badge error"') == 2


@pytest.mark.slow
def test_links_lead_somewhere(found: DataSetCheck, tmp_path: Path) -> None:
    write_check_page(tmp_path / "a.html", found)
    text = (tmp_path / "a.html").read_text()
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(re.findall(r'id="([^"]+)"', text))


def test_the_json_holds_findings_and_cases(found: DataSetCheck, tmp_path: Path) -> None:
    write_check_json(tmp_path / "check.json", found)
    content = json.loads((tmp_path / "check.json").read_text())
    assert [(f["check"], f["cases"]) for f in content["findings"]] == [
        ("mask-values", [CASE]),
        ("no-file", ["heart-3"]),
    ]
    assert len(content["cases"]) == 12
    assert content["cases"][0]["volumes_ml"].keys() == {"lower", "upper"}


def run(*words: object) -> "CompletedProcess[str]":
    return command.run("check", *words)


@pytest.mark.slow
def test_the_verb_says_it_and_fails(sick: Path, tmp_path: Path) -> None:
    answer = run(sick, "-o", tmp_path / "out", "--html")
    assert answer.returncode == 1, answer.stderr
    assert "mask-values" in answer.stdout
    assert "12 cases examined, 2 errors." in answer.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"check.json", "check.html"}


@pytest.mark.slow
def test_the_verb_in_json_and_on_bad_input(sick: Path, tmp_path: Path) -> None:
    answer = run(sick.parent / "clean", "--json")
    assert (answer.returncode, answer.stdout) == (0, "")
    lines = [json.loads(line) for line in run(sick, "--json").stdout.splitlines()]
    assert {line["check"] for line in lines} == {"mask-values", "no-file"}
    assert run(tmp_path).returncode == 2
    assert "--html needs a folder" in run(sick, "--html").stderr


@pytest.mark.slow
def test_names_of_a_data_set_are_text_on_the_page_and_on_the_terminal(sick: Path, tmp_path: Path) -> None:
    """Labels, the data set, its cases and stray files may have any name."""
    evil = '<script>alert(1)</script>"onload="x\x1b]0;title\x07\u202e'
    folder = copy_of(sick.parent / "clean", tmp_path / "set")
    index = json.loads((folder / "dataset.json").read_text())
    case = "<img src=x onerror=alert(1)>"
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind / f"{CASE}.nii.gz").rename(folder / kind / f"{case}.nii.gz")
        (folder / kind / f"{evil.replace('/', '')}.nii.gz").touch()
        (folder / kind / os.fsdecode(b"not\xffunicode.nii.gz")).touch()
    label = '<script>alert(1)<b>"onload="x'
    index |= {"name": evil, "labels": {label: 1, f"2{label}": 2, "3": 3}}
    index["labelled"] = [case if name == CASE else name for name in index["labelled"]]
    (folder / "dataset.json").unlink()  # the copy shares its files with the original
    (folder / "dataset.json").write_text(json.dumps(index))
    mask = load_mask(mask_of(folder, case))
    broken = mask.array.copy()
    broken[:3] = 1  # far from the rest: a finding with a picture
    save(mask.geometry.volume(broken), mask_of(folder, case))
    answer = CliRunner().invoke(app, ["check", str(folder), "-o", str(tmp_path / "out"), "--html"])
    assert answer.exit_code in (0, 1), answer.output
    page = (tmp_path / "out" / "check.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert 'alt="Three planes of &lt;img src=x' in page
    shown = page.replace(page[page.index("<script>") : page.index("</script>")], "")  # without its own script
    assert "<script>alert" not in shown
    assert '"onload="' not in shown
    assert "<img src=x" not in shown
    for text in (page, answer.output):
        assert not [c for c in text if c not in "\n\t " and not c.isprintable()]
    assert json.loads((tmp_path / "out" / "check.json").read_bytes())["data_set"] == evil


def test_a_place_that_cannot_be_written_is_refused_before_a_case_is_read(sick: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "check.html").mkdir(parents=True)
    answer = CliRunner().invoke(app, ["check", str(sick), "-o", str(tmp_path / "out"), "--html"])
    assert isinstance(answer.exception, InputError)
    assert "is a folder" in str(answer.exception)
    assert not (tmp_path / "out" / "check.json").exists()


def test_findings_are_told_before_a_file_is_written(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or a picture that failed, ended the command before it had printed a finding."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("c3s3_seg.dataset.check.html.write_check_json", fail)
    answer = CliRunner().invoke(app, ["check", str(toy_data), "-o", str(tmp_path / "out")])
    assert isinstance(answer.exception, OSError)
    assert "few-cases" in answer.stdout
