"""What the networks of all runtimes pass through: they are opened, they run, and their output is checked."""

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

LONGEST_REASON = 300  # characters of what a runtime says that a message repeats


class Backend(Protocol):
    """A network that is ready to run. May say where and how it runs: `device`, `precision`, `notes`.

    One whose tiles have a largest size, which is never below that of training, says it: `largest_tile`.
    One that takes tensors of torch is a `DeviceBackend` too.
    """

    name: str

    def __call__(self, patches: FloatArray) -> FloatArray:
        """(N, 1, X, Y, Z) float32, sides multiples of 16 -> logits (N, C, X, Y, Z) float32."""
        ...


@runtime_checkable
class DeviceBackend(Protocol):
    """A network that takes tensors where it runs, at its `place` (`cpu`, `cuda:0`), and answers there."""

    name: str
    place: str

    def on_device(self, patches: Tensor) -> Tensor:
        """(N, 1, X, Y, Z) float32 -> logits (N, C, X, Y, Z) float32, in memory of their own."""
        ...


@runtime_checkable
class KeepingBackend(Protocol):
    """A network that keeps memory of its device which it can do without: recorded work."""

    name: str

    @property
    def kept_memory(self) -> int:
        """Bytes that all networks of the process keep there, and nothing else may take."""
        ...

    def give_back(self) -> None:
        """Keep nothing."""
        ...


def run(backend: Backend, patches: Array, classes: int) -> Array:
    """Logits of a tile, proven to be such: every output of every network in every runtime passes here.

    Parameters
    ----------
    backend
        The network.
    patches
        (N, 1, X, Y, Z) float32; of numpy, or a torch.Tensor for a network that takes it.
    classes
        How many outputs the task has, background included.

    Raises
    ------
    InputError
        If the network fails, or its output is not (N, classes, X, Y, Z) finite numbers.
    MemoryLimitError
        If memory was full, whatever the runtime calls it, or a GPU's library found no way to compute.
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
        raise InputError(f"{what} in {backend.name}", todo="Try --precision float32" if half else None)
    return logits


def _failure(error: Exception, where: str) -> C3S3Error:
    """What a runtime raised, as an error of ours; one that smaller tiles may mend is a `MemoryLimitError`."""
    todo = "Give --max-memory, so that tiles fit, or smaller tiles with --set tiling.overlap=0.25"
    if is_memory_error(error):
        return MemoryLimitError(f"memory was full with {where}", todo=todo)
    if lacks_engine(error):
        why = "which happens with too little memory or with a GPU that it does not support"
        return MemoryLimitError(f"the GPU's library found no way to compute {where}, {why}", todo=todo)
    return InputError(f"the network failed on {where} ({_reason(error)})")


def _reason(error: Exception) -> str:
    """What a runtime says, without the places in its source and in one line."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."


@contextmanager
def opening(graph: Path, name: str) -> Iterator[None]:
    """What a runtime says of a graph that it does not take, as an error of ours.

    Raises
    ------
    InputError
        In place of whatever the runtime raises.
    """
    try:
        yield
    except C3S3Error:
        raise
    except Exception as error:
        if is_memory_error(error):
            raise MemoryLimitError(f"memory was full when {name} opened the network", where=graph) from error
        raise InputError(f"{name} cannot open this graph ({_reason(error)})", where=graph) from error
