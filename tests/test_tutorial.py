"""The tutorial's commands, run as they stand, in an empty folder with an empty HOME."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"


@pytest.mark.slow
@pytest.mark.timeout(540)
def test_the_tutorial_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", TUTORIAL.read_text(), flags=re.DOTALL)
    assert len(blocks) == 6
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "set -eu\n" + "\n".join(blocks)
    answer = subprocess.run(
        ["bash", "-c", script],
        cwd=work,
        env={**os.environ, "HOME": str(home), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    splits = json.loads((work / "data" / "dataset.json").read_text())
    assert [len(splits[kind]) for kind in ("labelled", "unlabelled", "validation")] == [2, 3, 1]
    card = json.loads((work / "run" / "bundle" / "manifest.json").read_text())["training"]
    assert (card["method"], card["iterations"]) == ("c3s3", 30)
    assert (work / "run" / "bundle" / "model.onnx").is_file()
    assert (work / "checked" / "check.html").is_file()
    assert (work / "report" / "report.html").is_file()
