"""The output is checked before anything else, and files of others at its place are kept."""

import json
from pathlib import Path

import pytest
from conftest import small_scan
from helpers.command import run

from c3s3_seg.dataset.prepare.convert import STATE
from c3s3_seg.errors import InputError
from c3s3_seg.io import save
from c3s3_seg.phantom import save as save_phantom
from c3s3_seg.phantom import simulate, write_cohort
from c3s3_seg.phantom.write import check_places

# {scan}: a small scan; -o and the output are appended. Commands that checked inputs first would refuse these.
COMMANDS = {
    "predict": ["predict", "none.nii", "--model", "phantom"],
    "evaluate": ["evaluate", "{scan}", "{scan}"],
    "evaluate --html": ["evaluate", "{scan}", "{scan}", "--html"],
    "phantom": ["phantom"],
    "phantom --cohort": ["phantom", "--cohort", "1,0,0"],
    "check": ["check", "none"],
    "prepare": ["prepare", "{folder}"],
    "train": ["train", "left-atrium"],
    "ensemble": ["ensemble", "none", "none"],
    "study": ["study", "none.toml"],
}


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    save(small_scan(0), tmp_path / "in" / "x.nii.gz")
    return tmp_path / "in" / "x.nii.gz"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["file", "file/below", "file/a/b", "n" * 300])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_cannot_be_made(scan: Path, tmp_path: Path, command: str, place: str) -> None:
    (tmp_path / "file").write_text("precious")
    words = [word.format(scan=scan, folder=scan.parent) for word in COMMANDS[command]]
    answer = run(*words, "-o", tmp_path / place)
    assert answer.returncode == 2, answer.stderr
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: ")
    assert "cannot be made" in line
    assert (tmp_path / "file").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "in"]


def test_check_and_study_replace_no_file_of_others(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    wanted = {"check.json": "check", "study.md": "study", "study.html": "study"}
    for name, words in {name: COMMANDS[command] for name, command in wanted.items()}.items():
        (out / name).write_text("mine")
        answer = run(*words, "-o", out)
        assert answer.returncode == 2
        assert f"{name}: there is a file that c3s3-seg did not write" in answer.stderr
        assert (out / name).read_text() == "mine"
        (out / name).unlink()


@pytest.mark.slow
def test_check_again_leaves_no_old_page(toy_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words, wanted in ((["--html"], ["check.html", "check.json"]), ([], ["check.json"])):
        assert run("check", toy_data, "-o", out, *words).returncode in (0, 1)
        assert sorted(p.name for p in out.iterdir()) == wanted
    (out / "check.html").write_text("mine")
    run("check", toy_data, "-o", out)
    assert (out / "check.html").read_text() == "mine"


def test_all_phantoms_are_looked_at_before_the_first(tmp_path: Path) -> None:
    (tmp_path / "phantom-2.nii.gz").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"phantom-2\.nii\.gz: is there already"):
        check_places(tmp_path, range(3), "nii.gz", "nii.gz")
    check_places(tmp_path, range(2), "nii.gz", "nii.gz")
    answer = run("phantom", "-o", tmp_path, "--count", 3, "--format", "nii.gz")
    assert answer.returncode == 2
    assert [p.name for p in tmp_path.iterdir()] == ["phantom-2.nii.gz"]


def test_a_phantom_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "truth").symlink_to(tmp_path / "elsewhere")
    phantom = simulate(3)
    for file_format in ("nii.gz", "dicom"):
        with pytest.raises(InputError, match="truth"):
            save_phantom(phantom, tmp_path, seed=3, file_format=file_format)  # type: ignore[arg-type]
        assert [p.name for p in tmp_path.iterdir()] == ["truth"]
    (tmp_path / "imagesTr").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="imagesTr"):
        write_cohort(tmp_path, labelled=1, unlabelled=0, validation=0, seed=0)


def test_prepare_replaces_no_file_of_others(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    (source / "images").mkdir(parents=True)
    (source / "labels").mkdir()
    for n in range(3):
        volume = small_scan(n)
        save(volume, source / "images" / f"s{n}.nii.gz")
        save(volume.geometry.volume((volume.array > 200).astype("uint8")), source / "labels" / f"s{n}.nii.gz")
    words = ["prepare", source, "-o", out, "--labels", "ball=1", "--validation", 1]
    assert run(*words).returncode == 0
    index = json.loads((out / "dataset.json").read_text())
    first, second, _ = sorted(index["cases"])
    label = out / "labelsTr" / f"{first}.nii.gz"
    label.write_bytes(b"corrected by hand")
    answer = run(*words)
    assert "was changed since it was written" in " ".join((answer.stdout + answer.stderr).split())
    assert label.read_bytes() == b"corrected by hand"
    assert (out / "labelsTr" / f"{second}.nii.gz").is_file()
    assert not (out / STATE).exists()


def test_a_profile_is_not_written_over_another_file(tmp_path: Path) -> None:
    for text in ('{"name": "package"}', "notes", "[]"):
        (tmp_path / "x.json").write_text(text)
        answer = run("benchmark", "phantom", "--write-profile", C3S3_SEG_PROFILE=str(tmp_path / "x.json"))
        assert answer.returncode == 2
        assert "x.json: there is a file that c3s3-seg did not write" in answer.stderr
        assert (tmp_path / "x.json").read_text() == text


@pytest.mark.parametrize("name", ["bundle", "events"])
def test_train_follows_no_link(tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "victim")
    answer = run("train", "left-atrium", "-o", tmp_path / "run")
    assert answer.returncode == 2
    assert f"{name}: is a symbolic link" in answer.stderr
    assert not list((tmp_path / "victim").iterdir())


def test_train_replaces_no_file_of_others(tmp_path: Path) -> None:
    (tmp_path / "run" / "bundle").mkdir(parents=True)
    (tmp_path / "run" / "bundle" / "README.md").write_text("mine")
    answer = run("train", "left-atrium", "-o", tmp_path / "run")
    assert answer.returncode == 2
    assert "README.md: there is a file that c3s3-seg did not write" in answer.stderr
    assert (tmp_path / "run" / "bundle" / "README.md").read_text() == "mine"
