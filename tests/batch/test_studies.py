"""Tests of batches over studies: several series, own objects stored back, junk files, links, damage."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.command import run
from helpers.service import in_process, settings
from helpers.studies import heart, report, series, small, uid, whole_study

from c3s3_seg.batch.evaluate import EvaluationSettings, evaluate
from c3s3_seg.batch.job import CaseTask
from c3s3_seg.batch.journal import journal_path, records_of
from c3s3_seg.batch.records import Outcome, Refusal
from c3s3_seg.batch.studies import Studies
from c3s3_seg.errors import StorageError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io import Case, Reading, read_case, save
from c3s3_seg.io.studies import find_scans
from c3s3_seg.service.segment import SegmentTask

PHANTOM = ("--model", "phantom", "--threads", 1)
STORED = ("--format", "dicom-seg", "--report", "sc")


def predict(*words: object) -> tuple[int, str, list[dict[str, object]]]:
    """Run `predict` and return the exit code, stderr in one line, and the events."""
    answer = run("predict", *words, *PHANTOM, "--json")
    events = [json.loads(line) for line in answer.stdout.splitlines()]
    return answer.returncode, " ".join(answer.stderr.split()), events


def states(events: list[dict[str, object]]) -> dict[object, object]:
    """Return the states of this run's cases, without those of earlier runs, which are reported as kept."""
    return {e["case"]: e["state"] for e in events if e["event"] == "case" and not e["kept"]}


@pytest.mark.slow
def test_the_night_after_our_own_objects_were_stored_beside_the_scan(tmp_path: Path) -> None:
    study, out = whole_study(tmp_path / "archive" / "p1", "p1", heart(), flat=True), tmp_path / "out"
    code, said, events = predict(study, "-o", out, *STORED)
    assert (code, states(events)) == (0, {"p1_s3": "skipped", "p1_s2": "done"}), said
    assert "passed over: p1_s3: this is not a scan that the model was trained for" in said
    assert {r.outcome.case: r.state for r in records_of(journal_path(out))} == {
        "p1_s2": "done",
        "p1_s3": "skipped",
    }
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("p1*")}
    for name in ("p1_s2.seg.dcm", "p1_s2.sc.dcm"):
        shutil.copy(out / name, study)
    for _ in range(2):
        code, said, events = predict(study, "-o", out, *STORED)
        assert (code, states(events)) == (0, {}), said
        assert "1 case finished before" in said
        assert "1 series passed over before" in said
        assert all(f": {kind}" in said for kind in ("Segmentation Storage", "a secondary capture"))
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("p1*")} == before
    assert run("verify", out).returncode == 0
    told = json.loads((out / "provenance.json").read_text())
    assert told["runs"][-1]["passed_over"] == {
        "a localizer": 1, "Segmentation Storage": 1, "a secondary capture": 1,
        "DICOM objects without an image": 1,
    }  # fmt: skip
    assert {case["case"]: case["state"] for case in told["cases"]} == {"p1_s2": "done", "p1_s3": "skipped"}
    code, said, events = predict(tmp_path / "archive", "-o", out, *STORED)  # from the parent folder
    assert (code, states(events)) == (0, {}), said


@pytest.mark.slow
def test_a_study_of_which_no_series_is_in_the_domain_is_one_failure(tmp_path: Path) -> None:
    study = tmp_path / "p1"
    for number in (1, 2):
        series(small(), study, "p1", number)
    alone = run("predict", study, "-o", tmp_path / "alone", *PHANTOM)
    assert alone.returncode == 2
    assert not list((tmp_path / "alone").iterdir())
    message = " ".join(alone.stderr.split())
    assert "none of the 2 series of the study can be segmented: p1_s1: this is not a scan" in message
    assert "p1_s2: this is not a scan" in message
    series(heart(), tmp_path / "p2", "p2", 1)
    out = tmp_path / "out"
    for expected in (1, 0):  # the second run reports it again, but as no new failure
        code, said, events = predict(study, tmp_path / "p2", "-o", out)
        assert code == expected, said
    assert states(events) == {}
    table = (out / "summary.csv").read_text()
    assert table.count("none of the 2 series") == 1
    series(heart(), study, "p1", 3)
    code, said, events = predict(study, tmp_path / "p2", "-o", out)
    assert (code, states(events)) == (0, {"p1_s1": "skipped", "p1_s2": "skipped", "p1_s3": "done"}), said
    assert "none of" not in (out / "summary.csv").read_text()


