"""The types of NVIDIA's own TensorRT bindings, for machines on which TensorRT cannot be installed.

The wheel `tensorrt-cu13-bindings` holds a compiled module without stubs, which loads only beside TensorRT's
libraries. Empty libraries with the few symbols it looks up let the module load, and then mypy's `stubgen`
reads all signatures. TensorRT cannot run that way, but calls can be checked against its types.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SYMBOLS = [
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
]
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
CLASSES = [
    "Builder",
    "BuilderFlag",
    "Dims",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "ITimingCache",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "Runtime",
]
KNOWN = ("Any", "ClassVar", "Callable", "Incomplete", "None", "True", "False")


def available() -> bool:
    return importlib.util.find_spec("tensorrt_bindings") is not None and shutil.which("gcc") is not None


def write_stub(folder: Path) -> Path:
    """Write stubs of `tensorrt` with the types of the installed bindings; return the folder for MYPYPATH."""
    libraries = _placeholders(folder / "lib")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    words = ["-q", "--inspect-mode", "-m", "tensorrt_bindings.tensorrt", "-o", str(folder / "raw")]
    code = f"from mypy.stubgen import main; main({words})"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    text = (folder / "raw" / "tensorrt_bindings" / "tensorrt.pyi").read_text()
    stub = folder / "typed" / "tensorrt" / "__init__.pyi"
    stub.parent.mkdir(parents=True)
    stub.write_text(_narrow(text.replace("tensorrt_bindings.tensorrt.", "")))
    return stub.parents[1]


def _placeholders(folder: Path) -> Path:
    folder.mkdir(parents=True)
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in SYMBOLS))
    major = re.match(r"\d+", _version())
    assert major is not None
    for name in LIBRARIES:
        file = f"lib{name}.so.{major[0]}"
        words = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", folder / file, source]
        subprocess.run(words, check=True)
    return folder


def _version() -> str:
    from importlib.metadata import version

    return version("tensorrt-cu13-bindings")


def _narrow(text: str) -> str:
    """Return the stubs of the classes that this package uses; other types they name become Any."""
    blocks = {m[1]: m[0] for m in re.finditer(r"^class (\w+).*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)}
    kept = "\n".join(blocks[name] for name in CLASSES)
    # pybind11 gives the host memory the buffer protocol, which Python before 3.12 cannot name.
    kept = kept.replace(
        "class IHostMemory:\n", "class IHostMemory:\n    def __buffer__(self, f: int, /) -> memoryview: ...\n"
    )
    # Methods that add layers are not called, and the stubs of some have defaults in the wrong order.
    kept = re.sub(r"^    def add_(?!optimization_profile).*\n", "", kept, flags=re.MULTILINE)
    others = set(re.findall(r"\b[A-Z]\w+\b", kept)) - set(CLASSES) - {*KNOWN}
    # The bindings name a C++ type as the result of this method.
    kept = re.sub(r"def get_error\(.*", "def get_error(self, index: int) -> ParserError: ...", kept)
    head = [
        "# mypy: ignore-errors",
        "import collections.abc, typing, typing_extensions",
        "from collections.abc import Callable",
    ]
    head += ["from typing import Any, ClassVar, overload", "Incomplete = Any", "__version__: str"]
    return "\n".join([*head, *(f"{name} = Any" for name in sorted(others)), kept])
