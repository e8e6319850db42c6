"""Defaults of options from the environment and from c3s3-seg.toml: their precedence, and refused values."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from helpers.command import run

from c3s3_seg.cli import app
from c3s3_seg.commands.help_text import LazyGroup
from c3s3_seg.errors import InputError
from c3s3_seg.system.config_file import FoundConfig, check_owner, find, read, user_folder
from c3s3_seg.system.config_keys import KEYS
from c3s3_seg.system.config_values import KINDS, ConfigValues

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test empty working and configuration folders and no `C3S3_SEG_` variable."""
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
    """Return a function that runs a command and returns the arguments its callback got, and `stderr`."""

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
# Key of the file -> two values, which the tests set in the file, the environment and the command line.
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
    """Return the text of a file that sets one key; the table of a server also holds its address."""
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


PROGRAM: Any = typer.main.get_command(app)


def options_of(command: str) -> set[str]:
    return {param.name for param in PROGRAM.get_command(None, command).params}


# Keys whose command has the option.
SET = [key for key in KEYS if key.commands and key.option in options_of(key.commands[0])]


@pytest.mark.parametrize("key", SET, ids=lambda key: key.name)
def test_the_line_holds_over_the_environment_that_over_the_file_that_over_the_default(
    key: Any, calls: Callable[..., dict[str, Any]]
) -> None:
    words = PREDICT if "predict" in key.commands else ("fetch", "archive", "-o", "out")
    one, other = VALUES[key.name]
    bare = in_file(key.name, one).rpartition(f"{key.option} =")[0]  # the table of the server stays

    def value(*more: str, file: str, **environment: str) -> Any:
        write(file)
        found = calls(*words, *more, **environment)[key.option]
        return list(found) if isinstance(found, tuple) else str(found) if isinstance(found, Path) else found

    value(file=bare)  # the command also runs without the key
    assert value(file=in_file(key.name, one)) == one
    assert value(file=bare, **{key.variable: in_environment(one)}) == one
    assert value(*on_the_line(key.option, one), file=bare) == one
    # Each pair in both orders: a value that equals the default must also take precedence.
    for high, low in ((one, other), (other, one)):
        file, variable = in_file(key.name, low), {key.variable: in_environment(low)}
        line = on_the_line(key.option, high)
        assert value(file=file, **{key.variable: in_environment(high)}) == high
        assert value(*line, file=file) == high
        assert value(*line, file=bare, **variable) == high
    assert value(file=in_file(key.name, one), **{key.variable: ""}) == one  # empty: not set


def test_every_key_is_an_option_of_its_commands() -> None:
    missing = {
        (key.name, name) for key in KEYS for name in key.commands if key.option not in options_of(name)
    }
    assert missing == set()
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
    assert (found["workers"], found["threads"]) == (2, None)  # not merged with the user's file
    note = "c3s3-seg.toml in the working folder sets workers (--config none ignores it)\n"
    assert found["stderr"] == note
    assert calls(*PREDICT, "--quiet")["stderr"] == ""
    assert calls(*PREDICT, "--workers", 3)["stderr"] == ""  # no value of the file is used
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
        ("uncertainty = 1", ("uncertainty = 1", "true or false")),
        ("model = 3", ("model = 3", "wanted text")),
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
        ("[[pacs]]\ntoken = 'x'", ("'pacs.token' holds a secret",)),
        ("report = [{ Api-Key = 'x' }]", ("'report.Api-Key' holds a secret",)),
        ("model = { password = ['x'] }", ("'model.password' holds a secret",)),
        ('"work\\ners\\u001b[31m" = 2', ("there is no key 'work",)),
        ("[pacs.a]\nserver = 'https://me:word@h/x'", ("'pacs.a.server' holds a secret",)),
        ("threads = 1\nworkers = x\n", ("not valid TOML", "line 2")),
        ("workers = 1\nworkers = 2", ("not valid TOML",)),
        (b"model = '\xff'", ("not valid TOML",)),
        ("a = " + "[" * 20_000, ("not valid TOML", "nested too deep")),
        ("workers = " + "9" * 5000, ("not valid TOML",)),
        (".".join("a" * 3000) + " = 1", ("is nested too deep",)),
        ("#" * (1 << 20) + "\n", ("is larger than 1,048,576 bytes",)),
    ],
    ids=lambda item: "" if isinstance(item, tuple) else repr(item[:24]),
)
def test_what_a_file_may_not_say_is_one_line(file: str | bytes, parts: tuple[str, ...]) -> None:
    refused(file, *parts)


