"""Tests of an output folder that several commands fill: its tables list all cases of one model."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.batches import MODEL
from helpers.command import run

from c3s3_seg.batch import BatchPlan, Job, Model, predict_cases, verify
from c3s3_seg.batch.ledger import Ledger
from c3s3_seg.batch.other_cases import OtherCases
from c3s3_seg.batch.records import Outcome
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.inference import Settings
from c3s3_seg.io import load, save
from c3s3_seg.system.shard import Shard

pytestmark = pytest.mark.slow


def listed(out: Path) -> list[tuple[str, str]]:
    """Return the cases of summary.csv, each with its error."""
    rows = csv.DictReader((out / "summary.csv").read_text().splitlines())
    return [(row["case"], row["error"][:20]) for row in rows]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def predict(
    out: Path, *scans: Path, model: Model = MODEL, plan: BatchPlan | None = None, **more: Any
) -> OtherCases:
    return predict_cases(scans, model, Job(out, allow_out_of_domain=True, **more), plan=plan).others


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
    assert predict(out, scans[2]).left_out == 1
    assert [case for case, _ in listed(out)] == ["case-0", "case-2"]


def test_maps_and_pictures_may_be_removed(small_scans: Path, out: Path) -> None:
    model = replace(MODEL, settings=Settings(probabilities=True))
    predict(out, small_scans / "case-0.nii.gz", model=model, preview=True)
    shutil.rmtree(out / "probabilities")
    (out / "case-0.png").unlink()
    assert [row.case for row in predict(out, small_scans / "case-1.nii.gz").rows] == ["case-0"]


def test_a_scan_that_has_another_name_now_counts_once(small_scans: Path, out: Path) -> None:
    predict(out, small_scans)
    (small_scans / "case-0.nii.gz").rename(small_scans / "patient.nii.gz")
    assert predict(out, small_scans) == OtherCases((), 1)
    assert [case for case, _ in listed(out)] == ["case-1", "case-2", "case-3", "case-4", "patient"]


def test_a_case_whose_name_another_scan_has_stays_in_the_table(small_scans: Path, out: Path) -> None:
    """The other scan is refused, and the mask of the first one is still there."""
    predict(out, small_scans / "case-0.nii.gz")
    (small_scans / "new").mkdir()
    shutil.copy(small_scans / "case-1.nii.gz", small_scans / "new" / "case-0.nii.gz")
    predict(out, small_scans / "new" / "case-0.nii.gz", small_scans / "case-2.nii.gz")
    cases = listed(out)
    assert [case for case, _ in cases] == ["case-0", "case-2", "case-0"]
    assert cases[0][1] == ""
    assert cases[2][1] != ""


def test_masks_of_a_part_of_the_scan_are_no_masks_of_the_whole(small_scans: Path, out: Path) -> None:
    predict(out, small_scans / "case-0.nii.gz", roi="4:20,4:16,2:14")
    assert predict(out, small_scans / "case-1.nii.gz") == OtherCases((), 1)


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
    assert "2 earlier cases in this folder, not in summary.csv: of another model" in answer.stdout
    ending = json.loads(run(*command, scans[1], "--json").stdout.splitlines()[-1])
    assert (ending["others"], ending["others_left_out"]) == (1, 1)


def test_the_page_of_all_cases_grows_with_scans_given_one_by_one(small_scans: Path, out: Path) -> None:
    for n, cases in ((0, 0), (1, 2), (2, 3)):
        predict(out, small_scans / f"case-{n}.nii.gz", html=True)
        page = out / "report.html"
        assert page.exists() == bool(cases)
        assert not cases or f"{cases} predicted cases" in page.read_text()


def test_a_case_that_a_signal_catches_after_its_record_is_told(
    small_scans: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was in the journal alone: the log of events never got it, as the next run tells kept cases apart."""
    record, told = Ledger.record, []

    def stopped(ledger: Ledger, outcome: Outcome) -> Outcome:
        found = record(ledger, outcome)
        if outcome.case == "case-1":
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Ledger, "record", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict_cases([small_scans], MODEL, Job(out, allow_out_of_domain=True), told.append)
    assert [p.outcome.case for p in told if p.outcome is not None] == ["case-0", "case-1"]
    assert told[-1].counts.done == 2
    assert [case for case, _ in listed(out)] == ["case-0", "case-1"]


def test_a_share_lists_its_own_cases(small_scans: Path, out: Path) -> None:
    first, all_of_it = BatchPlan(shard=Shard(1, 2)), small_scans.with_name("one")
    predict(out, small_scans, plan=first)
    before = (out / "summary.1-of-2.csv").read_text()
    assert len(before.splitlines()) > 2
    all_of_it.mkdir()
    for n in range(20):  # other scans, some of which are cases of the same share
        shutil.copy(small_scans / "case-4.nii.gz", all_of_it / f"more-{n}.nii.gz")
    assert predict(out, all_of_it, plan=first) == OtherCases()
    after = (out / "summary.1-of-2.csv").read_text()
    assert "more-" in after
    assert "case-" not in after


@pytest.mark.parametrize("moved", [False, True])
def test_a_mask_that_is_refused_as_edited_is_a_failure_alone(
    small_scans: Path, out: Path, moved: bool
) -> None:
    """Its earlier result was listed too, with the volumes of the mask before it was edited."""
    predict(out, small_scans)
    small_scans = small_scans.rename(small_scans.with_name("moved")) if moved else small_scans
    (out / "case-1.nii.gz").write_bytes(b"edited")
    others = predict(out, small_scans)
    assert (others.rows, others.left_out) == ((), 0)
    assert [case for case, error in listed(out) if error] == ["case-1"]
    assert len(listed(out)) == 5


def test_a_case_that_gets_no_report_keeps_its_result(small_scans: Path, out: Path) -> None:
    """Its mask stays, so the table has its volumes, and the failure."""
    predict(out, small_scans)
    truth = out.parent / "truth"
    truth.mkdir()
    for path in small_scans.iterdir():
        scan = load(path)
        array = (scan.array > 200).astype(np.uint8)
        save(scan.geometry.volume(array), truth / path.name)
    other = Geometry.build((9, 9, 9), (1, 1, 1)).volume(np.ones((9, 9, 9), np.uint8))
    save(other, truth / "case-1.nii.gz")
    others = predict(out, small_scans, truth=truth)
    assert [row.case for row in others.rows] == ["case-1"]
    assert [(case, bool(error)) for case, error in listed(out)] == [
        *((f"case-{n}", False) for n in range(5)),
        ("case-1", True),
    ]
    assert verify(out).holds
