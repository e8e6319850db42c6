"""The table `serve`: accepted values, and values refused with the name of the file and of the key."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from helpers.command import run
from helpers.service import BASE, settings

from c3s3_seg.errors import C3S3Error
from c3s3_seg.service.node_settings import ListenSettings, PollSettings, WatchSettings
from c3s3_seg.service.preflight import check_start
from c3s3_seg.service.service import opened
from c3s3_seg.service.settings import (
    LimitSettings,
    MonitorSettings,
    OutputSettings,
    RetrySettings,
    ServeSettings,
    read_settings,
)
from c3s3_seg.system.config_file import FoundConfig

SOURCE = '[serve]\nstate = "s"\nwatch = [{ folder = "w" }]\n'
POLL = SOURCE + '[[serve.poll]]\nserver = "P@h:1"\n'


def test_defaults_and_places(tmp_path: Path) -> None:
    path = tmp_path / "c3s3-seg.toml"
    path.write_text('model = "another command\'s"\n' + SOURCE)
    found = read_settings(FoundConfig(path, "given"))
    assert isinstance(found, ServeSettings)
    assert (found.state, found.watch[0].folder) == (tmp_path / "s", tmp_path / "w")
    assert found.log == tmp_path / "s" / "results.jsonl"
    assert (found.monitor.host, found.store, found.listen) == ("127.0.0.1", (), None)
    assert [found.retry.wait_s(n) for n in (1, 2, 3, 99)] == [30.0, 60.0, 120.0, 3600.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SOURCE + '[[serve.poll]]\nserver = "P@h:1"\n[[serve.poll]]\nserver = "P@h:1"\n', "poll.*twice"),
        ('[serve]\nstate = "s"\nwatch = [{ folder = "w" }, { folder = "./w" }]\n', "watch.*twice"),
        (SOURCE + "quite_s = 3\n", "there is no key 'serve.quite_s'"),
        ('[serve]\nstate = "s"\n', "no source of studies"),
        ("[other]\n", r"there is no table \[serve\]"),
        ("[serve\n", "not valid TOML"),
        (SOURCE + "quiet_s = 0\n", "serve.quiet_s = 0.*wanted a positive number"),
        (SOURCE + 'quiet_s = "3"\n', "serve.quiet_s"),
        (SOURCE + "workers = true\n", "serve.workers = True: wanted a whole number"),
        (SOURCE + '[serve.limits]\nfree = "much"\n', "serve.limits.free = 'much': wanted a size"),
        (SOURCE + '[[serve.store]]\nserver = "PACS"\n', "wanted TITLE@host:port"),
        (SOURCE + '[[serve.store]]\nserver = "https://p.example/web"\n', "DIMSE only.*Give TITLE@host:port"),
        (SOURCE + '[[serve.poll]]\nserver = "P@h:1"\nmodalities = []\n', "wanted at least one"),
        (SOURCE.replace('"s"', '""'), "wanted a folder of its own"),
        (SOURCE + '[[serve.store]]\nserver = "P@h:1"\n[[serve.store]]\nserver = "P@h:1"\n', "twice"),
        (SOURCE + "[serve.listen]\ncallers = []\n", "no calling title"),
        (SOURCE + '[serve.listen]\ncallers = ["A\\\\B"]\n', "an AE title that is none"),
        (SOURCE + '[serve.listen]\ncallers = ["A"]\ntrust = "t.pem"\n', "TLS needs both"),
        (SOURCE + "[serve.listen]\nport = 1\n", "the key 'serve.listen.callers' is missing"),
        (SOURCE + '[serve.output]\nuids = "name"\n', "serve.output.uids"),
        (SOURCE + '[[serve.poll]]\nserver = "P@h:1"\nmodalities = ["M*"]\n', "wanted a modality"),
        (POLL + 'move_listen = "h:2"\n', "move_listen has no effect without"),
        (POLL + 'move_title = "A"\ntls = true\n', "with TLS needs a certificate"),
        (POLL + 'move_title = "A"\ntrust = "t.pem"\n', "with TLS needs a certificate"),
        (POLL + 'move_title = "A"\n[serve.listen]\ncallers = ["B"]\n', "127.0.0.1:11112.*holds"),
        (POLL + 'move_title = "A"\n[serve.listen]\ncallers = ["B"]\nhost = "0.0.0.0"\n', "holds"),
        ('[serve]\nstate = "s"\nwatch = [{ folder = "w" }, { folder = "~/../w" }]\n', "watch.*twice"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = tmp_path / "c3s3-seg.toml"
    path.write_text(text)
    with pytest.raises(C3S3Error, match=message) as error:
        read_settings(FoundConfig(path, "given"))
    assert error.value.where == path


def test_paths_count_from_the_folder_of_a_link_and_a_model_may_be_a_folder(tmp_path: Path) -> None:
    """Kubernetes places a ConfigMap as a link; paths count as they do for the other keys of the file."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "c3s3-seg.toml").write_text(BASE.replace('"phantom"', '"./phantom"'))
    link = tmp_path / "c3s3-seg.toml"
    link.symlink_to(Path("..data") / "c3s3-seg.toml")
    found = read_settings(FoundConfig(link, "given"))
    assert (found.state.parent, found.model) == (tmp_path, str(tmp_path / "phantom"))


