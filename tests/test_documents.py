"""Everything that the documents name exists: files, links, options, configuration keys, packages."""

import ast
import dataclasses
import importlib
import json
import re
import tomllib
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import test_layers
import typer

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"])
CARDS = sorted(ROOT.glob("c3s3_seg/weights/*/README.md"))
# Options of the other programs that the documents call.
FOREIGN = {
    *("nproc-per-node", "array", "nthreads", "nworkers", "resources", "protocol", "no-dashboard"),
    *("tls-ca-file", "tls-cert", "tls-key", "meta", "config", "bundle", "dataset", "output"),
    *("no-index", "find-links", "no-deps"),  # pip
    *("network", "read-only", "rm", "tmpfs", "user", "memory", "build-arg"),  # docker
    # scripts in benchmarks/
    *("kills", "flat", "studies", "tiles", "fine", "slices", "size", "steps", "methods"),
    *("scan", "parts", "list-sha", "minutes", "only", "rehearse", "python", "wheel", "without", "part-mb"),
}
METADATA = {
    f"c3s3.{key}"
    for key in ("task", "networks", "weights", "precision", "input", "output", "postprocess", "use")
}
SUBTABLES = {"networks.a", "networks.b"}
# Files that a recipe or a command creates.
MADE = {"c3s3_seg/models/NAME.py"}
names = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())


@cache
def options() -> dict[str, set[str]]:
    """Return the options, without their dashes, by command; "" is the program itself."""
    from c3s3_seg.cli import app

    group: Any = typer.main.get_command(app)
    commands = {name: group.get_command(None, name) for name in group.list_commands(None)}
    return {
        name: {o.lstrip("-") for p in command.params for o in (*p.opts, *p.secondary_opts) if o[:2] == "--"}
        | {"help"}
        for name, command in {"": group, **commands}.items()
    }


def keys(kind: type, prefix: str = "") -> Iterator[str]:
    """Yield the keys of a configuration; keys of tables as `table.key`."""
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
    ours = set().union(*options().values())
    text = re.sub(r"`python benchmarks/[^`]*`", "", path.read_text(encoding="utf-8"))
    if path.name == "CHANGELOG.md":  # its other sections name former options too
        text = text.partition("### What there is\n")[2]
        assert "--" in text
    found = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", text))
    assert found - ours - FOREIGN == set()


CALLING = [*DOCUMENTS, *CARDS, *(ROOT / name for name in ("Makefile", "Dockerfile", "Dockerfile.cuda"))]


@pytest.mark.parametrize("path", CALLING, ids=lambda p: p.parent.name + "/" + p.name)
def test_commands_have_the_options_that_they_are_called_with(path: Path) -> None:
    """Calls are `c3s3-seg predict ... --report png`, or `predict --report png` between backquotes."""
    if path.name == "CHANGELOG.md":
        return
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    verbs = "|".join(name for name in options() if name)
    calls = re.findall(rf"(?:c3s3-seg(?::cuda)? |`)({verbs})\b([^`\n|#&;]*)", text)
    wrong = [
        f"{verb} --{option}"
        for verb, words in calls
        for option in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", words)
        if option not in options()[verb]
    ]
    assert wrong == []
    if path.name in ("README.md", "Makefile") and path.parent == ROOT:
        assert any("--" in words for _, words in calls)  # the pattern finds calls


@names
def test_options_of_scripts_exist(path: Path) -> None:
    for script, words in re.findall(
        r"`python benchmarks/(\w+\.py)([^`]*)`", path.read_text(encoding="utf-8")
    ):
        source = (ROOT / "benchmarks" / script).read_text(encoding="utf-8")
        found = set(re.findall(r"--[a-z][a-z-]+", words))
        assert [option for option in found if f'"{option}"' not in source] == [], script


def test_the_indexes_are_complete() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    pages = {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}
    assert [name for name in pages if f"({name}" not in index] == []
    benchmarks = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    scripts = [path.name for suffix in ("py", "sh", "toml") for path in ROOT.glob(f"benchmarks/*.{suffix}")]
    assert scripts
    assert [name for name in scripts if f"`{name}`" not in benchmarks] == []


