"""Tests of batches in one process: resuming, changes, limits, shards."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.batches import MODEL, Told, masks

from c3s3_seg.batch import BatchPlan, BatchResult, Job, predict_cases, verify
from c3s3_seg.batch.case_files import listed_in_json
from c3s3_seg.batch.job import CaseTask
from c3s3_seg.batch.journal import Journal, journal_path
from c3s3_seg.batch.listing import list_cases
from c3s3_seg.batch.records import Outcome
from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError, MemoryLimitError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference import Settings
from c3s3_seg.inference.tuning.profile import Best, write_profile
from c3s3_seg.io import Case, load, read_case
from c3s3_seg.io.dicom.decoder import NOT_STARTED
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.dicom_objects.codes import Segment
from c3s3_seg.io.formats import mask_path, write_mask
from c3s3_seg.phantom import Simulator, simulate
from c3s3_seg.system.reading import sha256
from c3s3_seg.system.shard import Shard


def run(scans: Path, out: Path, **plan: object) -> tuple[Told, object]:
    told = Told()
    result = predict_cases([scans], MODEL, Job(out, allow_out_of_domain=True), told, BatchPlan(**plan))  # type: ignore[arg-type]
    return told, result


def test_the_same_command_again_does_what_is_left(small_scans: Path, tmp_path: Path) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    told, result = run(small_scans, whole)
    assert told.done == [f"case-{n}" for n in range(5)]
    assert told.progress[-1].left_s == 0
    assert len(result.rows) == 5
    told, result = run(small_scans, pieces, limit=2)
    assert told.note == "3 cases left for another run (batch.limit)"
    assert (len(result.rows), result.left) == (2, 3)
    (pieces / "case-0.nii.gz").unlink()
    told, result = run(small_scans, pieces)
    assert told.done == ["case-0", "case-2", "case-3", "case-4"]
    assert "1 case finished before" in told.note
    assert "1 finished case to be done again: files of theirs are missing" in told.note
    assert [row.case for row in result.rows] == [f"case-{n}" for n in range(5)]
    assert masks(whole) == masks(pieces)
    assert not [p for p in pieces.iterdir() if p.name.startswith(".")]


@pytest.mark.slow
def test_changed_scans_and_settings_are_noticed(small_scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(small_scans, out)
    (small_scans / "case-1.nii.gz").write_bytes((small_scans / "case-2.nii.gz").read_bytes())
    told, _ = run(small_scans, out)
    assert told.done == ["case-1"]
    assert "1 finished case to be done again: their scans have changed" in told.note
    told = Told()
    model = replace(MODEL, settings=Settings(overlap=0.25))
    predict_cases([small_scans], model, Job(out, allow_out_of_domain=True), told)
    assert "5 finished cases to be done again: settings have changed (tiling.overlap: " in told.note


def test_a_mask_that_somebody_edited_stays(small_scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(small_scans, out)
    (out / "case-3.nii.gz").write_bytes(b"edited by hand")
    told, result = run(small_scans, out)
    assert told.done == []
    assert [f.case for f in result.failures] == ["case-3"]
    assert "edited or is damaged. Move it away" in result.failures[0].reason
    assert (out / "case-3.nii.gz").read_bytes() == b"edited by hand"


def test_another_scan_of_the_same_name_is_refused(small_scans: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    run(small_scans, out)
    before = masks(out)
    small_scans.rename(other)  # moved but unchanged: nothing to do
    told, _ = run(other, out)
    assert told.done == []
    small_scans.mkdir()
    for n in (0, 1):
        content = (other / f"case-{n + 2}.nii.gz").read_bytes()
        (small_scans / f"case-{n}.nii.gz").write_bytes(content)
    (other / "case-1.nii.gz").unlink()
    _, result = run(small_scans, out)
    assert len(result.failures) == 2
    assert "taken by the mask of another scan of this name" in result.failures[0].reason
    assert masks(out) == before


def test_failed_cases_wait_for_a_reason(small_scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    broken = small_scans / "case-2.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-20])
    _, result = run(small_scans, out)
    assert [f.case for f in result.failures] == ["case-2"]
    told, result = run(small_scans, out)
    assert told.done == []
    assert "1 case failed before, unchanged (--retry-failed tries again)" in told.note
    assert [f.case for f in result.failures] == ["case-2"]
    told, _ = run(small_scans, out, retry_failed=True)
    assert told.done == ["case-2"]
    broken.write_bytes(whole)
    told, result = run(small_scans, out)
    assert told.done == ["case-2"]
    assert not result.failures


def test_a_refused_scan_is_tried_again_with_other_options(small_scans: Path, tmp_path: Path) -> None:
    out, names = tmp_path / "out", [f"case-{n}" for n in range(5)]
    for done in (names, []):  # refused, and then known to be refused
        told = Told()
        result = predict_cases([small_scans], MODEL, Job(out), told)
        assert told.done == done
        assert [f.case for f in result.failures] == names
    assert "not a scan that the model was trained for" in result.failures[0].reason
    told, result = run(small_scans, out)  # with --allow-out-of-domain
    assert told.done == names
    assert not result.failures


def test_a_list_says_which_failed_cases_are_tried_again(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two failed cases, only the broken scan waits for --retry-failed; the list used to hold back both."""
    out, broken, large = tmp_path / "out", small_scans / "case-2.nii.gz", small_scans / "case-1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-20])

    def read(case: Case, *_: object, **how: Any) -> Volume:
        if case.path == large:
            raise MemoryLimitError("the memory does not suffice", where=large)
        return read_case(case, *_, **how)

    with monkeypatch.context() as patched:
        patched.setattr("c3s3_seg.batch.case.read_case", read)
        _, result = run(small_scans, out)
    assert {f.case for f in result.failures} == {"case-1", "case-2"}
    listed, _ = list_cases([small_scans], Job(out), BatchPlan())
    assert {case.name for case in listed if case.to_do} == {"case-1"}
    told, _ = run(small_scans, out)
    assert told.done == ["case-1"]
    listed, _ = list_cases([small_scans], Job(out), BatchPlan(retry_failed=True))
    assert {case.name for case in listed if case.to_do} == {"case-2"}


