"""Select the runtime: the requested one, or the best that is installed, works and finds its file."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from c3s3_seg.bundle import ModelBundle, Network
from c3s3_seg.errors import InputError, MissingError, to_install
from c3s3_seg.geometry.arguments import FLAG, WHOLE_NUMBER, take_fields
from c3s3_seg.inference.backends.execute import Backend
from c3s3_seg.inference.backends.graph import check_network
from c3s3_seg.inference.backends.onnxruntime import OnnxBackend
from c3s3_seg.inference.backends.runtimes import OpenVinoBackend, TorchOptions, open_torch
from c3s3_seg.inference.device.cuda_graphs import Recordings
from c3s3_seg.system.choices import BackendName, CpuRuntime, Precision, check_word
from c3s3_seg.system.hardware import NO_GPU, check_device, cuda_devices, cuda_index, installed, is_cuda

PACKAGES: dict[str, tuple[str, str]] = {
    "openvino": ("openvino", "Run pip install . in the clone, or install the wheel"),
    "onnx": ("onnxruntime", f"{to_install('onnx')}; on CUDA gpu in place of onnx"),
    "torch": ("torch", to_install("train")),
}
MOST_THREADS = 4096  # runtimes fail on larger numbers, with messages about the graph
# Fields of `BackendRequest` and their kinds; the other fields are compared with their lists of words.
KINDS = {"threads": WHOLE_NUMBER.or_none(), "channels_last": FLAG, "cuda_graphs": FLAG}


@dataclass(frozen=True)
class BackendRequest:
    """A request for a runtime and the way it runs.

    Parameters
    ----------
    runtime
        `auto` selects the best available runtime; any other is used, or an error is raised.
    device
        `auto`, `cpu`, `cuda`, or `cuda:1` for the second GPU; `auto` as for the runtime.
    precision
        Precision of the network; `auto` leaves it to the runtime.
    threads
        Threads on the CPU; None leaves them to the runtime.
    channels_last
        Whether torch keeps the channels of a voxel together in memory, which its convolutions prefer.
    cuda_graphs
        Whether torch on CUDA records its work on the GPU for a shape of tiles, and replays it.

    Raises
    ------
    InputError
        If there is no such runtime, device or precision, a value is of another kind, or the number of threads
        is below 1.
    """

    runtime: BackendName = "auto"
    device: str = "auto"
    precision: Precision = "auto"
    threads: int | None = None
    channels_last: bool = True
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        check_device(self.device)
        check_word("runtime", self.runtime, BackendName)
        check_word("precision", self.precision, Precision)
        take_fields(self, KINDS)
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise InputError(f"found {self.threads} threads, wanted 1 to {MOST_THREADS}")


def open_backend(
    bundle: ModelBundle,
    network: Network,
    request: BackendRequest | None = None,
    recordings: Recordings | None = None,
    *,
    named: bool = True,
) -> Backend:
    """Load one network into the requested runtime, or into the best that is available.

    Parameters
    ----------
    bundle, network
        Bundle, and its network to load.
    request
        The request; None: all defaults.
    recordings
        CUDA graphs, shared with the networks that are opened with this one; None: not shared.
    named
        Whether the user named the runtime, unless it is `auto`: only then torch may emulate a precision.

    Raises
    ------
    MissingError
        If the runtime is not installed, or does not have the device or the precision. There is no
        silent fallback to another runtime.
    InputError
        If the bundle holds no graph for the runtime.
    """
    request = request or BackendRequest()
    _check_index(request.device)
    if request.runtime == "tensorrt":  # never chosen by `auto`: its first run builds an engine for minutes
        return _open_tensorrt(bundle, network, request)
    if request.runtime != "auto":
        return _open(bundle, network, request.runtime, request, recordings, named)
    refusals: list[str] = []
    for runtime, device in candidates(bundle, network, request.device):
        try:
            backend = _open(bundle, network, runtime, replace(request, device=device), recordings, False)
        except MissingError as error:
            refusals.append(f"{runtime} on {device}: {error.what}")
            continue
        return _noting(backend, [f"not used: {why}" for why in refusals])
    raise _nothing_fits(bundle, network, request, refusals)


def candidates(bundle: ModelBundle, network: Network, device: str) -> Iterator[tuple[CpuRuntime, str]]:
    """Yield the installed runtimes that find their file in the bundle, the best first, and the device.

    On a machine with a GPU, runtimes that may use it come first.
    """
    order: list[tuple[CpuRuntime, str]] = []
    gpu = device if is_cuda(device) else "cuda"
    if is_cuda(device) or (device == "auto" and cuda_devices()):
        order += [("onnx", gpu)] if is_cuda(device) or installed("onnxruntime-gpu") else []
        order += [("torch", gpu)]
    if not is_cuda(device):
        order += [(runtime, "cpu") for runtime in get_args(CpuRuntime)]
    for runtime, place in order:
        fits = runtime == "torch" or bundle.has(network.graph)
        if fits and importlib.util.find_spec(PACKAGES[runtime][0]) is not None:
            yield runtime, place


def uses_gpu(bundle: ModelBundle, network: Network, request: BackendRequest) -> bool:
    """Return whether a request that leaves runtime and device open begins with a runtime on a GPU."""
    if request.runtime != "auto" or request.device != "auto":
        return False
    _, device = next(candidates(bundle, network, request.device), ("", "cpu"))
    return is_cuda(device)


def describe(backend: Backend) -> dict[str, str]:
    """Return where and how a backend runs, for the JSON of a case."""
    return {
        "backend": backend.name,
        "device": getattr(backend, "device", "cpu"),
        "precision": getattr(backend, "precision", "float32"),
    }


def notes(backend: Backend) -> tuple[str, ...]:
    """Return the notes on the runtime for the reader of a result."""
    return tuple(getattr(backend, "notes", ()))


def _check_index(device: str) -> None:
    """Raise if the GPU of this index is missing. Without any GPU, the runtimes report what is missing."""
    count = cuda_devices() if ":" in device else 0
    if count and cuda_index(device) >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise MissingError(f"there is no {device}: the driver lists {there}")


def _noting(backend: Backend, more: list[str]) -> Backend:
    if more:
        backend.notes = (*notes(backend), *more)  # type: ignore[attr-defined]
    return backend


def _open(
    bundle: ModelBundle,
    network: Network,
    runtime: CpuRuntime,
    request: BackendRequest,
    recordings: Recordings | None,
    named: bool,
) -> Backend:
    package, install = PACKAGES[runtime]
    if importlib.util.find_spec(package) is None:
        raise MissingError(f"the backend '{runtime}' needs {package}, which is not installed", todo=install)
    if runtime == "torch":
        options = TorchOptions(request.channels_last, request.cuda_graphs, recordings, emulate=named)
        return open_torch(bundle, network, request.threads, request.device, request.precision, options)
    if not bundle.has(network.graph):
        todo = f"Make it with: c3s3-seg export {bundle.folder} --to onnx"
        raise InputError(f"the bundle has no {network.graph}", where=bundle.folder, todo=todo)
    kind = OpenVinoBackend if runtime == "openvino" else OnnxBackend
    check_network(bundle.folder / network.weights, network)
    graph, hashes = bundle.folder / network.graph, bundle.manifest.files
    return kind(graph, request.threads, request.device, request.precision, hashes)


def _open_tensorrt(bundle: ModelBundle, network: Network, request: BackendRequest) -> Backend:
    if request.device == "cpu":
        raise MissingError("TensorRT runs on CUDA only", todo="Leave --device out, or take another --backend")
    if request.precision not in ("auto", "float32"):
        what = f"the engine of a bundle computes in float32, and {request.precision} was asked for"
        raise MissingError(what, todo="Leave --precision out, or take --backend torch")
    from c3s3_seg.inference.backends.tensorrt import TensorRtBackend

    return TensorRtBackend.of_bundle(bundle, network, cuda_index(request.device))


def _nothing_fits(
    bundle: ModelBundle, network: Network, request: BackendRequest, refusals: list[str]
) -> MissingError:
    todo = "Install one that can"
    if is_cuda(request.device):
        todo += ", or leave --device out to run on what there is"
    if not bundle.has(network.graph):
        todo += f", or: c3s3-seg export {bundle.folder} --to onnx"
    if is_cuda(request.device) and not cuda_devices():
        refusals.insert(0, NO_GPU)
    why = f" ({'; '.join(refusals)})" if refusals else ""
    return MissingError(
        f"no installed runtime can run this bundle as asked{why}", where=bundle.folder, todo=todo
    )
