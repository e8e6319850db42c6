"""Effects of options of `predict` that no other file tests."""

import json
import os
import re
from pathlib import Path

import pytest
from conftest import small_scan
from helpers.command import run

from c3s3_seg.commands.predict_output import counted
from c3s3_seg.inference.domain_check import NOT_OF_DOMAIN
from c3s3_seg.io import Skipped, save

PHANTOM = ("--model", "phantom", "--allow-out-of-domain")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--report", "pdf"], "there is no --report 'pdf'; wanted png, html, sc"),
        (["--report", ","], "there is no --report ''"),
        (["--device", "cuda:x"], "there is no device 'cuda:x'; wanted auto, cpu, cuda, cuda:N"),
        (["--tta", "xx"], "for --tta, wanted letters among xyz"),
        (["--tiling", "paper", "--tta", "x"], "the published evaluations did not mirror"),
        (["--set", "tiling.overlap"], "wanted key=value. For example: --set tiling.overlap=0.5"),
        (["--set", "fill_holes=true"], "there is no key 'fill_holes'"),
        (["--quiet", "--verbose"], "found --quiet and --verbose"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    answer = run("predict", "scan.nii.gz", "-o", tmp_path / "out", "--model", "phantom", *words)
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_the_options_of_a_prediction_are_in_its_record(small_scans: Path, tmp_path: Path) -> None:
    words = ["--tta", "xy", "--tiling", "accurate", "--set", "postprocess.fill_holes=true", "--report", "png"]
    answer = run("predict", small_scans / "case-0.nii.gz", "-o", tmp_path / "out", *PHANTOM, *words)
    assert answer.returncode == 0, answer.stderr
    facts = json.loads((tmp_path / "out" / "case-0.json").read_text())
    made = facts["made_with"]
    assert (made["mirroring"], made["overlap"], made["weighting"]) == ([0, 1], 0.5, "gaussian")
    assert made["fill_holes"] is True
    assert facts["labels"] == {"left_atrium": 1}
    assert (tmp_path / "out" / "case-0.png").is_file()


def test_a_dry_run_lists_and_writes_nothing(small_scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = run("predict", small_scans, "-o", out, *PHANTOM, "--dry-run")
    assert answer.returncode == 0, answer.stderr
    assert "case-4" in answer.stdout
    assert answer.stdout.endswith("Would segment 5 of 5 cases. Nothing was written.\n")
    assert not out.exists()
    (small_scans / "case-1.nii.gz").write_bytes(b"no scan")
    assert run("predict", small_scans, "-o", out, *PHANTOM, "--set", "batch.limit=3").returncode == 1
    before = {path: path.read_bytes() for path in out.rglob("*")}
    answer = run("predict", small_scans, "-o", out, *PHANTOM, "--dry-run", "--json", "--set", "batch.limit=1")
    cases = [json.loads(line) for line in answer.stdout.splitlines()]
    states = ["done", "failed before", "done", "new", "new"]
    assert [case["state"] for case in cases] == states
    assert [case["to_do"] for case in cases] == [False, False, False, True, False]  # the limit is one case
    assert cases[3]["mask"] == str(out / "case-3.nii.gz")
    assert cases[3]["scan"] == str(small_scans / "case-3.nii.gz")
    again = run("predict", small_scans, "-o", out, *PHANTOM, "--dry-run", "--retry-failed")
    assert "Would segment 3 of 5 cases" in again.stdout
    assert {path: path.read_bytes() for path in out.rglob("*")} == before


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
def test_an_output_folder_whose_name_is_not_unicode(small_scans: Path, tmp_path: Path, suffix: str) -> None:
    """SimpleITK ends the process when it gets such a path."""
    out = tmp_path / os.fsdecode(b"caf\xe9")
    words = ["--model", "phantom", "--allow-out-of-domain", "--format", suffix, "--probabilities"]
    answer = run("predict", small_scans / "case-0.nii.gz", "-o", out, *words)
    assert answer.returncode in (0, 1), answer.stderr  # 1: the mask is empty
    assert (out / f"case-0.{suffix}").is_file()
    assert run("verify", out).returncode == 0


def test_verbose_reports_setup_steps_and_failures_on_stderr(small_scans: Path, tmp_path: Path) -> None:
    (small_scans / "case-1.nii.gz").write_bytes(b"no scan")
    words = ["predict", small_scans, "-o", tmp_path / "out", *PHANTOM, "--set", "batch.limit=2"]
    answer = run(*words, "--verbose", "--backend", "openvino")
    setup, first, second, *_ = [line for line in answer.stderr.splitlines() if not line.startswith("3 cases")]
    assert setup.startswith("bundle phantom, backend openvino, device cpu, precision float32, networks 1")
    assert first.startswith("case-0: ")
    assert "domain check: " in first
    assert "load 0." in first
    assert second.startswith("case-1: failed: ")


def test_reasons_stand_below_the_table_one_a_line(small_scans: Path, tmp_path: Path) -> None:
    for name in ("case-1", "case-3"):
        (small_scans / f"{name}.nii.gz").write_bytes(b"no scan")
    answer = run("predict", small_scans, "-o", tmp_path / "out", *PHANTOM)
    assert answer.returncode == 1
    lines = answer.stdout.splitlines()
    start = lines.index("2 failed:")
    assert "case-4" in "\n".join(lines[:start])
    assert lines[start + 1].startswith("  case-1: ")
    assert lines[start + 2].startswith("  case-3: ")
    assert "\\n" not in answer.stdout


def test_quiet_prints_why_the_run_failed_and_nothing_else(small_scans: Path, tmp_path: Path) -> None:
    """The log of a failed pod was empty. A failure that an earlier run has printed is no error any more."""
    (small_scans / "case-1.nii.gz").write_bytes(b"no scan")
    words = ["predict", small_scans, "-o", tmp_path / "out", *PHANTOM, "--quiet"]
    answer = run(*words)
    assert (answer.returncode, answer.stdout) == (1, "")
    head, reason = answer.stderr.splitlines()
    assert head == "1 failed:"
    assert reason.startswith("  case-1: ")
    answer = run(*words)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


def test_a_share_that_only_the_scheduler_states_fits_the_folder(small_scans: Path, tmp_path: Path) -> None:
    """A failed task of an array that was submitted again alone used to take all cases."""
    words = ["predict", small_scans, "-o", tmp_path / "out", *PHANTOM, "--shard"]
    assert run(*words, "2/5").returncode == 0
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "1"}
    answer = run(*words, "auto", **array)
    assert answer.returncode == 2
    assert "--shard auto means 1/1 here, but the shards that wrote this folder were 5." in answer.stderr


def test_several_series_are_listed_in_one_line(tmp_path: Path, oblique: object) -> None:
    from c3s3_seg.geometry.volume import Volume
    from c3s3_seg.io.dicom.write_series import save_series

    assert isinstance(oblique, Volume)
    for name in "ab":
        save_series(oblique, tmp_path / "study" / "x" / name, description=name, seed_uid=name)
    answer = run("predict", tmp_path / "study", "-o", tmp_path / "out", "--series", 7, *PHANTOM)
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert "\\n" not in line
    assert "The series are 1: " in line
    assert "; 2: " in line


def test_scans_one_level_below_are_pointed_at(tmp_path: Path) -> None:
    for name in ("p1", "p2", "notes"):
        (tmp_path / "archive" / name).mkdir(parents=True)
    for n, name in enumerate(("p1", "p2")):
        save(small_scan(n), tmp_path / "archive" / name / "scan.nii.gz")
    answer = run("predict", tmp_path / "archive", "-o", tmp_path / "out", *PHANTOM)
    assert answer.returncode == 2
    assert "found no scan here, but 2 image files deeper, the first in p1" in answer.stderr
    assert f"Give the sub-folders themselves ({tmp_path / 'archive'}/*/)" in answer.stderr
    folders = [tmp_path / "archive" / name for name in ("p1", "p2")]
    answer = run("predict", *folders, "-o", tmp_path / "out", *PHANTOM, "--dry-run")
    assert "Would segment 2 of 2 cases" in answer.stdout


def test_scans_further_below_are_counted_and_masks_are_not(tmp_path: Path) -> None:
    for n, name in enumerate(("sub-1/anat", "sub-2/anat", "labelsTr")):
        (tmp_path / "a" / name).mkdir(parents=True)
        save(small_scan(n), tmp_path / "a" / name / "scan.nii.gz")
    answer = run("predict", tmp_path / "a", "-o", tmp_path / "out", *PHANTOM)
    assert "found no scan here, but 2 image files deeper, the first in sub-1/anat" in answer.stderr
    assert answer.stderr.endswith("Give the folders with the scans themselves.\n")


def test_a_share_names_its_own_table(small_scans: Path, tmp_path: Path) -> None:
    scan, out = small_scans / "case-0.nii.gz", tmp_path / "out"
    answer = run("predict", scan, "-o", out, *PHANTOM, "--shard", "1/2")
    table, end = answer.stdout.splitlines()[-2:]
    assert table == f"Masks, JSON and summary.1-of-2.csv are in {out}. Research use only."
    assert "the same command without --shard writes the files for all cases" in end
    assert (out / "summary.1-of-2.csv").is_file()
    answer = run("predict", scan, "-o", out, *PHANTOM, "--shard", "2/2")
    assert answer.stdout.splitlines()[-2] == "This share has no case."


def test_a_log_file_may_lie_in_the_new_output_folder(small_scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["-o", out, *PHANTOM, "--log-file", out / "logs" / "x.log", "--quiet"]
    assert run("predict", small_scans / "case-0.nii.gz", *words).returncode == 0
    assert (out / "logs" / "x.log").read_text().startswith('{"event": "start"')
    answer = run("verify", out)
    assert answer.returncode == 0, answer.stdout


def test_the_counts_of_what_was_passed_over_agree() -> None:
    """`4 passed over` named 7 inputs, and a refused scan among "others"."""
    skipped = [
        Skipped("a", "files that are no DICOM", files=4), Skipped("b", "other files than scans", files=1),
        Skipped("c", "the same scan as d"), Skipped("c", "the same scan as e"), Skipped("c", "a localizer"),
        Skipped("f", f"{NOT_OF_DOMAIN}: its modality is CT, wanted MR"), Skipped("g", "a localizer"),
    ]  # fmt: skip
    assert str(skipped[0]) == "a: files that are no DICOM (4)"
    told = counted(skipped)
    assert told.startswith(
        f"{NOT_OF_DOMAIN} (1); files that are no DICOM (4); the same scan as another (2); "
    )
    numbers = [int(number) for number in re.findall(r"\((\d+)\)", told)]
    assert sum(numbers) == sum(item.inputs for item in skipped) == 10
