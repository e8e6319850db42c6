"""The list of parts (SBOM) that `make sbom` writes for the present environment."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_list_of_parts_names_what_the_base_installation_needs(tmp_path: Path) -> None:
    target = tmp_path / "sbom.json"
    words = [
        "environment",
        sys.executable,
        "--no-validate",
        "--pyproject",
        ROOT / "pyproject.toml",
        "-o",
        target,
    ]
    program = Path(sys.executable).parent / "cyclonedx-py"
    answer = subprocess.run([program, *words, "-o", target], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    facts = json.loads(target.read_text())
    assert facts["bomFormat"] == "CycloneDX"
    assert facts["metadata"]["component"]["name"] == "c3s3-seg"
    versions = {part["name"].lower(): part["version"] for part in facts["components"]}
    for name in ("numpy", "scipy", "simpleitk", "pydicom", "openvino", "pydantic", "typer", "rich"):
        assert versions[name]
