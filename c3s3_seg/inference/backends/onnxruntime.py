"""ONNX Runtime as a backend, on the CPU or on CUDA.

Not run on CUDA so far, because no GPU was at hand. The options are those of the GPU build of 1.31, and the
tests bind memory with the same calls on the CPU.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c3s3_seg.errors import InputError, MissingError
from c3s3_seg.inference.backends.execute import opening
from c3s3_seg.inference.backends.graph import read_graph
from c3s3_seg.inference.tiling import FloatArray
from c3s3_seg.system.choices import Precision
from c3s3_seg.system.hardware import (
    NO_GPU,
    check_onnx_wheels,
    cuda_devices,
    cuda_index,
    is_cuda,
    is_memory_error,
)

if TYPE_CHECKING:
    from torch import Tensor

INPUT, OUTPUT = "scan", "logits"
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
CUDA_OPTIONS = {
    "use_tf32": "0",  # on by default; single precision would have ten bits of mantissa
    "enable_cuda_graph": "0",  # a graph fits one shape and fixed addresses, and tiles vary
    # The default tries every algorithm whenever a shape is new, and its choice varies with the timing.
    "cudnn_conv_algo_search": "HEURISTIC",
    # The default allocates powers of two, of which up to half stays unused; torch needs memory too.
    "arena_extend_strategy": "kSameAsRequested",
}


class OnnxBackend:
    """ONNX Runtime: CUDA where its GPU build finds a GPU, otherwise the CPU.

    On CUDA, input and output lie in memory of the GPU that is reused while tiles have one shape.

    Raises
    ------
    MissingError
        If CUDA was requested and the session does not run there, or the precision is not the graph's.
    InputError
        If the graph cannot be opened, or takes weights from a file other than its own.
    """

    name = "onnx"

    def __init__(
        self,
        graph: Path,
        threads: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        self._graph = graph
        wheels = check_onnx_wheels(device)
        self.notes: tuple[str, ...] = (wheels,) if wheels else ()
        if precision not in ("auto", "float32"):
            what = f"the ONNX graph computes in float32, and {precision} was asked for"
            raise MissingError(what, todo="Leave --precision out, or take --backend torch")
        import onnxruntime

        with opening(graph, "ONNX Runtime"):
            self._session, failure = _open(onnxruntime, read_graph(graph, hashes), threads, device)
        _check_names(self._session, graph)
        self.device = "cuda" if self._session.get_providers()[0] == CUDA else "cpu"
        self.precision = "float32"
        if is_cuda(device) and self.device != "cuda":
            why = failure or _why_no_cuda(onnxruntime)
            todo = "pip install 'onnxruntime-gpu[cuda,cudnn]' brings the libraries" if failure else None
            raise MissingError(f"ONNX Runtime does not run on CUDA here: {why}", todo=todo)
        if failure:
            self.notes += (f"CUDA was not used: {failure}",)
        self._value, self._index = onnxruntime.OrtValue, cuda_index(device)
        self.place = f"cuda:{self._index}" if self.device == "cuda" else "cpu"
        self._given: Any = None
        self._output: Any = None
        self._alone = threading.Lock()  # bound memory serves one caller at a time

    def __call__(self, patches: FloatArray) -> FloatArray:
        """See `Backend`."""
        if self.device == "cuda":
            return self._bound(patches, "cuda")
        return np.asarray(self._session.run([OUTPUT], {INPUT: patches})[0])

    def _bound(self, patches: FloatArray, place: str) -> FloatArray:
        """Run on memory of a device that is kept for the next patches of this shape."""
        with self._alone:
            binding = self._session.io_binding()
            if self._output is None or tuple(self._given.shape()) != patches.shape:
                self._given = self._output = None  # released before more is allocated
                shape = list(patches.shape)
                self._given = self._value.ortvalue_from_shape_and_type(shape, np.float32, place, self._index)
                binding.bind_output(OUTPUT, place, self._index)
            else:
                binding.bind_ortvalue_output(OUTPUT, self._output)
            self._given.update_inplace(np.ascontiguousarray(patches))
            binding.bind_ortvalue_input(INPUT, self._given)
            self._session.run_with_iobinding(binding)
            (self._output,) = binding.get_outputs()
            return np.array(self._output.numpy())

    def on_device(self, patches: Tensor) -> Tensor:
        """See `DeviceBackend`: the session reads torch's memory and writes into it.

        ONNX Runtime has its own stream: it starts after torch's pending work on the patches is done, and has
        finished when this function returns. If memory is full, torch releases the memory that it does not
        use, and the session runs once more.
        """
        import torch

        channels = self._session.get_outputs()[0].shape[1]
        if not isinstance(channels, int):
            raise InputError("the graph does not say how many channels it gives", where=self._graph)
        given = patches.contiguous()
        shape = (len(given), channels, *given.shape[2:])
        logits = torch.empty(shape, dtype=torch.float32, device=given.device)
        if self.device == "cuda":
            torch.cuda.current_stream(given.device).synchronize()
        try:
            self._run_on(given, logits)
            return logits
        except Exception as error:
            if not is_memory_error(error):
                raise
        torch.cuda.empty_cache()  # torch's unused memory; does nothing if CUDA was never used
        self._run_on(given, logits)
        return logits

    def _run_on(self, given: Tensor, logits: Tensor) -> None:
        with self._alone:
            binding = self._session.io_binding()
            for bind, name, tensor in (
                (binding.bind_input, INPUT, given),
                (binding.bind_output, OUTPUT, logits),
            ):
                bind(name, self.device, self._index, np.float32, list(tensor.shape), tensor.data_ptr())
            self._session.run_with_iobinding(binding)


def _check_names(session: Any, graph: Path) -> None:
    given, gives = (
        [value.name for value in values()] for values in (session.get_inputs, session.get_outputs)
    )
    if given != [INPUT] or gives != [OUTPUT]:
        found = f"found the inputs {', '.join(given)} and the outputs {', '.join(gives)}"
        raise InputError(f"{found}; wanted {INPUT} and {OUTPUT}", where=graph)


def _open(onnxruntime: Any, graph: bytes, threads: int | None, device: str) -> tuple[Any, str | None]:
    """Return a session, and why it does not run on CUDA if that was tried.

    ONNX Runtime's own fallback to the CPU is off: it prints to stdout, and may occur in the middle of a scan.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a failure is an exception, reported in one line
    if threads is not None:
        options.intra_op_num_threads = threads
    start = partial(onnxruntime.InferenceSession, graph, options, enable_fallback=0)
    if device == "cpu" or CUDA not in onnxruntime.get_available_providers() or not cuda_devices():
        return start(providers=[CPU]), None
    message = _preload(onnxruntime)
    try:
        session = start(providers=[(CUDA, {**CUDA_OPTIONS, "device_id": str(cuda_index(device))}), CPU])
    except Exception as error:  # errors of ONNX Runtime are no RuntimeErrors
        return start(providers=[CPU]), _one_line(str(error))
    session.disable_fallback()  # before 1.23 the argument has no effect
    # The available and the running providers may differ: only the session knows.
    runs = session.get_providers()[0] == CUDA
    return session, None if runs else message or "it needs the CUDA and cuDNN libraries of its release"


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _preload(onnxruntime: Any) -> str:
    """Load CUDA and cuDNN from where pip put them; return the message about missing libraries."""
    load = getattr(onnxruntime, "preload_dlls", None)  # since 1.21
    message = io.StringIO()
    with contextlib.redirect_stdout(message):
        if load is not None:
            load()
    return _one_line(message.getvalue())


def _why_no_cuda(onnxruntime: Any) -> str:
    if CUDA not in onnxruntime.get_available_providers():
        return "its CPU build is installed (pip uninstall onnxruntime; pip install '.[gpu]' in the clone)"
    return NO_GPU
