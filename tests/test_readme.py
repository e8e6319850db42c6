"""The commands of the README and of the tutorial, run literally in an empty folder with an empty HOME."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from helpers.command import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands(text: str) -> list[str]:
    """Return the lines of the shell blocks, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]


def in_a_shell(line: str) -> "CompletedProcess[str]":
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)


def here(line: str) -> "CompletedProcess[str]":
    return run(*shlex.split(line)[1:])


@pytest.mark.slow
def test_the_readme_and_the_tutorial_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both run in one folder; the tutorial repeats the README's third part, whose commands are run once.

    The first command is the installed program, as a shell finds it; the others are run in this process.
    """
    ours = commands(README.split("<!-- test: begin -->")[1].split("<!-- test: end -->")[0])
    more = commands((ROOT / "docs" / "tutorial.md").read_text())
    retrain = [line for line in ours if line in more]
    assert (len(ours), len(more), len(retrain)) == (16, 10, 7)
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    first, *others = dict.fromkeys([*ours, *more])
    said = {}
    for line in (first, *others):
        if line.startswith("c3s3-seg export "):  # before this, no graph exists
            early = here("c3s3-seg predict scans/phantom-1 -o o --model run/bundle --backend onnx")
            assert early.returncode == 2
            (reason,) = early.stderr.splitlines()
            assert reason.startswith("error: ")
            assert "no model.onnx" in reason
            assert "export" in reason
        answer = in_a_shell(line) if line is first or not line.startswith("c3s3-seg ") else here(line)
        assert answer.returncode == 0, f"{line}\n{answer.stdout}{answer.stderr}"
        said[line.split()[1]] = answer.stdout
    assert "Dice" in said["train"]
    for name in ("out/phantom-1.nii.gz", "out/phantom-2.png", "seg/phantom-1.seg.dcm"):
        assert (work / name).is_file(), name
    for name in ("report/report.html", "report-paper/cases.csv", "checked/check.html", "scores/report.html"):
        assert (work / name).is_file(), name
    splits = json.loads((work / "data" / "dataset.json").read_text())
    assert [len(splits[kind]) for kind in ("labelled", "unlabelled", "validation")] == [2, 3, 1]
    assert f"agrees with torch on validation case {splits['validation'][0]}" in said["export"]
    assert "2 labelled, 0 unlabelled, 1 validation" in (work / "run" / "bundle" / "README.md").read_text()
    made = json.loads((work / "segmented" / "phantom-7.json").read_text())["made_with"]
    assert made["backend"] == "openvino"
    card = json.loads((work / "run" / "bundle" / "manifest.json").read_text())["training"]
    assert (card["method"], card["iterations"]) == ("supervised", 6)
    assert (work / "run" / "bundle" / "model.onnx").is_file()


def test_the_readme_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= 135
    assert [line for line in lines if len(line) > 110] == []


def test_the_python_block_is_valid() -> None:
    import c3s3_seg

    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    compile(block, "README.md", "exec")
    for name in re.findall(r"c3s3_seg\.(\w+)", block):
        assert getattr(c3s3_seg, name)


def test_no_path_of_one_machine() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("c3s3_seg/**/*.toml"), *ROOT.glob("c3s3_seg/**/*.md")]:
        assert not re.search(r"/(home|root|work|tmp)/", path.read_text()), path