@pytest.mark.slow
def test_a_series_that_fails_first_in_a_study_that_failed_before_is_a_new_failure(tmp_path: Path) -> None:
    """The failure of the study has the name of its first series, which had failed before: silence, code 0."""
    archive, out = tmp_path / "a", tmp_path / "out"
    series(heart(), archive / "p2", "p2", 1)
    for number in (1, 2):
        series(small(), archive / "p1", "p1", number)
    assert predict(archive, "-o", out)[0] == 1
    series(heart(), archive / "p1", "p1", 3)[10].unlink()  # a scan of the model with a slice too few
    answer = run("predict", archive, "-o", out, *PHANTOM, "--quiet")
    said = " ".join(answer.stderr.split())
    assert (answer.returncode, answer.stdout) == (1, ""), said
    assert said.startswith("1 failed: p1_s1: ")
    assert "none of the 3 series of the study can be segmented: p1_s1: this is not a scan" in said
    assert "p1_s3: " in said
    answer = run("predict", archive, "-o", out, *PHANTOM, "--quiet")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


def test_the_members_of_a_failure_are_the_series_that_it_speaks_of() -> None:
    names = ("s1", "s2", "s3")
    studies = Studies(CaseTask(Case(name, Path("p1"), study="p1")) for name in names)
    too_small = Refusal("too small", "p1", None, "DomainError", "check")
    no_memory = Refusal("it was killed", "p1", None, "InputError", "predict")  # no fault of the scan
    decided = [
        o.case
        for name, refusal in zip(names, (too_small, no_memory, too_small), strict=True)
        for o in studies.add(Outcome(name, "p1", refusal=refusal))
    ]
    assert {case: studies.members(case) for case in decided} == {"s2": {"s2"}, "s1": {"s1", "s3"}}
    assert studies.members("another") == {"another"}


