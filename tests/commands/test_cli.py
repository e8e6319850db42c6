"""The command line as a user sees it: real processes, exit codes, one clear line for each error."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command import run

from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io import load_mask, save
from c3s3_seg.phantom import save as save_phantom
from c3s3_seg.phantom import simulate


def predict(*words: object) -> subprocess.CompletedProcess[str]:
    return run("predict", *words, "--model", "phantom")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two phantoms, DICOM and NIfTI, to `scans` and their masks to `truth`; return the folder."""
    folder = tmp_path_factory.mktemp("cohort")
    for seed, file_format in ((30_001, "dicom"), (30_002, "nii.gz")):
        save_phantom(simulate(seed), folder / "scans", seed=seed, file_format=file_format)  # type: ignore[arg-type]
    (folder / "scans" / "truth").rename(folder / "truth")
    return folder


def refused(answer: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Check that the process ended with exit code 2 and one line on stderr that contains these parts."""
    assert answer.returncode == 2, answer.stderr
    lines = answer.stderr.strip().splitlines()
    assert len(lines) == 1, answer.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


@pytest.mark.slow
def test_a_folder_of_cases(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = predict(cohort / "scans", "-o", out, "--truth", cohort / "truth", "--report", "png")
    assert answer.returncode == 0, answer.stderr
    for word in ("phantom-30001", "phantom-30002", "Dice", "95HD", "ASD", "(mm)", "mean of 2"):
        assert word in answer.stdout
    for seed in (30_001, 30_002):
        name = f"phantom-{seed}"
        truth = load_mask(cohort / "truth" / f"{name}.nii.gz")
        assert load_mask(out / f"{name}.nii.gz").geometry.matches(truth.geometry)
        facts = json.loads((out / f"{name}.json").read_text())
        assert facts["scores"]["left_atrium"]["dice"] >= 0.93
        assert facts["made_with"]["bundle"] == "phantom"
        assert len(facts["made_with"]["weights_sha256"]["model.safetensors"]) == 64
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["phantom-30001", "phantom-30002"]
    assert all(float(row["hd95_mm"]) < 6 and row["error"] == "" for row in rows)

    report = tmp_path / "report"
    answer = run("evaluate", out, cohort / "truth", "-o", report, "--protocol", "paper")
    assert answer.returncode == 0, answer.stderr
    with (report / "cases.csv").open() as file:
        reader = csv.DictReader(file)
        scores = list(reader)
        assert reader.fieldnames is not None
        assert reader.fieldnames[0] == "case"
    assert [row["case"] for row in scores] == ["phantom-30001", "phantom-30002"]
    assert json.loads((report / "report.json").read_text())["protocol"]["name"] == "paper"
    assert run("verify", out).returncode == 0
    again = predict(cohort / "scans", "-o", out)
    assert again.returncode == 0  # files of this program may be overwritten
    assert "reports updated for 2 finished cases without segmenting again" in again.stderr
    assert "--truth: yes -> no" in again.stderr
    third = predict(cohort / "scans", "-o", out, "--json", "--workers", 2)
    first = json.loads(third.stdout.splitlines()[0])
    assert first["note"] == "2 cases finished before, as recorded"
    (out / "phantom-30001.nii.gz").write_bytes(b"")
    verdict = run("verify", out)
    assert verdict.returncode == 1
    assert "phantom-30001.nii.gz: sha256 is not" in verdict.stdout


@pytest.mark.slow
def test_one_failing_case_is_a_row_and_the_others_go_on(cohort: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "a-broken.nii.gz").write_bytes((cohort / "scans" / "phantom-30002.nii.gz").read_bytes()[:5000])
    (scans / "b-whole.nii.gz").write_bytes((cohort / "scans" / "phantom-30002.nii.gz").read_bytes())
    answer = predict(scans, "-o", tmp_path / "out", "--format", "mha")
    assert answer.returncode == 1
    assert "a-broken" in answer.stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "b-whole.json",
        "b-whole.mha",
        "journal.jsonl",
        "journal.sqlite",
        "provenance.json",
        "summary.csv",
    ]
    with (tmp_path / "out" / "summary.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert "truncated" in rows["a-broken"]["error"] or "ends" in rows["a-broken"]["error"]
    assert float(rows["b-whole"]["volume_ml"]) > 20


def test_bad_input_is_one_clear_line(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    scan = cohort / "scans" / "phantom-30002.nii.gz"
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    refused(predict(tmp_path / "nothing.nii.gz", "-o", out), "nothing.nii.gz")
    refused(predict(empty, "-o", out), "empty")
    refused(predict(text, "-o", out), "notes.txt", ".nii.gz")
    refused(run("predict", scan, "-o", out, "--model", tmp_path / "none"), "there is no model", "phantom")
    refused(predict(scan, "-o", out, "--truth", tmp_path / "no-truth"), "no-truth")
    shifted = tmp_path / "shifted.nii.gz"
    truth = load_mask(cohort / "truth" / "phantom-30002.nii.gz")
    affine = truth.geometry.affine.copy()
    affine[0, 3] += 5
    save(Geometry(truth.geometry.shape, affine).volume(truth.array), shifted)
    refused(predict(scan, "-o", out, "--truth", shifted), "shifted.nii.gz", "another grid", "origin")
    assert not out.exists() or not list(out.iterdir())


def test_nothing_of_somebody_else_is_overwritten(cohort: Path, tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes((cohort / "scans" / "phantom-30002.nii.gz").read_bytes())
    before = scan.read_bytes()
    refused(predict(scan, "-o", tmp_path), "written over its scan")
    assert scan.read_bytes() == before
    out = tmp_path / "out"
    out.mkdir()
    (out / "scan.nii.gz").write_bytes(b"a mask drawn by hand")
    refused(predict(scan, "-o", out), "an earlier prediction did not write")
    assert (out / "scan.nii.gz").read_bytes() == b"a mask drawn by hand"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
def test_formats_and_probabilities(cohort: Path, tmp_path: Path, suffix: str) -> None:
    from c3s3_seg.io import load

    scan = cohort / "scans" / "phantom-30001"
    answer = predict(
        scan,
        "-o",
        tmp_path,
        "--format",
        suffix,
        "--probabilities",
        "--ensemble",
        "--set",
        "tiling.overlap=0.25",
    )
    assert answer.returncode == 0, answer.stderr
    mask = load_mask(tmp_path / f"phantom-30001.{suffix}")
    probability = load(tmp_path / "probabilities" / f"phantom-30001.left_atrium.{suffix}")
    assert mask.geometry.matches(load(scan).geometry)
    assert (np.asarray(probability.array)[mask.array > 0] > 0.5).all()


def test_a_missing_runtime_is_exit_code_3(cohort: Path, tmp_path: Path) -> None:
    scan = cohort / "scans" / "phantom-30002.nii.gz"
    code = f"""
import sys
from c3s3_seg.inference.backends import select
select.PACKAGES["torch"] = ("torch_is_not_here", select.PACKAGES["torch"][1])
words = ["predict", "{scan}", "-o", "{tmp_path}", "--model", "phantom", "--backend", "torch"]
sys.argv = ["c3s3-seg", *words]
from c3s3_seg.cli import main
main()
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 3
    assert "pip install '.[train]'" in answer.stderr


@pytest.mark.slow
def test_a_closed_stdout_costs_nothing(cohort: Path, tmp_path: Path) -> None:
    scan = cohort / "scans" / "phantom-30002.nii.gz"
    command = f"'{sys.executable}' -m c3s3_seg predict '{scan}' -o '{tmp_path}' --model phantom >&-"
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert (tmp_path / "phantom-30002.nii.gz").is_file()


def test_usage_errors() -> None:
    answer = run("predict")
    assert answer.returncode == 2
    assert "Missing argument 'INPUT'" in answer.stderr
    assert run("").returncode == 2
    assert run().stderr.startswith("Usage: c3s3-seg [OPTIONS] COMMAND")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["predict", "scan.nii.gz", "-o", ""], "'-o' / '--out'"),
        (["predict", "scan.nii.gz", "", "-o", "out"], "'INPUT'"),
        (["check", ""], "'DATASET'"),
        (["evaluate", "a", "b", "-o", "c", "--images", ""], "'--images'"),
    ],
)
def test_an_empty_path_is_not_the_working_folder(words: list[str], option: str, tmp_path: Path) -> None:
    answer = run(*words)
    assert answer.returncode == 2
    assert f"Invalid value for {option}: found an empty path" in answer.stderr


