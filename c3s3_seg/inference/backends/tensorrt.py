"""TensorRT as a backend: engines of `engine_cache.py`, run with CUDA buffers that need no torch.

Not run on a GPU so far: see `tests/gpu`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from c3s3_seg.bundle import ModelBundle, Network
from c3s3_seg.errors import InputError, MissingError, RefusedError
from c3s3_seg.inference.backends.cuda import INSTALL, Stream, use_gpu
from c3s3_seg.inference.backends.engine_cache import INPUT, EngineCache, ShapeProfile, library
from c3s3_seg.inference.backends.execute import opening
from c3s3_seg.inference.backends.graph import read_graph
from c3s3_seg.inference.backends.tensorrt_log import logger, reasons
from c3s3_seg.inference.tiling import FloatArray, Shape


class TensorRtBackend:
    """A TensorRT engine, ready to run.

    Parameters
    ----------
    engine
        Serialized engine. It is machine code: only an engine built on this machine may be given.
    index
        Index of the GPU.

    Raises
    ------
    MissingError
        If TensorRT or a GPU is missing.
    RefusedError
        If TensorRT refuses the engine, it does not fit into memory, or it has other inputs or outputs.
    """

    name, device = "tensorrt", "cuda"

    def __init__(self, engine: bytes, index: int = 0) -> None:
        library()
        import tensorrt as trt

        self._index = index
        use_gpu(index)
        self._stream = Stream()
        self._runtime = trt.Runtime(logger())
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise RefusedError(f"TensorRT does not take this engine: {reasons()}")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            what = f"the engine does not fit into the GPU's memory: {reasons()}"
            raise RefusedError(what, todo="Free memory there, or take another --backend")
        self._alone = threading.Lock()  # a context and its buffers serve one caller at a time
        names = [self._engine.get_tensor_name(n) for n in range(self._engine.num_io_tensors)]
        outputs = [name for name in names if name != INPUT]
        if len(outputs) != 1 or len(names) != 2:
            raise RefusedError(f"the engine has {', '.join(names)}, wanted one input and one output")
        (self._output,) = outputs

    @classmethod
    def of_bundle(cls, bundle: ModelBundle, network: Network, index: int = 0) -> TensorRtBackend:
        """Open a network of a bundle, with its engine from the user's engine cache or built now.

        Raises
        ------
        InputError
            If the bundle has no ONNX graph.
        """
        library()
        if not bundle.has(network.graph):
            todo = f"Make it with: c3s3-seg export {bundle.folder} --to onnx"
            raise InputError(f"the bundle has no {network.graph}", where=bundle.folder, todo=todo)
        use_gpu(index)
        profile = ShapeProfile(bundle.task.patch, bundle.task.multiple, network.channels)
        graph = widened(bundle.folder / network.graph, bundle.manifest.files)
        return cls(EngineCache.default().engine(graph, profile), index)

    @property
    def largest_tile(self) -> Shape:
        """The largest sides (x, y, z) of a tile that the engine was built for."""
        _, _, most = self._engine.get_tensor_profile_shape(INPUT, 0)
        x, y, z = _sizes(most)[2:]
        return x, y, z

    def __call__(self, patches: FloatArray) -> FloatArray:
        """See `Backend`.

        Raises
        ------
        InputError
            If the tiles are smaller or larger than the engine was built for.
        MemoryLimitError
            If the GPU has no memory for a tile and its output.
        """
        with self._alone:
            use_gpu(self._index)  # CUDA keeps this choice for each thread
            return self._run(np.ascontiguousarray(patches, dtype=np.float32))

    def _run(self, given: FloatArray) -> FloatArray:
        if not self._context.set_input_shape(INPUT, given.shape):
            reasons()  # the same in TensorRT's words
            least, _, most = self._engine.get_tensor_profile_shape(INPUT, 0)
            raise InputError(
                f"found tiles of {given.shape}, the engine takes {_sizes(least)} to {_sizes(most)}",
                todo="Use tiles of the training size: --set tiling.overlap=0.5",
            )
        result = np.empty(_sizes(self._context.get_tensor_shape(self._output)), dtype=np.float32)
        self._context.set_tensor_address(INPUT, self._stream.upload(INPUT, given))
        self._context.set_tensor_address(self._output, self._stream.buffer(self._output, result.nbytes))
        if not self._context.execute_async_v3(self._stream.handle):
            raise RefusedError(f"TensorRT did not run: {reasons()}")
        self._stream.download(self._output, result)
        self._stream.wait()
        return result


def _sizes(dims: Any) -> tuple[int, ...]:
    """Return TensorRT's sizes, which can be indexed but are no sequence, as a tuple."""
    return tuple(int(dims[n]) for n in range(len(dims)))


def widened(path: Path, hashes: Mapping[str, str] | None = None) -> bytes:
    """Return a bundle's graph with its weights inside, in single precision. For `hashes` see `read_graph`.

    TensorRT accepts 8-bit weights only with 8-bit activations, so casts and scales are done here.

    Raises
    ------
    MissingError
        If onnx is not installed.
    InputError
        If it is no ONNX graph, takes weights from a file other than its own, or has no float32 output.
    """
    try:
        import onnx
    except ImportError:
        raise MissingError(
            "TensorRT needs onnx to read the graph", todo=f"pip install onnx. {INSTALL}"
        ) from None
    with opening(path, "onnx"):
        model = onnx.load_from_string(read_graph(path, hashes))
        for value in model.graph.output:  # its bytes are read as single precision
            kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
            if kind != "FLOAT":
                raise InputError(f"its output is {kind}, wanted FLOAT", where=path)
        return _widened(onnx, model)


def _widened(onnx: Any, model: Any) -> bytes:
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        values = [stored[name] for name in node.input if name in stored]
        if len(values) == len(node.input) and _widens(onnx, node, values):
            stored[node.output[0]] = _wide(values)
        else:
            kept.append(node)
    read = {name for node in kept for name in node.input}
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items() if name in read]
    for field, items in ((model.graph.node, kept), (model.graph.initializer, weights)):
        del field[:]
        field.extend(items)
    return model.SerializeToString()  # type: ignore[no-any-return]


def _widens(onnx: Any, node: Any, values: list[Any]) -> bool:
    """Return whether `_wide` can replace a node; other nodes are left to TensorRT, which may refuse them."""
    settings = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    if node.op_type == "Cast":
        return bool(settings == {"to": onnx.TensorProto.FLOAT})
    if node.op_type != "DequantizeLinear" or len(values) != 2:  # a third value would be the zero points
        return False
    kernel, scales = values
    return bool(settings == {"axis": 0} and scales.shape == kernel.shape[:1])


def _wide(values: list[Any]) -> FloatArray:
    """Return as float32 a half-precision kernel, or 8 bits with a scale per slice of the first axis."""
    kernel = values[0].astype(np.float32)
    if len(values) == 1:
        return np.asarray(kernel)
    return np.asarray(kernel * values[1].reshape(-1, *[1] * (kernel.ndim - 1)), dtype=np.float32)
