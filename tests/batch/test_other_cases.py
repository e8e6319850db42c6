"""Tests of an output folder that several commands fill: its tables list all cases of one model."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.batches import MODEL
from helpers.command import run

from c3s3_seg.batch import BatchPlan, Job, Model, predict_cases, verify
from c3s3_seg.batch.other_cases import OtherCases
from c3s3_seg.inference import Settings
from c3s3_seg.system.shard import Shard

pytestmark = pytest.mark.slow


def listed(out: Path) -> list[tuple[str, str]]:
    """Return the cases of summary.csv, each with its error."""
    rows = csv.DictReader((out / "summary.csv").read_text().splitlines())
    return [(row["case"], row["error"][:20]) for row in rows]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def predict(out: Path, *scans: Path, model: Model = MODEL, **more: BatchPlan) -> OtherCases:
    return predict_cases(scans, model, Job(out, allow_out_of_domain=True), **more).others


def test_scans_that_are_given_one_by_one_are_all_in_the_table(small_scans: Path, out: Path) -> None:
    for n in (2, 0, 1):
        others = predict(out, small_scans / f"case-{n}.nii.gz")
    assert [row.case for row in others.rows] == ["case-0", "case-2"]
    assert [case for case, _ in listed(out)] == ["case-0", "case-1", "case-2"]
    assert verify(out).holds


def test_the_table_lists_what_is_there(small_scans: Path, out: Path) -> None:
    """Not a case whose mask was removed, and failures of this run alone."""
    scans = [small_scans / f"case-{n}.nii.gz" for n in range(4)]
    bad = small_scans / "bad.nii.gz"
    bad.write_bytes(b"bad")
    predict(out, *scans[:2], bad)
    assert [case for case, _ in listed(out)] == ["case-0", "case-1", "bad"]
    (out / "case-1.nii.gz").unlink()
    predict(out, scans[2])
    assert [case for case, _ in listed(out)] == ["case-0", "case-2"]


def test_masks_of_another_model_are_counted_not_listed(small_scans: Path, out: Path) -> None:
    scans = [small_scans / f"case-{n}.nii.gz" for n in range(3)]
    predict(out, *scans[:2])
    other = replace(MODEL, settings=Settings(overlap=0.25))
    others = predict(out, scans[2], model=other)
    assert others == OtherCases((), 2)
    assert [case for case, _ in listed(out)] == ["case-2"]
    command = ["predict", "-o", out, "--model", "phantom", "--allow-out-of-domain"]
    answer = run(*command, scans[2])
    assert "summary.csv also lists 2 finished cases of earlier runs into this folder." in answer.stdout
    answer = run(*command, scans[0], "--set", "tiling.overlap=0.25")
    assert "2 cases in this folder, of another model or other settings, stay as they are" in answer.stdout


def test_a_share_lists_its_own_cases(small_scans: Path, out: Path) -> None:
    plan = BatchPlan(shard=Shard(1, 2))
    assert predict(out, small_scans) == OtherCases()
    assert predict(out, small_scans, plan=plan) == OtherCases()
