"""Array operations around the network: in numpy on the host, or in torch on the network's device.

Stitching, resampling and the choice of labels are written once, with these operations. Both implementations
do the same operations in the same order and precision, so both give the same numbers; only the exponential
functions of the two libraries, used by the softmax, differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.geometry.resample import AxisWeights, along
from c3s3_seg.inference.tiling import Array, softmax
from c3s3_seg.system.memory import available_memory

BLOCK = 2_000_000  # voxels of the scan's grid that are processed at a time: 8 MB per class


class ArrayOperations(Protocol):
    """Operations on arrays of one place, of any shape and of float32 unless stated otherwise.

    `Array` is a numpy array on the host and a torch tensor on a device.
    """

    @property
    def on_device(self) -> bool:
        """Whether the arrays are on the network's device rather than in numpy."""
        ...

    @property
    def own_memory(self) -> bool:
        """Whether the device of the arrays has its own memory, as a GPU has."""
        ...

    @property
    def block(self) -> int:
        """The number of voxels of the scan's grid that are processed at a time."""
        ...

    def free(self, processes: int = 1) -> int | None:
        """Return the bytes that new arrays of this process may take; None if unknown.

        Parameters
        ----------
        processes
            Number of processes that share the free memory; memory that a process has reserved is its own.
        """
        ...

    def of(self, array: NDArray[Any]) -> Array:
        """Return an array of the host, of any dtype, as an `Array`."""
        ...

    def host(self, array: Array) -> NDArray[Any]:
        """Return the array on the host; may be the array itself."""
        ...

    def put(self, view: NDArray[Any], array: Array) -> None:
        """Write `array` into `view`, an array of the host of the same shape and dtype."""
        ...

    def workspace(self, view: NDArray[Any]) -> Array:
        """Return an array to fill and then `put` into `view`, an array of the host that holds zeros."""
        ...

    def zeros(self, shape: Sequence[int], kind: str = "float32") -> Array:
        """Return zeros of `float32` or `uint8`."""
        ...

    def moveaxis(self, array: Array, source: int, goal: int) -> Array:
        """Return a view with one axis moved."""
        ...

    def flip(self, array: Array, axes: Sequence[int]) -> Array:
        """Return the array reversed along these axes; may be a view."""
        ...

    def pad(self, array: Array, pads: Sequence[tuple[int, int]]) -> Array:
        """Pad with zeros: (before, after) for each axis."""
        ...

    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        """Join arrays along an axis."""
        ...

    def copy(self, array: Array) -> Array:
        """Return a copy in its own memory."""
        ...

    def dense(self, array: Array) -> Array:
        """Return the same numbers in row-major order; may be the array itself."""
        ...

    def along(self, weights: AxisWeights, array: Array, axis: int) -> Array:
        """See `geometry.resample.along`; the weights come from the host."""
        ...

    def larger(self, array: Array, other: Array) -> Array:
        """Return the elementwise maximum."""
        ...

    def softmax(self, logits: Array) -> Array:
        """Return probabilities over K of logits (N, K, X, Y, Z), in memory that no other code writes."""
        ...

    def run(self, backend: Any, patches: Array) -> Array:
        """Return a network's output for patches (N, 1, X, Y, Z), unchecked."""
        ...

    def is_real(self, array: Array) -> bool:
        """Return whether the array holds floating-point numbers."""
        ...

    def single(self, array: Array) -> Array:
        """Return the array as float32; too large a number becomes infinite."""
        ...

    def not_finite(self, array: Array) -> int:
        """Return how many numbers are NaN or infinite."""
        ...


class HostArrays:
    """Array operations in numpy."""

    on_device = False
    own_memory = False
    block = BLOCK

    def free(self, processes: int = 1) -> int | None:
        """See `ArrayOperations`."""
        free = available_memory()
        return None if free is None else free // processes

    def of(self, array: NDArray[Any]) -> Array:
        """See `ArrayOperations`."""
        return array

    def host(self, array: Array) -> NDArray[Any]:
        """See `ArrayOperations`."""
        return np.asarray(array)

    def put(self, view: NDArray[Any], array: Array) -> None:
        """See `ArrayOperations`."""
        if array is not view:
            view[...] = array

    def workspace(self, view: NDArray[Any]) -> Array:
        """See `ArrayOperations`."""
        return view

    def zeros(self, shape: Sequence[int], kind: str = "float32") -> Array:
        """See `ArrayOperations`."""
        return np.zeros(shape, dtype=kind)

    def moveaxis(self, array: Array, source: int, goal: int) -> Array:
        """See `ArrayOperations`."""
        return np.moveaxis(array, source, goal)

    def flip(self, array: Array, axes: Sequence[int]) -> Array:
        """See `ArrayOperations`."""
        return np.flip(array, tuple(axes))

    def pad(self, array: Array, pads: Sequence[tuple[int, int]]) -> Array:
        """See `ArrayOperations`."""
        return np.pad(array, pads)

    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        """See `ArrayOperations`."""
        return np.concatenate(arrays, axis=axis)

    def copy(self, array: Array) -> Array:
        """See `ArrayOperations`."""
        return array.copy()

    def dense(self, array: Array) -> Array:
        """See `ArrayOperations`."""
        return np.ascontiguousarray(array)

    def along(self, weights: AxisWeights, array: Array, axis: int) -> Array:
        """See `ArrayOperations`."""
        return along(weights, array, axis)

    def larger(self, array: Array, other: Array) -> Array:
        """See `ArrayOperations`."""
        return np.maximum(array, other)

    def softmax(self, logits: Array) -> Array:
        """See `ArrayOperations`; in place if the logits are writable float32."""
        return softmax(logits)

    def run(self, backend: Any, patches: Array) -> Array:
        """See `ArrayOperations`."""
        return backend(patches)

    def is_real(self, array: Array) -> bool:
        """See `ArrayOperations`."""
        return bool(array.dtype.kind == "f")

    def single(self, array: Array) -> Array:
        """See `ArrayOperations`."""
        with np.errstate(over="ignore"):
            return np.asarray(array, dtype=np.float32)

    def not_finite(self, array: Array) -> int:
        """See `ArrayOperations`."""
        # NaN makes both NaN; infinity is one of the two. 0.3 ms for an atrium, whose network takes 600 ms.
        if np.isfinite(array.min()) and np.isfinite(array.max()):
            return 0
        return int(np.count_nonzero(~np.isfinite(array)))


HOST = HostArrays()


def arrays_of(array: Array) -> ArrayOperations:
    """Return the operations for an array, by its type."""
    if isinstance(array, np.ndarray):
        return HOST
    from c3s3_seg.inference.device.arrays import TorchArrays

    return TorchArrays(array.device)
