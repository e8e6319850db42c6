"""Tests of the files of a case, replaced or removed together; a full disk ends a run, the next continues."""

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import small_scan
from helpers import command, forked
from helpers.batches import MODEL, Told
from helpers.studies import heart, series

from c3s3_seg.batch import Job, predict_case, predict_cases, verify
from c3s3_seg.batch.records import Outcome, Refusal
from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import (
    InputError,
    MemoryLimitError,
    MissingError,
    StorageError,
    as_c3s3_error,
    is_out_of_memory,
)
from c3s3_seg.inference import Settings
from c3s3_seg.io import Case, load_mask, save

pytestmark = pytest.mark.slow

FULL = replace(MODEL, settings=Settings(probabilities=True, uncertainty=True))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    save(small_scan(0), tmp_path / "x.nii.gz")
    return tmp_path / "x.nii.gz"


def everything(scan: Path, out: Path) -> None:
    predict_cases([scan], FULL, Job(out, allow_out_of_domain=True, preview=True, html=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the scan and its complete output, which is made once and then copied."""
    folder = tmp_path_factory.mktemp("made")
    save(small_scan(0), folder / "x.nii.gz")
    everything(folder / "x.nii.gz", folder / "out")
    return folder


@pytest.fixture
def done(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return a scan, which no test changes, and a copy of its output for this test."""
    return made / "x.nii.gz", shutil.copytree(made / "out", tmp_path / "out")


def names(out: Path) -> list[str]:
    """Return the sorted names of the files of cases."""
    of_all = ("summary", "provenance", "journal")
    files = [p for p in out.rglob("*") if p.is_file() and not p.name.startswith(of_all)]
    return sorted(str(p.relative_to(out)) for p in files)


ALL = [
    "probabilities/x.left_atrium.nii.gz",
    "uncertainty/x.nii.gz",
    "x.html",
    "x.json",
    "x.nii.gz",
    "x.png",
]


def test_other_options_leave_nothing_of_the_first_run(done: tuple[Path, Path]) -> None:
    scan, out = done
    assert names(out) == ALL
    predict_cases([scan], MODEL, Job(out, allow_out_of_domain=True))
    assert names(out) == ["x.json", "x.nii.gz"]
    assert not any(path.is_dir() for path in out.iterdir())
    everything(scan, out)  # the model's settings request maps: not a finished case
    assert names(out) == ALL
    predict_cases([scan], FULL, Job(out, suffix="mha", allow_out_of_domain=True))
    assert names(out) == [
        "probabilities/x.left_atrium.mha",
        "uncertainty/x.mha",
        "x.json",
        "x.mha",
    ]
    assert verify(out).holds
    assert not verify(out).strangers


def test_another_manifest_is_another_model(scan: Path, tmp_path: Path) -> None:
    """The same weights with other labels or another grid give other masks, so the case is not finished."""
    bundle = ModelBundle.load(MODEL.bundle)
    shutil.copytree(bundle.folder, tmp_path / "model")
    model = replace(MODEL, bundle=tmp_path / "model")
    predict_cases([scan], model, Job(tmp_path / "out", allow_out_of_domain=True))
    assert predict_cases([scan], model, Job(tmp_path / "out", allow_out_of_domain=True)).kept == 1
    manifest = tmp_path / "model" / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["task"]["labels"][0]["value"] = 7
    manifest.write_text(json.dumps(facts))
    assert predict_cases([scan], model, Job(tmp_path / "out", allow_out_of_domain=True)).kept == 0
    assert set(np.unique(load_mask(tmp_path / "out" / "x.nii.gz").array)) <= {0, 7}


def test_an_image_that_becomes_a_dicom_object(tmp_path: Path) -> None:
    series(heart(), tmp_path / "phantom-3", "p", 1)
    scan, out = tmp_path / "phantom-3", tmp_path / "out"
    predict_cases([scan], MODEL, Job(out))
    first = out / "phantom-3.nii.gz"
    kept = first.read_bytes()
    for suffix, name in (("dicom-seg", "phantom-3.seg.dcm"), ("rtstruct", "phantom-3.rtstruct.dcm")):
        predict_cases([scan], MODEL, Job(out, suffix=suffix, secondary_capture=suffix == "dicom-seg"))  # type: ignore[arg-type]
        assert set(names(out)) - {"phantom-3.sc.dcm"} == {"phantom-3.json", name}
        assert verify(out).holds
    assert "phantom-3.sc.dcm" not in names(out)
    first.write_bytes(kept)
    assert verify(out).stale == ["phantom-3.nii.gz"]


def test_a_case_that_fails_now_keeps_no_mask(small_scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = Job(out, allow_out_of_domain=True, preview=True)
    predict_cases([small_scans], MODEL, job)
    broken = small_scans / "case-2.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-20])
    result = predict_cases([small_scans], MODEL, job)
    assert [f.case for f in result.failures] == ["case-2"]
    assert not list(out.glob("case-2*"))
    assert len(list(out.glob("*.nii.gz"))) == 4
    assert verify(out).holds


def test_a_case_that_cannot_be_written_any_more_leaves_nothing(small_scans: Path, tmp_path: Path) -> None:
    out, name = tmp_path / "out", "n" * 244  # the mask's name fits, those of its maps do not
    (small_scans / "case-0.nii.gz").rename(small_scans / f"{name}.nii.gz")
    predict_cases([small_scans], MODEL, Job(out, allow_out_of_domain=True))
    assert (out / f"{name}.nii.gz").exists()
    result = predict_cases([small_scans], FULL, Job(out, allow_out_of_domain=True))
    assert [f.case for f in result.failures] == [name]
    assert "File name too long" in result.failures[0].reason
    assert len(result.rows) == 4
    assert not list(out.glob(f"{name}*"))
    assert verify(out).holds
    result = predict_cases([small_scans], MODEL, Job(out, allow_out_of_domain=True))
    assert len(result.rows) == 5


def test_a_case_whose_place_is_taken_now_leaves_nothing(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_cases([scan], MODEL, Job(out, allow_out_of_domain=True))
    (out / "probabilities").write_bytes(b"in the way")
    with pytest.raises(InputError, match="probabilities"):
        predict_cases([scan], FULL, Job(out, allow_out_of_domain=True))
    assert names(out) == ["probabilities"]
    assert verify(out).holds


def test_without_a_journal_too(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    predictor, _ = FULL.open()
    case = Case("x", scan)
    predict_case(case, predictor, Job(out, allow_out_of_domain=True, preview=True, html=True), None)
    assert names(out) == ALL
    plain, _ = MODEL.open()
    predict_case(case, plain, Job(out, suffix="nrrd", allow_out_of_domain=True), None)
    assert names(out) == ["x.json", "x.nrrd"]
    scan.write_bytes(b"damaged")
    with pytest.raises(InputError):
        predict_case(case, plain, Job(out, allow_out_of_domain=True), None)
    assert names(out) == []


def test_a_journal_that_was_moved_away(done: tuple[Path, Path]) -> None:
    scan, out = done
    (out / "journal.sqlite").unlink()
    predict_cases([scan], MODEL, Job(out, suffix="mha", allow_out_of_domain=True))
    assert names(out) == ["x.json", "x.mha"]
    (out / "journal.sqlite").unlink()
    mask = load_mask(out / "x.mha")
    mask.array[0, 0, 0] = 1
    save(mask, out / "x.mha")
    edited = (out / "x.mha").read_bytes()
    with pytest.raises(InputError, match="an earlier prediction did not write"):
        predict_cases([scan], MODEL, Job(out, suffix="mha", allow_out_of_domain=True))
    assert (out / "x.mha").read_bytes() == edited


def test_what_an_edit_has_changed_stays(done: tuple[Path, Path]) -> None:
    scan, out = done
    (out / "x.html").write_bytes(b"notes of a person")
    with pytest.raises(InputError, match="edited or is damaged"):
        predict_cases([scan], MODEL, Job(out, allow_out_of_domain=True))
    assert names(out) == ALL
    assert (out / "x.html").read_bytes() == b"notes of a person"


def test_a_scan_or_a_truth_that_lies_in_the_output_stays(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_cases([scan], MODEL, Job(out, allow_out_of_domain=True))
    mask = (out / "x.nii.gz").read_bytes()
    with pytest.raises(InputError, match="the mask would be written over its truth"):
        predict_cases([scan], MODEL, Job(out, truth=out / "x.nii.gz", allow_out_of_domain=True, preview=True))
    assert (out / "x.nii.gz").read_bytes() == mask
    assert verify(out).holds
    result = predict_cases([scan], MODEL, Job(out, "mha", truth=out / "x.nii.gz", allow_out_of_domain=True))
    assert result.rows[0].scores[0].score.dice == 1
    assert (out / "x.nii.gz").read_bytes() == mask
    (out / "journal.sqlite").unlink()
    predictor, _ = MODEL.open()
    job, case = Job(out, "nrrd", allow_out_of_domain=True), Case("x", out / "x.nii.gz")
    with pytest.raises(InputError, match="its place is taken by the mask of another scan of this name"):
        predict_case(case, predictor, job, None)
    assert names(out) == ["x.json", "x.mha", "x.nii.gz"]
    (out / "x.json").unlink()
    predict_case(case, predictor, job, None)
    assert names(out) == ["x.json", "x.mha", "x.nii.gz", "x.nrrd"]


def test_verify_tells_stale_files_from_those_of_others(done: tuple[Path, Path], made: Path) -> None:
    (scan, out), old = done, made / "out"
    predict_cases([scan], MODEL, Job(out, suffix="mha", allow_out_of_domain=True))
    for name in ALL:
        if name != "x.json":
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copy(old / name, out / name)
    (out / "mine.txt").write_text("a note")
    (out / "x.mp4").symlink_to(scan)
    save(load_mask(old / "x.nii.gz"), out / "drawn-by-hand.nii.gz")
    os.mkfifo(out / "pipe")
    verdict = verify(out)
    assert not verdict.wrong
    assert sorted(verdict.stale) == [name for name in ALL if name != "x.json"]
    assert sorted(verdict.strangers) == ["drawn-by-hand.nii.gz", "mine.txt", "pipe", "x.mp4"]
    assert not verdict.holds
    answer = command.run("verify", out)
    assert answer.returncode == 1
    assert "stale: x.png: written by c3s3-seg, but not by the present run" in answer.stdout
    assert "not written by c3s3-seg: mine.txt" in answer.stdout
    assert "10 files" not in answer.stdout
    for name in verdict.stale:
        (out / name).unlink()
    assert command.run("verify", out).returncode == 0  # foreign files alone are no fault


def test_verify_knows_a_mask_of_another_model(small_scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_cases([small_scans], MODEL, Job(out, allow_out_of_domain=True))
    predict_cases([small_scans / "case-1.nii.gz"], MODEL, Job(out, allow_out_of_domain=True))
    assert verify(out).holds  # a part of the scans, with the same model
    other = replace(MODEL, settings=Settings(overlap=0.25))
    predict_cases([small_scans / "case-1.nii.gz"], other, Job(out, allow_out_of_domain=True))
    stale = verify(out).stale
    assert sorted(stale) == sorted(f"case-{n}.{e}" for n in (0, 2, 3, 4) for e in ("json", "nii.gz"))
    predict_cases([small_scans], other, Job(out, allow_out_of_domain=True))
    assert verify(out).holds


def test_verify_says_no_to_a_case_that_was_not_finished(small_scans: Path, tmp_path: Path) -> None:
    from c3s3_seg.batch.journal import Journal, journal_path
    from c3s3_seg.batch.provenance import write_provenance

    out = tmp_path / "out"
    predict_cases([small_scans], MODEL, Job(out, allow_out_of_domain=True))
    journal = Journal(journal_path(out))
    files = {"case-1.nii.gz": "", "case-1.json": ""}
    journal.begin(Outcome("case-1", str(small_scans / "case-1.nii.gz"), outputs=files), "s")
    write_provenance(journal, out, None)
    journal.close()
    verdict = verify(out)
    assert [finding.where for finding in verdict.wrong] == ["case-1"]
    assert sorted(verdict.stale) == ["case-1.json", "case-1.nii.gz"]
    predict_cases([small_scans], MODEL, Job(out, allow_out_of_domain=True))  # files left by a kill are own
    assert verify(out).holds


@pytest.mark.parametrize(
    "text", ['{"runs": [], "cases": [1]}', '{"runs": [1], "cases": []}', "[" * 100_000, "[]"]
)
def test_a_provenance_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "provenance.json").write_text(text)
    with pytest.raises(InputError, match="cannot be read"):
        verify(tmp_path)


def test_a_provenance_that_points_out_of_its_folder(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_cases([scan], MODEL, Job(out, allow_out_of_domain=True))
    facts = json.loads((out / "provenance.json").read_text())
    facts["cases"][0]["outputs_sha256"]["../x.nii.gz"] = "0"
    (out / "provenance.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="an output outside of the folder"):
        verify(out)


def run(*words: object, **more: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "c3s3_seg", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **more)  # type: ignore[call-overload, no-any-return]


# A limit on the size of a file stands in for a full disk, on which writes also fail half way.
FULL_DISK = {resource.RLIMIT_FSIZE: 200_000}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_ends_the_run_at_its_first_case(tmp_path: Path, workers: int) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for n in range(7):
        volume = small_scan(n)
        array = volume.array.repeat(2, 0).repeat(2, 1).repeat(2, 2)
        save(volume.geometry.build(array.shape, (1.0, 1.0, 1.0)).volume(array), scans / f"{n:02}.nii.gz")
    words = [
        "predict",
        scans,
        "-o",
        out,
        "--model",
        "phantom",
        "--allow-out-of-domain",
        "--threads",
        1,
        "--json",
    ]
    words += ["--format", "nrrd", "--probabilities"]
    answer = forked.run([*words, "--workers", workers], FULL_DISK)
    assert answer.returncode == 1, answer.stderr
    events = [json.loads(line) for line in answer.stdout.splitlines()]
    failed = {e["case"]: e["reason"] for e in events if e["event"] == "case"}
    assert len(failed) == 7
    assert [e["state"] for e in events[1:-1]] == ["failed"] + 6 * ["not done"]
    assert (events[-1]["failed"], events[-1]["left"], events[-1]["exit_code"]) == (1, 6, 1)
    assert "File too large" in events[1]["reason"]
    first, *rest = failed.values()
    assert "could not be written in full" in first
    assert all("it was not done, because the run was stopped" in reason for reason in rest)
    assert names(out) == []
    assert (out / "summary.csv").read_text().count("it was not done") == 6
    seconds = json.loads((out / "provenance.json").read_text())["cases"]
    assert len(seconds) <= 4  # the cases in progress when the first one failed
    assert verify(out).holds
    answer = command.run(*words)
    assert answer.returncode == 0, answer.stdout
    assert len(list(out.glob("*.nrrd"))) == 7
    assert verify(out).holds


def test_a_file_name_is_no_full_disk(tmp_path: Path) -> None:
    error = StorageError("cannot be written (No space left on device)", where="x")
    assert Refusal.of(error, "write").ends_the_batch
    assert not Refusal.of(
        InputError("the file could not be written: File name too long"), "write"
    ).ends_the_batch
    back = Outcome("a", "x", refusal=Refusal.of(error, "write")).refusal
    assert back is not None
    assert type(back.error()) is StorageError


def test_names_that_are_too_long_cost_their_case_alone(small_scans: Path, tmp_path: Path) -> None:
    from c3s3_seg.io.dicom.write_series import save_series

    volume = small_scan(1)
    volume = replace(volume, array=volume.array.astype("uint16"))
    save_series(volume, small_scans / ("d" * 255), description="", seed_uid="a")
    told = Told()
    result = predict_cases([small_scans], MODEL, Job(tmp_path / "out", allow_out_of_domain=True), told)
    assert [f.case for f in result.failures] == ["d" * 255]
    assert "File name too long" in result.failures[0].reason
    assert len(result.rows) == 5
    with pytest.raises(InputError, match="File name too long"):
        predict_cases([small_scans / ("d" * 255)], MODEL, Job(tmp_path / "out", allow_out_of_domain=True))


MEMORY = [
    MemoryError(),
    ImportError("libx.so: failed to map segment from shared object"),
    ImportError("/x.so: cannot allocate memory in static TLS block"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("std::bad_alloc"),
    RuntimeError(
        "Exception from core.cpp:117:\nException from plugin.cpp:54:\nResource temporarily unavailable\n"
    ),
    RuntimeError("can't start new thread"),
    OSError(12, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", MEMORY, ids=str)
def test_a_lack_of_memory_is_no_defect(error: Exception) -> None:
    ours = as_c3s3_error(error)
    assert type(ours) is MemoryLimitError
    assert ours.what.startswith("the memory did not suffice")
    assert "Give more memory" in str(ours)
    assert not Refusal.of(ours, "load").final  # tried again
    outer = ImportError("partially initialized module")
    outer.__context__ = error
    assert is_out_of_memory(outer)
    hidden = MissingError("a page needs plotly, which is not installed")
    hidden.__cause__ = error
    assert type(as_c3s3_error(hidden)) is MemoryLimitError


@pytest.mark.parametrize(
    "error", [ImportError("No module named x"), ValueError("x"), BlockingIOError(11, "x")]
)
def test_a_defect_is_no_lack_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert as_c3s3_error(error).exit_code == 4
    missing = MissingError("not installed")
    missing.__cause__ = error
    assert as_c3s3_error(missing) is missing


@pytest.mark.parametrize("limit", [650_000_000, 700_000_000, 850_000_000])
def test_memory_that_ends_in_an_import(scan: Path, tmp_path: Path, limit: int) -> None:
    def little() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

    words = [
        "predict",
        scan,
        "-o",
        tmp_path / "out",
        "--model",
        "phantom",
        "--allow-out-of-domain",
        "--report",
        "png",
    ]
    answer = run(*words, preexec_fn=little)
    if answer.returncode in (0, -11, -6):
        pytest.skip("this machine's libraries take less, or end the process themselves")
    assert "Traceback" not in answer.stderr
    assert "defect" not in answer.stderr
    # Where the memory ends depends on the machine's libraries: in an import, in the network's first tile, or
    # in a thread of OpenVINO, which then reports only a broken promise.
    assert answer.returncode == 2, answer.stderr
    told = ("the memory did not suffice", "memory was full", "Broken promise")
    assert any(words in answer.stderr for words in told), answer.stderr
