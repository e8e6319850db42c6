"""The floors of the house: a room imports only rooms below it, and heavy packages only where allowed."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "c3s3_seg"

FLOORS = {
    "__main__": 10,
    "cli": 9,
    "verbs": 8,
    "training": 6,
    "export": 6,
    "doctor": 7,
    "batch": 6,
    "evaluate": 6,
    "inference": 5,
    "dataset": 4.5,
    "bundle": 4,
    "report": 4,
    "phantom": 4.7,
    "io": 3,
    "domain": 2.5,
    "recipe": 3,
    "metrics": 3,
    "volume": 2,
    "surfaces": 2,
    "surfels": 2,
    "nearest": 1,
    "resample": 3,
    "workers": 1,
    "quiet": 0,
    "allocator": 1,
    "schema": 1,
    "files": 1,
    "ownership": 1.5,
    "lock": 1,
    "shard": 1,
    "models": 1,
    "errors": 0,
    "version": 0,
    "__init__": 0,
}
NEVER = {
    ("training", "export"),
    ("export", "training"),
    ("metrics", "io"),
    ("io", "models"),
    ("inference", "training"),
}
HEAVY = {
    "torch": {"models", "training", "export", "inference"},
    "openvino": {"inference", "export"},
    "onnxruntime": {"inference", "export"},
    "onnx": {"export", "inference"},
    "onnxscript": {"export"},
    "onnxconverter_common": {"export"},
    "tensorrt": {"inference"},
    "cuda": {"inference"},
    "SimpleITK": {"io"},
    "pydicom": {"io"},
    "pynetdicom": {"io"},
    "h5py": {"io"},
    "nibabel": {"io"},
    "typer": {"cli", "verbs"},
    "medpy": set(),
}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def top_level_imports(tree: ast.Module) -> set[str]:
    """What is imported when the module is: not inside functions, not under TYPE_CHECKING."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= imports(node)
    return names


def offences(source: str, home: str) -> list[str]:
    """Imports of `source`, a file in room `home`, that run upwards or are forbidden."""
    found = []
    for name in imports(ast.parse(source)):
        top, *rest = name.split(".")
        if top == "c3s3_seg" and rest:
            target = rest[0]
            same = target == home or home == "__init__"
            if not same and (FLOORS[target] >= FLOORS[home] or (home, target) in NEVER):
                found.append(f"{home} -> {target}")
        if top in HEAVY and home not in HEAVY[top]:
            found.append(f"{home} -> {top}")
    return found


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_down(path: Path) -> None:
    assert offences(path.read_text(), room(path)) == []


def test_the_guard_says_no() -> None:
    assert offences("from c3s3_seg.training.train import train", "inference") == ["inference -> training"]
    assert offences("import torch", "io") == ["io -> torch"]
    assert offences("def f():\n    from c3s3_seg import cli\n    import c3s3_seg.cli", "batch") == [
        "batch -> cli"
    ]


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_runtimes_are_imported_inside_functions(path: Path) -> None:
    if room(path) in {"training", "models"}:
        return
    heavy = {name.split(".")[0] for name in top_level_imports(ast.parse(path.read_text()))} & set(HEAVY)
    assert heavy - ({"typer"} if room(path) in {"cli", "verbs"} else set()) <= {"SimpleITK", "pydicom"}


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_assert_in_the_product(path: Path) -> None:
    assert not [n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)]


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in files()} <= set(FLOORS)


def module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def test_no_module_needs_itself() -> None:
    """Not even by an import within a function. The package's own name is only asked for its version."""
    modules = {module(path) for path in files()} - {"c3s3_seg"}
    needs = {module(path): imports(ast.parse(path.read_text())) & modules for path in files()}
    assert len(needs) > 200
    TopologicalSorter(needs).prepare()  # raises CycleError
