"""ONNX Runtime: bound memory on the real CPU; CUDA's success and failures with a stand-in module.

The GPU build does not run on a CPU: without CUDA's libraries its session lists the CPU only, as a session of
`Stand(runs=False)` does.
"""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import MissingError
from c3s3_seg.inference.backends import onnxruntime as onnx
from c3s3_seg.inference.backends.onnxruntime import CPU, CUDA, OnnxBackend


@pytest.fixture(scope="module")
def graph() -> Path:
    return ModelBundle.find("phantom").folder / "model.onnx"


def patches(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


class Stand(types.ModuleType):
    """A GPU build in which CUDA `runs`, its provider is not loaded, or a session `fails` to open."""

    SessionOptions, OrtValue = onnxruntime.SessionOptions, onnxruntime.OrtValue

    def __init__(self, runs: bool = True, fails: str = "", says: str = "") -> None:
        super().__init__("onnxruntime")
        self.runs, self.fails, self.says = runs, fails, says
        self.asked: list[Any] = []

    def get_available_providers(self) -> list[str]:
        return [CUDA, CPU]

    def preload_dlls(self) -> None:
        print(self.says)

    def InferenceSession(self, path: str, options: Any, providers: Any, enable_fallback: int) -> Any:  # noqa: N802
        self.asked.append(providers)
        if enable_fallback or (self.fails and providers != [CPU]):
            raise Fail(self.fails)
        session = onnxruntime.InferenceSession(path, options, providers=[CPU])
        if self.runs and providers != [CPU]:
            session.get_providers = lambda: [CUDA, CPU]
        return session


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that installs stand-ins for a GPU build and a GPU."""
    monkeypatch.setattr(onnx, "cuda_devices", lambda: 1)
    monkeypatch.setattr(onnx, "check_onnx_wheels", lambda _: None)

    def put(**how: Any) -> Stand:
        module = Stand(**how)
        monkeypatch.setitem(sys.modules, "onnxruntime", module)
        return module

    return put


def test_bound_memory_gives_the_same_and_leaves_arrays_alone(graph: Path) -> None:
    backend = OnnxBackend(graph, device="cpu")
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for shape in ((1, 1, 16, 32, 16), (1, 1, 16, 32, 16), (2, 1, 16, 16, 16), (1, 1, 16, 32, 16)):
        given = patches(*shape) + len(kept)
        before = given.copy()
        kept.append((backend._bound(given, "cpu"), backend(given)))
        np.testing.assert_array_equal(given, before)
    for bound, plain in kept:  # reused memory changes no earlier output
        np.testing.assert_allclose(bound, plain, atol=1e-5)


def test_bound_memory_is_used_again_while_the_shape_stays(graph: Path) -> None:
    backend = OnnxBackend(graph, device="cpu")
    places = []
    for side in (16, 16, 32):
        backend._bound(patches(1, 1, side, 16, 16), "cpu")
        places.append((backend._given.data_ptr(), backend._output.data_ptr(), backend._given.shape()))
    assert places[0] == places[1]
    assert places[2][2] == [1, 1, 32, 16, 16]


def test_an_array_that_is_not_in_order_is_taken(graph: Path) -> None:
    backend = OnnxBackend(graph, device="cpu")
    turned = patches(1, 1, 16, 32, 48).transpose(0, 1, 4, 3, 2)
    np.testing.assert_allclose(
        backend._bound(turned, "cpu"), backend(np.ascontiguousarray(turned)), atol=1e-5
    )


class Full:
    """A session that has no memory until torch has released its unused memory."""

    def __init__(self, session: Any, words: str) -> None:
        self.session, self.words, self.runs, self.given_back = session, words, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run_with_iobinding(self, binding: Any) -> None:
        self.runs += 1
        if not self.given_back:
            raise Fail(self.words)
        self.session.run_with_iobinding(binding)

    def give_back(self) -> None:
        assert sys.exc_info()[0] is None  # a traceback would hold memory
        self.given_back += 1


def test_memory_that_is_full_beside_torch_is_tried_once_more(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, given = OnnxBackend(graph, device="cpu"), torch.from_numpy(patches(1, 1, 16, 16, 16))
    wanted = backend.on_device(given)
    session = Full(backend._session, "bfc_arena.cc: Failed to allocate memory for requested buffer")
    monkeypatch.setattr(torch.cuda, "empty_cache", session.give_back)
    backend._session = session
    torch.testing.assert_close(backend.on_device(given), wanted)
    assert (session.runs, session.given_back) == (2, 1)
    session.given_back, session.words = 0, "no such kernel"
    with pytest.raises(Fail, match="no such kernel"):
        backend.on_device(given)
    assert session.runs == 3


def test_cuda_is_asked_for_single_precision_and_no_graphs(graph: Path, stand: Any) -> None:
    module = stand()
    backend = OnnxBackend(graph)
    assert (backend.device, backend.precision, backend.notes) == ("cuda", "float32", ())
    (((provider, options), fallback),) = module.asked
    assert (provider, fallback) == (CUDA, CPU)
    assert options["use_tf32"] == options["enable_cuda_graph"] == "0"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert not backend._session._enable_fallback


def test_the_cpu_is_taken_where_it_is_asked_for(graph: Path, stand: Any) -> None:
    module = stand()
    assert OnnxBackend(graph, device="cpu").device == "cpu"
    assert module.asked == [[CPU]]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"runs": False}, "it needs the CUDA and cuDNN libraries of its release"),
        (
            {"runs": False, "says": "Failed to load libcudnn.so.9\n:  gone"},
            "Failed to load libcudnn.so.9 : gone",
        ),
        ({"fails": "CUDA failure 2:\n out of memory"}, "CUDA failure 2: out of memory"),
    ],
)
def test_cuda_that_does_not_run_is_refused_or_noted(
    graph: Path, stand: Any, how: dict[str, Any], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stand(**how)
    with pytest.raises(MissingError, match=f"does not run on CUDA here: {why}"):
        OnnxBackend(graph, device="cuda")
    backend = OnnxBackend(graph)
    assert backend.device == "cpu"
    assert backend.notes == (f"CUDA was not used: {why}",)
    assert capsys.readouterr().out == ""


def test_without_a_gpu_cuda_is_not_tried(graph: Path, stand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = stand()
    monkeypatch.setattr(onnx, "cuda_devices", lambda: 0)
    with pytest.raises(MissingError, match="no NVIDIA GPU was found"):
        OnnxBackend(graph, device="cuda")
    assert OnnxBackend(graph).notes == ()
    assert module.asked == [[CPU], [CPU]]
