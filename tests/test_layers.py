"""The layers of docs/architecture.md: packages import only packages below them; runtimes stay in theirs."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "c3s3_seg"

LAYERS = (
    {"errors", "version"},
    {"system", "geometry"},
    {"metrics", "models"},
    {"io"},
    {"bundle", "report"},
    {"dataset", "inference"},
    {"phantom", ""},  # "": the package's own public names, from the layers below
    {"training", "export", "batch"},
    {"service"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
# Runtimes and toolkits: the packages that may import them; those not in AT_ONCE import them inside functions.
HEAVY = {
    "torch": {"models", "training", "export", "inference", "system"},
    "openvino": {"inference", "export", "system"},
    "onnxruntime": {"inference", "export"},
    "onnx": {"export", "inference"},
    "onnxscript": {"export"},
    "onnxconverter_common": {"export"},
    "tensorrt": {"inference"},
    "cuda": {"inference"},
    "SimpleITK": {"io", "inference"},
    "pydicom": {"io"},
    "pynetdicom": {"io"},
    "dicomweb_client": {"io"},
    "requests": {"io"},
    "prometheus_client": {"service"},
    "h5py": {"io"},
    "nibabel": {"io"},
    "typer": {"cli", "commands"},
    "medpy": set(),
}
AT_ONCE = {
    "torch": {"models", "training"},
    "typer": {"cli", "commands"},
    "SimpleITK": {"io"},
    "pydicom": {"io"},
}


@cache
def trees() -> dict[Path, ast.Module]:
    """Return every file of the package, parsed on demand because each test process imports this module."""
    return {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def package(path: Path) -> str:
    """Return the subpackage of a file, or the name of a file that is in none; "" for `__init__.py`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py").replace("__init__", "")


def module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inside if node.module == "c3s3_seg" else {node.module}
    return names


def offences(tree: ast.AST, home: str) -> list[str]:
    """Return the imports from a higher or the same layer, and those of toolkits not allowed for `home`."""
    found = []
    for name in imports(tree):
        top, _, rest = name.partition(".")
        target = rest.split(".")[0] if rest.split(".")[0] in LAYER else ""
        if top == "c3s3_seg" and home and target != home:
            found += [f"{home} -> {target or top}"] if LAYER[target] >= LAYER[home] else []
        if top in HEAVY and home not in HEAVY[top]:
            found.append(f"{home} -> {top}")
    return sorted(found)


def test_imports_run_down() -> None:
    assert {package(path) for path in trees()} <= set(LAYER)
    found = {str(path): offences(tree, package(path)) for path, tree in trees().items()}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_check_finds_what_runs_up() -> None:
    wrong = {
        "from c3s3_seg.training.train import train": "inference",
        "import torch": "io",
        "def f():\n    from c3s3_seg import cli": "batch",
        "from c3s3_seg.report.html import write": "bundle",
        "from c3s3_seg import __version__": "io",
    }
    found = [offences(ast.parse(code), home) for code, home in wrong.items()]
    assert found == [
        ["inference -> training"],
        ["io -> torch"],
        ["batch -> cli"],
        ["bundle -> report"],
        ["io -> c3s3_seg"],
    ]


def test_runtimes_are_imported_inside_functions() -> None:
    for path, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                heavy = {name.split(".")[0] for name in imports(node)} & set(HEAVY)
                assert {name for name in heavy if package(path) not in AT_ONCE.get(name, ())} == set(), path


def test_no_assert_in_the_product() -> None:
    found = [
        path for path, tree in trees().items() for node in ast.walk(tree) if isinstance(node, ast.Assert)
    ]
    assert found == []


def test_no_module_needs_itself() -> None:
    """Imports within functions count too."""
    modules = {module(path) for path in trees()} - {"c3s3_seg"}
    TopologicalSorter({module(path): imports(tree) & modules for path, tree in trees().items()}).prepare()


def test_a_class_name_stands_once_in_the_package() -> None:
    homes: dict[str, list[str]] = {}
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(module(path))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}