def test_a_secret_is_not_repeated() -> None:
    Path("wrong.toml").write_text("[pacs.a]\nserver = 'https://me:hunter2@h/x'\n")
    assert "hunter2" not in run("--config", "wrong.toml", *PREDICT).stderr


def test_help_and_completion_do_without_the_file() -> None:
    write("wrokers = 2")
    answer = run("predict", "--help", C3S3_SEG_MODEL="other")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "[default: left-atrium]" in answer.stdout
    assert run("inspect", "nothing").stderr.startswith("error: nothing: ")  # `inspect` has no key
    assert run("--config", "c3s3-seg.toml", "inspect", "nothing").stderr.startswith("error: c3s3-seg.toml: ")
    assert completed("bash", "fetch ") == []


def test_a_value_of_the_environment_is_refused_by_the_name_of_its_variable() -> None:
    for name, value, wanted in (
        ("C3S3_SEG_WORKERS", "two", "integer"),
        ("C3S3_SEG_THREADS", "0", "1"),
        ("C3S3_SEG_FORMAT", "stl", "'nii.gz'"),
        ("C3S3_SEG_UNCERTAINTY", "maybe", "boolean"),
    ):
        for words in (PREDICT, ("config",)):
            answer = run(*words, **{name: value})
            assert answer.returncode == 2
            last = answer.stderr.splitlines()[-1]
            assert last.startswith(f"Error: Invalid value for {name} in the environment: ")
            assert wanted in last
            assert "Input" not in last


def test_an_error_about_an_option_says_who_set_it(tmp_path: Path) -> None:
    """The user of a shared file may not know its content."""
    file = write("model = 'left-atrum'", tmp_path / "user" / "c3s3-seg" / "c3s3-seg.toml")
    told = run(*PREDICT).stderr
    assert told.startswith("error: there is no model left-atrum. ")
    assert told.endswith(f"; model is set by {file}.\n")
    told = run(*PREDICT, C3S3_SEG_MODEL="another", C3S3_SEG_MAX_MEMORY="much").stderr
    assert told.endswith("; model is set by C3S3_SEG_MODEL.\n")
    assert told.count("set by") == 1  # the error is not about the memory
    assert "set by" not in run(*PREDICT, "--model", "another").stderr
    told = run(*PREDICT, "--model", "phantom", C3S3_SEG_MAX_MEMORY="much").stderr
    assert told.endswith(". Here max_memory is set by C3S3_SEG_MAX_MEMORY.\n")


SERVERS = """
[pacs.archive]
server = "ARCHIVE@127.0.0.1:11112"
title = "OURS"
trust = "ca.pem"
[pacs.second]
server = "SECOND@[::1]:104"
"""


def test_a_server_goes_by_its_name(tmp_path: Path, calls: Callable[..., dict[str, Any]]) -> None:
    file = write(SERVERS, tmp_path / "etc" / "pacs.toml")
    words = ("--config", file, "send")
    found = calls(*words, "archive", "a.dcm")
    assert (found["server"], found["title"]) == ("ARCHIVE@127.0.0.1:11112", "OURS")
    assert str(found["trust"]) == str(file.parent / "ca.pem")  # relative to the file's folder
    assert found["stderr"] == f"archive is ARCHIVE@127.0.0.1:11112 ({file})\n"  # the receiver
    found = calls(*words, "second", "a.dcm", C3S3_SEG_PACS_TITLE="OTHER")
    assert (found["server"], found["title"], found["trust"]) == ("SECOND@[::1]:104", "OTHER", None)
    found = calls(*words, "ARCHIVE@127.0.0.1:11112", "a.dcm")
    assert (found["server"], found["title"], found["stderr"]) == ("ARCHIVE@127.0.0.1:11112", "C3S3SEG", "")
    answer = run(*words, "archiv", "a.dcm")
    assert answer.returncode == 2
    told = f"error: {file}: there is no server 'archiv'. Give TITLE@host:port or one of: archive, second.\n"
    assert answer.stderr == told
    answer = run("send", "archive", "a.dcm")
    assert answer.returncode == 2
    assert "'archive'" in answer.stderr
    assert "TITLE@host:port" in answer.stderr


