"""Tests of a prediction's report.html: all cases of a run, processed now or before, with their results."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.batches import MODEL
from helpers.command import run

from c3s3_seg.batch import BatchProgress, Job, predict_cases
from c3s3_seg.batch.evaluate import EvaluationSettings, evaluate
from c3s3_seg.batch.folder_report import write_folder_report
from c3s3_seg.batch.verification import verify
from c3s3_seg.errors import InputError
from c3s3_seg.inference import Settings
from c3s3_seg.report.rows import PredictionRow


@pytest.mark.slow
def test_it_is_over_all_cases_and_again_after_a_resumed_run(tmp_path: Path, small_scans: Path) -> None:
    out = tmp_path / "out"
    model = replace(MODEL, settings=Settings(uncertainty=True))
    job = Job(out, html=True, allow_out_of_domain=True)
    predict_cases(sorted(small_scans.iterdir())[:2], model, job)
    first = (out / "report.html").read_text(encoding="utf-8")
    (small_scans / "report.nii.gz").write_bytes((small_scans / "case-4.nii.gz").read_bytes())
    result = predict_cases([small_scans], model, job)
    assert [failure.case for failure in result.failures] == ["report"]
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "would take the place of the page of all cases" in text
    assert "Uncertainty (mm)" in text
    for page, cases in ((first, 2), (text, 5)):
        assert sorted(re.findall(r'href="(case-\d)\.html"', page)) == [f"case-{n}" for n in range(cases)]
        assert page.count("<img") == cases
    assert verify(out).wrong == []


@pytest.mark.slow
def test_a_run_without_it_takes_the_old_one_away_and_leaves_that_of_an_evaluation(
    tmp_path: Path, small_scans: Path
) -> None:
    out, scans = tmp_path / "out", sorted(small_scans.iterdir())[:2]
    report = out / "report.html"
    with_pages = Job(out, html=True, allow_out_of_domain=True)
    predict_cases(scans, MODEL, with_pages)
    assert report.exists()
    predict_cases(scans, MODEL, replace(with_pages, html=False))
    assert not report.exists()
    predict_cases(scans[:1], MODEL, with_pages)  # with the other case of the folder
    assert "2 predicted cases" in report.read_text(encoding="utf-8")
    predict_cases(scans[:1], MODEL, replace(with_pages, html=False))
    assert not report.exists()
    mask = out / f"{scans[0].name.split('.')[0]}.nii.gz"
    truth = tmp_path / mask.name
    shutil.copy(mask, truth)
    evaluate(mask, truth, out, EvaluationSettings(html=True, labels={"organ": 1}))
    before = report.read_bytes()
    predict_cases(scans, MODEL, replace(with_pages, html=False))
    assert report.read_bytes() == before


@pytest.mark.slow
def test_an_interrupted_run_does_not_write_it_and_the_same_command_does(
    tmp_path: Path, small_scans: Path
) -> None:
    """After Ctrl-C the program drew the pictures of all cases before it ended: 20 minutes for 10,000."""
    page, job = tmp_path / "out" / "report.html", Job(tmp_path / "out", html=True, allow_out_of_domain=True)

    def interrupt(progress: BatchProgress) -> None:
        if progress.outcome is not None:
            raise KeyboardInterrupt

    for _ in range(2):  # in a new folder, and in one with a page, which would show fewer cases
        with pytest.raises(KeyboardInterrupt):
            predict_cases([small_scans], MODEL, job, interrupt)
        assert not page.exists()
        predict_cases(sorted(small_scans.iterdir())[:2], MODEL, job)
        assert page.exists()
    predict_cases([small_scans], MODEL, job)
    assert page.read_text(encoding="utf-8").count("<img") == 5


@pytest.mark.slow
def test_evaluate_keeps_it_and_wants_another_folder_for_its_own(tmp_path: Path, small_scans: Path) -> None:
    out, truth = tmp_path / "out", tmp_path / "truth"
    job = Job(out, html=True, allow_out_of_domain=True)
    predict_cases(sorted(small_scans.iterdir())[:2], MODEL, job)
    truth.mkdir()
    for path in out.glob("*.nii.gz"):
        shutil.copy(path, truth)
    page = out / "report.html"
    before = page.read_bytes()
    words = ("evaluate", out, truth, "-o", out, "--labels", "organ=1")
    answer = run(*words, "--html")
    said = " ".join(answer.stderr.split())
    assert answer.returncode == 2
    assert f"{page}: `predict` wrote this page of all its cases" in said
    assert "give another folder with -o" in said
    assert not (out / "cases.csv").exists()
    assert run(*words, "--quiet").returncode == 0
    assert (out / "cases.csv").exists()
    assert page.read_bytes() == before
    page.unlink()
    assert run(*words, "--html", "--quiet").returncode == 0
    assert page.exists()
    with pytest.raises(InputError, match="`evaluate` wrote this page"):
        predict_cases(sorted(small_scans.iterdir())[:2], MODEL, job)
    assert run(*words, "--quiet").returncode == 0  # a page of its own would show other numbers
    assert not page.exists()


def test_the_record_of_a_case_called_report_and_the_report_of_an_evaluation_stay(
    tmp_path: Path, small_scans: Path
) -> None:
    scan, out, scores = tmp_path / "report.nii.gz", tmp_path / "out", tmp_path / "scores"
    shutil.copy(small_scans / "case-0.nii.gz", scan)
    predict_cases([scan], MODEL, Job(out, allow_out_of_domain=True))
    mask, settings = out / "report.nii.gz", EvaluationSettings(labels={"organ": 1})
    truth = Path(shutil.copy(mask, tmp_path / "truth.nii.gz"))
    before = (out / "report.json").read_bytes()
    with pytest.raises(InputError, match="`predict` wrote this record of a case"):
        evaluate(mask, truth, out, settings)
    assert (out / "report.json").read_bytes() == before
    evaluate(mask, truth, scores, settings)
    before = (scores / "report.json").read_bytes()
    with pytest.raises(InputError, match="would take the place of a report of `evaluate`"):
        predict_cases([scan], MODEL, Job(scores, allow_out_of_domain=True))
    assert (scores / "report.json").read_bytes() == before


def test_a_page_that_cannot_be_looked_at_is_not_linked(tmp_path: Path) -> None:
    """A name that is too long stands in for a disk that fails."""
    row = PredictionRow("x" * 300, (("organ", 1.0),), 0.1)
    write_folder_report(tmp_path / "report.html", Job(tmp_path, html=True), [row], [])
    assert f'{row.case}.html"' not in (tmp_path / "report.html").read_text(encoding="utf-8")
