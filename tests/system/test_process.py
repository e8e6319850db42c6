"""Settings that a process gives its libraries, and the modules it imports."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from c3s3_seg.errors import MissingError
from c3s3_seg.io import save
from c3s3_seg.phantom import Simulator, simulate
from c3s3_seg.system.process import import_nothing_from_working_folder, only_repeatable

ROOT = Path(__file__).parents[2]


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the settings of torch after the test."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    fill, benchmark = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    algorithms = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(algorithms)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.usefixtures("as_before")
def test_repeatable_torch_fills_no_fresh_tensors() -> None:
    torch.utils.deterministic.fill_uninitialized_memory = True
    only_repeatable("openvino", "cpu")
    assert not torch.are_deterministic_algorithms_enabled()
    only_repeatable("torch", "cuda")
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory is False
    assert torch.backends.cudnn.benchmark is False


@pytest.mark.parametrize("runtime", ["onnx", "tensorrt"])
def test_a_runtime_that_may_differ_from_run_to_run_is_refused(runtime: str) -> None:
    only_repeatable("onnx", "cpu")
    with pytest.raises(MissingError, match=f"'{runtime}' does not give the same bytes twice on CUDA"):
        only_repeatable(runtime, "cuda")


PROGRAM = "if __name__ == '__main__':\n    from c3s3_seg.__main__ import program\n    program()\n"


def test_processes_import_nothing_from_the_working_folder(tmp_path: Path) -> None:
    """A file `signal.py` in the working folder used to be run: each process imports `signal` first."""
    data = tmp_path / "data"
    data.mkdir()
    scan = simulate(0, Simulator(shape=(24, 24, 16))).scan
    for name in ("a", "b"):
        save(replace(scan, array=scan.array + ord(name)), data / f"{name}.nii.gz")
    ran = tmp_path / "ran"
    (tmp_path / "signal.py").write_text(f"open({str(ran)!r}, 'w').close()\nraise SystemExit(7)\n")
    script = tmp_path / "bin" / "c3s3-seg"
    script.parent.mkdir()
    script.write_text(PROGRAM)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))  # "" is the cwd
    ended = subprocess.run(
        [sys.executable, script, "prepare", "data", "-o", "out", "--workers", "2"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not ran.exists()
    assert (ended.returncode, "2 scans found; 2 taken" in ended.stdout) == (0, True), ended.stdout


def test_a_clone_that_is_not_installed_finds_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.chdir(ROOT)
    import_nothing_from_working_folder()
    assert "PYTHONSAFEPATH" not in os.environ
    monkeypatch.chdir(tmp_path)
    import_nothing_from_working_folder()
    assert os.environ.pop("PYTHONSAFEPATH") == "1"
