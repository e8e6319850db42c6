"""Tests that additions to an existing mask need no network, and that reasons for a rerun are reported."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import small_scan
from helpers.batches import MODEL, Told
from helpers.studies import heart, series

from c3s3_seg.batch import BatchPlan, BatchResult, Job, Model, predict_cases, verify
from c3s3_seg.batch.journal import Journal, journal_path
from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError, StorageError
from c3s3_seg.inference import Settings
from c3s3_seg.io import load_mask, save
from c3s3_seg.system.reading import sha256
from c3s3_seg.version import __version__

CALIBRATED = ModelBundle.load(MODEL.bundle).manifest.uncertainty
MODEL_LIMIT_MM = CALIBRATED.threshold_mm if CALIBRATED else None
UNCERTAIN = replace(MODEL, settings=Settings(uncertainty=True))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    save(small_scan(0), tmp_path / "x.nii.gz")
    return tmp_path / "x.nii.gz"


@pytest.fixture
def truth(tmp_path: Path, scan: Path) -> Path:
    """Write a truth, the voxels above the mean, that differs from the network's mask; return its folder."""
    volume = small_scan(0)
    mask = volume.geometry.volume((volume.array > volume.array.mean()).astype(np.uint8))
    (tmp_path / "truth").mkdir()
    save(mask, tmp_path / "truth" / "x.nii.gz")
    return tmp_path / "truth"


def predict(scan: Path, out: Path, model: Model = MODEL, **more: Any) -> tuple[Told, BatchResult]:
    told, plan = Told(), BatchPlan(workers=more.pop("workers", 0))
    job = Job(out, allow_out_of_domain=True, deterministic=True, **more)
    return told, predict_cases([scan], model, job, told, plan)


def steps(told: Told) -> set[str]:
    """Return the steps of the one case that was processed."""
    (outcome,) = (p.outcome for p in told.progress if p.outcome is not None)
    return set(outcome.seconds)


def files(out: Path) -> dict[str, bytes]:
    """Return the files of the cases by path; those of the whole folder hold the number of the run."""
    of_all = ("summary", "provenance", "journal", ".c3s3")
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in out.rglob("*")
        if p.is_file() and not p.name.startswith(of_all)
    }


def test_reports_and_scores_are_those_of_one_run(scan: Path, truth: Path, tmp_path: Path) -> None:
    """The files are equal byte by byte; the mask is not written again and the network does not run."""
    everything: dict[str, Any] = {"preview": True, "html": True, "truth": truth}
    first, _ = predict(scan, tmp_path / "once", UNCERTAIN, **everything)
    assert "network" in steps(first)
    predict(scan, tmp_path / "twice", UNCERTAIN)
    mask = (tmp_path / "twice" / "x.nii.gz").stat()
    told, result = predict(scan, tmp_path / "twice", UNCERTAIN, **everything)
    assert steps(told) == {"load", "report"}
    assert (
        told.note == "reports updated for 1 finished case without segmenting again: settings have changed"
        " (--report html: no -> yes; --report png: no -> yes; --truth: no -> yes)"
    )
    assert files(tmp_path / "once") == files(tmp_path / "twice")
    after = (tmp_path / "twice" / "x.nii.gz").stat()
    assert (after.st_ino, after.st_mtime_ns) == (mask.st_ino, mask.st_mtime_ns)
    assert result.rows[0].scores[0].score.dice > 0
    assert verify(tmp_path / "twice").holds
    told, kept = predict(scan, tmp_path / "twice", UNCERTAIN, **everything)
    assert told.done == []
    assert kept.rows == result.rows  # the journal holds all of the rows
    (row,) = kept.rows
    assert (row.verdict, row.forced, row.model, row.version) == ("refuse", True, "phantom", __version__)
    assert [label for label, _ in row.uncertainty_mm] == ["left_atrium"]
    assert row.uncertainty_limit_mm == MODEL_LIMIT_MM


def test_every_image_lies_on_the_scan(scan: Path, tmp_path: Path) -> None:
    """A scan whose header sets neither sform nor qform: every reader takes axes of its own for it."""
    image = nib.load(scan)
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nib.save(image, scan)
    predict(scan, tmp_path / "out", replace(MODEL, settings=Settings(uncertainty=True, probabilities=True)))
    written = sorted((tmp_path / "out").rglob("*.nii.gz"))
    assert len(written) == 3
    for path in written:
        back = nib.load(path)
        assert np.array_equal(back.affine, nib.load(scan).affine)
        assert (back.header["qform_code"], back.header["sform_code"]) == (0, 0)


