import json
from pathlib import Path

import pytest
from helpers.command import run

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import MissingError
from c3s3_seg.inference.tuning.benchmark import Survey, other_threads, tiles
from c3s3_seg.inference.tuning.measure_runtime import Measurement, gflop, measured

pytestmark = pytest.mark.slow


def seen(runtime: str, tile: tuple[int, int, int], seconds: float, peak: float) -> Measurement:
    return Measurement(runtime, "cpu", "float32", None, tile, 0.1, 1.0, seconds, 10.0, 100.0, int(peak))


def test_the_fastest_a_voxel_wins_with_its_own_memory() -> None:
    rows = (
        seen("onnx", (10, 10, 10), 1.0, 1e6),
        seen("openvino", (10, 10, 10), 0.5, 3e5),
        seen("openvino", (20, 10, 10), 0.8, 5e5),
    )
    best = Survey(rows, ()).best()
    assert (best.runtime, best.seconds_per_mvoxel) == ("openvino", pytest.approx(400))
    assert best.bytes_per_voxel == pytest.approx(200)
    assert best.base_bytes == pytest.approx(1e5, rel=1e-3)
    with pytest.raises(MissingError, match="torch: not installed"):
        Survey((), (("torch", "not installed"),)).best()


def test_what_is_tried() -> None:
    assert other_threads(1) == []
    assert other_threads(2) == [1]
    assert other_threads(8) == [1, 4]
    sizes = tiles((64, 64, 48), (16, 16, 16))
    assert sizes[0] == (64, 64, 48)
    assert all(side % 16 == 0 for tile in sizes for side in tile)


def test_arithmetic_is_counted_from_the_graph() -> None:
    """A VNet with 3 filters takes about 0.1 GFLOP, and twice as much on twice the voxels."""
    graph = ModelBundle.find("phantom").folder / "model.onnx"
    once, twice = gflop(graph, (32, 32, 32)), gflop(graph, (64, 32, 32))
    assert 0.05 < once < 0.2
    assert twice == pytest.approx(2 * once)


def test_a_runtime_that_fails_says_why() -> None:
    with pytest.raises(MissingError, match=r"failed on tiles of \(17, 16, 16\)"):
        measured(ModelBundle.find("phantom"), "openvino", 1, (17, 16, 16))


def test_the_verb_measures_writes_and_predict_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    homeless = run("benchmark", "phantom", "--write-profile")
    assert homeless.returncode == 2
    assert "C3S3_SEG_PROFILE is not set" in homeless.stderr
    profile = tmp_path / "profile.json"
    answer = run(
        "benchmark", "phantom", "--backend", "openvino", "--write-profile", C3S3_SEG_PROFILE=str(profile)
    )
    assert answer.returncode == 0, answer.stderr
    assert "GFLOP/s" in answer.stdout
    assert "Fastest: openvino" in answer.stdout
    best = json.loads(profile.read_text())["networks"]["vnet-3"]
    assert run("phantom", "-o", "scans", "--format", "nii.gz").returncode == 0
    answer = run("predict", "scans/phantom-0.nii.gz", "-o", "out", "--model", "phantom",
                 C3S3_SEG_PROFILE=str(profile))  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    made_with = json.loads((tmp_path / "out" / "phantom-0.json").read_text())["made_with"]
    assert made_with["backend"] == made_with["profile"]["runtime"] == best["runtime"]
    assert made_with["profile"]["used"] is True
    profile.write_text("{}")
    refused = run("predict", "scans/phantom-0.nii.gz", "-o", "out", "--model", "phantom",
                  C3S3_SEG_PROFILE=str(profile))  # fmt: skip
    assert refused.returncode == 2
    assert "this is no profile" in refused.stderr
