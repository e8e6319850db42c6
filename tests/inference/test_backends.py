import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import MissingError
from c3s3_seg.inference.backends.execute import DeviceBackend, KeepingBackend
from c3s3_seg.inference.backends.onnxruntime import OnnxBackend
from c3s3_seg.inference.backends.runtimes import (
    COMPILED,
    OpenVinoBackend,
    TorchBackend,
    TorchOptions,
    fold_batch_norm,
    load_torch,
    open_torch,
    round_convolutions,
)
from c3s3_seg.inference.device.cuda_graphs import CudaGraphs
from c3s3_seg.models import build


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return ModelBundle.find("phantom")


@pytest.fixture(scope="module")
def patch() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 1, 32, 48, 16)).astype(np.float32)


@pytest.mark.parametrize("architecture", ["vnet", "resvnet"])
def test_folding_the_batch_norm_changes_nothing_but_speed(architecture: str) -> None:
    torch.manual_seed(0)
    net = build(architecture, channels=1, classes=3, filters=2).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            for tensor, low, high in (
                (module.running_mean, -1, 1), (module.running_var, 0.5, 2), (module.weight, 0.5, 2)
            ):  # fmt: skip
                torch.nn.init.uniform_(tensor, low, high)
    x = torch.randn(1, 1, 32, 16, 16)
    with torch.inference_mode():
        before = net(x)
        folded = fold_batch_norm(net)
        after = folded(x)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


def test_the_fast_torch_says_what_the_plain_one_says(bundle: ModelBundle, patch: np.ndarray) -> None:
    for network in bundle.networks:
        plain = TorchBackend(load_torch(bundle, network))(patch)
        allowed = 1e-4 * float(np.abs(plain).max())  # float32 in other layouts, over 40 layers
        np.testing.assert_allclose(open_torch(bundle, network)(patch), plain, rtol=0, atol=allowed)


def test_weights_that_are_rounded_once_say_what_autocast_says(bundle: ModelBundle) -> None:
    """The outputs are equal bit for bit: autocast rounds the same weights for every tile. Weights are rounded
    on a GPU only; the tile here has no small maps, which the CPU would leave in float32."""
    patch = np.random.default_rng(0).normal(size=(1, 1, 48, 48, 48)).astype(np.float32)
    plain, rounded = (fold_batch_norm(load_torch(bundle, bundle.networks[0])) for _ in range(2))
    round_convolutions(rounded, torch.bfloat16)
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}
    found, wanted = (TorchBackend(net, precision="bfloat16")(patch) for net in (rounded, plain))
    np.testing.assert_array_equal(found, wanted)


