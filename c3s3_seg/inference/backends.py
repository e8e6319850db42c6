"""Runtimes. Each takes patches and gives logits; none imports another's library.

Only one runtime is loaded in a process: torch and OpenVINO slow each other two- to threefold.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.bundle import ModelBundle, Network
from c3s3_seg.errors import InputError, MissingError

if TYPE_CHECKING:
    from torch import nn

FloatArray = NDArray[np.float32]
Runtime = Literal["openvino", "onnx", "torch"]
Choice = Literal["auto", "openvino", "onnx", "torch", "tensorrt"]

PACKAGES: dict[str, tuple[str, str]] = {
    "openvino": ("openvino", "pip install c3s3-seg"),
    "onnx": ("onnxruntime", "pip install 'c3s3-seg[onnx]' (CPU) or 'c3s3-seg[gpu]' (CUDA)"),
    "torch": ("torch", "pip install 'c3s3-seg[train]'"),
}


class Backend(Protocol):
    """A network that is ready to run."""

    name: str

    def __call__(self, patches: FloatArray) -> FloatArray:
        """(N, 1, X, Y, Z) float32, sides multiples of 16 -> logits (N, C, X, Y, Z) float32."""
        ...


class OpenVinoBackend:
    """OpenVINO on the CPU: the fastest runtime measured there."""

    name = "openvino"

    def __init__(self, graph: Path, threads: int | None = None) -> None:
        import openvino

        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # On CPUs with bfloat16 units OpenVINO would compute in bfloat16 unless told.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        self._core = openvino.Core()
        self._model = self._core.read_model(graph)
        self._config = config
        self._compiled: dict[tuple[int, ...], Any] = {}

    def __call__(self, patches: FloatArray) -> FloatArray:
        """See `Backend`."""
        if patches.shape not in self._compiled:
            # A fixed shape runs faster than a dynamic one; the last few are kept.
            self._compiled = dict(list(self._compiled.items())[-3:])
            self._model.reshape(list(patches.shape))
            self._compiled[patches.shape] = self._core.compile_model(self._model, "CPU", self._config)
        return np.asarray(self._compiled[patches.shape](patches)[0])


class OnnxBackend:
    """ONNX Runtime: CUDA where its GPU build finds a GPU, otherwise the CPU."""

    name = "onnx"

    def __init__(self, graph: Path, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        providers = [p for p in wanted if p in onnxruntime.get_available_providers()]
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=providers)
        # What is available and what runs differ: only the session knows.
        self.provider = self._session.get_providers()[0]

    def __call__(self, patches: FloatArray) -> FloatArray:
        """See `Backend`."""
        return np.asarray(self._session.run(None, {"scan": patches})[0])


class TorchBackend:
    """torch: what training validates with, and the reference of every export."""

    name = "torch"

    def __init__(self, net: nn.Module, threads: int | None = None) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self._torch = torch
        self._net = net.eval()
        self._device = next(net.parameters()).device

    def __call__(self, patches: FloatArray) -> FloatArray:
        """See `Backend`."""
        torch = self._torch
        with torch.inference_mode():
            x = torch.from_numpy(patches).to(self._device, memory_format=torch.channels_last_3d)
            return np.ascontiguousarray(self._net(x).float().cpu().numpy())


def load_torch(bundle: ModelBundle, network: Network) -> nn.Module:
    """Build a backbone in torch and fill in the bundle's weights, in single precision."""
    import torch

    from c3s3_seg.models import build
    from c3s3_seg.models.storage import from_file

    classes = bundle.task.classes
    net = build(network.architecture, channels=network.channels, classes=classes, filters=network.filters)
    try:
        net.load_state_dict(from_file(bundle.folder / network.weights))
    except RuntimeError as error:
        what = f"these are not the weights of a {network.architecture} with {network.filters} filters"
        raise InputError(what, where=bundle.folder / network.weights) from error
    net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return net.eval()


def open_backend(
    bundle: ModelBundle, network: Network, choice: Choice = "auto", threads: int | None = None
) -> Backend:
    """The runtime that was asked for, loaded with one network; `auto` takes the first that can be had.

    Raises
    ------
    MissingError
        If the runtime is not installed. There is no silent fall to another one.
    InputError
        If the bundle holds no graph for it.
    """
    if choice == "tensorrt":  # never chosen by `auto`: its first run builds an engine for minutes
        from c3s3_seg.inference.tensorrt import TensorRtBackend

        return TensorRtBackend.of_bundle(bundle, network)
    runtime = choose(bundle, network) if choice == "auto" else choice
    package, install = PACKAGES[runtime]
    if importlib.util.find_spec(package) is None:
        raise MissingError(f"the backend '{runtime}' needs {package}, which is not installed", todo=install)
    if runtime == "torch":
        return TorchBackend(load_torch(bundle, network), threads)
    if not bundle.has(network.graph):
        todo = f"Make it with: c3s3-seg export {bundle.folder} --to onnx"
        raise InputError(f"the bundle has no {network.graph}", where=bundle.folder, todo=todo)
    kind = OpenVinoBackend if runtime == "openvino" else OnnxBackend
    return kind(bundle.folder / network.graph, threads)


def choose(bundle: ModelBundle, network: Network) -> Runtime:
    """The first runtime, fastest first, that is installed and finds its file in the bundle."""
    for runtime in get_args(Runtime):
        fits = runtime == "torch" or bundle.has(network.graph)
        if fits and importlib.util.find_spec(PACKAGES[runtime][0]) is not None:
            return runtime  # type: ignore[no-any-return]
    todo = f"Install one, or: c3s3-seg export {bundle.folder} --to onnx"
    raise MissingError("no installed runtime can run this bundle", where=bundle.folder, todo=todo)
