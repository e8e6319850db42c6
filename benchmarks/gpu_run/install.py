"""Install missing packages from wheels into a folder of their own, never into the user's environment."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError, MissingError
from gpu_run.parts import join, read_list
from gpu_run.requirements import ROOT, needed

STAMP = "c3s3-seg-parts.txt"
LIMIT_S = 150  # of each pip command


def installed_from(parts: Path, site: Path, onnx_runtime: str, list_sha256: str | None) -> str:
    """Join the parts and install the packages that this Python lacks into `site`; return a sentence about it.

    A `site` that an earlier call finished with the same list and the same Python is used again.

    Parameters
    ----------
    parts
        Folder of parts that `gpu_parts.sh` made.
    site
        Folder that does not exist yet, or one that an earlier call created.
    onnx_runtime
        Distribution that is also required: `onnxruntime-gpu`, or `onnxruntime` in a rehearsal.
    list_sha256
        Same as in `join`.

    Raises
    ------
    InputError
        If the parts are damaged, `site` is another folder, or a required wheel is missing.
    MissingError
        If this Python has no pip.
    """
    listed = read_list(parts, list_sha256)
    stamp = f"{[piece.sha256 for piece in listed.wheels]} {sys.version} {sys.prefix}"
    if (site / STAMP).is_file() and (site / STAMP).read_text(encoding="utf-8") == stamp:
        return "installed by an earlier call"
    if site.exists():
        raise InputError("the folder is there, and not from these parts", where=site, todo="Remove it")
    if subprocess.run(
        [sys.executable, "-m", "pip", "--version"], capture_output=True, check=False
    ).returncode:
        raise MissingError(f"{sys.executable} has no pip", todo="Take a Python that has it, by PYTHON=...")
    partial, wheels = (site.with_name(f"{site.name}-{word}") for word in ("partial", "wheels"))
    for left in (partial, wheels):  # left by an interrupted call
        shutil.rmtree(left, ignore_errors=True)
    try:
        join(parts, wheels, list_sha256)
        chosen = missing(wheels, [onnx_runtime, *needed()])
        words = ["--no-index", "--no-deps", "--no-compile", "--target", str(partial), *map(str, chosen)]
        _pip("install", *words)
        (partial / STAMP).write_text(stamp, encoding="utf-8")
        partial.rename(site)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(wheels, ignore_errors=True)
    return f"{len(chosen)} of {len(listed.wheels)} wheels installed, the others are there"


def missing(wheels: Path, requirements: list[str]) -> list[Path]:
    """Return the wheels that this Python lacks for the requirements and their dependencies, as pip finds.

    Raises
    ------
    InputError
        If a requirement is neither installed nor among the wheels.
    """
    words = ["--dry-run", "--report", "-", "--no-index", "--find-links", str(wheels), "--only-binary=:all:"]
    report: dict[str, Any] = json.loads(_pip("install", *words, *requirements))
    names = [item["download_info"]["url"].rsplit("/", 1)[-1] for item in report["install"]]
    by_name = {path.as_uri().rsplit("/", 1)[-1]: path for path in wheels.iterdir()}
    return sorted(by_name[name] for name in names)


def environment(site: Path | None) -> dict[str, str]:
    """Return the environment of the measurements: `site` first on the path, torch's CUDA libraries added.

    ONNX Runtime needs these: it searches CUDA and cuDNN beside itself, then as the system's loader does.
    """
    made = dict(os.environ)
    python = [str(ROOT), str(ROOT / "benchmarks"), made.get("PYTHONPATH", "")]
    libraries = [str(path) for path in _cuda_libraries()]
    before = made.get("LD_LIBRARY_PATH", "")
    made["PYTHONPATH"] = os.pathsep.join(path for path in [str(site or ""), *python] if path)
    if libraries:
        made["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, *([before] if before else [])])
    return made


def _cuda_libraries() -> list[Path]:
    """Return the folders in which pip put CUDA and cuDNN for torch, one for each NVIDIA package."""
    spec = importlib.util.find_spec("nvidia")
    places = list(spec.submodule_search_locations or []) if spec else []
    return sorted(path for place in places for path in Path(place).glob("*/lib"))


def _pip(*words: str) -> str:
    """Run pip and return its output; the user's settings, such as an index or a target, are ignored."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHONPATH"))}
    own["PIP_CONFIG_FILE"] = os.devnull
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    try:
        answer = subprocess.run(
            command, env=own, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"pip did not end within {LIMIT_S} s") from error
    if answer.returncode:
        lines = [line for line in answer.stderr.splitlines() if line.startswith("ERROR")]
        said = (lines or answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        raise InputError(f"pip could not install from the parts: {said}")
    return answer.stdout
