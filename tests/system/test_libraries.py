"""Libraries are loaded without their unused parts, or with them if a release requires them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STRICT = "from openvino.tools.ovc import convert_model\nCore = 1\n"
TOLERANT = f"Core = 1\ntry:\n    {STRICT.splitlines()[0]}\nexcept ImportError:\n    pass\n"
CODE = """
import sys
sys.path[:0] = sys.argv[1:]
from c3s3_seg.system.libraries import import_openvino, leave_out_unused
leave_out_unused()
print(hasattr(import_openvino(), "convert_model"))
"""


@pytest.mark.parametrize(("release", "whole"), [(STRICT, True), (TOLERANT, False)])
def test_a_release_that_needs_its_tools_gets_them(release: str, whole: bool, tmp_path: Path) -> None:
    tools = tmp_path / "openvino" / "tools" / "ovc"
    tools.mkdir(parents=True)
    (tmp_path / "openvino" / "__init__.py").write_text(release)
    (tools / "__init__.py").write_text("convert_model = 1\n")
    command = [sys.executable, "-c", CODE, str(tmp_path), str(ROOT)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [str(whole)]


def test_another_import_error_is_raised(tmp_path: Path) -> None:
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("import no_such_module_of_openvino\n")
    command = [sys.executable, "-c", CODE, str(tmp_path), str(ROOT)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "No module named 'no_such_module_of_openvino'" in answer.stderr
