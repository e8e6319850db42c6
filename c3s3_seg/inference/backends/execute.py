"""What the networks of all runtimes pass through: they are opened, they run, and their output is checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from c3s3_seg.errors import C3S3Error, InputError, MemoryLimitError
from c3s3_seg.inference.tiling import FloatArray
from c3s3_seg.system.hardware import is_memory_error

LONGEST_REASON = 300  # characters of what a runtime says that a message repeats


class Backend(Protocol):
    """A network that is ready to run. May say where and how it runs: `device`, `precision`, `notes`."""

    name: str

    def __call__(self, patches: FloatArray) -> FloatArray:
        """(N, 1, X, Y, Z) float32, sides multiples of 16 -> logits (N, C, X, Y, Z) float32."""
        ...


def run(backend: Backend, patches: FloatArray, classes: int) -> FloatArray:
    """Logits of a tile, proven to be such: every output of every network in every runtime passes here.

    Parameters
    ----------
    backend
        The network.
    patches
        (N, 1, X, Y, Z) float32.
    classes
        How many outputs the task has, background included.

    Raises
    ------
    InputError
        If the network fails, or its output is not (N, classes, X, Y, Z) finite numbers.
    MemoryLimitError
        If memory was full, whatever the runtime calls it.
    """
    tile = " x ".join(str(side) for side in patches.shape[2:])
    try:
        logits = backend(patches)
    except C3S3Error:
        raise
    except Exception as error:
        if not is_memory_error(error):
            what = f"the network failed on tiles of {tile} in {backend.name} ({_reason(error)})"
            raise InputError(what) from error
        what = f"memory was full with tiles of {tile} in {backend.name}"
        raise MemoryLimitError(
            what, todo="Give --max-memory, so that tiles fit, or smaller tiles with --set tiling.overlap=0.25"
        ) from error
    wanted = (len(patches), classes, *patches.shape[2:])
    if logits.shape != wanted or logits.dtype.kind != "f":
        found = f"{logits.dtype} numbers of shape {logits.shape}"
        raise InputError(f"the network gave {found} in {backend.name}, wanted real ones of shape {wanted}")
    with np.errstate(over="ignore"):
        logits = np.asarray(logits, dtype=np.float32)
    # NaN runs through both, infinity is one of them. 0.3 ms for a whole atrium, whose network takes 600 ms.
    if not (np.isfinite(logits.min()) and np.isfinite(logits.max())):
        count = np.count_nonzero(~np.isfinite(logits))
        what = f"the network gave NaN or infinity in {count} of {logits.size} values of a tile of {tile}"
        half = getattr(backend, "precision", "float32") == "float16"
        raise InputError(f"{what} in {backend.name}", todo="Try --precision float32" if half else None)
    return logits


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
