"""Install what is missing from wheels into a folder of its own, never into the user's environment."""

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
LIMIT_S = 150  # for pip


def installed_from(parts: Path, site: Path, onnx_runtime: str, list_sha256: str | None) -> str:
    """Join the parts and install what this Python lacks into `site`; gives a sentence about it.

    A `site` that an earlier call finished with the same list and the same Python is used again.

    Parameters
    ----------
    parts
        As `gpu_parts.sh` made them.
    site
        A folder that is not there yet, or one that was made here.
    onnx_runtime
        The distribution that is wanted besides: `onnxruntime-gpu`, or `onnxruntime` in a rehearsal.
    list_sha256
        As in `join`.

    Raises
    ------
    InputError
        If the parts are damaged, the folder is something else, or a wheel that is needed is not among them.
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
    for left in (partial, wheels):  # by a call that was cut off
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
    """The wheels that this Python lacks for the requirements and for what these need, as pip finds.

    Raises
    ------
    InputError
        If one is neither installed nor among the wheels.
    """
    words = ["--dry-run", "--report", "-", "--no-index", "--find-links", str(wheels), "--only-binary=:all:"]
    report: dict[str, Any] = json.loads(_pip("install", *words, *requirements))
    names = [item["download_info"]["url"].rsplit("/", 1)[-1] for item in report["install"]]
    by_name = {path.as_uri().rsplit("/", 1)[-1]: path for path in wheels.iterdir()}
    return sorted(by_name[name] for name in names)


def environment(site: Path | None) -> dict[str, str]:
    """For the measurements: the folder first on Python's path, and torch's CUDA libraries for ONNX Runtime.

    ONNX Runtime looks for CUDA and cuDNN beside itself, and then where the system's loader looks.
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
    """Where pip put CUDA and cuDNN for torch: one folder for each of NVIDIA's packages."""
    spec = importlib.util.find_spec("nvidia")
    places = list(spec.submodule_search_locations or []) if spec else []
    return sorted(path for place in places for path in Path(place).glob("*/lib"))


def _pip(*words: str) -> str:
    """Without the user's settings: they may name an index, a target or other wheels."""
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
