"""The README's commands, run as they stand, in an empty folder with an empty HOME."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def shell_blocks() -> list[str]:
    tested = README.split("<!-- test: begin -->")[1].split("<!-- test: end -->")[0]
    return re.findall(r"```sh\n(.*?)```", tested, flags=re.DOTALL)


@pytest.mark.slow
def test_the_readme_runs(tmp_path: Path) -> None:
    blocks = shell_blocks()
    assert len(blocks) == 6
    home = tmp_path / "home"
    home.mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(home), "PATH": path}
    work = tmp_path / "work"
    work.mkdir()
    script = "set -eu\n" + "\n".join(blocks)
    answer = subprocess.run(
        ["bash", "-c", script], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for name in ("out/phantom-1.nii.gz", "out/phantom-2.png", "report/report.html", "report-paper/cases.csv"):
        assert (work / name).is_file(), name
    assert (work / "seg/phantom-1.seg.dcm").is_file()
    assert (work / "run/bundle/model.onnx").is_file()
    assert (work / "out-mine/summary.csv").is_file()


def test_the_python_block_is_valid() -> None:
    import c3s3_seg

    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    compile(block, "README.md", "exec")
    for name in re.findall(r"c3s3_seg\.(\w+)", block):
        assert getattr(c3s3_seg, name)


def test_no_path_of_one_machine() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("c3s3_seg/**/*.toml"), *ROOT.glob("c3s3_seg/**/*.md")]:
        assert not re.search(r"/(home|root|work|tmp)/", path.read_text()), path
