"""The packages that `gpu.sh` needs besides torch: the base packages of c3s3-seg, and a few of its extras."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Packages of extras, for `tests/gpu`, checkpoints, and the export to ONNX in single and half precision.
MORE = (
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "safetensors",
    "onnx",
    "onnxscript",
    "onnxconverter-common",
)


def normal(name: str) -> str:
    """Return the normalised name of a distribution: `python-gdcm` for `python_gdcm`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed() -> list[str]:
    """Return the requirements as in `pyproject.toml`, base packages first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    by_name = {normal(re.split(r"[^\w.-]", line)[0]): line for line in extras}
    return [*project["dependencies"], *(by_name[name] for name in MORE)]
