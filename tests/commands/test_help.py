"""`--help` of the program and of each command, as a terminal of 80 or 120 columns shows it."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from helpers.command import run

from c3s3_seg.batch.overrides import PredictKeys
from c3s3_seg.cli import COMMANDS
from c3s3_seg.commands.help_text import FILES
from c3s3_seg.commands.options import config_names
from c3s3_seg.commands.program_help import page

NAMES = [name for commands in COMMANDS.values() for name in commands]
TYPES = re.compile(r"<|\b(TEXT|INTEGER|FLOAT|BOOLEAN|DIRECTORY|list|str|int|float|Path|None)\b|\.\.\.$|x>=")
NAMED = re.compile(r"^  (?:-\w, )?(--[\w-]+)(?: (\S+))?", re.MULTILINE)


def help_of(*words: str, columns: int = 80) -> str:
    answer = run(*words, "--help", COLUMNS=str(columns))
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_the_program_shows_its_commands_in_groups(columns: int) -> None:
    text = help_of(columns=columns)
    assert max(map(len, text.splitlines())) <= columns
    headings = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert headings == ["Segment", "Train", "Models", "PACS", "Check", "Demo", "Options"]
    flat = " ".join(text.split())
    for commands in COMMANDS.values():
        for name, summary in commands.items():
            assert f"{name} {summary}" in flat  # not shortened at any width
    assert "130 and 143 interrupted." in flat


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_readable_help(name: str) -> None:
    for columns in (80, 120):
        text = help_of(name, columns=columns)
        assert max(map(len, text.splitlines())) <= columns
        assert [line for line in text.splitlines()[1:] if TYPES.search(line)] == []
    text = help_of(name, columns=120)
    function = getattr(import_module(f"c3s3_seg.commands.{FILES.get(name, name)}"), name)
    summary = next(summary for commands in COMMANDS.values() for n, summary in commands.items() if n == name)
    assert function.__doc__.splitlines()[0] == summary  # same as in the program's help
    assert summary in " ".join(text.split())
    others = text.partition("\nOther:\n")[2]
    assert NAMED.findall(others) == [("--help", "")]  # all other options are below a heading


def test_predict_has_few_options() -> None:
    options = {name for name, _ in NAMED.findall(help_of("predict"))}
    assert len(options - {"--help"}) <= 32
    assert {"--report", "--tiling", "--set", "--tta", "--repair", "--max-memory", "--dry-run"} <= options


def test_the_help_names_every_key_of_set() -> None:
    text = " ".join(help_of("predict", columns=120).split())
    listed = text.partition("Rare settings: ")[2].partition(". May be repeated")[0]
    for name, table in vars(PredictKeys()).items():
        assert f"{name}.{', .'.join(vars(table))}" in listed


@pytest.mark.parametrize("words", [["--help"], ["predict", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["c3s3-seg", *{words!r}]
from c3s3_seg.cli import main
try:
    main()
except SystemExit:
    pass
heavy = ("numpy", "scipy", "torch", "SimpleITK", "pydicom", "openvino", "pydantic", "onnxruntime", "rich")
print([name for name in heavy if name in sys.modules])
from c3s3_seg.cli import COMMANDS
modules = [f"c3s3_seg.commands.{{name}}" for names in COMMANDS.values() for name in names]
print([name for name in modules if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = [f"c3s3_seg.commands.{word}" for word in words if word == "predict"]
    assert answer.stdout.splitlines()[-2:] == ["[]", str(own)]


@pytest.mark.parametrize("columns", [40, 60, 80, 97, 120, 200])
def test_the_page_without_typer_is_the_one_that_typer_makes(columns: int) -> None:
    assert page(columns) == run("--help", COLUMNS=str(columns)).stdout


def test_the_program_prints_that_page_and_imports_no_typer() -> None:
    code = "import sys; sys.argv = ['c3s3-seg', '--help']\nfrom c3s3_seg.__main__ import program\nprogram()\n"
    code += "print('typer' in sys.modules, file=sys.stderr)"
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert (answer.stdout, answer.stderr) == (page(80), "False\n")


def test_an_unknown_command_and_option_suggest_the_right_one() -> None:
    answer = run("predct")
    assert answer.returncode == 2
    assert "No such command 'predct'. Did you mean 'predict'" in answer.stderr
    answer = run("evaluate", "a", "b", "-o", "c", "--label", "x=1")
    assert answer.returncode == 2
    assert "--labels" in answer.stderr


def test_a_wrong_value_is_answered_with_the_allowed_ones() -> None:
    answer = run("predict", "a.nii", "-o", "out", "--tiling", "dense")
    assert answer.returncode == 2
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("Error: Invalid value for '--tiling': 'dense' is not one of ")
    assert all(f"'{word}'" in last for word in ("default", "accurate", "paper"))
    last = run("predict", "a.nii", "-o", "out", "--threads", "0").stderr.splitlines()[-1]
    assert last.startswith("Error: Invalid value for '--threads': ")
    assert "Input" not in last


def completed(line: str) -> list[str]:
    """Return the completions that a shell would offer at the end of a line."""
    words, number = f"c3s3-seg {line}", str(len(line.split(" ")))
    return run(_C3S3_SEG_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=number).stdout.split()


def test_a_shell_completes_commands_values_and_models(tmp_path: os.PathLike[str]) -> None:
    assert completed("pre") == ["predict", "prepare"]
    assert completed("predict --tiling ") == ["default", "accurate", "whole", "paper"]
    assert completed("predict --model left") == [
        "left-atrium",
        "left-atrium-16",
        "left-atrium-16-resvnet",
        "left-atrium-72",
        "left-atrium-resvnet",
    ]
    assert completed("train pan") == ["pancreas"]
    assert "--repair" in completed("predict --re")
    script = run(_C3S3_SEG_COMPLETE="source_bash").stdout
    assert "complete -o default" in script
    assert "c3s3-seg" in script


def test_configurations_are_completed_by_any_path(tmp_path: Path) -> None:
    """An absolute path used to print a defect of the program into the prompt."""
    (tmp_path / "my [new] config.toml").touch()
    for begun in (tmp_path / "my", tmp_path / "my [n"):
        assert config_names(str(begun)) == [str(tmp_path / "my [new] config.toml")]
    assert config_names("a/**b") == []
    assert config_names("pan") == ["pancreas"]


def test_the_version_names_the_installed_runtimes() -> None:
    import openvino

    lines = run("--version").stdout.splitlines()
    assert lines[0].startswith("c3s3-seg ")
    assert lines[1] == f"python {sys.version.split()[0]}"
    found = dict(line.split(" ", 1) for line in lines)
    assert openvino.__version__.startswith(found["openvino"])
    assert "tensorrt" not in found
