"""Tests of ONNX Runtime on CUDA. They are skipped if there is no GPU or the GPU build is missing:

    pip install '.[gpu,train]' && python -m pytest tests/gpu -v

These tests have not been run so far: no machine with a GPU was available.
"""

import numpy as np
import pytest

from c3s3_seg import open_predictor
from c3s3_seg.bundle import ModelBundle
from c3s3_seg.inference import BackendRequest
from c3s3_seg.inference.backends.onnxruntime import CUDA, OnnxBackend
from c3s3_seg.phantom import simulate
from c3s3_seg.system.hardware import check_onnx_wheels, cuda_devices, installed

pytestmark = pytest.mark.skipif(
    not cuda_devices() or not installed("onnxruntime-gpu") or check_onnx_wheels("auto") is not None,
    reason="needs a GPU, and onnxruntime-gpu alone in its folder",
)


@pytest.fixture(params=["phantom", "left-atrium"])
def bundle(request: pytest.FixtureRequest) -> ModelBundle:
    return ModelBundle.find(request.param)


def test_cuda_runs_in_single_precision_and_gives_the_logits_of_the_cpu(bundle: ModelBundle) -> None:
    graph = bundle.folder / bundle.networks[0].graph
    device = f"cuda:{cuda_devices() - 1}"
    backend, wanted = OnnxBackend(graph, device=device), OnnxBackend(graph, device="cpu")
    options = backend._session.get_provider_options()[CUDA]
    assert options["device_id"] == device.removeprefix("cuda:")
    assert (backend.device, options["use_tf32"], options["enable_cuda_graph"]) == ("cuda", "0", "0")
    for shape in (bundle.task.patch, bundle.task.patch, (96, 80, 48), (16, 16, 16)):
        patch = np.random.default_rng(0).normal(size=(1, 1, *shape)).astype(np.float32)
        a, b = backend(patch), wanted(patch)
        np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max())


def test_masks_are_those_of_the_cpu(bundle: ModelBundle) -> None:
    scan, request = simulate(20_261).scan, BackendRequest("onnx", "cuda", "float32")
    b = open_predictor(bundle, backend="openvino")(scan).mask.array
    a = open_predictor(bundle, backend=request)(scan).mask.array
    assert (a != b).sum() <= 1e-5 * a.size
