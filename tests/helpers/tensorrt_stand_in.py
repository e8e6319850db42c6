"""A stand-in for TensorRT and the CUDA runtime: host memory for the GPU's, ONNX Runtime for the engine.

It has the functions that `c3s3_seg.inference` calls, with the names and arguments of the real bindings
(`test_tensorrt_types` checks them), and does what they promise: addresses are valid, copies copy, an output
appears only after the run. It tests this package's side; it shows nothing about TensorRT itself.
"""

import ctypes
import types
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import onnx
import onnxruntime


class Dims:
    """A shape that can only be indexed and has a length."""

    def __init__(self, shape: Any) -> None:
        self._shape = [int(n) for n in shape]

    def __getitem__(self, index: int) -> int:
        return self._shape[index]

    def __len__(self) -> int:
        return len(self._shape)


class Cuda(types.ModuleType):
    """`cuda.bindings.runtime`: error 0 is success, memory is the host's."""

    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self, name: str = "Stand-in GPU") -> None:
        super().__init__("runtime")
        self.gpu = name
        self.memory: dict[int, Any] = {}
        self.largest = 2**40  # bytes; a larger buffer cannot be allocated

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:  # noqa: N802
        return 0, f"error {error}".encode()

    def cudaGetDeviceCount(self) -> tuple[int, int]:  # noqa: N802
        return 0, 1 if self.gpu else 0

    def cudaSetDevice(self, index: int) -> tuple[int]:  # noqa: N802
        return (0 if index == 0 and self.gpu else 1,)

    def cudaGetDevice(self) -> tuple[int, int]:  # noqa: N802
        return 0, 0

    def cudaGetDeviceProperties(self, _: int) -> tuple[int, Any]:  # noqa: N802
        return 0, types.SimpleNamespace(name=self.gpu.encode() + b"\0\0", major=9, minor=0)

    def cudaStreamCreate(self) -> tuple[int, int]:  # noqa: N802
        return 0, 77

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:  # noqa: N802
        return (0 if stream == 77 else 1,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:  # noqa: N802
        return self.cudaStreamDestroy(stream)

    def cudaMalloc(self, size: int) -> tuple[int, int]:  # noqa: N802
        if size > self.largest:
            return 2, 0
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaFree(self, address: int) -> tuple[int]:  # noqa: N802
        return (0 if self.memory.pop(address, None) else 1,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:  # noqa: N802
        device = to if kind == 1 else source
        if stream != 77 or device not in self.memory or size > len(self.memory[device]):
            return (1,)
        ctypes.memmove(to, source, size)
        return (0,)


class Network:
    graph = b""


class Parser:
    num_errors = 1

    def __init__(self, network: Network, logger: Any) -> None:
        self.network = network

    def parse(self, model: bytes) -> bool:
        self.network.graph = model
        try:
            onnx.checker.check_model(model)
        except Exception:
            return False
        return True

    def get_error(self, index: int) -> Any:
        return types.SimpleNamespace(desc=lambda: f"reason {index}")


class Config:
    def __init__(self) -> None:
        self.cleared: list[Any] = []
        self.cache = b""
        self.profiles: list[Any] = []

    def clear_flag(self, flag: Any) -> None:
        self.cleared.append(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> bytes | None:
        return None if serialized_timing_cache == b"damaged" else serialized_timing_cache

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return cache in (b"", b"times")

    def get_timing_cache(self) -> Any:
        return types.SimpleNamespace(serialize=lambda: b"times")


class Shapes:
    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        self.range = (list(min), list(opt), list(max)) if input == "scan" else None


class Builder:
    built = 0

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> Network:
        if flags != 1 << 1:
            raise ValueError("weakly typed")
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Shapes:
        return Shapes()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        self.logger.log(ILogger.Severity.INFO, "a note on progress")
        if config.cleared != ["TF32"] or not config.profiles[0].range:
            self.logger.log(ILogger.Severity.WARNING, "a warning")
            self.logger.log(ILogger.Severity.ERROR, "TF32 is set")
            return None
        Builder.built += 1
        least, _, most = config.profiles[0].range
        limits = ";".join(",".join(map(str, shape)) for shape in (least, most))
        return limits.encode() + b"|" + network.graph


class Context:
    def __init__(self, engine: "Engine") -> None:
        self.engine, self.addresses = engine, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        limits = zip(self.engine.least, shape, self.engine.most, strict=True)
        fits = all(least <= n <= most for least, n, most in limits)
        self.shape = shape if fits else None
        return name == "scan" and fits

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims((self.shape[0], self.engine.classes, *self.shape[2:]))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        given = np.empty(self.shape, np.float32)
        ctypes.memmove(given.ctypes.data, self.addresses["scan"], given.nbytes)
        answer = np.ascontiguousarray(self.engine.session.run(None, {"scan": given})[0])
        ctypes.memmove(self.addresses[self.engine.output], answer.ctypes.data, answer.nbytes)
        return stream_handle == 77


class Engine:
    num_io_tensors = 2

    def __init__(self, content: bytes) -> None:
        limits, _, graph = content.partition(b"|")
        self.least, self.most = ([int(n) for n in limit.split(b",")] for limit in limits.split(b";"))
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        (output,) = self.session.get_outputs()
        self.output, self.classes = output.name, output.shape[1]

    def create_execution_context(self) -> Context:
        return Context(self)

    def get_tensor_name(self, index: int) -> str:
        return ("scan", self.output)[index]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        return [Dims(self.least), Dims(self.most), Dims(self.most)]


class Runtime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        if b"|" in serialized_engine:
            return Engine(serialized_engine)
        self.logger.log(ILogger.Severity.ERROR, "Magic tag\ndoes not match")
        return None


class ILogger:
    """The base class of loggers; of the real one, too, `__init__` must be called."""

    Severity = types.SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)

    def __init__(self) -> None:
        self.ready = True


def tensorrt(version: str) -> types.ModuleType:
    """Return a stand-in for the module `tensorrt` with this version."""
    module = types.ModuleType("tensorrt")
    module.__spec__ = ModuleSpec("tensorrt", None)  # torch tests for the package
    names = {"Builder": Builder, "OnnxParser": Parser, "Runtime": Runtime, "ILogger": ILogger, "Dims": Dims}
    flags = types.SimpleNamespace(STRONGLY_TYPED=1)
    names |= {"NetworkDefinitionCreationFlag": flags, "BuilderFlag": types.SimpleNamespace(TF32="TF32")}
    for name, value in {**names, "__version__": version}.items():
        setattr(module, name, value)
    return module