@pytest.mark.slow
def test_a_larger_series_without_the_organ_is_passed_over_beside_a_segmented_one(tmp_path: Path) -> None:
    """It failed every night, as if the machine had failed, and `serve` sent nothing of such a study."""
    study, geometry = tmp_path / "p1", heart().geometry
    shape = (geometry.shape[0] * 4 // 3, geometry.shape[1] * 4 // 3, geometry.shape[2])
    noise = np.random.default_rng(0).normal(300, 60, shape).clip(0).astype(np.uint16)
    series(heart(), study, "p1", 1)
    series(Geometry(shape, geometry.affine).volume(noise), study, "p1", 2)
    code, said, events = predict(study, "-o", tmp_path / "out")
    assert (code, states(events)) == (0, {"p1_s1": "done", "p1_s2": "skipped"}), said
    assert "nothing like the organ was found" in said
    code, said, events = predict(study, "-o", tmp_path / "out")
    assert (code, states(events)) == (0, {}), said
    strict = replace(settings(tmp_path), allow_out_of_domain=False)
    found = in_process(strict)(SegmentTask(study, tmp_path / "results"))
    assert (len(found.series), [problem.kind for problem in found.problems]) == (1, ["passed over"])


def test_the_failure_of_a_study_has_the_name_of_its_first_series_whichever_worker_was_first() -> None:
    tasks = [CaseTask(Case(name, Path("p1"), study="p1")) for name in ("s1", "s2", "s3")]
    refusal = Refusal("too small", "p1", None, "DomainError", "check")
    studies = Studies(tasks)
    decided = [o for name in ("s3", "s1", "s2") for o in studies.add(Outcome(name, "p1", refusal=refusal))]
    (failure,) = decided
    assert failure.case == "s1"
    assert failure.failure is not None
    assert "s1: too small; s2: too small; s3: too small" in failure.failure.reason


def test_a_study_with_a_series_that_cannot_be_read_fails_because_of_that() -> None:
    """It counted as a study out of the domain, which `serve` passes over, if such a series came first."""
    tasks = [CaseTask(Case(name, Path("p1"), study="p1")) for name in ("s1", "s2")]
    far = Refusal("too small", "p1", None, "DomainError", "check")
    damaged = Refusal("is damaged", "p1/2", "Copy it again", "InputError", "load")
    for first, second in ((far, damaged), (damaged, far)):
        studies = Studies(tasks)
        assert studies.add(Outcome("s1", "p1", refusal=first)) == []
        (failure,) = studies.add(Outcome("s2", "p1", refusal=second))
        assert failure.refusal is not None
        assert (failure.case, failure.out_of_domain) == ("s1", False)
        assert (failure.refusal.kind, failure.refusal.where) == ("InputError", "p1/2")
        assert "s1: " + first.what + "; s2: " + second.what in failure.refusal.what


def test_a_study_of_hundreds_of_series_fails_in_a_line_that_can_be_read() -> None:
    names = [f"s{n}" for n in range(300)]
    studies = Studies(CaseTask(Case(name, Path("p1"), study="p1")) for name in names)
    refusal = Refusal("too small", "p1", None, "DomainError", "check")
    (failure,) = [o for name in names for o in studies.add(Outcome(name, "p1", refusal=refusal))]
    assert failure.refusal is not None
    assert failure.refusal.what.startswith("none of the 300 series of the study can be segmented: s0: too")
    assert failure.refusal.what.endswith("; s9: too small; and 290 more, whose reasons are in the journal")


@pytest.mark.slow
def test_a_study_grows_after_reports_were_added_to_its_mask(tmp_path: Path) -> None:
    """The mask keeps its name, because the journal still records its series."""
    study, out = tmp_path / "p1", tmp_path / "out"
    series(heart(), study, "p1", 1)
    assert predict(study, "-o", out)[0] == 0
    assert predict(study, "-o", out, "--report", "png")[0] == 0
    series(small(), study, "p1", 2)
    code, said, events = predict(study, "-o", out, "--report", "png")
    assert (code, states(events)) == (0, {"p1_s2": "skipped"}), said
    assert run("verify", out).returncode == 0


@pytest.mark.slow
def test_what_is_told_of_a_study_when_its_series_change(tmp_path: Path) -> None:
    """Series that wait for others of their study do not count as left; the journal describes this run."""
    study, out = tmp_path / "a" / "p1", tmp_path / "out"
    series(heart(), tmp_path / "a" / "p2", "p2", 1)
    for number in (1, 2):
        series(small(), study, "p1", number)
    assert predict(tmp_path / "a", "-o", out)[0] == 1
    good = series(heart(), study, "p1", 3)
    code, said, events = predict(tmp_path / "a", "-o", out)
    start, end = events[0], events[-1]
    assert (code, start["cases"], start["total"], start["left"]) == (0, 4, 1, 0), said
    assert (end["cases"], end["done"], end["kept"], end["failed"], end["left"]) == (2, 1, 1, 0, 0)
    for path in good:
        path.unlink()
    code, said, events = predict(tmp_path / "a", "-o", out)
    assert (code, events[-1]["cases"], events[-1]["failed"]) == (1, 2, 1), said
    code, said, events = predict(study, "-o", out)
    assert (code, str(events[0]["note"]).startswith("1 case failed before")) == (2, True), said
    known = {r.outcome.case: r.state for r in records_of(journal_path(out))}
    assert (known["p1_s1"], known["p1_s2"]) == ("failed", "failed")


def test_a_full_disk_leaves_no_series_whose_study_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        series(small(), tmp_path / "a" / "p1", "p1", number)
    for name in ("p2", "p3"):
        series(heart(), tmp_path / "a" / name, name, 1)

    def full(*_: object) -> None:
        raise StorageError("cannot be written (No space left on device)", where=tmp_path)

    monkeypatch.setattr("c3s3_seg.batch.case.write_case", full)
    code, said, events = predict(tmp_path / "a", "-o", tmp_path / "out")
    told = [(e["case"], e["state"]) for e in events if e["event"] == "case"]
    assert told == [("p1_s1", "failed"), ("p2", "failed"), ("p3", "not done")], said
    end = events[-1]
    assert (code, end["cases"], end["failed"], end["left"]) == (1, 3, 2, 1)
    assert (tmp_path / "out" / "summary.csv").read_text().count("it was not done") == 1


@pytest.mark.slow
def test_another_patient_with_the_same_study_uid_is_no_series_of_the_first(tmp_path: Path) -> None:
    series(heart(), tmp_path / "a" / "p1", "p1", 1)
    series(small(), tmp_path / "a" / "p2", "p2", 1, StudyInstanceUID=uid("p1"))
    code, said, events = predict(tmp_path / "a", "-o", tmp_path / "out")
    assert (code, states(events)) == (1, {"p1": "done", "p2": "failed"}), said


@pytest.mark.data
@pytest.mark.slow
def test_the_hippocampus_of_a_real_study_with_two_volumes(shared_data: Path, tmp_path: Path) -> None:
    answer = run(
        "predict", shared_data / "dicom" / "brain-study", "-o", tmp_path, "--model", "hippocampus", "--json"
    )
    events = [json.loads(line) for line in answer.stdout.splitlines()]
    assert (answer.returncode, sorted(states(events).values())) == (0, ["done", "skipped"]), answer.stderr


@pytest.mark.slow
def test_a_dry_run_lists_what_is_passed_over(tmp_path: Path) -> None:
    whole_study(tmp_path / "archive" / "p1", "p1", small())
    report(tmp_path / "archive" / "p2", "p2")
    answer = run(
        "predict",
        tmp_path / "archive",
        "-o",
        tmp_path / "out",
        *PHANTOM,
        "--dry-run",
        "--series",
        "description~lge",
    )
    assert answer.returncode == 0, answer.stderr
    assert "p1_s2" in answer.stdout
    for line in (
        "p1, series 1: a localizer.",
        "p1, series 3: it does not fit 'description~lge'.",
        "p2: DICOM objects without an image (1).",
        "Would segment 1 of 1 case.",
    ):
        assert line in answer.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_masks_of_series_are_evaluated_on_their_scans(tmp_path: Path) -> None:
    for n in (1, 2):
        whole_study(tmp_path / "archive" / f"p{n}", f"p{n}", small(5))
    for case in find_scans([tmp_path / "archive"], Reading()).cases[:2]:
        scan = read_case(case, Reading())
        mask = scan.geometry.volume((scan.array > 100).astype(np.uint8))
        for folder in ("masks", "truth"):
            (tmp_path / folder).mkdir(exist_ok=True)
            save(mask, tmp_path / folder / f"{case.name}.nii.gz")
    settings = EvaluationSettings(html=True, images=tmp_path / "archive")
    evaluate(tmp_path / "masks", tmp_path / "truth", tmp_path / "report", settings)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "p1_s3" in page
    assert "There is no scan of this case" not in page
    assert "The scan could not be read" not in page


@pytest.mark.slow
def test_shards_take_whole_studies(tmp_path: Path) -> None:
    for n in range(3):
        whole_study(tmp_path / "archive" / f"p{n}", f"p{n}", heart(), flat=True)
    done = []
    for share in ("1/2", "2/2"):
        code, said, events = predict(tmp_path / "archive", "-o", tmp_path / "out", "--shard", share)
        assert code == 0, said
        done.append(sorted(str(case) for case in states(events)))
    assert done == [["p0_s2", "p0_s3", "p2_s2", "p2_s3"], ["p1_s2", "p1_s3"]]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Write 13 studies of one suitable scan each, flat, nested or deeper, two damaged; add junk, a link."""
    root, scan = tmp_path / "archive", heart()
    for n in range(3):
        series(scan, root / f"single{n}", f"single{n}", 1)
        whole_study(root / f"flat{n}", f"flat{n}", scan, flat=True)
        whole_study(root / f"nested{n}", f"nested{n}", scan)
    for n in range(2):
        series(scan, root / "2024" / "patient0" / f"visit{n}" / "lge", f"visit{n}", 1)
    for name in ("cut", "gap"):
        whole_study(root / name, name, scan, flat=True)
    cut, gap = sorted((root / "cut").glob("S2*"))[9], sorted((root / "gap").glob("S2*"))[9]
    cut.write_bytes(cut.read_bytes()[:-99])
    gap.unlink()
    for name in ("notes.txt", "thumbs/a.png", "empty/.keep"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("")
    report(root / "letters", "letters")
    (root / "again").symlink_to("flat0")
    return root


def failures(stdout: str) -> list[str]:
    """Return the lines of the failed cases, which are printed below the table."""
    lines = stdout.split(" failed:\n")[1].splitlines()
    return [line.strip() for line in lines if line.startswith("  ")]


@pytest.mark.slow
def test_an_archive_of_many_studies_night_after_night(archive: Path, tmp_path: Path) -> None:
    out, ours = tmp_path / "out", tmp_path / "ours"
    assert run("predict", archive / "single0", "-o", ours, *PHANTOM, *STORED).returncode == 0
    first = run("predict", archive, "-o", out, *PHANTOM)
    assert first.returncode == 1  # for the two damaged series
    failed = failures(first.stdout)
    assert [line.split(":")[0] for line in failed] == ["cut_s2", "gap_s2"]
    assert "passed over: " in first.stdout
    said = " ".join(first.stderr.split())
    for line in (
        "again: the same folder as",
        "thumbs: a folder without DICOM images",
        "other files than scans (1)",
    ):
        assert line in said
    done = {r.outcome.case for r in records_of(journal_path(out)) if r.state == "done"}
    assert done == {
        *(f"single{n}" for n in range(3)), *(f"visit{n}" for n in range(2)),
        *(f"{kind}{n}_s2" for kind in ("flat", "nested") for n in range(3)),
    }  # fmt: skip
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    assert len(before) == 11
    for study in archive.glob("[fns]*[0-9]"):  # own objects are stored with the study
        for path in ours.glob("*.dcm"):
            shutil.copy(path, study)
    second = run("predict", archive, "-o", out, *PHANTOM)
    assert second.returncode == 0  # the same two are reported as unchanged
    assert failures(second.stdout) == failed
    said = " ".join(second.stderr.split())
    assert "11 cases finished before, as recorded; 6 series passed over before" in said
    assert "; 2 cases failed before, unchanged" in said
    assert said.count("Segmentation Storage") == said.count("a secondary capture") == 9
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")} == before


@pytest.mark.slow
def test_volumes_of_another_modality_are_not_read_beside_one_of_the_model(tmp_path: Path) -> None:
    study = tmp_path / "p1"
    series(heart(), study, "p1", 1)
    files = series(small(6), study, "p1", 2, Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    files[2].unlink()  # a gap, which would be a failure
    code, said, events = predict(study, "-o", tmp_path / "out")
    assert (code, states(events)) == (0, {"p1_s1": "done"}), said
    assert f"{study}, series 2: it does not fit 'modality=MR', as the model wants it" in said
    for path in study.glob("S1*"):
        path.unlink()
    series(small(6), study, "p1", 3, Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    code, said, events = predict(study, "-o", tmp_path / "other")
    assert code == 2
    assert "none of the 2 series" in said
    assert "its modality is CT, wanted MR" in said


def test_what_has_vanished_fails_and_the_rest_is_done(small_scans: Path, tmp_path: Path) -> None:
    for name in ("case-1", "case-2", "case-3"):
        (small_scans / f"{name}.nii.gz").unlink()
    (small_scans / "gone").symlink_to(tmp_path / "nowhere")
    (small_scans / "again.nii.gz").symlink_to("case-0.nii.gz")
    (small_scans / "notes.txt").write_text("")
    words = (small_scans, tmp_path / "none.nii", "-o", tmp_path / "out", "--allow-out-of-domain")
    code, said, events = predict(*words)
    assert (code, states(events)) == (
        1, {"case-0": "done", "case-4": "done", "gone": "failed", "none": "failed"},
    )  # fmt: skip
    reasons = [str(event["reason"]) for event in events if event.get("state") == "failed"]
    assert all("there is no such file or folder" in reason for reason in reasons)
    skipped = [(event["place"], event["reason"]) for event in events if event["event"] == "skipped"]
    assert skipped == [
        (str(small_scans / "again.nii.gz"), f"the same scan as {small_scans / 'case-0.nii.gz'}"),
        (str(small_scans), "other files than scans"),
    ]
    (tmp_path / "none.nii").write_bytes((small_scans / "case-0.nii.gz").read_bytes())
    (small_scans / "gone").unlink()
    code, said, events = predict(*words)
    assert (code, states(events)) == (0, {"none": "done"}), said


@pytest.mark.slow
def test_a_limit_leaves_the_decision_to_the_next_run(tmp_path: Path) -> None:
    series(small(), tmp_path / "p1", "p1", 1)
    series(heart(), tmp_path / "p1", "p1", 2)
    words = (tmp_path / "p1", "-o", tmp_path / "out", "--set", "batch.limit=1")
    code, said, events = predict(*words)
    assert (code, states(events)) == (0, {"p1_s1": "skipped"}), said
    code, said, events = predict(*words)
    assert (code, states(events)) == (0, {"p1_s2": "done", "p1_s1": "skipped"}), said
    code, said, events = predict(*words)
    assert (code, states(events)) == (0, {}), said