def test_the_layout_in_memory_changes_rounding_only(bundle: ModelBundle, patch: np.ndarray) -> None:
    network = bundle.networks[0]
    last, first = (
        open_torch(bundle, network, device="cpu", options=TorchOptions(channels_last=wanted))
        for wanted in (True, False)
    )
    weight = next(p for p in first._net.parameters() if p.ndim == 5 and min(p.shape[:2]) > 1)
    assert weight.is_contiguous()
    wanted = last(patch)
    np.testing.assert_allclose(first(patch), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_tensors_get_the_answers_of_arrays(runtime: str, bundle: ModelBundle, patch: np.ndarray) -> None:
    """Each output has memory of its own, whatever the layout of the input."""
    backend: TorchBackend | OnnxBackend
    if runtime == "torch":
        backend = open_torch(bundle, bundle.networks[0], device="cpu")
    else:
        backend = OnnxBackend(bundle.folder / bundle.networks[0].graph, device="cpu")
    assert isinstance(backend, DeviceBackend)
    assert backend.place == "cpu"
    given = [patch, patch[:, :, :16], np.flip(patch, 3).copy(), patch]
    found = [backend.on_device(torch.from_numpy(each)) for each in given]
    turned = torch.from_numpy(patch.transpose(0, 1, 4, 3, 2).copy()).permute(0, 1, 4, 3, 2)
    found.append(backend.on_device(turned))
    for each, answer in zip([*given, patch], found, strict=True):
        assert answer.dtype == torch.float32
        wanted = backend(np.ascontiguousarray(each))
        np.testing.assert_allclose(answer.numpy(), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_a_graph_that_cannot_be_recorded_is_a_note_and_no_failure(
    bundle: ModelBundle, patch: np.ndarray
) -> None:
    """Everything but the recording itself runs as on a GPU."""

    def refuse(*_: object) -> object:
        raise RuntimeError("operation not permitted when stream is capturing")

    backend = open_torch(bundle, bundle.networks[0], device="cpu")
    wanted = backend(patch)
    assert backend.kept_memory == 0
    backend._graphs = CudaGraphs(backend._logits, refuse, worth=1)  # type: ignore[arg-type]
    for _ in range(4):
        np.testing.assert_array_equal(backend(patch), wanted)
    (note,) = backend.notes
    backend.give_back()
    assert isinstance(backend, KeepingBackend)
    assert note.startswith("no CUDA graph was recorded, which costs time only: operation not permitted")


def test_what_a_runtime_cannot_do_is_an_error_that_says_why(bundle: ModelBundle) -> None:
    graph = bundle.folder / "model.onnx"
    with pytest.raises(MissingError, match="OpenVINO does not run on CUDA"):
        OpenVinoBackend(graph, device="cuda")
    with pytest.raises(MissingError, match="the ONNX graph computes in float32, and float16 was asked for"):
        OnnxBackend(graph, precision="float16")
    if not torch.cuda.is_available():
        with pytest.raises(MissingError, match=r"torch does not run on CUDA here: (this build|no NVIDIA)"):
            open_torch(bundle, bundle.networks[0], device="cuda")
        with pytest.raises(MissingError, match="ONNX Runtime does not run on CUDA here: "):
            OnnxBackend(graph, device="cuda")


def test_a_precision_that_the_cpu_lacks_is_refused(bundle: ModelBundle, patch: np.ndarray) -> None:
    import openvino

    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        pytest.skip("under this limit OpenVINO still names what its oneDNN then refuses")
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    graph = bundle.folder / "model.onnx"
    expected = OpenVinoBackend(graph)(patch)
    for precision, word in (("float16", "FP16"), ("bfloat16", "BF16")):
        if word in able:
            backend = OpenVinoBackend(graph, precision=precision)  # type: ignore[arg-type]
            assert backend.precision == precision
            assert np.abs(backend(patch) - expected).max() < 0.05 * np.abs(expected).max()
        else:
            with pytest.raises(MissingError, match=f"this CPU does not compute in {precision}"):
                OpenVinoBackend(graph, precision=precision)  # type: ignore[arg-type]


def test_a_precision_that_a_limit_takes_away_is_refused_before_the_first_case(
    small_scans: Path, tmp_path: Path
) -> None:
    """OpenVINO lists all instruction sets of the processor, even those that oneDNN may not use."""
    words = [
        sys.executable,
        "-m",
        "c3s3_seg",
        "predict",
        small_scans,
        "-o",
        tmp_path / "out",
        "--model",
        "phantom",
    ]
    answer = subprocess.run(
        [*map(str, words), "--backend", "openvino", "--precision", "bfloat16"],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 3, answer.stderr
    assert "bfloat16" in answer.stderr
    assert answer.stderr.endswith("Leave --precision out, or take float32.\n")
    assert answer.stderr.count("\n") == 1


def test_openvino_keeps_only_the_last_shapes(bundle: ModelBundle) -> None:
    backend = OpenVinoBackend(bundle.folder / "model.onnx")
    for side in (16, 32, 48, 16, 64):  # 16 is used again, so 32 is dropped
        assert backend(np.zeros((1, 1, side, 16, 16), np.float32)).shape == (1, 2, side, 16, 16)
    assert [shape[2] for shape in backend._compiled] == [48, 16, 64]
    assert len(backend._compiled) == COMPILED
    backend.keep = 1
    backend(np.zeros((1, 1, 32, 16, 16), np.float32))
    assert [shape[2] for shape in backend._compiled] == [32]
