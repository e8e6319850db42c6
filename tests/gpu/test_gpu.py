"""Tests of TensorRT, which need a GPU. They are skipped if there is no GPU or TensorRT is missing:

    pip install tensorrt-cu13 (from NVIDIA's own index) && pip install '.[tensorrt,gpu,train]'
    python -m pytest tests/gpu -v

These tests have not been run so far: no machine with a GPU was available.
"""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from c3s3_seg import open_predictor
from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError, MissingError
from c3s3_seg.export.export import export_folder
from c3s3_seg.export.spec import GraphSpec
from c3s3_seg.inference.backends.cuda import gpu
from c3s3_seg.inference.backends.engine_cache import CacheKey, EngineCache, ShapeProfile
from c3s3_seg.inference.backends.onnxruntime import OnnxBackend
from c3s3_seg.inference.backends.tensorrt import TensorRtBackend, widened
from c3s3_seg.phantom import simulate


def missing() -> str | None:
    """Return the reason why these tests cannot run, or None if they can."""
    for package in ("cuda.bindings", "tensorrt", "onnx"):
        try:
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed"
        except ModuleNotFoundError:
            return f"{package} is not installed"
    try:
        gpu()
    except MissingError as error:
        return str(error)
    return None


pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.xdist_group("tensorrt"),  # one process, whose folder keeps the engines
]


@pytest.fixture(scope="module", params=["phantom", "left-atrium"])
def bundle(request: pytest.FixtureRequest) -> ModelBundle:
    return ModelBundle.find(request.param)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Set one engine cache per process that runs tests, because engines take minutes; return its folder."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "c3s3-seg" / "tensorrt"


def test_an_engine_gives_the_logits_of_onnx_runtime(bundle: ModelBundle) -> None:
    backend = TensorRtBackend.of_bundle(bundle, bundle.networks[0])
    wanted = OnnxBackend(bundle.folder / bundle.networks[0].graph, device="cpu")
    for shape in (bundle.task.patch, (96, 80, 48), (16, 16, 16), (192, 160, 96)):
        patch = np.random.default_rng(0).normal(size=(1, 1, *shape)).astype(np.float32)
        a, b = backend(patch), wanted(patch)
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=2e-3 * np.abs(b).max())
    with pytest.raises(InputError, match="the engine takes"):
        backend(np.zeros((1, 1, 208, 16, 16), np.float32))


def test_masks_are_those_of_the_cpu(bundle: ModelBundle) -> None:
    scan = simulate(20_261).scan
    a = open_predictor(bundle, backend="tensorrt")(scan).mask.array
    b = open_predictor(bundle, backend="openvino")(scan).mask.array
    assert (a != b).sum() <= 1e-5 * a.size


@pytest.mark.parametrize(
    "form",
    [GraphSpec(), GraphSpec("float16"), GraphSpec(ensemble=True)],
    ids=["float32", "float16", "ensemble"],
)
def test_an_export_passes_the_gate(bundle: ModelBundle, form: GraphSpec, tmp_path: Path) -> None:
    path, proof = export_folder(bundle, "tensorrt", form, tmp_path, [simulate(0).scan])
    assert path.suffix == ".engine"
    assert proof.holds


def test_an_engine_is_kept_and_one_of_another_version_is_not(bundle: ModelBundle, cache: Path) -> None:
    graph = widened(bundle.folder / bundle.networks[0].graph)
    profile = ShapeProfile(bundle.task.patch, bundle.task.multiple)
    first = EngineCache.default().engine(graph, profile)
    assert EngineCache.default().engine(graph, profile) == first
    stamp = CacheKey.here(graph, profile)
    assert replace(stamp, tensorrt="1.0").misfit(stamp) is not None
    assert (cache / "timing.cache").stat().st_size > 0


def test_the_command_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "c3s3_seg"]
    subprocess.run([*words, "phantom", "-o", tmp_path / "scans", "--seed", "1"], check=True)
    arguments = ["--model", "phantom", "--backend", "tensorrt", "-o", tmp_path / "out"]
    subprocess.run([*words, "predict", tmp_path / "scans" / "phantom-1", *arguments], check=True)
    assert (tmp_path / "out" / "phantom-1.nii.gz").is_file()
