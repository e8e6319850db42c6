"""Open and run the networks of all runtimes, and check their output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from c3s3_seg.errors import C3S3Error, InputError, MemoryLimitError
from c3s3_seg.inference.arrays import arrays_of
from c3s3_seg.inference.tiling import Array, FloatArray
from c3s3_seg.system.hardware import is_memory_error, lacks_engine

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_REASON = 300  # most characters of a runtime's error that a message repeats


class NotFiniteError(InputError):
    """The error for a network that gives NaN or infinity; in training, a run that diverges."""


class Backend(Protocol):
    """A network that is ready to run. It may state where and how it runs: `device`, `precision`, `notes`.

    A network with a largest tile, which is never smaller than in training, states it: `largest_tile`.
    A network that takes torch tensors is a `DeviceBackend` too.
    """

    name: str

    def __call__(self, patches: FloatArray) -> FloatArray:
        """Map (N, 1, X, Y, Z), sides multiples of `Task.multiple`, to logits (N, C, X, Y, Z), in float32."""
        ...


@runtime_checkable
class DeviceBackend(Protocol):
    """A network that takes and returns tensors on the device where it runs, its `place` (`cpu`, `cuda:0`)."""

    name: str
    place: str

    def on_device(self, patches: Tensor) -> Tensor:
        """Map (N, 1, X, Y, Z) float32 to logits (N, C, X, Y, Z) float32, in their own memory."""
        ...


@runtime_checkable
class KeepingBackend(Protocol):
    """A network that keeps memory of its device which it can do without: recorded CUDA graphs."""

    name: str

    @property
    def kept_memory(self) -> int:
        """Bytes that all networks of the process keep on the device, and nothing else may take."""
        ...

    def give_back(self) -> None:
        """Release all of this memory."""
        ...


def run(backend: Backend, patches: Array, classes: int) -> Array:
    """Return the checked logits of a tile; every output of every network in every runtime passes here.

    Parameters
    ----------
    backend
        The network.
    patches
        (N, 1, X, Y, Z) float32; in numpy, or a torch.Tensor for a network that takes it.
    classes
        Number of outputs of the task, background included.

    Raises
    ------
    InputError
        If the network fails, or its output is not (N, classes, X, Y, Z) finite numbers.
    MemoryLimitError
        If memory was full, in any runtime's wording, or a GPU's library found no way to compute.
    """
    arrays = arrays_of(patches)
    tile = " x ".join(str(side) for side in patches.shape[2:])
    try:
        logits = arrays.run(backend, patches)
        wanted = (len(patches), classes, *patches.shape[2:])
        fits = tuple(logits.shape) == wanted and arrays.is_real(logits)
        logits = arrays.single(logits) if fits else logits
        unfit = arrays.not_finite(logits) if fits else 0
    except C3S3Error:
        raise
    except Exception as error:
        raise _failure(error, f"tiles of {tile} in {backend.name}") from error
    if not fits:
        kind = str(logits.dtype).removeprefix("torch.")
        found = f"{kind} numbers of shape {tuple(logits.shape)}"
        raise InputError(f"the network gave {found} in {backend.name}, wanted real ones of shape {wanted}")
    if unfit:
        count = int(np.prod(wanted))
        what = f"the network gave NaN or infinity in {unfit} of {count} values of a tile of {tile}"
        half = getattr(backend, "precision", "float32") == "float16"
        raise NotFiniteError(f"{what} in {backend.name}", todo="Try --precision float32" if half else None)
    return logits


def _failure(error: Exception, where: str) -> C3S3Error:
    """Return a runtime's error as an error of this package: `MemoryLimitError` if smaller tiles may help."""
    todo = "Give --max-memory, so that tiles fit, or smaller tiles with --set tiling.overlap=0.25"
    if is_memory_error(error):
        return MemoryLimitError(f"memory was full with {where}", todo=todo)
    if lacks_engine(error):
        why = "which happens with too little memory or with a GPU that it does not support"
        return MemoryLimitError(f"the GPU's library found no way to compute {where}, {why}", todo=todo)
    return InputError(f"the network failed on {where} ({_reason(error)})")


def _reason(error: Exception) -> str:
    """Return the message of a runtime's error in one line, cut after `LONGEST_REASON` characters."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."


@contextmanager
def opening(graph: Path, name: str) -> Iterator[None]:
    """Turn a runtime's error about a graph that it does not accept into an error of this package.

    Raises
    ------
    InputError, MemoryLimitError
        Instead of any error of the runtime; the second if memory is full.
    """
    try:
        yield
    except C3S3Error:
        raise
    except Exception as error:
        if is_memory_error(error):
            raise MemoryLimitError(f"memory was full when {name} opened the network", where=graph) from error
        raise InputError(f"{name} cannot open this graph ({_reason(error)})", where=graph) from error
