"""Tests of inference that stays on the GPU, against the host's path on the same GPU and against the CPU.

They are skipped if torch finds no GPU. They have not been run so far: no machine with a GPU was available.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from c3s3_seg import open_predictor  # noqa: E402
from c3s3_seg.bundle import ModelBundle  # noqa: E402
from c3s3_seg.inference import BackendRequest, Settings  # noqa: E402
from c3s3_seg.inference.backends.runtimes import TorchOptions, open_torch  # noqa: E402
from c3s3_seg.inference.device.arrays import TorchArrays  # noqa: E402
from c3s3_seg.inference.device.cuda_graphs import WORTH  # noqa: E402
from c3s3_seg.phantom import Simulator, simulate  # noqa: E402
from c3s3_seg.system.hardware import installed  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")

ANY: dict[str, Any] = {"allow_out_of_domain": True}
SMALL = Simulator(shape=(60, 56, 34), spacing_mm=(1.2, 1.0, 1.3))


@pytest.fixture(params=["phantom", "left-atrium", "hippocampus"])
def bundle(request: pytest.FixtureRequest) -> ModelBundle:
    return ModelBundle.find(request.param)


def mask(
    bundle: ModelBundle, request: BackendRequest, settings: Settings | None = None, calls: int = 1
) -> np.ndarray:
    """Return the mask of the last of `calls` calls."""
    settings = replace(settings or Settings(), keep_largest=False)
    predictor, scan = open_predictor(bundle, backend=request, settings=settings), simulate(20_261, SMALL).scan
    return [predictor(scan, **ANY).mask.array for _ in range(calls)][-1]


@pytest.mark.parametrize(("precision", "allowed"), [("float32", 1e-5), ("auto", 1e-3)])
def test_masks_are_those_of_the_host_and_of_the_cpu(
    bundle: ModelBundle, precision: Any, allowed: float
) -> None:
    """`auto` means half precision. The bounds are those of tests/gpu/test_torch_cuda.py."""
    request = BackendRequest("torch", "cuda", precision)
    found = mask(bundle, request)
    host = mask(bundle, request, Settings(on_device=False))
    cpu = mask(bundle, BackendRequest("torch", "cpu"))
    assert cpu.any()
    assert (found != host).mean() <= 1e-4
    assert (found != cpu).mean() <= max(allowed, 2 / cpu.size)


def test_it_is_the_default_and_the_record_says_so(bundle: ModelBundle) -> None:
    predictor = open_predictor(bundle, backend=BackendRequest("torch", "cuda"))
    record = predictor.record()
    assert (record["on_device"], record["device"], record["precision"]) == (True, "cuda", "float16")


@pytest.mark.parametrize(("channels_last", "cuda_graphs"), [(True, False), (False, True), (False, False)])
def test_layout_and_graphs_change_rounding_only(
    bundle: ModelBundle, channels_last: bool, cuda_graphs: bool
) -> None:
    request = BackendRequest("torch", "cuda", channels_last=channels_last, cuda_graphs=cuda_graphs)
    settings = Settings(overlap=0.5)  # tiles of one shape, so that a graph is replayed in the end
    usual = mask(bundle, BackendRequest("torch", "cuda"), settings, WORTH + 1)
    assert (mask(bundle, request, settings) != usual).mean() <= 1e-3


def test_a_graph_gives_the_logits_of_the_kernels_one_by_one(bundle: ModelBundle) -> None:
    network = bundle.networks[0]
    graphs, plain = (
        open_torch(bundle, network, device="cuda", options=TorchOptions(cuda_graphs=wanted))
        for wanted in (True, False)
    )
    random = torch.Generator("cuda").manual_seed(0)
    shape = (1, 1, *bundle.task.patch)
    patches = [torch.randn(shape, generator=random, device="cuda") for _ in range(WORTH + 3)]
    answers = [graphs.on_device(patch) for patch in patches]
    assert graphs.notes == ()
    for patch, answer in zip(patches, answers, strict=True):
        wanted = plain.on_device(patch)
        assert float((answer - wanted).abs().max()) <= 1e-3 * float(wanted.abs().max())


def test_what_comes_back_beside_the_mask() -> None:
    bundle, scan = ModelBundle.find("phantom"), simulate(20_261, SMALL).scan
    settings = Settings(probabilities=True, uncertainty=True)
    found, wanted = (
        open_predictor(
            bundle,
            backend=BackendRequest("torch", device, "float32"),
            settings=settings,
        )(scan, **ANY)
        for device in ("cuda", "cpu")
    )
    for name, volume in wanted.probabilities.items():
        np.testing.assert_allclose(found.probabilities[name].array, volume.array, rtol=0, atol=1e-3)
    assert found.uncertainty is not None
    assert wanted.uncertainty is not None
    np.testing.assert_allclose(found.uncertainty.map.array, wanted.uncertainty.map.array, rtol=0, atol=2e-3)


def test_free_memory_counts_what_torch_holds_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    # The driver reports the whole device, on which other processes run tests at the same time.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (2**33, 2**34))
    arrays = TorchArrays(torch.device("cuda:0"))
    before = arrays.free()
    held = torch.empty(2**28, device="cuda:0")
    during = arrays.free()
    del held
    after = arrays.free()
    assert before is not None
    assert during is not None
    assert after is not None
    assert before >= 2**33
    assert after - during >= 2**29  # torch's cache, which `held` came from or went to
    shared = arrays.free(processes=4)
    assert shared is not None
    assert after - shared == 2**33 - 2**31


def test_memory_of_a_graph_is_not_free(bundle: ModelBundle) -> None:
    options = TorchOptions(cuda_graphs=True)
    backend = open_torch(bundle, bundle.networks[0], device="cuda", options=options)
    patch = torch.zeros(1, 1, *bundle.task.patch, device="cuda")
    for _ in range(WORTH):
        backend.on_device(patch)
    assert backend.kept_memory == 0
    backend.on_device(patch)
    assert (backend.notes, backend.kept_memory > 0) == ((), True)
    backend.give_back()
    assert backend.kept_memory == 0


@pytest.mark.skipif(installed("onnxruntime", "onnxruntime-gpu") != ["onnxruntime-gpu"],
                    reason="needs onnxruntime-gpu alone")  # fmt: skip
def test_onnx_runtime_works_in_the_memory_of_torch(bundle: ModelBundle) -> None:
    request = BackendRequest("onnx", "cuda")
    assert open_predictor(bundle, backend=request).record()["on_device"] is True
    settings = Settings(overlap=0.5)
    found, host = mask(bundle, request, settings), mask(bundle, request, replace(settings, on_device=False))
    assert (found != host).mean() <= 1e-4
    assert (found != mask(bundle, BackendRequest("openvino"), settings)).mean() <= 1e-4
