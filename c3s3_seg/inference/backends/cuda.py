"""The part of CUDA that TensorRT needs: a device, buffers on it, copies; without torch.

Not run on a GPU so far: written against cuda-bindings 13, whose results without a driver are tested.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from c3s3_seg.errors import MemoryLimitError, MissingError

INSTALL = (
    "Install TensorRT 11 (tensorrt-cu13) from NVIDIA's own package index and cuda-bindings,"
    " on a machine with an NVIDIA GPU and its driver"
)
FREE = "Free memory there, or take smaller tiles with --set tiling.overlap=0.25"
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


@dataclass(frozen=True)
class Gpu:
    """The GPU in use: its name and its compute capability (major.minor)."""

    name: str
    capability: str


def cudart() -> Any:
    """Return the CUDA runtime.

    Raises
    ------
    MissingError
        If the Python package of CUDA is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MissingError(f"TensorRT needs cuda-bindings ({error})", todo=INSTALL) from None
    return runtime


def ask(result: tuple[Any, ...]) -> Any:
    """Return the value of a CUDA call, which returns (error, value) or (error,).

    Raises
    ------
    MissingError
        If there is any other error, with CUDA's message: no GPU, no driver.
    MemoryLimitError
        If the GPU does not have enough memory left.
    """
    error, *values = result
    if int(error) != 0:
        _, text = cudart().cudaGetErrorString(error)
        says = f"CUDA says: {text.decode()}"
        if int(error) == OUT_OF_MEMORY:
            raise MemoryLimitError(f"the GPU's memory is full ({says})", todo=FREE)
        raise MissingError(says, todo=INSTALL)
    return values[0] if values else None


def gpu() -> Gpu:
    """Return the GPU that CUDA has chosen (the first visible GPU, unless the process chose another).

    Raises
    ------
    MissingError
        If there is no GPU, or its driver is too old.
    """
    runtime = cudart()
    if ask(runtime.cudaGetDeviceCount()) == 0:
        raise MissingError("there is no NVIDIA GPU here", todo=INSTALL)
    properties = ask(runtime.cudaGetDeviceProperties(ask(runtime.cudaGetDevice())))
    name = properties.name.decode().rstrip("\0")
    return Gpu(name, f"{properties.major}.{properties.minor}")


def use_gpu(index: int) -> None:
    """Choose the GPU of this thread.

    Raises
    ------
    MissingError
        If there is no such GPU.
    """
    ask(cudart().cudaSetDevice(index))


class Stream:
    """A CUDA stream with named buffers that grow as needed and are kept between calls.

    The memory is released when nothing refers to the stream any more.
    """

    def __init__(self) -> None:
        self._runtime = cudart()
        self.handle = int(ask(self._runtime.cudaStreamCreate()))
        self._buffers: dict[str, tuple[int, int]] = {}  # name -> (address, bytes)
        self.close = weakref.finalize(self, _free, self._runtime, self.handle, self._buffers)
        self.close.atexit = False  # at exit the driver frees all, and may be gone already

    def buffer(self, name: str, size: int) -> int:
        """Return the address of a buffer on the GPU of at least `size` bytes."""
        address, held = self._buffers.get(name, (0, 0))
        if held < size:
            if held:
                del self._buffers[name]
                ask(self._runtime.cudaFree(address))
            address = int(ask(self._runtime.cudaMalloc(size)))
            self._buffers[name] = (address, size)
        return address

    def upload(self, name: str, array: NDArray[Any]) -> int:
        """Copy a contiguous array to the GPU; return its address there. `array` must live until `wait`."""
        address = self.buffer(name, array.nbytes)
        self._copy(address, array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice")
        return address

    def download(self, name: str, array: NDArray[Any]) -> None:
        """Copy a buffer into a contiguous array, which is complete after `wait`."""
        self._copy(array.ctypes.data, self._buffers[name][0], array.nbytes, "cudaMemcpyDeviceToHost")

    def wait(self) -> None:
        """Wait until all work of the stream is done."""
        ask(self._runtime.cudaStreamSynchronize(self.handle))

    def _copy(self, to: int, source: int, size: int, kind: str) -> None:
        direction = getattr(self._runtime.cudaMemcpyKind, kind)
        ask(self._runtime.cudaMemcpyAsync(to, source, size, direction, self.handle))


def _free(runtime: Any, stream: int, buffers: dict[str, tuple[int, int]]) -> None:
    for address, _ in buffers.values():
        ask(runtime.cudaFree(address))
    buffers.clear()
    ask(runtime.cudaStreamDestroy(stream))
