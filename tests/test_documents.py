"""What the documents name exists: files, links, options, configuration keys, packages."""

import dataclasses
import importlib
import re
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import test_layers
import typer

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
CARDS = sorted(ROOT.glob("c3s3_seg/weights/*/README.md"))
# Options of the programs that the documents call beside ours.
FOREIGN = {
    *("nproc-per-node", "array", "nthreads", "nworkers", "resources", "protocol", "no-dashboard"),
    *("tls-ca-file", "tls-cert", "tls-key", "meta", "config", "bundle", "dataset", "output"),
    *("kills", "flat", "tiles", "fine", "slices", "size", "steps", "methods"),  # of scripts in benchmarks/
}
METADATA = {f"c3s3.{key}" for key in ("task", "networks", "weights", "input", "output", "postprocess")}
SUBTABLES = {"networks.a", "networks.b"}
# Files that a recipe or a command makes.
MADE = {"c3s3_seg/models/NAME.py"}
names = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)


def options(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        yield from (o.lstrip("-") for o in (*parameter.opts, *parameter.secondary_opts) if o[:2] == "--")
    for child in getattr(command, "commands", {}).values():
        yield from options(child)


def keys(kind: type, prefix: str = "") -> Iterator[str]:
    """The keys of a configuration, tables as `table.key`."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        yield prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]) and isinstance(hints[field.name], type):
            yield from keys(hints[field.name], f"{prefix}{field.name}.")


@names
def test_files_and_links_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:python )?((?:c3s3_seg|tests|benchmarks|docs)/[\w/.-]+)`?", text)) - MADE
    linked = {link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link}
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [link for link in linked if link and not (path.parent / link).exists()]
    assert missing == []


@names
def test_anchors_exist(path: Path) -> None:
    for link, anchor in re.findall(r"\]\(([^)\s#]*)#([^)\s]+)\)", path.read_text(encoding="utf-8")):
        target = path.parent / link if link else path
        heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads], anchor


@names
def test_options_are_ours(path: Path) -> None:
    from c3s3_seg.cli import app

    if path.name == "CHANGELOG.md":
        return  # of what was there once
    ours = set(options(typer.main.get_command(app))) | {"help", "version"}
    found = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", path.read_text(encoding="utf-8")))
    assert found - ours - FOREIGN == set()


@names
def test_configuration_keys_are_ours(path: Path) -> None:
    from c3s3_seg.training.config import TrainConfig
    from c3s3_seg.training.method_settings import METHOD_NAMES

    ours = set(keys(TrainConfig))
    text = path.read_text(encoding="utf-8")
    tables = "run|data|task|networks|augment|optimiser|" + "|".join(METHOD_NAMES)
    found = set(re.findall(rf"(?<![\w./])((?:{tables})\.[a-z_]+)(?= ?=|`)", text))
    assert found - ours - METADATA - SUBTABLES - {f"{name}.py" for name in METHOD_NAMES} == set()


def test_the_page_of_the_architecture_has_the_layers_of_the_test() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    page = {name: int(layer) for layer, cell in rows for name in re.findall(r"`(\w+)`", cell)}
    assert page == {k: v for k, v in test_layers.LAYER.items() if k not in ("", "__main__")}
    drawn = re.findall(r'font-size="14"[^>]*>([^<]+)<', (ROOT / "docs/architecture.svg").read_text())
    assert {name for box in drawn for name in box.split(", ")} == set(page)


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.parent.name)
def test_cards_name_terms_and_no_folder_of_the_developers(path: Path) -> None:
    card = path.read_text(encoding="utf-8")
    assert "- **Terms**: " in card
    configurations = [p.read_text() for p in ROOT.glob("c3s3_seg/training/configs/*.toml")]
    for text in (card, path.with_name("manifest.json").read_text(), *configurations):
        assert "shared/" not in text


def test_the_sdist_holds_what_its_tests_read() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    held = {*build["sdist"]["include"], "pyproject.toml"}
    pattern = re.compile(r"""(?:\bROOT|parents\[[12]\]) / f?["']([\w.-]+)""")
    read = {name for path in ROOT.glob("tests/**/*.py") for name in pattern.findall(path.read_text())}
    assert read - held - {"shared"} == set()  # the real scans are never in it
    assert {path.name for path in DOCUMENTS if path.parent == ROOT} <= held
    assert [name for name in held if not (ROOT / name).exists()] == []


def test_the_names_of_the_python_interface_are_documented() -> None:
    package = importlib.import_module("c3s3_seg")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"c3s3_seg\.(\w+)\(", readme):
        assert name in package.__all__