def test_a_limit_does_not_take_the_same_failing_cases_in_every_run(small_scans: Path, tmp_path: Path) -> None:
    """Two scans that are out of reach used to be all that any run with a limit of two tried."""
    out = tmp_path / "out"
    for n in (0, 1):
        (small_scans / f"case-{n}.nii.gz").unlink()
        (small_scans / f"case-{n}.nii.gz").symlink_to(f"nowhere-{n}")
    done = []
    for _ in range(3):
        listed, _ = list_cases([small_scans], Job(out), BatchPlan(limit=2))
        told, result = run(small_scans, out, limit=2)
        assert isinstance(result, BatchResult)
        assert {case.name for case in listed if case.to_do} == set(told.done)
        done.append(told.done)
    assert done == [["case-0", "case-1"], ["case-2", "case-3"], ["case-4", "case-0"]]
    assert run(small_scans, out, limit=1)[0].done == ["case-1"]  # the one that waited longer


def test_shards_and_then_the_whole(small_scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for n in (1, 2):
        told, _ = run(small_scans, out, shard=Shard(n, 2))
        assert told.done == [f"case-{m}" for m in range(n - 1, 5, 2)]
        assert (out / f"summary.{n}-of-2.csv").is_file()
    told, result = run(small_scans, out)
    assert told.done == []
    assert len(result.rows) == 5
    assert len((out / "summary.csv").read_text().splitlines()) == 6


def test_cases_that_move_among_shards_stay_done(small_scans: Path, tmp_path: Path) -> None:
    """With each scan that is added, and with another count, a case may fall to another shard."""
    out, later = tmp_path / "out", tmp_path / "later"
    later.mkdir()
    for n in (0, 1, 4):
        (small_scans / f"case-{n}.nii.gz").rename(later / f"case-{n}.nii.gz")
    done = []
    for added in (None, 1, 0):
        if added is not None:
            (later / f"case-{added}.nii.gz").rename(small_scans / f"case-{added}.nii.gz")
        for n in (1, 2):
            told, result = run(small_scans, out, shard=Shard(n, 2))
            assert isinstance(result, BatchResult)
            assert result.failures == ()
            done += told.done
    assert done == ["case-2", "case-3", "case-1", "case-0"]
    for shard in (Shard(1, 1), Shard(2, 3), None):
        assert run(small_scans, out, shard=shard)[0].done == []
    assert verify(out).holds


@pytest.mark.parametrize("journals", ["shards", "none"])
def test_no_run_replaces_the_mask_of_another_scan_of_the_name(
    small_scans: Path, tmp_path: Path, journals: str
) -> None:
    """Whichever shard has recorded it; and by its JSON, if the journals were moved away."""
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    for n, name in ((2, "before"), (3, "case-0")):
        (small_scans / f"case-{n}.nii.gz").rename(other / f"{name}.nii.gz")
    for n in (1, 2):
        run(small_scans, out, shard=Shard(n, 2))
    if journals == "none":
        for path in out.glob("journal*"):
            path.unlink()
    known = masks(out)
    failures = []
    for n in (1, 2):  # the second shard gets case-0 now
        _, result = run(other, out, shard=Shard(n, 2))
        assert isinstance(result, BatchResult)
        failures += result.failures
    assert [failure.case for failure in failures] == ["case-0"]
    assert f"another scan of this name, {small_scans / 'case-0.nii.gz'}" in failures[0].reason
    assert masks(out) == {**known, "before.nii.gz": masks(out)["before.nii.gz"]}


def test_a_scan_that_was_moved_is_taken_for_the_same_without_a_journal(
    small_scans: Path, tmp_path: Path
) -> None:
    out, moved = tmp_path / "out", tmp_path / "moved"
    run(small_scans / "case-0.nii.gz", out)
    (out / "journal.sqlite").unlink()
    small_scans.rename(moved)
    told, result = run(moved / "case-0.nii.gz", out)
    assert isinstance(result, BatchResult)
    assert (told.done, result.failures) == (["case-0"], ())


def test_a_relative_path_in_a_json_is_that_of_any_folder(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without journals, the same words in another folder used to replace the mask of the first scan."""
    out = tmp_path / "out"
    for n in (0, 1):
        (tmp_path / str(n)).mkdir()
        (small_scans / f"case-{n}.nii.gz").rename(tmp_path / str(n) / "x.nii.gz")
    for n, refused in ((0, False), (1, True), (0, False)):
        monkeypatch.chdir(tmp_path / str(n))
        (out / "journal.sqlite").unlink(missing_ok=True)
        if refused:
            with pytest.raises(InputError, match="its place is taken by the mask of another scan"):
                run(Path("x.nii.gz"), out)
        else:
            assert run(Path("x.nii.gz"), out)[0].done == ["x"]


def test_a_profile_that_changes_no_mask_runs_no_case_again(small_scans: Path, tmp_path: Path) -> None:
    """It stands in the JSON; the backend that it chose is compared itself."""
    scan, profile = small_scans / "case-0.nii.gz", tmp_path / "profile.json"
    network = ModelBundle.find("phantom").networks[0]
    job, done = Job(tmp_path / "out", allow_out_of_domain=True), []
    for kind in (None, replace(network, filters=77), network):
        if kind is not None:
            write_profile(profile, kind, Best("openvino", 1, 1.0, 1.0, 1.0, 10**8, 100.0))
        settings = Settings(profile=None if kind is None else profile)
        told = Told()
        predict_cases([scan], replace(MODEL, settings=settings), job, told)
        done += told.done
    assert done == ["case-0"]
    predict_cases([scan], replace(MODEL, settings=settings), replace(job, out=tmp_path / "new"))
    for name, keys in (("case-0.json", ("made_with",)), ("provenance.json", ("runs", 0))):
        found = json.loads((tmp_path / "new" / name).read_text())
        for key in keys:
            found = found[key]
        assert found["profile"]["used"] is True


@pytest.mark.slow
def test_shards_know_what_the_whole_has_done_since(small_scans: Path, tmp_path: Path) -> None:
    """Shards and the whole run alternate; masks that the whole run made anew do not count as edited."""
    for n in (3, 4):
        (small_scans / f"case-{n}.nii.gz").unlink()
    out, job = tmp_path / "out", Job(tmp_path / "out", allow_out_of_domain=True)
    run(small_scans, out, shard=Shard(1, 2))
    run(small_scans, out)
    model = replace(MODEL, settings=Settings(fill_holes=True))
    predict_cases([small_scans], model, job)
    listed, _ = list_cases([small_scans], job, BatchPlan(shard=Shard(2, 2)))  # a shard that never ran
    assert [case.state for case in listed] == ["done"]
    for n in (1, 2):
        told = Told()
        result = predict_cases([small_scans], model, job, told, BatchPlan(shard=Shard(n, 2)))
        assert (told.done, result.failures) == ([], ())
    assert verify(out).holds


def test_a_reserved_name_is_refused(small_scans: Path, tmp_path: Path) -> None:
    (small_scans / "case-0.nii.gz").rename(small_scans / "Provenance.nii.gz")
    _, result = run(small_scans, tmp_path / "out")
    assert "take the place of the folder's own provenance.json" in result.failures[0].reason


def test_a_defect_in_one_case_costs_one_case(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from c3s3_seg.batch import case

    def read(asked: Case, *how: object, **more: object) -> object:
        if asked.path.name == "case-1.nii.gz":
            raise ZeroDivisionError("nobody foresaw this")
        return real(asked, *how, **more)  # type: ignore[arg-type]

    real = case.read_case
    monkeypatch.setattr(case, "read_case", read)
    _, result = run(small_scans, tmp_path / "out")
    assert len(result.rows) == 4
    assert (
        "case-1.nii.gz: ZeroDivisionError: nobody foresaw this. This is a defect" in result.failures[0].reason
    )
    assert "Traceback" in (tmp_path / "out" / "journal.jsonl").read_text()


@pytest.mark.parametrize(
    "what",
    [
        f"the file cannot be read: {os.strerror(errno.ESTALE)}",
        f"the file 'file 3 of 9' is damaged: it cannot be read: {os.strerror(errno.EIO)}",
        "the archive has 5 bytes, for which there is no room in /tmp",
        f"'file 3 of 9' cannot be decoded: {NOT_STARTED}",
    ],
)
def test_what_a_file_server_did_not_give_is_no_fault_of_the_scan(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The next run tries the case again, although the scan itself did not change and need not change."""
    from c3s3_seg.batch import case

    def read(asked: Case, *how: object, **more: object) -> object:
        raise InputError(what, where=asked.path)

    for n in (2, 3, 4):
        (small_scans / f"case-{n}.nii.gz").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(case, "read_case", read)
        _, result = run(small_scans, tmp_path / "out")
    assert len(result.failures) == 2
    told, result = run(small_scans, tmp_path / "out")
    assert told.done == ["case-0", "case-1"]
    assert result.failures == ()


def test_a_scan_keeps_its_name_when_another_one_of_that_name_comes(small_scans: Path, tmp_path: Path) -> None:
    """If an archive grew, the first scan used to be segmented again as `one_x`, and its mask `x` stayed."""
    out, places = tmp_path / "out", [tmp_path / "one", tmp_path / "two"]
    job = Job(out, allow_out_of_domain=True)
    for n, place in enumerate(places):
        place.mkdir()
        (small_scans / f"case-{n}.nii.gz").rename(place / "x.nii.gz")
    predict_cases(places[:1], MODEL, job)
    for again in (["two_x"], []):
        told = Told()
        predict_cases(places, MODEL, job, told)
        assert told.done == again
    assert sorted(masks(out)) == ["two_x.nii.gz", "x.nii.gz"]
    told = Told()
    predict_cases(places[1:], MODEL, job, told)  # the first one is not given: the second keeps its name
    assert told.done == []


@pytest.mark.parametrize("interrupted", ["a run", "a shard"])
def test_names_do_not_depend_on_the_scans_that_are_recorded(
    small_scans: Path, tmp_path: Path, interrupted: str
) -> None:
    """Of two scans of one name, the second used to get another name if only the first was recorded."""
    places = [tmp_path / name for name in ("one", "two")]
    for n, place in enumerate(places):
        place.mkdir()
        (small_scans / f"case-{n}.nii.gz").rename(place / "x.nii.gz")
    job = Job(tmp_path / "out", allow_out_of_domain=True)
    plan = BatchPlan(limit=1) if interrupted == "a run" else BatchPlan(shard=Shard(1, 2))
    predict_cases(places, MODEL, job, None, plan)
    predict_cases(places, MODEL, job, None, replace(plan, limit=None, shard=plan.shard and Shard(2, 2)))
    assert sorted(masks(job.out)) == ["one_x.nii.gz", "two_x.nii.gz"]


def test_a_place_that_cannot_be_looked_at_costs_its_case(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place fails when its case is begun, perhaps hours after the cases were listed."""
    from c3s3_seg.batch import ledger

    def look(task: CaseTask, *more: object) -> None:
        if task.case.name == "case-1":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(ledger, "refuse_taken", look)
    _, result = run(small_scans, tmp_path / "out")
    assert [failure.case for failure in result.failures] == ["case-1"]
    assert "case-1.nii.gz: Stale file handle." in result.failures[0].reason
    assert len(result.rows) == 4


def test_a_single_case_that_fails_leaves_nothing(tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(b"no scan")
    with pytest.raises(InputError, match=r"scan\.nii\.gz"):
        predict_cases([scan], MODEL, Job(tmp_path / "out", allow_out_of_domain=True))
    assert not list((tmp_path / "out").iterdir())


def test_a_single_case_that_was_interrupted_is_done_by_the_same_command(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal used to be removed, and without it the mask of an ended worker was in the way."""
    from c3s3_seg.batch import ledger

    def stop(self: ledger.Ledger, outcome: Outcome) -> Outcome:
        (out / "case-0.json").unlink()  # as if the worker had been ended before it wrote the JSON
        raise KeyboardInterrupt

    scan, out = small_scans / "case-0.nii.gz", tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(ledger.Ledger, "record", stop)
        with pytest.raises(KeyboardInterrupt):
            run(scan, out)
    assert list(masks(out)) == ["case-0.nii.gz"]
    told, _ = run(scan, out)
    assert told.done == ["case-0"]
    assert verify(out).holds


@pytest.mark.parametrize("suffix", ["nii.gz", "mha"])
def test_a_mask_that_was_edited_after_a_kill_stays(small_scans: Path, tmp_path: Path, suffix: str) -> None:
    """All files were written when the run was killed, and the journal says begun; also in another format."""
    scan, out = small_scans / "case-0.nii.gz", tmp_path / "out"
    run(scan, out)
    journal = Journal(journal_path(out))
    (record,) = journal.records()
    begun = dict.fromkeys(record.outcome.outputs, "")
    journal.begin(Outcome("case-0", record.outcome.scan, outputs=begun), record.setting)
    journal.close()
    written = (out / "case-0.nii.gz").read_bytes()
    (out / "case-0.nii.gz").write_bytes(b"edited by hand")
    job = Job(out, suffix, allow_out_of_domain=True)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="edited or is damaged"):
        predict_cases([scan], MODEL, job)
    assert (out / "case-0.nii.gz").read_bytes() == b"edited by hand"
    (out / "case-0.nii.gz").write_bytes(written)
    assert len(predict_cases([scan], MODEL, job).rows) == 1
    assert [path.name for path in out.glob("case-0.*[az]")] == [f"case-0.{suffix}"]


def test_a_folder_that_becomes_read_only_costs_no_result(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal of the old table failed too, and its error took the place of the result."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    run(small_scans, tmp_path / "out", limit=2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        patch.setattr(os, "posix_fallocate", refuse)
        patch.setattr(Path, "unlink", refuse)
        _, result = run(small_scans, tmp_path / "out")
    assert isinstance(result, BatchResult)
    assert len(result.rows) == 2
    assert result.undone == ("case-3", "case-4")
    assert "Read-only file system" in result.stopped


KILLED = """
import os, signal, sys
from pathlib import Path
from c3s3_seg.batch import Job, additions, output, predict_cases
from helpers.batches import MODEL
additions.write_pictures = output.write_pictures = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
scan, out = map(Path, sys.argv[1:3])
job = Job(out, sys.argv[3], allow_out_of_domain=True, preview=sys.argv[4] == "preview")
predict_cases([scan], MODEL, job)
"""


def killed(scan: Path, out: Path, suffix: str = "nii.gz", preview: str = "") -> None:
    """Start a run that is killed after it has written its mask."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-c", KILLED, scan, out, suffix, preview]
    assert subprocess.run(words, env=environment, check=False).returncode == -signal.SIGKILL


def test_the_hash_of_a_mask_is_recorded_before_the_other_files(small_scans: Path, tmp_path: Path) -> None:
    """A run that was killed while it drew a picture left a mask without a hash, and an edit was lost."""
    scan, out = small_scans / "case-0.nii.gz", tmp_path / "out"
    killed(scan, out)
    mask = out / "case-0.nii.gz"
    assert listed_in_json(out, ["case-0.json"]) == {mask.name: sha256(mask)}
    written = mask.read_bytes()
    mask.write_bytes(b"edited by hand")
    with pytest.raises(InputError, match="edited or is damaged"):
        run(scan, out)
    assert mask.read_bytes() == b"edited by hand"
    mask.write_bytes(written)
    told, _ = run(scan, out)
    assert told.done == ["case-0"]
    assert verify(out).holds


def test_the_hash_of_a_mask_in_another_format_is_recorded_too(small_scans: Path, tmp_path: Path) -> None:
    scan, out = small_scans / "case-0.nii.gz", tmp_path / "out"
    run(scan, out)
    killed(scan, out, "nrrd", "preview")
    (out / "case-0.nrrd").write_bytes(b"edited by hand")
    job = Job(out, "nrrd", allow_out_of_domain=True, preview=True)
    with pytest.raises(InputError, match="edited or is damaged"):
        predict_cases([scan], MODEL, job)
    assert (out / "case-0.nrrd").read_bytes() == b"edited by hand"
    (out / "case-0.nrrd").unlink()
    assert len(predict_cases([scan], MODEL, job).rows) == 1
    assert verify(out).holds


@pytest.mark.parametrize("suffix", ["nii.gz", "dicom-seg", "rtstruct"])
def test_the_hash_of_a_mask_is_known_before_it_has_its_name(tmp_path: Path, suffix: str) -> None:
    made = simulate(3, Simulator(shape=(20, 18, 6), spacing_mm=(4, 4, 8)))
    save_series(made.scan, tmp_path / "series", description="t", seed_uid="1")
    scan = load(tmp_path / "series")
    path, seen = mask_path(tmp_path, "a", suffix), []  # type: ignore[arg-type]

    def ready(aside: Path) -> None:
        assert not path.exists()
        seen.append(sha256(aside))

    mask = scan.geometry.volume((scan.array > np.quantile(scan.array, 0.9)).astype(np.uint8), scan.source)
    write_mask(mask, path, suffix, (Segment("organ", 1),), ready=ready)  # type: ignore[arg-type]
    assert seen == [sha256(path)]


def test_a_dry_run_counts_cases_without_files_and_of_other_weights(small_scans: Path, tmp_path: Path) -> None:
    """They were `done`, and "0 of 5 cases" were announced, although the run segments them."""
    out, files = tmp_path / "out", ModelBundle.find("phantom").manifest.files
    run(small_scans, out)

    def to_do(weights: dict[str, str]) -> set[str]:
        listed, _ = list_cases([small_scans], Job(out), BatchPlan(), weights)
        assert {case.state for case in listed} == {"done"}
        return {case.name for case in listed if case.to_do}

    assert to_do(files) == set()
    (out / "case-2.json").unlink()  # made again without the network
    (out / "case-3.nii.gz").unlink()
    assert to_do(files) == {"case-3"}
    assert to_do(ModelBundle.find("hippocampus").manifest.files) == {f"case-{n}" for n in range(5)}