def test_what_is_asked_no_more_goes(scan: Path, truth: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(scan, out, preview=True, truth=truth)
    told, result = predict(scan, out, html=True)
    assert steps(told) == {"load", "report"}
    assert sorted(files(out)) == ["x.html", "x.json", "x.nii.gz"]
    assert result.rows[0].scores == ()
    assert json.loads(files(out)["x.json"])["scores"] == {}
    assert verify(out).holds


def test_another_truth_is_scored_and_a_missing_picture_is_drawn(
    scan: Path, truth: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    _, before = predict(scan, out, truth=truth, preview=True)
    shutil.copy(out / "x.nii.gz", truth / "x.nii.gz")
    told, result = predict(scan, out, truth=truth, preview=True)
    assert "their truths have changed" in told.note
    assert steps(told) == {"load", "report"}
    assert before.rows[0].scores[0].score.dice < 1  # type: ignore[union-attr]
    assert result.rows[0].scores[0].score.dice == 1
    picture = files(out)["x.png"]
    (out / "x.png").unlink()
    told, _ = predict(scan, out, truth=truth, preview=True)
    assert "files of theirs are missing" in told.note
    assert steps(told) == {"load", "report"}
    assert files(out)["x.png"] == picture


@pytest.mark.slow
def test_another_format_is_converted(tmp_path: Path) -> None:
    """An image becomes a DICOM SEG and an image again; contours lose voxels, so the network must run."""
    series(heart(), tmp_path / "phantom-3", "p", 1)
    scan, out, name = tmp_path / "phantom-3", tmp_path / "out", "phantom-3"
    predict(scan, out)
    mask = load_mask(out / f"{name}.nii.gz").array
    formats = (("dicom-seg", "seg.dcm"), ("mha", "mha"), ("rtstruct", "rtstruct.dcm"))
    for suffix, ending in formats:
        told, _ = predict(scan, out, suffix=suffix, secondary_capture=suffix == "dicom-seg")
        assert steps(told) == {"load", "report"}
        captures = {f"{name}.sc.dcm"} if suffix == "dicom-seg" else set()
        assert set(files(out)) == {f"{name}.json", f"{name}.{ending}"} | captures
        if suffix == "mha":
            assert (load_mask(out / f"{name}.mha").array == mask).all()
        assert verify(out).holds
    told, _ = predict(scan, out, suffix="nii.gz")
    assert "network" in steps(told)
    assert (load_mask(out / f"{name}.nii.gz").array == mask).all()


def test_a_format_of_the_same_file_name_is_segmented_again(tmp_path: Path) -> None:
    """The label map would be written over the SEG that it is made from, which a kill or a full disk loses."""
    series(heart(), tmp_path / "phantom-3", "p", 1)
    scan, out = tmp_path / "phantom-3", tmp_path / "out"
    predict(scan, out, suffix="dicom-seg")
    told, _ = predict(scan, out, suffix="dicom-labelmap")
    assert "network" in steps(told)
    assert "done again: settings have changed (--format: dicom-seg -> dicom-labelmap)" in told.note
    assert verify(out).holds


@pytest.mark.slow
@pytest.mark.parametrize("how", ["maps", "tiles", "edited"])
def test_what_needs_the_network_is_segmented_again(how: str, scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(scan, out)
    settings = {"maps": Settings(probabilities=True), "tiles": Settings(overlap=0.25)}
    if how == "edited":
        (out / "x.nii.gz").write_bytes(b"by hand")
        with pytest.raises(InputError, match="edited or is damaged"):
            predict(scan, out, preview=True)
        return
    told, _ = predict(scan, out, replace(MODEL, settings=settings[how]), preview=True)
    assert "network" in steps(told)
    words = {"maps": "--probabilities: no -> yes", "tiles": "tiling.overlap: 0.5 -> 0.25"}
    assert "1 finished case to be done again: settings have changed" in told.note
    assert words[how] in told.note
    if how == "maps":  # leaving the maps out needs no network
        told, _ = predict(scan, out)
        assert steps(told) == {"load", "report"}
        assert sorted(files(out)) == ["x.json", "x.nii.gz"]


@pytest.mark.slow
def test_weights_and_unknown_settings_are_named(scan: Path, tmp_path: Path) -> None:
    from c3s3_seg.batch.changes import Change, changes, reason

    host, device = ({"made_with": {"on_device": on}, "request": {}, "asked": {}} for on in (False, True))
    assert reason(changes(host, device)) == "settings have changed (network.on_device: no -> yes)"
    old = {"made_with": {"weights_sha256": {"a.onnx": "1" * 64}}, "request": {}, "asked": {}}
    new = {"made_with": {"weights_sha256": {"a.onnx": "2" * 64}}, "request": {}, "asked": {}}
    assert (
        reason(changes(old, new))
        == "weights have changed (weights: a.onnx 111111111111 -> a.onnx 222222222222)"
    )
    assert reason(changes(None, new)) == reason(changes({}, new)) == "weights or settings have changed"
    made_by = {"versions": {"c3s3_seg": "0.0.1"}}
    assert reason(changes(old | made_by, new)).endswith(f"; c3s3-seg: 0.0.1 -> {__version__})")
    assert changes(old | made_by, old) == ()  # an upgrade alone is no reason
    assert Change("request.x.y", "a\nb", ["c", "d"]).words == "x.y: a\\nb -> c,d"
    out = tmp_path / "out"
    predict(scan, out)
    journal = Journal(journal_path(out))
    journal._db.execute("UPDATE runs SET details = '{}'")
    journal.close()
    told, _ = predict(scan, out, preview=True)
    assert "done again: weights or settings have changed" in told.note


@pytest.mark.slow
def test_a_truth_that_does_not_fit_costs_no_mask(scan: Path, truth: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(scan, out, preview=True)
    before = files(out)
    save(small_scan(3).geometry.volume(np.ones((24, 20, 16), np.uint8)), truth / "x.nii.gz")
    with pytest.raises(InputError, match="another grid"):
        predict(scan, out, truth=truth, preview=True)
    assert files(out) == before
    assert verify(out).holds
    told, _ = predict(scan, out, preview=True)
    assert told.done == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_an_addition_that_was_interrupted(
    workers: int, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill, the record is begun, a picture is there, and the JSON is the old or the new one."""
    out = tmp_path / "out"
    predict(scan, out)
    old = (out / "x.json").read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("c3s3_seg.batch.ledger.Ledger.record", killed)
        with pytest.raises(KeyboardInterrupt):
            predict(scan, out, preview=True)
    assert (out / "x.png").exists()
    assert verify(out).wrong[0].what.startswith("the case was begun and not finished")
    for content in ((out / "x.json").read_bytes(), old):
        (out / "x.json").write_bytes(content)
        copy = shutil.copytree(out, tmp_path / f"copy-{len(list(tmp_path.iterdir()))}")
        told, _ = predict(scan, copy, preview=True, workers=workers)
        assert steps(told) == {"load", "report"}
        assert verify(copy).holds


def test_a_mask_that_is_gone_is_the_reason_why_the_network_runs(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(scan, out)
    (out / "x.nii.gz").unlink()
    told, _ = predict(scan, out, preview=True)
    assert told.note == "1 finished case to be done again: files of theirs are missing"
    assert "network" in steps(told)
    assert verify(out).holds


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, function: str) -> Iterator[None]:
    """Let a function of `batch` find the disk full; the block must end with that error."""

    def full(*_: object) -> None:
        raise StorageError("cannot be written (No space left on device)")

    with monkeypatch.context() as patched:
        patched.setattr(f"c3s3_seg.batch.{function}", full)
        with pytest.raises(StorageError):
            yield


def test_a_full_disk_costs_no_mask(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    predict(scan, out)
    before = files(out)

    with full_disk(monkeypatch, "output._draw"):
        predict(scan, out, preview=True)
    assert files(out) == before
    told, _ = predict(scan, out, preview=True)
    assert steps(told) == {"load", "report"}
    assert verify(out).holds


def test_a_full_disk_costs_no_report_of_an_earlier_run(
    scan: Path, truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture and the JSON used to be lost, and with the JSON the mask: the network ran again."""
    out = tmp_path / "out"
    predict(scan, out, preview=True)
    before = files(out)

    for name in ("output._draw", "additions.write_whole"):
        with full_disk(monkeypatch, name):
            predict(scan, out, preview=True, truth=truth)
        if name == "additions.write_whole":  # the picture now shows the truth: it does not fit the old JSON
            del before["x.png"]
        assert files(out) == before
    told, _ = predict(scan, out, preview=True, truth=truth)
    assert steps(told) == {"load", "report"}
    assert verify(out).holds


def test_a_worker_that_dies_while_reports_are_added_costs_no_mask(
    scan: Path, truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot remove what it has written: each later run used to refuse the new files as edited."""
    out = tmp_path / "out"
    predict(scan, out, preview=True)
    mask = (out / "x.nii.gz").read_bytes()
    more: dict[str, Any] = {"preview": True, "truth": truth}
    for suffix in ("nii.gz", "nrrd"):
        with monkeypatch.context() as patched:
            patched.setattr("c3s3_seg.batch.additions.remove_files", lambda *_: None)
            patched.setattr("c3s3_seg.batch.additions.sha256", _die)
            with pytest.raises(InputError, match="died"):
                predict(scan, out, **more, suffix=suffix)
        assert sorted(files(out)) == ["x.json", "x.nii.gz", "x.png"]
        assert (out / "x.nii.gz").read_bytes() == mask
        assert {f.what for f in verify(out).wrong} == {
            "the file may be unfinished; the same command again writes it"
        }
        copy = shutil.copytree(out, tmp_path / suffix)
        told, _ = predict(scan, copy, **more, suffix=suffix)
        assert ("network" in steps(told)) == (suffix == "nrrd")  # its JSON no longer lists the old mask
        assert verify(copy).holds


def _die(path: Path) -> str:
    """Die once the JSON, the last file, is written."""
    if path.suffix == ".json":
        raise InputError("the worker died")
    return sha256(path)