def test_an_empty_folder_of_a_configuration_is_not_the_working_folder(tmp_path: Path) -> None:
    answer = run("train", "phantom", "-o", tmp_path / "run", "--set", 'data.folder=""')
    refused(answer, "data.folder", "wanted the folder of a data set")


@pytest.mark.parametrize("tolerance", ["nan", "-1", "inf"])
def test_a_tolerance_that_is_none_is_refused_before_any_mask_is_looked_for(
    tolerance: str, tmp_path: Path
) -> None:
    answer = run("evaluate", tmp_path, tmp_path, "-o", tmp_path / "out", "--tolerance", tolerance)
    refused(answer, "found the tolerances", "wanted finite ones that are not negative")
    assert not (tmp_path / "out").exists()


def test_a_region_that_is_none_is_refused_before_any_scan_is_looked_for(tmp_path: Path) -> None:
    answer = run("predict", tmp_path / "none", "-o", tmp_path / "out", "--model", "phantom", "--roi", "1:2")
    refused(answer, "found the region '1:2'", "wanted x0:x1,y0:y1,z0:z1")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("phantom -o {out} --cohort 1,0,0 --count 3", "found --count with --cohort"),
        ("phantom -o {out} --cohort 1,0,0 --format dicom", "found --format with --cohort"),
        ("evaluate a b -o {out} --protocol paper --tolerance 1", "found --tolerance with --protocol paper"),
        ("evaluate a b -o {out} --protocol paper --area-nsd", "found --area-nsd with --protocol paper"),
        ("config example --json", "found --json with example"),
        ("train phantom -o {out} --fold 1/2 --set data.fold=2/2", "found --fold and --set data.fold"),
    ],
)
def test_options_that_would_be_ignored_are_refused(words: str, told: str, tmp_path: Path) -> None:
    refused(run(*words.format(out=tmp_path / "out").split()), told, "Leave one of them out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_stands_alone_needs_a_folder() -> None:
    for words in (["--to", "openvino"], ["--precision", "float16"], ["--ensemble"], ["--batch", "2"]):
        refused(run("export", "phantom", *words), "this export stands alone and needs a folder", "-o")


def test_a_configuration_error_names_key_value_and_choices(toy_config: Path, tmp_path: Path) -> None:
    answer = run("train", toy_config, "-o", tmp_path / "run", "--set", "run.precision=half")
    refused(answer, "run.precision = 'half'", "'float32', 'bfloat16' or 'float16'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "2000 None"), ({"GOMP_SPINCOUNT": "7"}, "7 None"), ({"OMP_WAIT_POLICY": "active"}, "None active")],
)
def test_threads_wait_briefly_unless_told_otherwise(given: dict[str, str], expected: str) -> None:
    """Threads of torch that spin while they wait slow a training step down beside another program."""
    code = (
        "import os, sys\nfrom c3s3_seg.cli import main\nsys.argv = ['c3s3-seg', '--version']\n"
        "try:\n    main()\nfinally:\n"
        "    print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"
    )
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    env = {name: value for name, value in os.environ.items() if name not in names} | given
    answer = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == expected


# Code that raises an error which no check foresaw, the exit code, and parts of the last line on stderr.
UNFORESEEN = (
    ("1 / 0", 4, ("ZeroDivisionError: division by zero", "This is a defect of the program", "line ")),
    ("[].boom", 4, ("AttributeError", "defect")),
    ("open('/none')", 2, ("error: /none: No such file or directory",)),
    ("open('n' * 300)", 2, ("File name too long",)),
    ("(_ for _ in ()).throw(MemoryError())", 2, ("the memory did not suffice",)),
    ("(_ for _ in ()).throw(ImportError('x.so: cannot allocate memory'))", 2, ("did not suffice",)),
)
BOOM = """
import os, sys
from c3s3_seg import cli

def boom():
    exec(sys.argv[2])

cli.app.command("boom", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(boom)
for error in sys.argv[1:]:
    child = os.fork()
    if not child:
        sys.argv = ["c3s3-seg", "boom", error]
        cli.main()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("ends with", code, file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def unforeseen() -> dict[bool, list[tuple[int, list[str]]]]:
    """Return exit code and stderr lines of one process per error, by whether the traceback was requested."""
    found = {}
    for shown in (False, True):
        answer = subprocess.run(
            [sys.executable, "-c", BOOM, *(error for error, _, _ in UNFORESEEN)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **({"C3S3_SEG_TRACEBACK": "1"} if shown else {})},
        )
        *parts, rest = re.split(r"^ends with (-?\d+)\n", answer.stderr, flags=re.MULTILINE)
        assert rest == ""
        found[shown] = [
            (int(code), text.splitlines()) for text, code in zip(parts[::2], parts[1::2], strict=True)
        ]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(UNFORESEEN)), ids=[error for error, _, _ in UNFORESEEN])
def test_what_no_check_foresaw_is_one_line(
    number: int, unforeseen: dict[bool, list[tuple[int, list[str]]]]
) -> None:
    _, code, parts = UNFORESEEN[number]
    for shown, answers in unforeseen.items():
        assert len(answers) == len(UNFORESEEN)
        ended, lines = answers[number]
        assert ended == code
        assert any(line.startswith("Traceback") for line in lines) == (shown and code == 4)
        assert all(part in lines[-1] for part in parts)
        assert len(lines) == 1 or shown


def test_an_empty_mask_is_no_success(small_scans: Path, tmp_path: Path) -> None:
    """The mask is written; the case, the table, the JSON lines and the exit code report that it is empty."""
    words = ["predict", str(small_scans / "case-0.nii.gz"), "--model", "phantom", "--allow-out-of-domain"]
    found = run(*words, "-o", str(tmp_path / "found"))
    assert found.returncode == 0, found.stderr
    facts = json.loads((tmp_path / "found" / "case-0.json").read_text())
    assert facts["nothing_found"] is False
    assert any("the volume of 'left_atrium' is" in note for note in facts["notes"])  # it is a 4 ml ball
    empty = run(*words, "-o", str(tmp_path / "empty"), "--set", "postprocess.min_volume_ml=1000")
    assert empty.returncode == 1
    assert "Empty masks, nothing was found: 1 of 1 scan." in empty.stderr
    assert "case-0: nothing found: no voxel has a label" in empty.stdout
    facts = json.loads((tmp_path / "empty" / "case-0.json").read_text())
    assert facts["nothing_found"] is True
    assert not load_mask(tmp_path / "empty" / "case-0.nii.gz").array.any()
    assert ",nothing found" in (tmp_path / "empty" / "summary.csv").read_text()
    again = run(*words, "-o", str(tmp_path / "empty"), "--set", "postprocess.min_volume_ml=1000", "--json")
    assert again.returncode == 1  # a mask that was empty in an earlier run is still no success


PROGRAM = """
import atexit, sys
from c3s3_seg import cli
def main():
    atexit.register(print, "at the end")
    print("said")
    {last}
cli.main = main
cli.program()
"""


@pytest.mark.parametrize(
    ("last", "code"), [("sys.exit(3)", 3), ("sys.exit()", 0), ("pass", 0), ("raise RuntimeError('x')", 1)]
)
def test_the_program_ends_early_but_not_before_what_is_left_to_do(last: str, code: int) -> None:
    command = [sys.executable, "-c", PROGRAM.format(last=last)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == code
    assert answer.stdout.splitlines() == ["said", "at the end"]
    assert ("RuntimeError: x" in answer.stderr) == (code == 1)


INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "c3s3_seg.cli":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["c3s3-seg", "models"]
# Where the tests run in the background of a shell, they inherit that it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from c3s3_seg.__main__ import program
program()
"""


def test_ctrl_c_while_the_program_is_imported_shows_no_traceback() -> None:
    command = [sys.executable, "-c", INTERRUPTED]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (-signal.SIGINT, "", "")


STOPPED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "numpy.lib":
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Finder())
sys.argv = ["c3s3-seg", "predict", "none.nii.gz", "-o", "out", "--model", "phantom"]
from c3s3_seg.__main__ import program
program()
"""


def test_a_stop_in_the_middle_of_an_import_shows_no_traceback() -> None:
    """numpy cannot be imported twice, so the code that ends the program must not import anything."""
    command = [sys.executable, "-c", STOPPED]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (143, ""), answer.stderr
    assert answer.stderr.startswith("stopped by SIGTERM: ")
    assert len(answer.stderr.splitlines()) == 1
