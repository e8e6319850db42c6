"""The Dockerfiles, as far as their parsed instructions can be checked without Docker."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from c3s3_seg import __version__

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
OCI = "org.opencontainers.image."


class Stage(NamedTuple):
    """The instructions from one FROM to the next; those before the first FROM have an empty base."""

    base: str
    steps: list[tuple[str, str]]

    def of(self, word: str) -> list[str]:
        return [text for name, text in self.steps if name == word]


def stages(name: str) -> list[Stage]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    found = [Stage("", [])]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, _, text = line.partition(" ")
        if word == "FROM":
            found.append(Stage(text, []))
        elif line:
            found[-1].steps.append((word, text.strip()))
    return found


def default(stage: Stage, name: str) -> str:
    (text,) = [text.partition("=")[2] for text in stage.of("ARG") if text.partition("=")[0] == name]
    return text


@pytest.fixture(params=["Dockerfile", "Dockerfile.cuda"])
def dockerfile(request: pytest.FixtureRequest) -> list[Stage]:
    return stages(request.param)


def test_both_stages_have_one_base_that_a_digest_can_pin(dockerfile: list[Stage]) -> None:
    head, build, final = dockerfile
    assert build.base == f"{final.base} AS build"
    assert re.fullmatch(r"[a-z/]+:[\w.-]+\$\{BASE_DIGEST\}", final.base)  # a tag, never `latest` by default
    assert default(head, "BASE_DIGEST") == ""
    assert head.steps == [("ARG", "BASE_DIGEST=")]  # in scope for every FROM


def test_extras_are_an_argument_and_exist(dockerfile: list[Stage]) -> None:
    _, build, _ = dockerfile
    wanted = default(build, "EXTRAS")
    assert wanted.split(",") == ["report", "pacs"]
    (install,) = [text for text in build.of("RUN") if "pip install" in text]
    target = next(word for word in shlex.split(install.partition("pip install")[2]) if "EXTRAS" in word)
    fixed = ["gpu"] if "gpu" in target else []
    for given in ("", "report", wanted):
        shell = ["sh", "-c", f'printf %s "{target}"']
        found = subprocess.run(
            shell, env={"EXTRAS": given}, capture_output=True, text=True, check=True
        ).stdout
        names = fixed + [name for name in given.split(",") if name]
        assert found == (f".[{','.join(names)}]" if names else ".")
        assert set(names) <= set(EXTRAS)


def test_the_image_has_labels_and_no_address(dockerfile: list[Stage]) -> None:
    final = dockerfile[-1]
    labels = dict(word.split("=", 1) for text in final.of("LABEL") for word in shlex.split(text))
    assert {name.removeprefix(OCI) for name in labels} == {
        *("title", "description", "version", "licenses", "revision"),
    }
    assert labels[f"{OCI}version"] == __version__
    assert labels[f"{OCI}revision"] == "${REVISION}"
    assert default(final, "REVISION")
    assert labels[f"{OCI}licenses"].startswith("Apache-2.0 AND ")
    assert "Research use only" in labels[f"{OCI}description"]
    assert "://" not in " ".join(labels.values())


def test_the_image_runs_without_root_and_only_as_long_as_its_command(dockerfile: list[Stage]) -> None:
    final = dockerfile[-1]
    words = [word for word, _ in final.steps]
    (user,) = final.of("USER")
    assert all(int(number) > 0 for number in user.split(":"))  # by number: a cluster sees that it is not root
    assert words.index("USER") > max(n for n, word in enumerate(words) if word in ("RUN", "COPY"))
    assert "HEALTHCHECK" not in words
    assert final.of("ENTRYPOINT") == ['["c3s3-seg"]']
    assert final.of("CMD") == ['["--help"]']


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda", "docs/installation.md"])
def test_the_shown_command_can_write_its_results(name: str) -> None:
    """Docker makes a missing folder for root; the image's own user owns no folder of the machine."""
    text = re.sub(r"\\\n#?", " ", (ROOT / name).read_text())
    calls = re.findall(r"^#? *(mkdir -p out)\n#? *(docker run .*)$", text, re.MULTILINE)
    assert len(calls) == text.count("docker run ") == 1
    assert '--user "$(id -u):$(id -g)"' in calls[0][1]


def test_what_is_copied_exists(dockerfile: list[Stage]) -> None:
    for stage in dockerfile:
        assert stage.of("ADD") == []
        for text in stage.of("COPY"):
            if not text.startswith("--from="):
                assert [name for name in text.split()[:-1] if not (ROOT / name).exists()] == []
