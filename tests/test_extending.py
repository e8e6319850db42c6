"""The recipes of docs/extending.md, followed literally."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import command

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def toy_config(small_crops: Path) -> Path:
    return small_crops


def blocks(section: str) -> list[tuple[str, str]]:
    """Return the code blocks of a section: (language, content)."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", DOCUMENT, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def apply(folder: Path, language: str, block: str) -> None:
    """Write a new file, or apply a diff to an existing file; the first line of the block is the path."""
    first, content = block.split("\n", 1)
    path = folder / first.removeprefix("# ")
    if language == "python":
        assert not path.exists()
        path.write_text(content)
        return
    lines = content.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    text = path.read_text()
    assert text.count(before) == 1, f"{path.name} no longer has: {before}"
    path.write_text(text.replace(before, after))


def run(script: str, work: Path, packages: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(packages), "HOME": str(work)}
    answer = subprocess.run(
        ["bash", "-ec", script], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.mark.slow
def test_the_recipe_of_a_method_trains(toy_config: Path, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("weights", "__pycache__")
    shutil.copytree(ROOT / "c3s3_seg", tmp_path / "copy" / "c3s3_seg", ignore=ignored)
    shutil.copy(toy_config, tmp_path / "mine.toml")
    found = blocks("A training method")
    assert [language for language, _ in found] == ["python", "diff", "diff", "diff", "sh"]
    for language, block in found[:-1]:
        apply(tmp_path / "copy", language, block)
    run(found[-1][1], tmp_path, tmp_path / "copy")
    training = json.loads((tmp_path / "run" / "bundle" / "manifest.json").read_text())["training"]
    assert (training["method"], training["iterations"]) == ("entropy", 2)
    assert training["cases"]["unlabelled"] == 2


@pytest.mark.slow
def test_the_recipe_of_a_bundle_makes_one_that_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (script,) = (block for language, block in blocks("A model bundle") if language == "python")
    small = script.replace("filters=16", "filters=2").replace("(96, 96, 96)", "(32, 32, 32)")
    monkeypatch.chdir(tmp_path)
    exec(compile(small, "make.py", "exec"), {"__name__": "__main__"})
    answer = command.run("export", "liver", "--to", "onnx")
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "liver" / "model.onnx").is_file()


def test_the_tables_of_formats_and_their_names_agree() -> None:
    """The recipe of a format names one table for reading, and a table and a list for writing."""
    from typing import get_args

    from c3s3_seg.io.formats import WRITERS
    from c3s3_seg.io.image.files import IMAGE_SUFFIXES, READERS
    from c3s3_seg.system.choices import MaskFormat

    assert tuple(WRITERS) == get_args(MaskFormat)
    assert tuple(READERS) == IMAGE_SUFFIXES
