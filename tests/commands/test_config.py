"""Defaults of options from the environment and from c3s3-seg.toml: which holds, and what is refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from helpers.command import run

from c3s3_seg.cli import app
from c3s3_seg.commands.help_text import LazyGroup
from c3s3_seg.system.config_keys import KEYS
from c3s3_seg.system.config_values import KINDS

COMMANDS = sorted({command for key in KEYS for command in key.commands})


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder and a folder of the user without a file, and no variable of ours."""
    for name in [name for name in os.environ if name.startswith("C3S3_SEG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def write(text: str, path: str | Path = "c3s3-seg.toml") -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run a command whose function only records what it was called with."""

    def call(*words: object, **environment: str) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def load(group: LazyGroup, ctx: Any, name: str) -> Any:
            command = original(group, ctx, name)
            monkeypatch.setattr(command, "callback", lambda **given: seen.update(given))
            return command

        original = LazyGroup.get_command
        with monkeypatch.context() as patch:
            patch.setattr(LazyGroup, "get_command", load)
            answer = run(*words, **environment)
        assert answer.returncode == 0, answer.stderr
        return seen | {"stderr": answer.stderr}

    return call


PREDICT = ("predict", "scan.nii.gz", "-o", "out")
# Key of the file -> two values, each as the file, the environment and the command line have it.
VALUES: dict[str, tuple[Any, Any]] = {
    "model": ("phantom", "hippocampus"),
    "format": ("mha", "nrrd"),
    "report": (["png"], ["html", "sc"]),
    "uncertainty": (True, False),
    "backend": ("onnx", "torch"),
    "device": ("cpu", "cuda:1"),
    "precision": ("float32", "float16"),
    "threads": (3, 4),
    "max_memory": ("3GB", "4GB"),
    "workers": (2, 0),
    "case_timeout": (60.0, 90.5),
    "log_file": ("/a/run.log", "/b/run.log"),
    "limits.max_time": (60.0, 90.0),
    "limits.max_files": (5, 6),
    "limits.max_size": ("1GB", "2GB"),
    "pacs.NAME.title": ("OURS", "THEIRS"),
    "pacs.NAME.timeout": (5.0, 6.0),
    "pacs.NAME.tls": (True, False),
    "pacs.NAME.trust": ("/a/ca.pem", "/b/ca.pem"),
    "pacs.NAME.certificate": ("/a/our.pem", "/b/our.pem"),
}


def in_file(name: str, value: Any) -> str:
    """The text of a file that sets one key; a table of a server has its address too."""
    table, _, key = name.rpartition(".")
    if table == "pacs.NAME":
        return f'[pacs.archive]\nserver = "A@localhost:104"\n{key} = {json.dumps(value)}\n'
    return (f"[{table}]\n" if table else "") + f"{key} = {json.dumps(value)}\n"


def in_environment(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(value) if isinstance(value, list) else str(value)


def on_the_line(key: str, value: Any) -> list[str]:
    option = "--" + key.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else f"--no-{key}"]
    return [word for item in (value if isinstance(value, list) else [value]) for word in (option, str(item))]


def options_of(command: str) -> set[str]:
    return {param.name for param in typer.main.get_command(app).get_command(None, command).params}  # type: ignore[attr-defined]


# `log_file` is an option of predict as soon as it writes log files.
SET = [key for key in KEYS if key.commands and key.option in options_of(key.commands[0])]


@pytest.mark.parametrize("key", SET, ids=lambda key: key.name)
def test_the_line_holds_over_the_environment_that_over_the_file_that_over_the_default(
    key: Any, calls: Callable[..., dict[str, Any]]
) -> None:
    words = PREDICT if "predict" in key.commands else ("fetch", "archive", "-o", "out")
    one, other = VALUES[key.name]
    bare = in_file(key.name, one).rpartition(f"{key.option} =")[0]  # the server stays known

    def value(*more: str, file: str, **environment: str) -> Any:
        write(file)
        found = calls(*words, *more, **environment)[key.option]
        return str(found) if isinstance(found, Path) else found

    value(file=bare)  # without the key, the command runs too
    assert value(file=in_file(key.name, one)) == one
    assert value(file=bare, **{key.variable: in_environment(one)}) == one
    assert value(*on_the_line(key.option, one), file=bare) == one
    # Each pair, both ways round: not even a value like the default is passed over.
    for high, low in ((one, other), (other, one)):
        file, variable = in_file(key.name, low), {key.variable: in_environment(low)}
        line = on_the_line(key.option, high)
        assert value(file=file, **{key.variable: in_environment(high)}) == high
        assert value(*line, file=file) == high
        assert value(*line, file=bare, **variable) == high
    assert value(file=in_file(key.name, one), **{key.variable: ""}) == one  # empty is not set


def test_every_key_is_an_option_of_its_commands() -> None:
    missing = {
        (key.name, name) for key in KEYS for name in key.commands if key.option not in options_of(name)
    }
    assert missing <= {("log_file", "predict")}
    assert {key.kind for key in KEYS} == set(KINDS)
    variables = [key.variable for key in KEYS if key.variable]
    assert len(variables) == len(set(variables))
    assert set(VALUES) == {key.name for key in KEYS if key.commands}


def test_only_the_first_file_holds(tmp_path: Path, calls: Callable[..., dict[str, Any]]) -> None:
    user = write("workers = 1\nthreads = 7", tmp_path / "user" / "c3s3-seg" / "c3s3-seg.toml")
    given = write("threads = 5", tmp_path / "given.toml")
    found = calls(*PREDICT)
    assert (found["workers"], found["threads"], found["stderr"]) == (1, 7, "")
    write("workers = 2")
    found = calls(*PREDICT)
    assert (found["workers"], found["threads"]) == (2, None)  # not merged with that of the user
    note = "c3s3-seg.toml in the working folder sets workers (--config none ignores it)\n"
    assert found["stderr"] == note
    assert calls(*PREDICT, "--quiet")["stderr"] == ""
    assert calls(*PREDICT, "--workers", 3)["stderr"] == ""  # nothing of it is used
    found = calls(*PREDICT, C3S3_SEG_CONFIG=str(given))
    assert (found["workers"], found["threads"], found["stderr"]) == (0, 5, "")
    found = calls("--config", user, *PREDICT, C3S3_SEG_CONFIG=str(given))
    assert (found["workers"], found["threads"]) == (1, 7)
    for words, environment in ((("--config", "none"), {}), ((), {"C3S3_SEG_CONFIG": "none"})):
        found = calls(*words, *PREDICT, **environment)
        assert (found["workers"], found["threads"]) == (0, None)


def refused(file: str | bytes, *parts: str) -> None:
    Path("wrong.toml").write_bytes(file if isinstance(file, bytes) else file.encode())
    answer = run("--config", "wrong.toml", *PREDICT)
    assert answer.returncode == 2, answer.stderr
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: wrong.toml: ")
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        ("wrokers = 2", ("there is no key 'wrokers'", "Allowed here: model, format", "workers")),
        ("[limit]\nmax_time = 3", ("there is no key 'limit'", "limits")),
        ("[limits]\nmax_tiem = 3", ("there is no key 'limits.max_tiem'", "max_time, max_files, max_size")),
        ("[predict]\nmodel = 'x'", ("there is no key 'predict'",)),
        ("workers = 'two'", ("workers = 'two'", "wanted a whole number")),
        ("workers = true", ("workers = True", "wanted a whole number")),
        ("workers = -1", ("workers = -1", "at least 0")),
        ("threads = 0", ("threads = 0", "at least 1")),
        ("uncertainty = 1", ("uncertainty = 1", "boolean")),
        ("model = 3", ("model = 3", "string")),
        ("model = ' '", ("model = ' '", "not empty")),
        ("report = 'png'", ("report = 'png'", "list")),
        ("report = ['pdf']", ("report.0 = 'pdf'", "'png', 'html' or 'sc'")),
        ("format = 'stl'", ("format = 'stl'", "'nii.gz'", "'dicom-seg'")),
        ("device = 'gpu'", ("device = 'gpu'", "'cuda:N'")),
        ("max_memory = 'much'", ("max_memory = 'much'", "a size such as '8GB'")),
        ("case_timeout = 0", ("case_timeout = 0", "at least 1")),
        ("case_timeout = inf", ("case_timeout = inf", "finite")),
        ("limits = 3", ("limits = 3",)),
        ("pacs = ['a']", ("pacs = ['a']",)),
        ("[pacs.a]\ntitle = 'X'", ("the key 'pacs.a.server' is missing",)),
        ("[pacs.a]\nserver = 'host'", ("pacs.a.server = 'host'", "TITLE@host:port")),
        ("[pacs.a]\nserver = 'A@h:1'\nport = 3", ("there is no key 'pacs.a.port'", "server, title")),
        ("[pacs.'a@b']\nserver = 'A@h:1'", ("pacs.'a@b'", "letters, digits")),
        ("[pacs.-a]\nserver = 'A@h:1'", ("pacs.'-a'", "letters, digits")),
        ("token = 'x'", ("'token' holds a secret", "in the environment")),
        ("[pacs.a]\nserver = 'A@h:1'\napi_key = 'x'", ("'pacs.a.api_key' holds a secret",)),
        ("[pacs.a]\nserver = 'https://me:word@h/x'", ("'pacs.a.server' holds a secret",)),
        ("threads = 1\nworkers = x\n", ("not valid TOML", "line 2")),
        ("workers = 1\nworkers = 2", ("not valid TOML",)),
        (b"model = '\xff'", ("not valid TOML",)),
        ("a = " + "[" * 20_000, ("not valid TOML", "nested too deep")),
        ("#" * (1 << 20) + "\n", ("is larger than 1,048,576 bytes",)),
    ],
    ids=lambda item: "" if isinstance(item, tuple) else repr(item[:24]),
)
def test_what_a_file_may_not_say_is_one_line(file: str | bytes, parts: tuple[str, ...]) -> None:
    refused(file, *parts)


def test_a_secret_is_not_repeated() -> None:
    Path("wrong.toml").write_text("[pacs.a]\nserver = 'https://me:hunter2@h/x'\n")
    assert "hunter2" not in run("--config", "wrong.toml", *PREDICT).stderr