@pytest.mark.parametrize(
    "text",
    [
        'move_title = "A"\n',
        'move_title = "A"\nmove_listen = "h:2"\ntrust = "t.pem"\ncertificate = "c.pem"\n',
        'move_title = "A"\nmove_listen = "127.0.0.1:2"\n[serve.listen]\ncallers = ["B"]\n',
        'move_title = "A"\nmove_listen = "10.0.0.1:11112"\n[serve.listen]\ncallers = ["B"]\n',
    ],
)
def test_listeners_for_c_move_that_can_work(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c3s3-seg.toml"
    path.write_text(POLL + text)
    assert read_settings(FoundConfig(path, "given")).poll[0].listener is not None


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was the name of a folder beside the file, except for `model`."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    path = tmp_path / "c3s3-seg.toml"
    path.write_text(
        '[serve]\nstate = "~/state"\nwatch = [{ folder = "~/in" }]\n[serve.output]\nlog = "~/log"\n'
        '[serve.listen]\ncallers = ["A"]\ncertificate = "~/c.pem"\ntrust = "/t.pem"\n'
    )
    found = read_settings(FoundConfig(path, "given"))
    assert (found.state, found.watch[0].folder, found.log) == (home / "state", home / "in", home / "log")
    assert found.listen is not None
    assert (found.listen.certificate, found.listen.trust) == (home / "c.pem", Path("/t.pem"))


def test_the_page_names_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
    rows = re.findall(r"^\| (`[^|]*`) \|", page.split("## Settings")[1].split("## States")[0], re.MULTILINE)
    named = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    tables = {"watch", "listen", "poll", "store", "output", "limits", "retry", "monitor"}
    kinds = (
        ServeSettings, WatchSettings, ListenSettings, PollSettings, OutputSettings, LimitSettings,
        RetrySettings, MonitorSettings,
    )  # fmt: skip
    assert named == {field.name for kind in kinds for field in fields(kind)} - tables


def test_the_command_checks_a_file(tmp_path: Path) -> None:
    settings(tmp_path)
    path = tmp_path / "c3s3-seg.toml"
    assert run("serve", "--config", path, "--check").stdout == f"{path}: the table [serve] is good.\n"
    path.write_text(BASE.replace('"phantom"', '"no-such-model"'))
    answer = run("serve", "--config", path, "--check")
    assert answer.returncode == 2
    assert "no-such-model" in answer.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('[serve.listen]\ncallers = ["A"]\ncertificate = "n.pem"\ntrust = "n.pem"\n', "certificates cannot"),
        ('[[serve.store]]\nserver = "P@h:1"\ntrust = "n.pem"\n', "certificates cannot be used"),
        ('[serve.listen]\ncallers = ["A"]\nhost = "no.such.host.invalid"\n', "is not known"),
        ('[serve.listen]\ncallers = ["A"]\nhosts = ["no.such.host.invalid"]\n', "is not known"),
        ('[serve.listen]\ncallers = ["A"]\nport = 9110\n[serve.monitor]\nport = 9110\n', "one address"),
        ('[serve.output]\nlog = "watch"\n', "cannot be written"),
        ('[serve.output]\nlog = "c3s3-seg.toml"\n', "no log of c3s3-seg"),
        ("[serve.output]\nuncertainty = true\n", "needs two networks, but this bundle holds one"),
    ],
)
def test_what_would_end_the_start_is_found_by_the_check(tmp_path: Path, more: str, message: str) -> None:
    base = BASE.partition("[serve.monitor]")[0] if "[serve.monitor]" in more else BASE
    found = settings(tmp_path, more, base.replace("phantom", "left-atrium-resvnet"))
    before = sorted(tmp_path.rglob("*"))
    for start in (lambda: check_start(found), lambda: opened(found).__enter__()):
        with pytest.raises(C3S3Error, match=message):
            start()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_file_is_found_as_by_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    none = run("serve", "--check")
    assert (none.returncode, "there is no configuration file c3s3-seg.toml" in none.stderr) == (2, True)
    Path("other.toml").write_text(SOURCE.replace("[serve]", '[serve]\nmodel = "phantom"'))
    for words, variable in (
        (["serve", "--config", "other.toml"], ""),
        (["--config", "other.toml", "serve"], ""),
        (["serve"], "other.toml"),
    ):
        monkeypatch.setenv("C3S3_SEG_CONFIG", variable)
        answer = run(*words, "--check")
        assert answer.returncode == 0, answer.stderr
        assert "other.toml: the table [serve] is good" in answer.stdout