@names
def test_configuration_keys_are_ours(path: Path) -> None:
    from c3s3_seg.training.config import TrainConfig
    from c3s3_seg.training.method_settings import METHOD_NAMES

    ours = set(keys(TrainConfig))
    text = path.read_text(encoding="utf-8")
    tables = "run|data|task|networks|teacher|augment|optimiser|" + "|".join(METHOD_NAMES)
    found = set(re.findall(rf"(?<![\w./])((?:{tables})\.[a-z_]+)(?= ?=|`)", text))
    files = {f"{name}.{suffix}" for name in METHOD_NAMES for suffix in ("py", "toml")}
    assert found - ours - METADATA - SUBTABLES - files == set()


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


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.parent.name)
def test_a_card_announces_a_linked_bundle_where_the_manifest_has_one(path: Path) -> None:
    linked = json.loads(path.with_name("manifest.json").read_text(encoding="utf-8"))["linked_bundle"]
    named = re.findall(r"\*\*Linked bundle\*\*: `(.+?)`", path.read_text(encoding="utf-8"))
    assert named == [linked] * (linked is not None)


def test_the_sdist_holds_what_its_tests_read() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    held = {*build["sdist"]["include"], "pyproject.toml"}
    pattern = re.compile(r"""(?:\bROOT|parents\[[12]\]) / f?["']([\w.-]+)""")
    read = {name for path in ROOT.glob("tests/**/*.py") for name in pattern.findall(path.read_text())}
    assert read - held - {"shared"} == set()  # never contains the real scans
    assert {path.name for path in DOCUMENTS if path.parent == ROOT} <= held
    assert [name for name in held if not (ROOT / name).exists()] == []


def test_the_names_of_the_python_interface_are_documented() -> None:
    package = importlib.import_module("c3s3_seg")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"c3s3_seg\.(\w+)\(", readme):
        assert name in package.__all__


@names
def test_lines_of_prose_have_at_most_110_characters(path: Path) -> None:
    prose = re.sub(r"^ *```.*?^ *```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 110 and not line.startswith("|")] == []


def test_the_rows_of_tiles_are_those_of_their_script() -> None:
    page = (ROOT / "docs/inference.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"`python benchmarks/default_mode.py`\):\n\n(.*?)\n\n", page, re.DOTALL)
    table = re.findall(r"^\| (\w.*?)(?: \(.*?\))? \|", lines, re.MULTILINE)
    assert len(table) == 6
    script = (ROOT / "benchmarks/default_mode.py").read_text(encoding="utf-8")
    assert [row for row in table if f'"{row}":' not in script] == []


def test_every_check_of_a_data_set_has_a_row() -> None:
    page = (ROOT / "docs/data-doctor.md").read_text(encoding="utf-8")
    rows = {
        name
        for cell in re.findall(r"^\|( `.*?) \|", page, re.MULTILINE)
        for name in re.findall(r"`(.+?)`", cell)
    }
    calls = [
        node
        for path in (ROOT / "c3s3_seg/dataset/check").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    place = {"CaseDefect": 0, "Finding": 1}  # of the check among the arguments
    arguments = [node.args[place[node.func.id]] for node in calls if node.func.id in place]
    checks = {word.value for word in arguments if isinstance(word, ast.Constant)}
    assert len(checks) > 20
    assert checks - rows == set()


def test_every_key_of_a_configuration_is_described() -> None:
    """docs/training.md says which file describes which keys."""
    from c3s3_seg.training.config import TrainConfig

    page = (ROOT / "docs/training.md").read_text()
    for section in _sections(TrainConfig):
        text = "\n".join(base.__doc__ or "" for base in section.__mro__)
        described = re.findall(r"^    (\w+(?:, \w+)*)$", text, re.MULTILINE)
        named = {name for line in described for name in line.split(", ")}
        missing = {field.name for field in dataclasses.fields(section)} - named
        assert not missing, f"{section.__name__}: {sorted(missing)}"
        assert f"`{section.__module__.replace('.', '/')}.py`" in page


def _sections(kind: type) -> Iterator[type[Any]]:
    """Yield the dataclasses of a configuration's tables, without those of the index of series and domains."""
    for hint in typing.get_type_hints(kind).values():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and "__doc__" in vars(hint):
            yield hint
            yield from _sections(hint)