def test_paths_count_from_the_folder_of_the_file(
    tmp_path: Path, calls: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "etc" / "c.toml"
    absolute = str(tmp_path / "there")
    for model, expected in (
        ("phantom", "phantom"),
        ("./mine", str(tmp_path / "etc" / "mine")),
        ("~/mine", str(tmp_path / "mine")),
        (absolute, absolute),
    ):
        write(f"model = '{model}'", file)
        assert calls("--config", file, *PREDICT)["model"] == expected
        assert calls("--config", file, "benchmark")["model"] == expected


def test_a_folder_in_the_file_of_the_working_folder_stays_a_folder(
    tmp_path: Path, calls: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shipped model has the same name as the folder; the file, written on Windows, has a BOM and CRLF."""
    monkeypatch.chdir(tmp_path)
    Path("c3s3-seg.toml").write_bytes(b"\xef\xbb\xbfmodel = './phantom'\r\n")
    assert calls(*PREDICT)["model"] == "./phantom"


def test_a_file_that_was_found_must_be_ours(tmp_path: Path, calls: Callable[..., dict[str, Any]]) -> None:
    user = write("workers = 1", tmp_path / "user" / "c3s3-seg" / "c3s3-seg.toml")
    for file in (write("workers = 2"), user):
        expected = calls(*PREDICT)["workers"]
        file.chmod(0o646)
        answer = run(*PREDICT)
        assert answer.returncode == 2
        assert f"error: {file}: was found, and others may write to it (mode 646). Run chmod" in answer.stderr
        assert calls("--config", file, *PREDICT)["workers"] == expected  # an explicit file is not checked
        file.unlink()
    for mode, group, owner, refused_for in (
        (0o100664, os.geteuid(), os.geteuid(), None),  # the user's private group
        (0o100664, 4242, os.geteuid(), "others may write"),
        (0o100644, 4242, 0, None),
        (0o100644, 4242, os.geteuid() + 7, f"user {os.geteuid() + 7} owns it"),
    ):
        status = os.stat_result((mode, 0, 0, 1, owner, group, 0, 0, 0, 0))
        if refused_for is None:
            check_owner(status, user)
        else:
            with pytest.raises(InputError, match=refused_for):
                check_owner(status, user)


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo("pipe.toml")
    Path("folder.toml").mkdir()
    for name, told in (
        ("none.toml", "cannot be read (No such file or directory)"),
        ("pipe.toml", "wanted a regular file"),
        ("folder.toml", "cannot be read (Is a directory)"),
    ):
        for words, environment in ((("--config", name), {}), ((), {"C3S3_SEG_CONFIG": name})):
            answer = run(*words, *PREDICT, **environment)
            assert (answer.returncode, answer.stderr) == (2, f"error: {name}: {told}.\n")
    Path("c3s3-seg.toml").symlink_to("none.toml")  # not skipped in favour of the user's file
    write("workers = 1", tmp_path / "user" / "c3s3-seg" / "c3s3-seg.toml")
    assert run(*PREDICT).stderr.startswith("error: c3s3-seg.toml: cannot be read")


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"HOME": "/h"}, "/h/.config/c3s3-seg"),
        ("linux", {"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, "/x/c3s3-seg"),
        ("linux", {"HOME": "/h", "XDG_CONFIG_HOME": "x"}, "/h/.config/c3s3-seg"),
        ("linux", {}, None),
        ("darwin", {"HOME": "/h"}, "/h/Library/Application Support/c3s3-seg"),
        ("win32", {"APPDATA": "/r", "HOME": "/h"}, "/r/c3s3-seg"),
        ("win32", {}, None),
    ],
)
def test_the_folder_of_the_user(platform: str, environment: dict[str, str], expected: str | None) -> None:
    assert user_folder(environment, platform) == (Path(expected) if expected else None)


def test_another_table_is_for_its_command() -> None:
    file = write("workers = 2\n[serve]\nanything = { token = 1 }\n")
    found = find(None, {})
    assert found == FoundConfig(file, "working folder")
    assert read(found)["serve"] == {"anything": {"token": 1}}
    assert ConfigValues.load(found).values == {"workers": 2}


def shown(*words: object, **environment: str) -> dict[str, dict[str, Any]]:
    answer = run(*words, "config", "show", "--json", **environment)
    assert answer.returncode == 0, answer.stderr
    return {row["key"]: row for row in json.loads(answer.stdout)["keys"]}


def test_config_show_says_what_holds_and_why() -> None:
    rows = shown()
    assert all(row["source"] == "default" and row["where"] == "" for row in rows.values())
    assert rows["model"]["value"] == "left-atrium"
    assert rows["threads"]["value"] is None
    names = {key.name for key in SET}
    assert set(rows) == names
    write("workers = 3\nreport = ['png']\n[limits]\nmax_files = 9\n" + SERVERS)
    rows = shown(C3S3_SEG_WORKERS="4", C3S3_SEG_PACS_TIMEOUT="9", C3S3_SEG_TRUST="not ours")
    assert rows["workers"] == {
        "key": "workers",
        "value": 4,
        "source": "environment",
        "where": "C3S3_SEG_WORKERS",
    }
    assert rows["report"] == {"key": "report", "value": ["png"], "source": "file", "where": "c3s3-seg.toml"}
    assert rows["limits.max_files"]["value"] == 9
    assert rows["limits.max_size"]["source"] == "default"
    assert rows["pacs.archive.server"]["value"] == "ARCHIVE@127.0.0.1:11112"
    assert (rows["pacs.archive.title"]["value"], rows["pacs.second.title"]["value"]) == ("OURS", "C3S3SEG")
    assert [rows[f"pacs.{name}.timeout"]["source"] for name in ("archive", "second")] == ["environment"] * 2
    servers = {
        f"pacs.{name}.{key.option}" for key in KEYS if key.of_a_server for name in ("archive", "second")
    }
    assert set(rows) == {name for name in names if "NAME" not in name} | servers
    text = run("config").stdout
    assert re.search(r"^ workers +3 +file c3s3-seg.toml *$", text, re.MULTILINE)
    assert "Configuration file: c3s3-seg.toml (working folder)." in text
    assert "No configuration file is used." in run("--config", "none", "config").stdout
    write("wrokers = 3")
    assert run("config").returncode == 2


def test_the_example_file_holds_when_its_marks_are_removed() -> None:
    text = run("config", "example").stdout
    found = FoundConfig(write(text), "given")
    assert ConfigValues.load(found).values == {}
    keys = [line.removeprefix("# ") for line in text.splitlines() if re.match(r"# (\w+ = |\[)", line)]
    write("\n".join(keys))
    loaded = ConfigValues.load(found)
    examples = {key.name: key.example for key in KEYS}
    assert set(loaded.values) == {name for name in examples if "NAME" not in name}
    assert set(loaded.servers["archive"]) == {key.option for key in KEYS if key.of_a_server}
    assert max(map(len, text.splitlines())) <= 110


def test_the_page_has_every_key_and_an_example_that_holds() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    rows = [
        f"| `{key.name}` | `{json.dumps(key.example)}` | {', '.join(key.commands) or 'fetch, send'} |"
        f" {f'`{key.variable}`' if key.variable else '-'} | {key.about} |"
        for key in KEYS
    ]
    assert [line for line in page.splitlines() if re.match(r"\| `[a-zA-Z_.]+` \| `", line)] == rows
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    loaded = ConfigValues.load(FoundConfig(write(block), "given"))
    assert loaded.values["limits.max_time"] == 3600
    assert loaded.servers["archive"]["title"] == "C3S3SEG"


def test_provenance_has_the_options_of_file_and_environment(small_scans: Path) -> None:
    write("model = 'phantom'\nformat = 'mha'\nreport = []\nuncertainty = false\n[limits]\nmax_files = 3\n")
    scan = small_scans / "case-0.nii.gz"
    answer = run("predict", scan, "-o", "out", "--allow-out-of-domain", "--quiet", C3S3_SEG_WORKERS="0")
    assert answer.returncode == 0, answer.stderr
    run_details = json.loads(Path("out/provenance.json").read_text())["runs"][-1]
    given = ["c3s3-seg", "predict", str(scan), "-o", "out", "--allow-out-of-domain", "--quiet"]
    more = ["--model=phantom", "--format=mha", "--no-uncertainty", "--workers=0"]
    assert run_details["command"] == given + more
    assert Path("out/case-0.mha").is_file()


def test_without_a_file_nothing_more_is_imported() -> None:
    """The modules that only a configuration file needs are the TOML parser and the types of its keys."""
    code = """
import sys
sys.argv = ["c3s3-seg", "predict", "none.nii.gz", "-o", "out", *sys.argv[1:]]
from c3s3_seg.cli import main
try:
    main()
except SystemExit:
    print([name for name in ("tomllib", "c3s3_seg.system.config_values") if name in sys.modules])
"""
    found = []
    for words in ([], ["--help"]):
        answer = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        found.append(answer.stdout.splitlines()[-1])
    assert found == [found[0], "[]"]
    assert "config_values" not in found[0]


def completed(shell: str, line: str) -> list[str]:
    """Return the completions that a shell gets for the end of a line, without their descriptions."""
    words = f"c3s3-seg {line}"
    environment = {"_C3S3_SEG_COMPLETE": f"complete_{shell}"}
    if shell == "bash":
        environment |= {"COMP_WORDS": words, "COMP_CWORD": str(len(line.split(" ")))}
    else:
        environment |= {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    answer = run(**environment)
    assert answer.stderr == ""
    if shell == "zsh":
        return re.findall(r'(?:^|\(\()"(.*?)"', answer.stdout, re.MULTILINE)
    return [text.split("\t")[0] for text in answer.stdout.splitlines() if text]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_options_and_values(shell: str) -> None:
    write(SERVERS)
    expected = {
        "con": ["config"],
        "--conf": ["--config"],
        "config ": ["show", "example"],
        "predict --model left": [
            "left-atrium",
            "left-atrium-16",
            "left-atrium-16-resvnet",
            "left-atrium-72",
            "left-atrium-resvnet",
        ],
        "predict --format dicom": ["dicom-seg", "dicom-labelmap"],
        "predict --report png,": ["png,html", "png,sc"],
        "predict --report n": ["none"],
        "predict --device ": ["auto", "cpu", "cuda"],
        "predict --backend o": ["openvino", "onnx"],
        "predict --precision b": ["bfloat16"],
        "predict --set tiling.": ["tiling.overlap=", "tiling.stride=", "tiling.weighting="],
        "predict --no-": ["--no-uncertainty"],
        "predict --uncer": ["--uncertainty"],
        "inspect --repair ": ["gaps", "tilt", "orthonormal"],
        "fetch ": ["archive", "second"],
        "send a": ["archive"],
        "--config none fetch ": [],
    }
    assert {line: completed(shell, line) for line in expected} == expected


def test_the_script_for_bash_works_in_bash() -> None:
    write(SERVERS)
    code = """
source /dev/stdin <<< "$(_C3S3_SEG_COMPLETE=source_bash c3s3-seg)"
COMP_WORDS=(c3s3-seg send se) COMP_CWORD=2
$(complete -p c3s3-seg | sed 's/.*-F //; s/ .*//') c3s3-seg
echo "${COMPREPLY[*]}"
"""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    answer = subprocess.run(
        ["bash", "-c", code],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "second\n"


def test_an_empty_name_of_a_configuration_file_is_refused() -> None:
    """A script with a variable that is not set got the defaults of another file."""
    answer = run("--config", "", "models")
    assert answer.returncode == 2
    assert "found an empty name in --config, wanted a file. Give a file, or --config none" in answer.stderr
